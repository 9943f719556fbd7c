/* Moving packets: descriptors in, descriptors out, and the frames behind them. */
#include "xsk/xsk.h"

#include "xsk/if_xdp_abi.h"

void hn_xsk_refill(struct hn_device *device, uint32_t queue_id)
{
    struct hn_xsk_queue *queue = &hn_xsk_of(device)->queues[queue_id];
    struct hn_pool *pool = device->pool;
    if (queue->lent >= queue->lent_max)
        return; /* the depth was lowered meanwhile */
    uint32_t wanted = queue->lent_max - queue->lent;
    if (wanted > pool->free_count)
        wanted = pool->free_count;
    uint32_t room = hn_ring_room(&queue->fill, wanted);
    uint64_t *slots = queue->fill.entries;
    for (uint32_t i = 0; i < room; i++) {
        struct hn_frame *frame = hn_frame_alloc(pool, HN_OWNER_FILL);
        frame->device = device->index;
        frame->queue = (uint8_t)queue_id;
        slots[queue->fill.cached_producer++ & queue->fill.mask] =
            (uint64_t)hn_frame_index(pool, frame) << pool->frame_shift;
    }
    if (room == 0)
        return;
    queue->lent += room;
    hn_ring_publish(&queue->fill);
    if (hn_ring_needs_wakeup(&queue->fill)) {
        queue->counters.rx_wakeups++;
        (void)recvfrom(queue->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
    }
}

/* Appends one frame to the packet being assembled; true when the packet is complete. */
static bool chain_frame(struct hn_pool *pool, struct hn_xsk_queue *queue, struct hn_frame *frame,
                        bool last)
{
    uint32_t index = hn_frame_index(pool, frame);
    if (queue->chain_head == HN_FRAME_NONE) {
        queue->chain_head = index;
        queue->chain_count = 0;
        frame->total_length = 0;
    } else {
        pool->frames[queue->chain_tail].next = index;
    }
    queue->chain_tail = index;
    queue->chain_count++;
    pool->frames[queue->chain_head].total_length += frame->length;
    return last;
}

uint32_t hn_xsk_rx_burst(struct hn_device *device, uint32_t queue_id, struct hn_frame **frames,
                         uint32_t max)
{
    struct hn_xsk_queue *queue = &hn_xsk_of(device)->queues[queue_id];
    struct hn_pool *pool = device->pool;
    if (hn_unlikely(queue->fd < 0))
        return 0;
    uint32_t available = hn_ring_available(&queue->rx, max);
    const struct xdp_desc *descriptors = queue->rx.entries;
    uint32_t count = 0;
    for (uint32_t i = 0; i < available; i++) {
        const struct xdp_desc *descriptor =
            &descriptors[queue->rx.cached_consumer++ & queue->rx.mask];
        struct hn_frame *frame = &pool->frames[descriptor->addr >> pool->frame_shift];
        bool last = !(descriptor->options & XDP_PKT_CONTD);
        hn_frame_set_owner(frame, HN_OWNER_FILL, HN_OWNER_STACK);
        frame->data = pool->memory + descriptor->addr;
        frame->length = descriptor->len;
        frame->next = HN_FRAME_NONE;
        frame->device = device->index;
        frame->queue = (uint8_t)queue_id;
        frame->flags = 0;
        if (hn_likely(last && queue->chain_head == HN_FRAME_NONE)) {
            frame->total_length = descriptor->len;
            __builtin_prefetch(frame->data);
            frames[count++] = frame;
            continue;
        }
        if (!chain_frame(pool, queue, frame, last))
            continue;
        struct hn_frame *head = &pool->frames[queue->chain_head];
        queue->chain_head = HN_FRAME_NONE;
        if (queue->chain_count > HN_XSK_CHAIN_MAX) {
            queue->counters.rx_overlong++;
            hn_packet_free(pool, head, HN_OWNER_STACK);
        } else {
            frames[count++] = head;
        }
    }
    if (available) {
        hn_ring_release(&queue->rx);
        queue->lent -= available;
    }
    /* Also when nothing came: the pool may have been empty the last time. */
    if (queue->lent < queue->lent_max)
        hn_xsk_refill(device, queue_id);
    return count;
}

void hn_xsk_reclaim(struct hn_pool *pool, struct hn_xsk_queue *queue)
{
    if (queue->sending == 0)
        return;
    uint32_t done = hn_ring_available(&queue->completion, queue->sending);
    const uint64_t *slots = queue->completion.entries;
    for (uint32_t i = 0; i < done; i++) {
        uint64_t address = slots[queue->completion.cached_consumer++ & queue->completion.mask];
        hn_frame_free(pool, &pool->frames[address >> pool->frame_shift], HN_OWNER_TX);
    }
    if (done) {
        queue->sending -= done;
        hn_ring_release(&queue->completion);
    }
}

static uint32_t count_frames(const struct hn_pool *pool, const struct hn_frame *frame)
{
    uint32_t count = 1;
    while (frame->next != HN_FRAME_NONE) {
        frame = &pool->frames[frame->next];
        count++;
    }
    return count;
}

uint32_t hn_xsk_tx_burst(struct hn_device *device, uint32_t queue_id, struct hn_frame **frames,
                         uint32_t n)
{
    struct hn_xsk_queue *queue = &hn_xsk_of(device)->queues[queue_id];
    struct hn_pool *pool = device->pool;
    if (hn_unlikely(queue->fd < 0))
        return 0;
    hn_xsk_reclaim(pool, queue);
    struct xdp_desc *descriptors = queue->tx.entries;
    /* The completion ring must be able to hold all that is under way. */
    uint32_t room = hn_ring_room(&queue->tx, queue->tx.size);
    uint32_t completion_room = queue->completion.size - queue->sending;
    if (room > completion_room)
        room = completion_room;
    uint32_t accepted = 0;
    for (; accepted < n; accepted++) {
        struct hn_frame *frame = frames[accepted];
        uint32_t count = hn_likely(frame->next == HN_FRAME_NONE) ? 1 : count_frames(pool, frame);
        if (count > room)
            break;
        room -= count;
        queue->sending += count;
        for (;;) {
            uint32_t next = frame->next;
            struct xdp_desc *descriptor =
                &descriptors[queue->tx.cached_producer++ & queue->tx.mask];
            descriptor->addr = (uint64_t)(frame->data - pool->memory);
            descriptor->len = frame->length;
            descriptor->options = next == HN_FRAME_NONE ? 0 : XDP_PKT_CONTD;
            hn_frame_set_owner(frame, HN_OWNER_STACK, HN_OWNER_TX);
            frame->device = device->index;
            frame->queue = (uint8_t)queue_id;
            if (next == HN_FRAME_NONE)
                break;
            frame = &pool->frames[next];
        }
    }
    if (accepted) {
        hn_ring_publish(&queue->tx);
        queue->kick_wanted = true;
    }
    return accepted;
}

bool hn_xsk_flush(struct hn_device *device, uint32_t queue_id)
{
    struct hn_xsk_queue *queue = &hn_xsk_of(device)->queues[queue_id];
    if (queue->fd < 0 || !queue->kick_wanted)
        return true;
    /* Before 6.17 one call takes 32 packets; so many calls empty any ring. */
    uint32_t calls_max = queue->tx.size / 32 + 2;
    for (uint32_t call = 0; call < calls_max; call++) {
        if (hn_ring_drained(&queue->tx)) {
            queue->kick_wanted = false;
            return true;
        }
        if (queue->zero_copy && !hn_ring_needs_wakeup(&queue->tx))
            return true; /* the driver is at it */
        uint32_t consumer_before = __atomic_load_n(queue->tx.consumer, __ATOMIC_RELAXED);
        queue->counters.tx_kicks++;
        if (sendto(queue->tx_fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN &&
            errno != EBUSY && errno != ENOBUFS)
            queue->counters.tx_kick_errors++;
        bool moved = __atomic_load_n(queue->tx.consumer, __ATOMIC_RELAXED) != consumer_before;
        /* Free frames from here on keep the completion ring from stopping the kernel. */
        hn_xsk_reclaim(device->pool, queue);
        if (!moved)
            return false;
    }
    return false;
}
