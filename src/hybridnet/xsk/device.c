/* The AF_XDP device: queues opened one by one, closed together. */
#include "stack/stack.h"
#include "xsk/if_xdp_abi.h"
#include "xsk/xsk.h"

/* The kernel's hold ended with the socket: what it had returns to the pool. */
static void take_back(struct hn_pool *pool, const struct hn_device *device, uint32_t queue_id)
{
    for (uint32_t i = 0; i < pool->frame_count; i++) {
        struct hn_frame *frame = &pool->frames[i];
        if (frame->device != device->index || frame->queue != queue_id)
            continue;
        if (frame->owner == HN_OWNER_FILL || frame->owner == HN_OWNER_TX)
            hn_frame_free(pool, frame, (enum hn_frame_owner)frame->owner);
    }
}

static void close_queue(struct hn_xsk_device *xsk, uint32_t queue_id)
{
    struct hn_xsk_queue *queue = &xsk->queues[queue_id];
    if (queue->fd < 0)
        return;
    hn_xsk_socket_close(queue);
    struct hn_pool *pool = xsk->base.pool;
    if (queue->chain_head != HN_FRAME_NONE)
        hn_packet_free(pool, &pool->frames[queue->chain_head], HN_OWNER_STACK);
    take_back(pool, &xsk->base, queue_id);
    queue->chain_head = HN_FRAME_NONE;
    queue->lent = 0;
    queue->sending = 0;
}

static void device_close(struct hn_device *device)
{
    struct hn_xsk_device *xsk = hn_xsk_of(device);
    for (uint32_t i = 0; i < device->queue_count; i++)
        close_queue(xsk, i);
    free(xsk);
}

static void set_depth(struct hn_device *device, uint32_t queue_id, uint32_t frames)
{
    struct hn_xsk_queue *queue = &hn_xsk_of(device)->queues[queue_id];
    if (queue->fd < 0)
        return;
    queue->lent_max = frames < queue->fill.size ? frames : queue->fill.size;
}

static const struct hn_device_ops xsk_ops = {.rx_burst = hn_xsk_rx_burst,
                                             .tx_burst = hn_xsk_tx_burst,
                                             .flush = hn_xsk_flush,
                                             .set_depth = set_depth,
                                             .close = device_close};

struct hn_device *hn_xsk_device_create(struct hn_stack *stack, uint32_t ifindex,
                                       uint32_t queue_count, uint32_t mtu, const uint8_t *mac,
                                       bool is_virtual)
{
    if (queue_count == 0 || queue_count > HN_DEVICE_QUEUES_MAX)
        return NULL;
    struct hn_xsk_device *xsk = calloc(1, sizeof *xsk + queue_count * sizeof(struct hn_xsk_queue));
    if (!xsk)
        return NULL;
    xsk->base.ops = &xsk_ops;
    xsk->base.pool = hn_stack_pool(stack);
    xsk->base.ifindex = ifindex;
    xsk->base.mtu = mtu;
    xsk->base.queue_count = queue_count;
    xsk->base.flags = is_virtual ? HN_DEVICE_VIRTUAL : 0;
    memcpy(xsk->base.mac, mac, sizeof xsk->base.mac);
    for (uint32_t i = 0; i < queue_count; i++) {
        xsk->queues[i].fd = xsk->queues[i].tx_fd = -1;
        xsk->queues[i].chain_head = HN_FRAME_NONE;
    }
    return &xsk->base;
}

static bool is_ring_size(uint32_t size)
{
    return size >= 64 && size <= 65536 && (size & (size - 1)) == 0;
}

int hn_xsk_open_queue(struct hn_device *device, uint32_t queue_id,
                      const struct hn_xsk_options *options)
{
    struct hn_xsk_device *xsk = hn_xsk_of(device);
    if (queue_id >= device->queue_count || xsk->queues[queue_id].fd >= 0)
        return -EINVAL;
    if (!is_ring_size(options->rx_size) || !is_ring_size(options->tx_size) ||
        !is_ring_size(options->fill_size) || !is_ring_size(options->completion_size))
        return -EINVAL;
    struct hn_xsk_queue *queue = &xsk->queues[queue_id];
    int error = hn_xsk_socket_open(queue, device->pool, device->ifindex, queue_id, options);
    if (error)
        return error;
    queue->lent_max = options->fill_size;
    hn_xsk_refill(device, queue_id);
    return 0;
}

int hn_xsk_fd(const struct hn_device *device, uint32_t queue)
{
    return queue < device->queue_count ? hn_xsk_of(device)->queues[queue].fd : -1;
}

bool hn_xsk_is_zero_copy(const struct hn_device *device, uint32_t queue)
{
    return queue < device->queue_count && hn_xsk_of(device)->queues[queue].zero_copy;
}

int hn_xsk_read_statistics(struct hn_device *device, uint32_t queue_id,
                           struct hn_xsk_statistics *statistics)
{
    if (queue_id >= device->queue_count)
        return -EINVAL;
    struct hn_xsk_queue *queue = &hn_xsk_of(device)->queues[queue_id];
    if (queue->fd >= 0) {
        struct xdp_statistics kernel = {0};
        socklen_t bytes = sizeof kernel;
        struct xdp_statistics sent = {0};
        if (getsockopt(queue->fd, SOL_XDP, XDP_STATISTICS, &kernel, &bytes) != 0 ||
            getsockopt(queue->tx_fd, SOL_XDP, XDP_STATISTICS, &sent, &bytes) != 0)
            return -errno;
        queue->counters.rx_dropped = kernel.rx_dropped;
        queue->counters.rx_invalid_descriptors = kernel.rx_invalid_descs;
        queue->counters.tx_invalid_descriptors = sent.tx_invalid_descs;
        queue->counters.rx_ring_full = kernel.rx_ring_full;
        queue->counters.rx_fill_ring_empty = kernel.rx_fill_ring_empty_descs;
        queue->counters.tx_ring_empty = sent.tx_ring_empty_descs;
    }
    queue->counters.frames_held = queue->lent + queue->sending;
    *statistics = queue->counters;
    return 0;
}

uint32_t hn_xsk_frames_per_queue(const struct hn_xsk_options *options)
{
    return options->fill_size + options->tx_size;
}
