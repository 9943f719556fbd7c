#define _GNU_SOURCE
#include "channels/kernel.h"

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define BATCH 64u
#define OVERFLOW_BYTES 65536u /* one datagram's rest; pages are touched only when needed */
#define FAILURES_MAX 64u

union hn_sockaddr {
    struct sockaddr base;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

struct queued {
    struct hn_udp *udp;
    struct hn_frame *frame;
    struct hn_address to;
    int fd;
    bool has_address;
};

struct hn_kernel_io {
    struct hn_stack *stack;
    uint8_t *overflow;
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH][2];
    union hn_sockaddr addresses[BATCH];
    _Alignas(struct cmsghdr) uint8_t control[BATCH][64];
    struct hn_frame *frames[BATCH];
    struct queued queue[BATCH];
    uint32_t queue_count;
    int full[BATCH]; /* sockets that took nothing at the last flush */
    uint32_t full_count;
    struct hn_kernel_failure failures[FAILURES_MAX];
    uint32_t failure_head;
    uint32_t failure_tail;
};

struct hn_kernel_io *hn_kernel_io_create(struct hn_stack *stack)
{
    struct hn_kernel_io *io = calloc(1, sizeof *io);
    if (!io)
        return NULL;
    io->stack = stack;
    io->overflow = mmap(NULL, (size_t)BATCH * OVERFLOW_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (io->overflow == MAP_FAILED) {
        free(io);
        return NULL;
    }
    return io;
}

void hn_kernel_io_destroy(struct hn_kernel_io *io)
{
    if (!io)
        return;
    for (uint32_t i = 0; i < io->queue_count; i++)
        hn_packet_free(&io->stack->pool, io->queue[i].frame, HN_OWNER_TX);
    munmap(io->overflow, (size_t)BATCH * OVERFLOW_BYTES);
    free(io);
}

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

static void read_address(const union hn_sockaddr *from, struct hn_address *to)
{
    memset(to, 0, sizeof *to);
    if (from->base.sa_family == AF_INET) {
        to->family = HN_FAMILY_IPV4;
        to->port = ntohs(from->in.sin_port);
        memcpy(to->ip, &from->in.sin_addr, 4);
    } else if (from->base.sa_family == AF_INET6) {
        const uint8_t *ip = from->in6.sin6_addr.s6_addr;
        to->port = ntohs(from->in6.sin6_port);
        if (memcmp(ip, mapped_prefix, sizeof mapped_prefix) == 0) {
            to->family = HN_FAMILY_IPV4;
            memcpy(to->ip, ip + 12, 4);
        } else {
            to->family = HN_FAMILY_IPV6;
            memcpy(to->ip, ip, 16);
            to->scope_id = from->in6.sin6_scope_id;
        }
    }
}

/* Descriptors of a batch come from the caller as they are. */
static int check_destination(const struct hn_address *to, int socket_family)
{
    if (to->family != HN_FAMILY_IPV4 && to->family != HN_FAMILY_IPV6)
        return -EAFNOSUPPORT;
    return socket_family == AF_INET && to->family != HN_FAMILY_IPV4 ? -EAFNOSUPPORT : 0;
}

static socklen_t write_address(const struct hn_address *from, int socket_family,
                               union hn_sockaddr *to)
{
    memset(to, 0, sizeof *to);
    if (socket_family == AF_INET) {
        to->in.sin_family = AF_INET;
        to->in.sin_port = htons(from->port);
        memcpy(&to->in.sin_addr, from->ip, 4);
        return sizeof to->in;
    }
    to->in6.sin6_family = AF_INET6;
    to->in6.sin6_port = htons(from->port);
    to->in6.sin6_scope_id = from->scope_id;
    if (from->family == HN_FAMILY_IPV4) {
        memcpy(to->in6.sin6_addr.s6_addr, mapped_prefix, sizeof mapped_prefix);
        memcpy(to->in6.sin6_addr.s6_addr + 12, from->ip, 4);
    } else {
        memcpy(to->in6.sin6_addr.s6_addr, from->ip, 16);
    }
    return sizeof to->in6;
}

/* Frames to receive into, and the message headers that point to them. */
static uint32_t prepare(struct hn_kernel_io *io, uint32_t max)
{
    struct hn_pool *pool = &io->stack->pool;
    uint32_t room = pool->frame_bytes - HN_FRAME_HEADROOM;
    uint32_t count = 0;
    for (; count < max && count < BATCH; count++) {
        struct hn_frame *frame = hn_frame_alloc(pool, HN_OWNER_STACK);
        if (!frame)
            break;
        io->frames[count] = frame;
        io->vectors[count][0] = (struct iovec){frame->data, room};
        io->vectors[count][1] =
            (struct iovec){io->overflow + (size_t)count * OVERFLOW_BYTES, OVERFLOW_BYTES};
        io->messages[count].msg_hdr = (struct msghdr){.msg_name = &io->addresses[count],
                                                      .msg_namelen = sizeof io->addresses[count],
                                                      .msg_iov = io->vectors[count],
                                                      .msg_iovlen = 2,
                                                      .msg_control = io->control[count],
                                                      .msg_controllen = sizeof io->control[count]};
    }
    return count;
}

/* SO_RXQ_OVFL: how many the kernel's own queue had to drop so far. */
static void read_control(struct hn_udp *udp, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
            uint32_t dropped;
            memcpy(&dropped, CMSG_DATA(c), sizeof dropped);
            udp->statistics.rx_kernel_dropped = dropped;
        }
    }
}

