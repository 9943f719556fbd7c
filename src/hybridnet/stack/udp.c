/* UDP endpoints: the table by port, and each one's receive queue. */
#include "stack/udp.h"

static struct hn_udp **bucket_of(struct hn_stack *stack, uint16_t port)
{
    return &stack->udp_buckets[port % HN_UDP_BUCKETS];
}

static bool is_wildcard(const struct hn_address *local)
{
    static const uint8_t zero[16];
    return memcmp(local->ip, zero, sizeof zero) == 0;
}

static bool takes_ipv4(const struct hn_udp *udp)
{
    return udp->source.local.family == HN_FAMILY_IPV4 ||
           (udp->wildcard && !(udp->flags & HN_UDP_V6ONLY));
}

/* Link-local addresses are the same only on the same link; a scope of 0 stands for any. */
static bool same_ip(const struct hn_address *own, const struct hn_address *other)
{
    return memcmp(own->ip, other->ip, sizeof own->ip) == 0 &&
           (own->scope_id == 0 || other->scope_id == 0 || own->scope_id == other->scope_id);
}

/* How specifically an endpoint wants this datagram; 0: not at all. */
static uint32_t score(const struct hn_udp *udp, const struct hn_address *local,
                      const struct hn_address *peer)
{
    const struct hn_address *own = &udp->source.local;
    if (own->port != local->port)
        return 0;
    uint32_t points = own->family == local->family ? 2 : 1;
    if (local->family == HN_FAMILY_IPV4 ? !takes_ipv4(udp) : own->family != HN_FAMILY_IPV6)
        return 0;
    if (!udp->wildcard) {
        if (!same_ip(own, local))
            return 0;
        points += 4;
    }
    if (udp->remote.family != 0) {
        if (udp->remote.family != peer->family || udp->remote.port != peer->port ||
            !same_ip(&udp->remote, peer))
            return 0;
        points += 8;
    }
    return points;
}

struct hn_udp *hn_udp_find(const struct hn_stack *stack, const struct hn_address *local,
                           const struct hn_address *peer)
{
    struct hn_udp *best = NULL;
    uint32_t best_points = 0;
    for (struct hn_udp *udp = stack->udp_buckets[local->port % HN_UDP_BUCKETS]; udp;
         udp = udp->bucket_next) {
        uint32_t points = score(udp, local, peer);
        if (points > best_points) {
            best = udp;
            best_points = points;
        }
    }
    return best;
}

bool hn_udp_is_only(const struct hn_udp *udp)
{
    const struct hn_udp *first = *bucket_of(udp->stack, udp->source.local.port);
    return first == udp && !udp->bucket_next && udp->remote.family == 0;
}

static bool conflicts(const struct hn_udp *udp, const struct hn_address *local, uint32_t flags)
{
    const struct hn_address *own = &udp->source.local;
    if (own->port != local->port || ((udp->flags & flags) & HN_UDP_REUSE))
        return false;
    bool wild = is_wildcard(local);
    if (own->family != local->family) {
        /* A dual-stack wildcard claims the IPv4 port too. */
        bool own_dual = own->family == HN_FAMILY_IPV6 && takes_ipv4(udp);
        bool new_dual = local->family == HN_FAMILY_IPV6 && wild && !(flags & HN_UDP_V6ONLY);
        return own_dual || new_dual;
    }
    return wild || udp->wildcard || same_ip(own, local);
}

