/* The AF_XDP sockets of one queue: options, the four mappings, bind.

   There are two.  One has the receive ring and is what the event loop polls; the other, sharing
   its memory and completion ring, has the transmit ring alone.  Were it one, the kernel would
   call into the loop's epoll for every frame it has sent, because a sent frame makes the socket
   writable: a quarter of the cost of a small packet on veth.  Nobody polls the second one. */
#include "xsk/xsk.h"

#include <sys/mman.h>
#include <unistd.h>

#include "xsk/if_xdp_abi.h"

static int set_option(int fd, int option, const void *value, socklen_t bytes)
{
    return setsockopt(fd, SOL_XDP, option, value, bytes) == 0 ? 0 : -errno;
}

static int register_memory(int fd, const struct hn_pool *pool)
{
    struct xdp_umem_reg registration = {
        .addr = (uint64_t)(uintptr_t)pool->memory,
        .len = (uint64_t)pool->frame_count * pool->frame_bytes,
        .chunk_size = pool->frame_bytes,
        .headroom = 0, /* the kernel adds XDP_PACKET_HEADROOM = HN_FRAME_HEADROOM itself */
    };
    return set_option(fd, XDP_UMEM_REG, &registration, sizeof registration);
}

static int set_ring_sizes(int fd, const struct hn_xsk_options *options)
{
    const struct {
        int option;
        uint32_t size;
    } rings[] = {{XDP_UMEM_FILL_RING, options->fill_size},
                 {XDP_UMEM_COMPLETION_RING, options->completion_size},
                 {XDP_RX_RING, options->rx_size}};
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) {
        int error = set_option(fd, rings[i].option, &rings[i].size, sizeof rings[i].size);
        if (error)
            return error;
    }
    return 0;
}

static int map_ring(struct hn_xsk_queue *queue, int fd, struct hn_ring *ring, int slot, off_t page,
                    const struct xdp_ring_offset *offset, uint32_t size, size_t entry_bytes)
{
    size_t bytes = (size_t)offset->desc + (size_t)size * entry_bytes;
    uint8_t *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);
    if (memory == MAP_FAILED)
        return -errno;
    queue->maps[slot].address = memory;
    queue->maps[slot].bytes = bytes;
    *ring = (struct hn_ring){.producer = (uint32_t *)(void *)(memory + offset->producer),
                             .consumer = (uint32_t *)(void *)(memory + offset->consumer),
                             .flags = (uint32_t *)(void *)(memory + offset->flags),
                             .entries = memory + offset->desc,
                             .size = size,
                             .mask = size - 1};
    ring->cached_producer = *ring->producer;
    ring->cached_consumer = *ring->consumer;
    return 0;
}

static int read_offsets(int fd, struct xdp_mmap_offsets *offsets)
{
    socklen_t bytes = sizeof *offsets;
    if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, offsets, &bytes) != 0)
        return -errno;
    return bytes == sizeof *offsets ? 0 : -EOPNOTSUPP; /* before 5.4: no need_wakeup flags */
}

static int map_receive_rings(struct hn_xsk_queue *queue, const struct hn_xsk_options *options)
{
    struct xdp_mmap_offsets offsets;
    int error = read_offsets(queue->fd, &offsets);
    if (!error)
        error = map_ring(queue, queue->fd, &queue->fill, 0, (off_t)XDP_UMEM_PGOFF_FILL_RING,
                         &offsets.fr, options->fill_size, sizeof(uint64_t));
    if (!error)
        error =
            map_ring(queue, queue->fd, &queue->completion, 1, (off_t)XDP_UMEM_PGOFF_COMPLETION_RING,
                     &offsets.cr, options->completion_size, sizeof(uint64_t));
    if (!error)
        error = map_ring(queue, queue->fd, &queue->rx, 2, XDP_PGOFF_RX_RING, &offsets.rx,
                         options->rx_size, sizeof(struct xdp_desc));
    return error;
}

static int map_transmit_ring(struct hn_xsk_queue *queue, const struct hn_xsk_options *options)
{
    struct xdp_mmap_offsets offsets;
    int error = read_offsets(queue->tx_fd, &offsets);
    if (!error)
        error = map_ring(queue, queue->tx_fd, &queue->tx, 3, (off_t)XDP_PGOFF_TX_RING, &offsets.tx,
                         options->tx_size, sizeof(struct xdp_desc));
    return error;
}

