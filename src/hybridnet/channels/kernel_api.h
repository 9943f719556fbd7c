/* Plain declarations, read by cffi and (through kernel.h) by the C compiler. */

struct hn_udp;
struct hn_stack;

/* Buffers for batched system calls on kernel sockets, one per stack. */
struct hn_kernel_io;
struct hn_kernel_io *hn_kernel_io_create(struct hn_stack *stack);
void hn_kernel_io_destroy(struct hn_kernel_io *io);

/* One entry of a socket's error queue (IP_RECVERR, IPV6_RECVERR). */
struct hn_kernel_error {
    struct hn_address destination; /* of the datagram that caused it; family 0: not known */
    struct hn_address offender;    /* who said so; family 0: this machine */
    uint32_t error;                /* errno */
    uint32_t info;                 /* EMSGSIZE: the path MTU */
    uint8_t origin;                /* SO_EE_ORIGIN_* */
    uint8_t type;
    uint8_t code;
    uint8_t reserved;
};
/* 1: *error is filled;  0: the queue is empty;  -errno. */
int hn_kernel_read_error(int fd, struct hn_kernel_error *error);