struct hn_udp *hn_udp_open(struct hn_stack *stack, const struct hn_address *local,
                           const struct hn_address *remote, uint32_t flags, int *error)
{
    static uint32_t next_id; /* tells flows of different endpoints apart; 0 is never given */
    struct hn_udp **bucket = bucket_of(stack, local->port);
    if (local->port == 0 || (local->family != HN_FAMILY_IPV4 && local->family != HN_FAMILY_IPV6)) {
        *error = EINVAL;
        return NULL;
    }
    for (const struct hn_udp *other = *bucket; other; other = other->bucket_next)
        if (conflicts(other, local, flags)) {
            *error = EADDRINUSE;
            return NULL;
        }
    struct hn_udp *udp = calloc(1, sizeof *udp);
    if (!udp) {
        *error = ENOMEM;
        return NULL;
    }
    udp->stack = stack;
    udp->source.local = *local;
    if (++next_id == 0)
        next_id = 1;
    udp->source.id = next_id;
    udp->source.protocol = 17;
    udp->source.ttl = 64;
    udp->source.hop_limit = 64;
    udp->wildcard = is_wildcard(local);
    udp->flags = flags;
    udp->queue_head = udp->queue_tail = HN_FRAME_NONE;
    udp->queue_limit = HN_UDP_RECEIVE_LIMIT_DEFAULT;
    hn_udp_connect(udp, remote);
    udp->bucket_next = *bucket;
    *bucket = udp;
    return udp;
}

static void leave_ready_list(struct hn_udp *udp)
{
    struct hn_stack *stack = udp->stack;
    struct hn_udp *previous = NULL;
    for (struct hn_udp *at = stack->ready_head; at; previous = at, at = at->ready_next) {
        if (at != udp)
            continue;
        if (previous)
            previous->ready_next = udp->ready_next;
        else
            stack->ready_head = udp->ready_next;
        if (stack->ready_tail == udp)
            stack->ready_tail = previous;
        return;
    }
}

void hn_udp_close(struct hn_udp *udp)
{
    struct hn_stack *stack = udp->stack;
    struct hn_udp **link = bucket_of(stack, udp->source.local.port);
    while (*link != udp)
        link = &(*link)->bucket_next;
    *link = udp->bucket_next;
    if (udp->ready)
        leave_ready_list(udp);
    struct hn_frame *frame;
    while (hn_udp_receive(udp, &frame, 1) == 1) {
        stack->drops[HN_DROP_UDP_CLOSED]++;
        hn_packet_free(&stack->pool, frame, HN_OWNER_SOCKET);
    }
    free(udp);
}

void hn_udp_set_header(struct hn_udp *udp, uint8_t ttl, uint8_t tos, uint8_t hop_limit,
                       uint8_t traffic_class)
{
    udp->source.ttl = ttl;
    udp->source.tos = tos;
    udp->source.hop_limit = hop_limit;
    udp->source.traffic_class = traffic_class;
    udp->stack->local_generation++;
}

void hn_udp_set_receive_limit(struct hn_udp *udp, uint32_t bytes) { udp->queue_limit = bytes; }

void hn_udp_connect(struct hn_udp *udp, const struct hn_address *remote)
{
    if (remote)
        udp->remote = *remote;
    else
        memset(&udp->remote, 0, sizeof udp->remote);
}

/* Hands a packet over, all of its frames. */
static void set_owner(struct hn_pool *pool, struct hn_frame *frame, enum hn_frame_owner from,
                      enum hn_frame_owner to)
{
    hn_frame_set_owner(frame, from, to);
    while (hn_unlikely(frame->next != HN_FRAME_NONE)) {
        frame = &pool->frames[frame->next];
        hn_frame_set_owner(frame, from, to);
    }
}

static uint32_t frame_memory(const struct hn_pool *pool, const struct hn_frame *frame)
{
    uint32_t bytes = pool->frame_bytes;
    while (hn_unlikely(frame->next != HN_FRAME_NONE)) {
        frame = &pool->frames[frame->next];
        bytes += pool->frame_bytes;
    }
    return bytes;
}

void hn_udp_mark_ready(struct hn_udp *udp)
{
    struct hn_stack *stack = udp->stack;
    if (udp->ready || udp->queue_count == 0)
        return;
    udp->ready = true;
    udp->ready_next = NULL;
    if (stack->ready_tail)
        stack->ready_tail->ready_next = udp;
    else
        stack->ready_head = udp;
    stack->ready_tail = udp;
}