/* The part that did not fit the first frame, moved into a chain; false: no frames left. */
static bool chain_overflow(struct hn_pool *pool, struct hn_frame *head, const uint8_t *rest,
                           size_t bytes)
{
    uint32_t room = pool->frame_bytes - HN_FRAME_HEADROOM;
    struct hn_frame *tail = head;
    while (bytes) {
        struct hn_frame *frame = hn_frame_alloc(pool, HN_OWNER_STACK);
        if (!frame)
            return false;
        size_t piece = bytes < room ? bytes : room;
        memcpy(frame->data, rest, piece);
        frame->length = (uint32_t)piece;
        tail->next = hn_frame_index(pool, frame);
        tail = frame;
        rest += piece;
        bytes -= piece;
    }
    return true;
}

static void take_datagram(struct hn_kernel_io *io, struct hn_udp *udp, uint32_t i, uint64_t now_ns)
{
    struct hn_pool *pool = &io->stack->pool;
    struct hn_frame *frame = io->frames[i];
    uint32_t room = pool->frame_bytes - HN_FRAME_HEADROOM;
    uint32_t bytes = io->messages[i].msg_len;
    frame->length = bytes < room ? bytes : room;
    frame->flags = HN_FRAME_KERNEL;
    frame->arrival_ns = now_ns;
    frame->payload_offset = 0;
    frame->payload_length = (uint16_t)bytes;
    read_address(&io->addresses[i], &frame->peer);
    read_control(udp, &io->messages[i].msg_hdr);
    if (bytes > room && !chain_overflow(pool, frame, io->vectors[i][1].iov_base, bytes - room)) {
        udp->statistics.rx_no_frames++;
        hn_stack_drop(io->stack, frame, HN_DROP_UDP_NO_FRAMES);
        return;
    }
    hn_udp_enqueue(udp, frame);
}

int hn_kernel_receive(struct hn_kernel_io *io, struct hn_udp *udp, int fd, uint32_t max)
{
    uint32_t prepared = prepare(io, max);
    if (prepared == 0)
        return -ENOBUFS;
    int received = recvmmsg(fd, io->messages, prepared, MSG_DONTWAIT, NULL);
    int error = received < 0 ? -errno : 0;
    uint32_t count = received < 0 ? 0 : (uint32_t)received;
    for (uint32_t i = count; i < prepared; i++)
        hn_frame_free(&io->stack->pool, io->frames[i], HN_OWNER_STACK);
    uint64_t now_ns = count ? hn_monotonic_ns() : 0;
    for (uint32_t i = 0; i < count; i++)
        take_datagram(io, udp, i, now_ns);
    return error ? error : (int)count;
}

/* With IP_RECVERR a socket reports an earlier datagram's ICMP error on the next call, also an
   unconnected one, where nobody expects it.  Reporting clears it, so a second try tells. */
