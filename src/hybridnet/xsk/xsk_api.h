/* Plain declarations, read by cffi and (through xsk.h) by the C compiler. */

struct hn_device;
struct hn_stack;

/* How one queue of an interface is opened. */
struct hn_xsk_options {
    uint32_t rx_size; /* entries, powers of two */
    uint32_t tx_size;
    uint32_t fill_size;
    uint32_t completion_size;
    uint32_t busy_poll_us; /* SO_BUSY_POLL, 0: off */
    uint32_t busy_poll_budget;
    bool zero_copy;    /* XDP_ZEROCOPY, else XDP_COPY */
    bool multi_buffer; /* XDP_USE_SG */
};

/* Kernel's counters of one queue (XDP_STATISTICS), and ours. */
struct hn_xsk_statistics {
    uint64_t rx_dropped; /* no descriptor or a packet too large */
    uint64_t rx_invalid_descriptors;
    uint64_t tx_invalid_descriptors;
    uint64_t rx_ring_full;
    uint64_t rx_fill_ring_empty;
    uint64_t tx_ring_empty;
    uint64_t rx_wakeups;     /* system calls to restart the driver's receive */
    uint64_t tx_kicks;       /* system calls to make the kernel transmit */
    uint64_t tx_kick_errors; /* of those, other than "come again" */
    uint64_t rx_overlong;    /* chains longer than any packet, freed */
    uint32_t frames_held;    /* by the rings and the kernel */
};

/* An AF_XDP device without a queue yet; frames come from the stack's pool.  Owned by the caller
   until hn_stack_add_device takes it.  NULL: no memory. */
struct hn_device *hn_xsk_device_create(struct hn_stack *stack, uint32_t ifindex,
                                       uint32_t queue_count, uint32_t mtu, const uint8_t *mac,
                                       bool is_virtual);
/* Opens, registers the memory, maps the rings, fills and binds one queue.
   System calls: socket, setsockopt, getsockopt, mmap, bind; all undone on failure.
   Needs CAP_NET_RAW.  0 or -errno:
   EOPNOTSUPP  no zero-copy here, or multi-buffer not known (Linux < 6.6)
   EBUSY       the queue still belongs to another socket; closing is asynchronous, try again
   ENOBUFS/ENOMEM  the locked-memory limit, or no memory
   EINVAL      ring sizes, or the MTU does not fit a frame */
int hn_xsk_open_queue(struct hn_device *device, uint32_t queue,
                      const struct hn_xsk_options *options);
/* The socket, for polling and for the XSKMAP; -1: not open. */
int hn_xsk_fd(const struct hn_device *device, uint32_t queue);
/* True when the kernel granted zero-copy (XDP_OPTIONS). */
bool hn_xsk_is_zero_copy(const struct hn_device *device, uint32_t queue);
int hn_xsk_read_statistics(struct hn_device *device, uint32_t queue,
                           struct hn_xsk_statistics *statistics);
/* Frames that the rings of one queue can hold at most. */
uint32_t hn_xsk_frames_per_queue(const struct hn_xsk_options *options);