/* Options that only make it faster: an old kernel or a missing privilege is no failure. */
static void set_transmit_wishes(int fd, const struct hn_xsk_options *options)
{
    /* Copy mode charges every packet under way to the socket's send buffer. */
    int send_buffer = (int)options->tx_size * 8192;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &send_buffer, sizeof send_buffer) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    /* The kernel's default sends 32 packets a call. */
    (void)set_option(fd, XDP_MAX_TX_SKB_BUDGET, &options->tx_size, sizeof options->tx_size);
}

static void set_receive_wishes(int fd, const struct hn_xsk_options *options)
{
    int prefer = 1;
    int budget = (int)options->busy_poll_budget;
    int micros = (int)options->busy_poll_us;
    if (options->busy_poll_us == 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, &prefer, sizeof prefer);
    (void)setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &micros, sizeof micros);
    (void)setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget, sizeof budget);
}

static int bind_queue(struct hn_xsk_queue *queue, uint32_t ifindex, uint32_t queue_id,
                      const struct hn_xsk_options *options)
{
    struct sockaddr_xdp address = {
        .sxdp_family = AF_XDP, .sxdp_ifindex = ifindex, .sxdp_queue_id = queue_id};
    address.sxdp_flags =
        (uint16_t)(XDP_USE_NEED_WAKEUP | (options->zero_copy ? XDP_ZEROCOPY : XDP_COPY) |
                   (options->multi_buffer ? XDP_USE_SG : 0));
    if (bind(queue->fd, (struct sockaddr *)&address, sizeof address) != 0)
        return -errno;
    struct xdp_options granted = {0};
    socklen_t bytes = sizeof granted;
    if (getsockopt(queue->fd, SOL_XDP, XDP_OPTIONS, &granted, &bytes) == 0)
        queue->zero_copy = (granted.flags & XDP_OPTIONS_ZEROCOPY) != 0;
    return 0;
}

static int open_socket(void)
{
    int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

static int open_receive_socket(struct hn_xsk_queue *queue, const struct hn_pool *pool,
                               uint32_t ifindex, uint32_t queue_id,
                               const struct hn_xsk_options *options)
{
    int fd = open_socket();
    if (fd < 0)
        return fd;
    queue->fd = fd;
    int error = register_memory(fd, pool);
    if (!error)
        error = set_ring_sizes(fd, options);
    if (!error)
        error = map_receive_rings(queue, options);
    if (!error) {
        set_receive_wishes(fd, options);
        error = bind_queue(queue, ifindex, queue_id, options);
    }
    return error;
}

static int open_transmit_socket(struct hn_xsk_queue *queue, uint32_t ifindex, uint32_t queue_id,
                                const struct hn_xsk_options *options)
{
    int fd = open_socket();
    if (fd < 0)
        return fd;
    queue->tx_fd = fd;
    int error = set_option(fd, XDP_TX_RING, &options->tx_size, sizeof options->tx_size);
    if (!error)
        error = map_transmit_ring(queue, options);
    if (error)
        return error;
    set_transmit_wishes(fd, options);
    struct sockaddr_xdp address = {.sxdp_family = AF_XDP,
                                   .sxdp_flags = XDP_SHARED_UMEM,
                                   .sxdp_ifindex = ifindex,
                                   .sxdp_queue_id = queue_id,
                                   .sxdp_shared_umem_fd = (uint32_t)queue->fd};
    return bind(fd, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : -errno;
}

int hn_xsk_socket_open(struct hn_xsk_queue *queue, const struct hn_pool *pool, uint32_t ifindex,
                       uint32_t queue_id, const struct hn_xsk_options *options)
{
    int error = open_receive_socket(queue, pool, ifindex, queue_id, options);
    if (!error)
        error = open_transmit_socket(queue, ifindex, queue_id, options);
    if (error)
        hn_xsk_socket_close(queue);
    return error;
}

void hn_xsk_socket_close(struct hn_xsk_queue *queue)
{
    for (size_t i = 0; i < sizeof queue->maps / sizeof *queue->maps; i++) {
        if (queue->maps[i].address)
            munmap(queue->maps[i].address, queue->maps[i].bytes);
        queue->maps[i].address = NULL;
    }
    if (queue->tx_fd >= 0)
        close(queue->tx_fd);
    if (queue->fd >= 0)
        close(queue->fd);
    queue->fd = queue->tx_fd = -1;
}