struct hn_udp *hn_udp_next_ready(struct hn_stack *stack)
{
    struct hn_udp *udp = stack->ready_head;
    if (!udp)
        return NULL;
    stack->ready_head = udp->ready_next;
    if (!stack->ready_head)
        stack->ready_tail = NULL;
    udp->ready = false;
    return udp;
}

void hn_udp_enqueue(struct hn_udp *udp, struct hn_frame *frame)
{
    struct hn_stack *stack = udp->stack;
    struct hn_pool *pool = &stack->pool;
    uint32_t bytes = frame_memory(pool, frame);
    if (hn_unlikely(udp->queue_bytes + bytes > udp->queue_limit)) {
        udp->statistics.rx_queue_full++;
        hn_stack_drop(stack, frame, HN_DROP_UDP_QUEUE_FULL);
        return;
    }
    /* A few for everybody, so that others' full queues starve nobody. */
    if (hn_unlikely(pool->free_count < stack->reserve_frames &&
                    udp->queue_count >= HN_UDP_RECEIVE_MIN)) {
        udp->statistics.rx_no_frames++;
        hn_stack_drop(stack, frame, HN_DROP_UDP_NO_FRAMES);
        return;
    }
    if (frame->flags & HN_FRAME_KERNEL) {
        udp->statistics.rx_kernel_datagrams++;
        udp->statistics.rx_kernel_bytes += frame->payload_length;
    } else {
        udp->statistics.rx_fast_datagrams++;
        udp->statistics.rx_fast_bytes += frame->payload_length;
    }
    set_owner(pool, frame, HN_OWNER_STACK, HN_OWNER_SOCKET);
    frame->queue_next = HN_FRAME_NONE;
    uint32_t index = hn_frame_index(pool, frame);
    if (udp->queue_count == 0)
        udp->queue_head = index;
    else
        pool->frames[udp->queue_tail].queue_next = index;
    udp->queue_tail = index;
    udp->queue_count++;
    udp->queue_bytes += bytes;
    hn_udp_mark_ready(udp);
}

uint32_t hn_udp_receive(struct hn_udp *udp, struct hn_frame **frames, uint32_t max)
{
    struct hn_pool *pool = &udp->stack->pool;
    uint32_t count = 0;
    while (count < max && udp->queue_count) {
        struct hn_frame *frame = &pool->frames[udp->queue_head];
        udp->queue_head = frame->queue_next;
        udp->queue_count--;
        udp->queue_bytes -= frame_memory(pool, frame);
        if (udp->queue_count)
            __builtin_prefetch(&pool->frames[udp->queue_head]);
        frames[count++] = frame;
    }
    return count;
}

void hn_udp_copy_payload(const struct hn_pool *pool, const struct hn_frame *frame, uint8_t *to)
{
    uint32_t left = frame->payload_length;
    uint32_t offset = frame->payload_offset;
    while (left) {
        uint32_t piece = frame->length - offset;
        if (piece > left)
            piece = left;
        memcpy(to, frame->data + offset, piece);
        to += piece;
        left -= piece;
        if (left == 0 || frame->next == HN_FRAME_NONE)
            return;
        frame = &pool->frames[frame->next];
        offset = 0;
    }
}

int32_t hn_udp_take(struct hn_udp *udp, uint8_t *to, size_t room, struct hn_address *peer)
{
    struct hn_pool *pool = &udp->stack->pool;
    if (udp->queue_count == 0)
        return -EAGAIN;
    struct hn_frame *frame = &pool->frames[udp->queue_head];
    int32_t bytes = frame->payload_length;
    if ((size_t)bytes > room)
        return -EMSGSIZE;
    (void)hn_udp_receive(udp, &frame, 1);
    hn_udp_copy_payload(pool, frame, to);
    *peer = frame->peer;
    hn_packet_free(pool, frame, HN_OWNER_SOCKET);
    return bytes;
}

void hn_udp_read_statistics(const struct hn_udp *udp, struct hn_udp_statistics *statistics)
{
    *statistics = udp->statistics;
    statistics->rx_queue_datagrams = udp->queue_count;
    statistics->rx_queue_bytes = udp->queue_bytes;
}
