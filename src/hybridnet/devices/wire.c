/* The in-memory wire: the smallest device, and the one that runs anywhere. */
#include "stack/stack.h"
#include "devices/wire_api.h"

#define WIRE_SLOTS 1024u
#define WIRE_BYTES_MAX 65550u

struct fifo {
    struct hn_frame *slots[WIRE_SLOTS];
    uint32_t head;
    uint32_t tail;
};

struct wire {
    struct hn_device base;
    struct fifo rx;
    struct fifo tx;
    uint32_t room;
};

static struct wire *wire_of(struct hn_device *device)
{
    return hn_container_of(device, struct wire, base);
}

static uint32_t fifo_count(const struct fifo *fifo) { return fifo->tail - fifo->head; }

static void fifo_put(struct fifo *fifo, struct hn_frame *frame)
{
    fifo->slots[fifo->tail++ % WIRE_SLOTS] = frame;
}

static struct hn_frame *fifo_take(struct fifo *fifo)
{
    return fifo->slots[fifo->head++ % WIRE_SLOTS];
}

static uint32_t wire_rx_burst(struct hn_device *device, uint32_t queue, struct hn_frame **frames,
                              uint32_t max)
{
    struct wire *wire = wire_of(device);
    uint32_t count = 0;
    (void)queue;
    while (count < max && fifo_count(&wire->rx))
        frames[count++] = fifo_take(&wire->rx);
    return count;
}

static void take_for_transmit(struct hn_device *device, struct hn_frame *frame)
{
    for (;;) {
        hn_frame_set_owner(frame, HN_OWNER_STACK, HN_OWNER_TX);
        frame->device = device->index; /* else another device might take it back as its own */
        if (frame->next == HN_FRAME_NONE)
            return;
        frame = &device->pool->frames[frame->next];
    }
}

static uint32_t wire_tx_burst(struct hn_device *device, uint32_t queue, struct hn_frame **frames,
                              uint32_t n)
{
    struct wire *wire = wire_of(device);
    uint32_t taken = 0;
    (void)queue;
    for (; taken < n && fifo_count(&wire->tx) < wire->room; taken++) {
        take_for_transmit(device, frames[taken]);
        fifo_put(&wire->tx, frames[taken]);
    }
    return taken;
}

static bool wire_flush(struct hn_device *device, uint32_t queue)
{
    (void)device;
    (void)queue;
    return true;
}

static void wire_close(struct hn_device *device)
{
    struct wire *wire = wire_of(device);
    while (fifo_count(&wire->rx))
        hn_packet_free(device->pool, fifo_take(&wire->rx), HN_OWNER_STACK);
    while (fifo_count(&wire->tx))
        hn_packet_free(device->pool, fifo_take(&wire->tx), HN_OWNER_TX);
    free(wire);
}

static const struct hn_device_ops wire_ops = {
    .rx_burst = wire_rx_burst, .tx_burst = wire_tx_burst, .flush = wire_flush, .close = wire_close};

struct hn_device *hn_wire_create(struct hn_stack *stack, uint32_t ifindex, uint32_t mtu,
                                 const uint8_t *mac, bool is_virtual)
{
    struct wire *wire = calloc(1, sizeof *wire);
    if (!wire)
        return NULL;
    wire->base.ops = &wire_ops;
    wire->base.pool = hn_stack_pool(stack);
    wire->base.ifindex = ifindex;
    wire->base.mtu = mtu;
    wire->base.queue_count = 1;
    wire->base.flags = is_virtual ? HN_DEVICE_VIRTUAL : 0;
    memcpy(wire->base.mac, mac, sizeof wire->base.mac);
    wire->room = WIRE_SLOTS;
    return &wire->base;
}

int hn_wire_push(struct hn_device *device, const uint8_t *data, size_t bytes)
{
    struct wire *wire = wire_of(device);
    struct hn_pool *pool = device->pool;
    uint32_t room = pool->frame_bytes - HN_FRAME_HEADROOM;
    if (bytes == 0 || bytes > WIRE_BYTES_MAX)
        return -EINVAL;
    if (fifo_count(&wire->rx) == WIRE_SLOTS || pool->free_count < bytes / room + 1)
        return -ENOBUFS;
    struct hn_frame *head = NULL;
    struct hn_frame *tail = NULL;
    for (size_t done = 0; done < bytes;) {
        struct hn_frame *frame = hn_frame_alloc(pool, HN_OWNER_STACK);
        size_t piece = bytes - done < room ? bytes - done : room;
        memcpy(frame->data, data + done, piece);
        frame->length = (uint32_t)piece;
        frame->device = device->index;
        frame->queue = 0;
        done += piece;
        if (tail)
            tail->next = hn_frame_index(pool, frame);
        else
            head = frame;
        tail = frame;
    }
    head->total_length = (uint32_t)bytes;
    fifo_put(&wire->rx, head);
    return 0;
}

int32_t hn_wire_pull(struct hn_device *device, uint8_t *to, size_t room)
{
    struct wire *wire = wire_of(device);
    struct hn_pool *pool = device->pool;
    if (fifo_count(&wire->tx) == 0)
        return 0;
    struct hn_frame *head = wire->tx.slots[wire->tx.head % WIRE_SLOTS];
    size_t bytes = 0;
    for (const struct hn_frame *at = head;; at = &pool->frames[at->next]) {
        if (bytes + at->length > room)
            return -EMSGSIZE;
        memcpy(to + bytes, at->data, at->length);
        bytes += at->length;
        if (at->next == HN_FRAME_NONE)
            break;
    }
    (void)fifo_take(&wire->tx);
    hn_packet_free(pool, head, HN_OWNER_TX);
    return (int32_t)bytes;
}

void hn_wire_set_room(struct hn_device *device, uint32_t frames)
{
    wire_of(device)->room = frames < WIRE_SLOTS ? frames : WIRE_SLOTS;
}
