/* dev_tx: from the graph to the devices, with a bounded backlog in between.

   A packet that finds the ring full waits in the queue's backlog; one that finds that full too is
   a counted drop.  Senders are held back before (hn_udp_send's -EAGAIN).  Order is kept: as long
   as the backlog holds something, everything goes behind it. */
#include "stack/stack.h"

static uint32_t backlog_count(const struct hn_backlog *backlog)
{
    return backlog->tail - backlog->head;
}

static uint64_t packet_bytes(const struct hn_pool *pool, const struct hn_frame *frame)
{
    uint64_t bytes = frame->length;
    while (hn_unlikely(frame->next != HN_FRAME_NONE)) {
        frame = &pool->frames[frame->next];
        bytes += frame->length;
    }
    return bytes;
}

/* Hands packets to the device; counts what it took. */
static uint32_t hand_over(struct hn_stack *stack, struct hn_device *device, uint32_t queue,
                          struct hn_frame **frames, uint32_t count)
{
    uint64_t bytes[HN_BURST_MAX];
    for (uint32_t i = 0; i < count; i++)
        bytes[i] = packet_bytes(&stack->pool, frames[i]);
    uint32_t taken = device->ops->tx_burst(device, queue, frames, count);
    for (uint32_t i = 0; i < taken; i++)
        device->counters[queue].tx_bytes += bytes[i];
    device->counters[queue].tx_packets += taken;
    return taken;
}

static void wait_in_backlog(struct hn_stack *stack, struct hn_backlog *backlog,
                            struct hn_frame *frame)
{
    if (backlog_count(backlog) == stack->backlog_max) {
        hn_stack_drop(stack, frame, HN_DROP_DEVICE_QUEUE_FULL);
        return;
    }
    backlog->frames[backlog->tail++ & (stack->backlog_max - 1)] = frame;
    stack->backlog_total++;
}

/* Moves the backlog's head into the ring; false when something stays behind. */
static bool drain_backlog(struct hn_stack *stack, struct hn_device *device, uint32_t queue,
                          struct hn_backlog *backlog)
{
    while (backlog_count(backlog)) {
        struct hn_frame *burst[64];
        uint32_t count = backlog_count(backlog);
        if (count > 64)
            count = 64;
        for (uint32_t i = 0; i < count; i++)
            burst[i] = backlog->frames[(backlog->head + i) & (stack->backlog_max - 1)];
        uint32_t taken = hand_over(stack, device, queue, burst, count);
        backlog->head += taken;
        stack->backlog_total -= taken;
        if (taken < count)
            return false;
    }
    return true;
}

static bool flush_queue(struct hn_stack *stack, uint32_t index, uint32_t queue)
{
    struct hn_device *device = stack->devices[index];
    struct hn_backlog *backlog = &stack->backlogs[index][queue];
    /* A kick makes room for the backlog, which wants a kick of its own: bounded by the backlog
       over the smallest ring. */
    for (uint32_t round = 0; round < 64; round++) {
        bool kicked = device->ops->flush(device, queue);
        if (backlog_count(backlog) == 0)
            return kicked;
        if (!drain_backlog(stack, device, queue, backlog) && !kicked)
            return false;
    }
    return false;
}

static void transmit_run(struct hn_stack *stack, struct hn_frame **frames, uint32_t count)
{
    uint32_t index = frames[0]->device;
    uint32_t queue = frames[0]->queue;
    struct hn_device *device = stack->devices[index];
    if (hn_unlikely(!device || (device->flags & HN_DEVICE_DOWN))) {
        for (uint32_t i = 0; i < count; i++)
            hn_stack_drop(stack, frames[i], HN_DROP_DEVICE_DOWN);
        return;
    }
    struct hn_backlog *backlog = &stack->backlogs[index][queue];
    stack->dirty[index] |= UINT64_C(1) << queue;
    uint32_t taken = 0;
    if (hn_likely(backlog_count(backlog) == 0))
        taken = hand_over(stack, device, queue, frames, count);
    /* A run longer than ring and backlog together: the kernel makes room, as long as it can. */
    bool may_flush = true;
    for (; taken < count; taken++) {
        if (may_flush && backlog_count(backlog) == stack->backlog_max) {
            (void)flush_queue(stack, index, queue);
            may_flush = backlog_count(backlog) < stack->backlog_max;
        }
        wait_in_backlog(stack, backlog, frames[taken]);
    }
}

void hn_dev_tx(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
               uint32_t count)
{
    struct hn_stack *stack = node->context;
    (void)graph;
    for (uint32_t start = 0; start < count;) {
        uint32_t end = start + 1;
        while (end < count && frames[end]->device == frames[start]->device &&
               frames[end]->queue == frames[start]->queue)
            end++;
        transmit_run(stack, frames + start, end - start);
        start = end;
    }
}

/* Frames that senders leave to the graph and the rings. */
#define FRAMES_LEFT_MIN 32u

bool hn_transmit_has_room(const struct hn_stack *stack, uint32_t device_index, uint32_t queue)
{
    return backlog_count(&stack->backlogs[device_index][queue]) < stack->backlog_max / 2 &&
           stack->pool.free_count > FRAMES_LEFT_MIN;
}

bool hn_transmit_room_again(struct hn_stack *stack)
{
    bool any = false;
    for (uint32_t index = 0; index < HN_DEVICES_MAX; index++) {
        uint64_t held = stack->held[index];
        while (held) {
            uint32_t queue = (uint32_t)__builtin_ctzll(held);
            held &= held - 1;
            if (stack->devices[index] &&
                (backlog_count(&stack->backlogs[index][queue]) > stack->backlog_max / 4 ||
                 stack->pool.free_count <= 2 * FRAMES_LEFT_MIN))
                continue;
            stack->held[index] &= ~(UINT64_C(1) << queue);
            any = true;
        }
    }
    return any;
}

bool hn_transmit_flush(struct hn_stack *stack)
{
    bool done = true;
    for (uint32_t index = 0; index < HN_DEVICES_MAX; index++) {
        uint64_t dirty = stack->dirty[index];
        /* What the rings of a device without link hold stays there until it is up again. */
        if (dirty && (stack->devices[index]->flags & HN_DEVICE_DOWN))
            continue;
        while (dirty) {
            uint32_t queue = (uint32_t)__builtin_ctzll(dirty);
            dirty &= dirty - 1;
            if (flush_queue(stack, index, queue))
                stack->dirty[index] &= ~(UINT64_C(1) << queue);
            else
                done = false;
        }
    }
    return done;
}

void hn_transmit_drop_backlog(struct hn_stack *stack, uint32_t device_index)
{
    uint32_t queues = stack->devices[device_index]->queue_count;
    for (uint32_t queue = 0; queue < queues; queue++) {
        struct hn_backlog *backlog = &stack->backlogs[device_index][queue];
        while (backlog_count(backlog)) {
            hn_stack_drop(stack, backlog->frames[backlog->head++ & (stack->backlog_max - 1)],
                          HN_DROP_DEVICE_DOWN);
            stack->backlog_total--;
        }
    }
}

void hn_transmit_drop_device(struct hn_stack *stack, uint32_t device_index)
{
    hn_transmit_drop_backlog(stack, device_index);
    uint32_t queues = stack->devices[device_index]->queue_count;
    for (uint32_t queue = 0; queue < queues; queue++)
        free(stack->backlogs[device_index][queue].frames);
    free(stack->backlogs[device_index]);
    stack->backlogs[device_index] = NULL;
    stack->dirty[device_index] = 0;
}