static bool may_be_stale(int error, bool has_address)
{
    return has_address && (error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH ||
                           error == EMSGSIZE || error == EACCES);
}

/* A full queue below the socket drops datagrams; only sockets with IP_RECVERR hear of it, which
   ordinary programs do not set.  Counted, and as silent as for them. */
static bool is_silent_drop(int error) { return error == ENOBUFS; }

static void count_sent(struct hn_udp *udp, size_t bytes)
{
    udp->statistics.tx_kernel_datagrams++;
    udp->statistics.tx_kernel_bytes += bytes;
}

int hn_kernel_send(struct hn_udp *udp, int fd, int socket_family, const struct hn_address *to,
                   const uint8_t *data, size_t bytes)
{
    union hn_sockaddr address;
    int error = to ? check_destination(to, socket_family) : 0;
    if (error)
        return error;
    socklen_t address_bytes = to ? write_address(to, socket_family, &address) : 0;
    const struct sockaddr *name = to ? &address.base : NULL;
    ssize_t sent = sendto(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL, name, address_bytes);
    if (sent < 0 && may_be_stale(errno, to != NULL))
        sent = sendto(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL, name, address_bytes);
    if (sent < 0) {
        if (errno != EAGAIN)
            udp->statistics.tx_kernel_errors++;
        return is_silent_drop(errno) ? 0 : -errno;
    }
    count_sent(udp, bytes);
    return 0;
}

int hn_kernel_queue(struct hn_kernel_io *io, struct hn_udp *udp, int fd, int socket_family,
                    const struct hn_address *to, const uint8_t *data, size_t bytes)
{
    struct hn_pool *pool = &io->stack->pool;
    int error = to ? check_destination(to, socket_family) : 0;
    if (error)
        return error;
    if (io->queue_count == BATCH)
        hn_kernel_flush(io);
    if (io->queue_count == BATCH)
        return -EAGAIN;
    struct hn_frame *frame = NULL;
    if (bytes <= pool->frame_bytes - HN_FRAME_HEADROOM)
        frame = hn_frame_alloc(pool, HN_OWNER_TX);
    if (!frame) {
        /* It goes at once, but not ahead of what was sent before it. */
        hn_kernel_flush(io);
        return io->queue_count ? -EAGAIN : hn_kernel_send(udp, fd, socket_family, to, data, bytes);
    }
    memcpy(frame->data, data, bytes);
    frame->length = (uint32_t)bytes;
    frame->device = UINT8_MAX; /* no device's to take back */
    struct queued *entry = &io->queue[io->queue_count++];
    *entry = (struct queued){.udp = udp, .frame = frame, .fd = fd, .has_address = to != NULL};
    if (to)
        entry->to = *to;
    /* The family only matters for how the address is written. */
    entry->to.reserved = socket_family == AF_INET6;
    return 0;
}

static void remember_failure(struct hn_kernel_io *io, const struct queued *entry, int error)
{
    entry->udp->statistics.tx_kernel_errors++;
    if (is_silent_drop(error))
        return;
    if (io->failure_tail - io->failure_head == FAILURES_MAX)
        io->failure_head++; /* the oldest goes: the counter above has it */
    io->failures[io->failure_tail++ % FAILURES_MAX] =
        (struct hn_kernel_failure){.udp = entry->udp, .to = entry->to, .error = error};
}

/* One sendmmsg for the queue's first entries that share a socket; how many are done with. */
static uint32_t send_run(struct hn_kernel_io *io, uint32_t start, int *full_fd)
{
    uint32_t count = 0;
    int fd = io->queue[start].fd;
    for (; start + count < io->queue_count && io->queue[start + count].fd == fd; count++) {
        struct queued *entry = &io->queue[start + count];
        struct msghdr *message = &io->messages[count].msg_hdr;
        io->vectors[count][0] = (struct iovec){entry->frame->data, entry->frame->length};
        *message = (struct msghdr){.msg_iov = io->vectors[count], .msg_iovlen = 1};
        if (entry->has_address) {
            int family = entry->to.reserved ? AF_INET6 : AF_INET;
            message->msg_name = &io->addresses[count];
            message->msg_namelen = write_address(&entry->to, family, &io->addresses[count]);
        }
    }
    int sent = sendmmsg(fd, io->messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && may_be_stale(errno, io->queue[start].has_address))
        sent = sendmmsg(fd, io->messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            *full_fd = fd;
            return 0;
        }
        remember_failure(io, &io->queue[start], errno);
        return 1;
    }
    for (uint32_t i = 0; i < (uint32_t)sent; i++)
        count_sent(io->queue[start + i].udp, io->queue[start + i].frame->length);
    return (uint32_t)sent;
}

