/* Plain declarations, read by cffi and (through stack.h and udp.h) by the C compiler.

   None of this blocks, reads a clock or makes a system call: time comes in as now_ns (monotonic),
   packets come and go through devices.  A stack is used by one thread at a time. */

struct hn_stack;
struct hn_device;
struct hn_fib;
struct hn_neighbors;
struct hn_udp;

struct hn_stack_config {
    uint32_t frame_count;
    uint32_t frame_bytes;    /* 2048 or 4096 */
    uint32_t reserve_frames; /* kept for receive and transmit: endpoints may not queue below */
    uint32_t neighbors_max;
    uint32_t flows_max;   /* cached destinations, a power of two */
    uint32_t backlog_max; /* packets per transmit queue waiting for its ring, a power of two */
    bool kernel_path;     /* destinations that are not ours are answered HN_SEND_KERNEL */
};

/* Creates a stack with all the memory it will ever use.  NULL and *error (positive errno):
   EINVAL  a size out of range;  ENOMEM */
struct hn_stack *hn_stack_create(const struct hn_stack_config *config, int *error);
/* Closes devices, frees everything.  Endpoints must have been closed. */
void hn_stack_destroy(struct hn_stack *stack);
struct hn_fib *hn_stack_fib(struct hn_stack *stack);
struct hn_neighbors *hn_stack_neighbors(struct hn_stack *stack);

/* Takes the device on success and returns its index; -ENOSPC, -EEXIST (same ifindex). */
int hn_stack_add_device(struct hn_stack *stack, struct hn_device *device);
/* Closes and frees the device; packets waiting for it are dropped by reason. */
void hn_stack_remove_device(struct hn_stack *stack, uint32_t device_index);
/* Link state as the kernel has it: what the watcher saw. */
void hn_stack_set_device(struct hn_stack *stack, uint32_t device_index, uint32_t mtu,
                         const uint8_t *mac, bool up);
int32_t hn_stack_find_device(const struct hn_stack *stack, uint32_t ifindex);

struct hn_device_statistics {
    uint64_t rx_packets;
    uint64_t rx_bytes;
    uint64_t tx_packets;
    uint64_t tx_bytes;
    uint32_t backlog; /* packets waiting for a transmit ring */
};
int hn_stack_device_statistics(const struct hn_stack *stack, uint32_t device_index,
                               struct hn_device_statistics *statistics);

/* Receives at most `budget` packets from one queue and takes them through the graph.
   Returns how many; the caller comes again when it was the whole budget. */
uint32_t hn_stack_poll(struct hn_stack *stack, uint32_t device_index, uint32_t queue,
                       uint32_t budget, uint64_t now_ns);
/* Walks what was sent since the last time and hands it to the devices, one kick per queue in
   use.  True when nothing is left to be handed over. */
bool hn_stack_flush(struct hn_stack *stack, uint64_t now_ns);
/* Neighbours have changed: sends or drops what waited for them. */
void hn_stack_neighbors_changed(struct hn_stack *stack, uint64_t now_ns);
/* A path MTU learnt from an ICMP error (RFC 1191, RFC 8201), for destinations of one address;
   forgotten after ten minutes. */
void hn_stack_learn_path_mtu(struct hn_stack *stack, const struct hn_address *destination,
                             uint32_t mtu, uint64_t now_ns);

/* Drop counters: 0 <= reason < hn_drop_count(). */
uint32_t hn_drop_count(void);
const char *hn_drop_name(uint32_t reason);
uint64_t hn_stack_drops(const struct hn_stack *stack, uint32_t reason);

struct hn_node_statistics {
    const char *name;
    uint64_t calls;
    uint64_t packets;
    uint64_t ns;
};
uint32_t hn_stack_node_count(const struct hn_stack *stack);
int hn_stack_node_statistics(const struct hn_stack *stack, uint32_t index,
                             struct hn_node_statistics *statistics);

struct hn_memory_statistics {
    uint32_t frames;
    uint32_t frame_bytes;
    uint32_t free;
    uint32_t free_min;
    uint64_t bytes_total; /* everything the stack has allocated */
};
void hn_stack_memory(const struct hn_stack *stack, struct hn_memory_statistics *statistics);

/* UDP endpoints. */

enum hn_udp_flags {
    HN_UDP_V6ONLY = 1, /* an IPv6 wildcard does not take IPv4 (as ::ffff:a.b.c.d) */
    HN_UDP_REUSE = 2   /* may share the address with others that say so too */
};

enum hn_send_verdict {
    HN_SEND_QUEUED = 0, /* goes out with the next hn_stack_flush */
    HN_SEND_KERNEL = 1  /* not by an attached interface, or too large: the kernel path's turn */
};

/* Binds an endpoint; local->port must not be 0 (the kernel path chose it).  remote NULL or the
   connected peer.  NULL and *error:
   EADDRINUSE  taken by another endpoint of this stack;  EINVAL;  ENOMEM */
struct hn_udp *hn_udp_open(struct hn_stack *stack, const struct hn_address *local,
                           const struct hn_address *remote, uint32_t flags, int *error);
/* Drops what is queued and frees the endpoint. */
void hn_udp_close(struct hn_udp *udp);
/* TTL and TOS of IPv4 headers, hop limit and traffic class of IPv6 ones. */
void hn_udp_set_header(struct hn_udp *udp, uint8_t ttl, uint8_t tos, uint8_t hop_limit,
                       uint8_t traffic_class);
/* Bytes of frame memory that may wait to be received; what is beyond is dropped by reason. */
void hn_udp_set_receive_limit(struct hn_udp *udp, uint32_t bytes);
/* Connects (NULL: disconnects). */
void hn_udp_connect(struct hn_udp *udp, const struct hn_address *remote);

/* Sends one datagram, copied.  `to` NULL: the connected peer.  enum hn_send_verdict, or
   -EAGAIN       the transmit queue is full: flush, or wait until it drains
   -EDESTADDRREQ no destination
   -EAFNOSUPPORT the destination's family
   -EINVAL       port 0
   without a kernel path also -ENETUNREACH, -EHOSTUNREACH, -EACCES, -EMSGSIZE */
int hn_udp_send(struct hn_udp *udp, const struct hn_address *to, const uint8_t *data, size_t bytes);

/* Copies the oldest received datagram out and frees it; *peer: where it came from.  Returns its
   length, or -EAGAIN: none waits;  -EMSGSIZE: `room` is too small (it stays). */
int32_t hn_udp_take(struct hn_udp *udp, uint8_t *to, size_t room, struct hn_address *peer);

struct hn_udp_statistics {
    uint64_t rx_fast_datagrams;
    uint64_t rx_fast_bytes;
    uint64_t tx_fast_datagrams;
    uint64_t tx_fast_bytes;
    uint64_t rx_kernel_datagrams;
    uint64_t rx_kernel_bytes;
    uint64_t tx_kernel_datagrams;
    uint64_t tx_kernel_bytes;
    uint64_t rx_queue_full;     /* datagrams dropped because nobody took them in time */
    uint64_t rx_no_frames;      /* dropped because the pool was down to its reserve */
    uint64_t rx_kernel_dropped; /* by the kernel's receive queue (SO_RXQ_OVFL) */
    uint64_t tx_kernel_errors;
    uint32_t rx_queue_datagrams;
    uint32_t rx_queue_bytes;
};
void hn_udp_read_statistics(const struct hn_udp *udp, struct hn_udp_statistics *statistics);