void hn_kernel_flush(struct hn_kernel_io *io)
{
    uint32_t at = 0;
    uint32_t kept = 0;
    io->full_count = 0;
    while (at < io->queue_count) {
        int full_fd = -1;
        uint32_t count = send_run(io, at, &full_fd);
        for (uint32_t i = 0; i < count; i++)
            hn_frame_free(&io->stack->pool, io->queue[at + i].frame, HN_OWNER_TX);
        at += count;
        if (full_fd < 0)
            continue;
        /* One full socket holds up nobody else: its datagrams stay, in order. */
        io->full[io->full_count++] = full_fd;
        while (at < io->queue_count && io->queue[at].fd == full_fd)
            io->queue[kept++] = io->queue[at++];
    }
    io->queue_count = kept;
}

int hn_kernel_next_full(struct hn_kernel_io *io)
{
    return io->full_count ? io->full[--io->full_count] : -1;
}

bool hn_kernel_has_queued(const struct hn_kernel_io *io) { return io->queue_count > 0; }

uint32_t hn_kernel_queued_count(const struct hn_kernel_io *io, const struct hn_udp *udp)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < io->queue_count; i++)
        count += io->queue[i].udp == udp;
    return count;
}

void hn_kernel_forget(struct hn_kernel_io *io, struct hn_udp *udp)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < io->queue_count; i++) {
        if (io->queue[i].udp == udp) {
            io->stack->drops[HN_DROP_UDP_CLOSED]++;
            hn_frame_free(&io->stack->pool, io->queue[i].frame, HN_OWNER_TX);
        } else {
            io->queue[kept++] = io->queue[i];
        }
    }
    io->queue_count = kept;
    for (uint32_t i = io->failure_head; i != io->failure_tail; i++)
        if (io->failures[i % FAILURES_MAX].udp == udp)
            io->failures[i % FAILURES_MAX].udp = NULL;
}

bool hn_kernel_next_failure(struct hn_kernel_io *io, struct hn_kernel_failure *failure)
{
    while (io->failure_head != io->failure_tail) {
        *failure = io->failures[io->failure_head++ % FAILURES_MAX];
        if (failure->udp)
            return true;
    }
    return false;
}

static bool read_extended(struct cmsghdr *c, struct hn_kernel_error *error)
{
    bool v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
    bool v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
    struct sock_extended_err extended;
    if ((!v4 && !v6) || c->cmsg_len < CMSG_LEN(sizeof extended))
        return false;
    memcpy(&extended, CMSG_DATA(c), sizeof extended);
    error->error = extended.ee_errno;
    error->info = extended.ee_info;
    error->origin = extended.ee_origin;
    error->type = extended.ee_type;
    error->code = extended.ee_code;
    union hn_sockaddr offender = {0};
    size_t rest = c->cmsg_len - CMSG_LEN(sizeof extended);
    memcpy(&offender, CMSG_DATA(c) + sizeof extended,
           rest < sizeof offender ? rest : sizeof offender);
    read_address(&offender, &error->offender);
    return true;
}

int hn_kernel_read_error(int fd, struct hn_kernel_error *error)
{
    union hn_sockaddr address = {0};
    uint8_t payload[1];
    _Alignas(struct cmsghdr) uint8_t control[512];
    struct iovec vector = {payload, sizeof payload};
    struct msghdr message = {.msg_name = &address,
                             .msg_namelen = sizeof address,
                             .msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    memset(error, 0, sizeof *error);
    if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
        return errno == EAGAIN ? 0 : -errno;
    read_address(&address, &error->destination);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (read_extended(c, error))
            return 1;
    return 0;
}
