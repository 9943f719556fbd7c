/* UDP on the way down: payload into frames, the header in front. */
#include "stack/udp.h"
#include "stack/wire/checksum.h"
#include "stack/wire/ethernet.h"
#include "stack/wire/ipv4.h"
#include "stack/wire/ipv6.h"

void hn_udp_output(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                   uint32_t count)
{
    (void)node;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        const struct hn_flow *flow = frame->flow;
        uint16_t length = (uint16_t)(HN_UDP_BYTES + frame->payload_length);
        uint16_t length_be = __builtin_bswap16(length);
        /* Once for the pseudo-header, once for the header itself. */
        uint64_t sum = (uint64_t)flow->l4_sum + frame->payload_sum + 2u * (uint64_t)length_be;
        uint16_t checksum = (uint16_t)~hn_checksum_fold(sum);
        if (checksum == 0)
            checksum = 0xffff; /* RFC 768: zero would mean none */
        frame->data -= HN_UDP_BYTES;
        frame->length += HN_UDP_BYTES;
        hn_udp_emit(frame->data, flow->source_port, flow->destination.port, length, checksum);
        hn_graph_put(
            graph, flow->family == HN_FAMILY_IPV4 ? HN_NODE_IP4_OUTPUT : HN_NODE_IP6_OUTPUT, frame);
    }
}

/* Copies the payload into a frame, or a chain when it is larger than one (jumbo MTU); NULL: the
   pool is too empty. */
static struct hn_frame *copy_payload(struct hn_pool *pool, const uint8_t *data, size_t bytes)
{
    uint32_t room = pool->frame_bytes - HN_FRAME_HEADROOM;
    if (pool->free_count <= bytes / room)
        return NULL;
    struct hn_frame *head = NULL;
    struct hn_frame *tail = NULL;
    uint64_t sum = 0;
    size_t done = 0;
    do {
        struct hn_frame *frame = hn_frame_alloc(pool, HN_OWNER_STACK);
        size_t piece = bytes - done < room ? bytes - done : room; /* room is even */
        sum = hn_checksum_copy(sum, frame->data, data + done, piece);
        frame->length = (uint32_t)piece;
        done += piece;
        if (tail)
            tail->next = hn_frame_index(pool, frame);
        else
            head = frame;
        tail = frame;
    } while (done < bytes);
    head->payload_sum = hn_checksum_fold(sum);
    head->payload_length = (uint16_t)bytes;
    return head;
}

/* Flow of a fast destination with room in its transmit queue; NULL: full. */
static struct hn_flow *flow_with_room(struct hn_udp *udp, const struct hn_address *to,
                                      struct hn_flow *flow)
{
    struct hn_stack *stack = udp->stack;
    if (hn_likely(hn_transmit_has_room(stack, flow->device, flow->queue)))
        return flow;
    /* A long run of sends within one turn: give the kernel a chance before holding back. */
    (void)hn_stack_flush(stack, stack->now_ns);
    flow = hn_flow_get(stack, &udp->source, to);
    if (flow->verdict != HN_FLOW_FAST || hn_transmit_has_room(stack, flow->device, flow->queue))
        return flow;
    stack->held[flow->device] |= UINT64_C(1) << flow->queue;
    return NULL;
}

/* Decides by route and size; *out is set on HN_SEND_QUEUED. */
static int choose_path(struct hn_udp *udp, const struct hn_address *to, size_t bytes,
                       struct hn_flow **out)
{
    struct hn_stack *stack = udp->stack;
    if (!to) {
        if (udp->remote.family == 0)
            return -EDESTADDRREQ;
        to = &udp->remote;
    }
    if (to->family != udp->source.local.family &&
        !(udp->wildcard && to->family == HN_FAMILY_IPV4 && !(udp->flags & HN_UDP_V6ONLY)))
        return -EAFNOSUPPORT;
    if (to->port == 0)
        return -EINVAL;
    struct hn_flow *flow = hn_flow_get(stack, &udp->source, to);
    if (hn_likely(flow->verdict == HN_FLOW_FAST))
        flow = flow_with_room(udp, to, flow);
    if (hn_unlikely(!flow))
        return -EAGAIN;
    if (hn_unlikely(flow->verdict != HN_FLOW_FAST))
        return flow->verdict == HN_FLOW_KERNEL ? HN_SEND_KERNEL : -flow->error;
    uint32_t ip_bytes = flow->family == HN_FAMILY_IPV4 ? HN_IPV4_BYTES : HN_IPV6_BYTES;
    if (hn_unlikely(bytes + HN_UDP_BYTES + ip_bytes > flow->l3_mtu))
        return stack->kernel_path ? HN_SEND_KERNEL : -EMSGSIZE;
    *out = flow;
    return HN_SEND_QUEUED;
}

static void send_on_flow(struct hn_udp *udp, struct hn_flow *flow, struct hn_frame *frame)
{
    frame->flow = flow;
    udp->statistics.tx_fast_datagrams++;
    udp->statistics.tx_fast_bytes += frame->payload_length;
    hn_graph_put(udp->stack->graph, HN_NODE_UDP_OUTPUT, frame);
}

int hn_udp_send(struct hn_udp *udp, const struct hn_address *to, const uint8_t *data, size_t bytes)
{
    struct hn_flow *flow;
    int verdict = choose_path(udp, to, bytes, &flow);
    if (verdict != HN_SEND_QUEUED)
        return verdict;
    struct hn_frame *frame = copy_payload(&udp->stack->pool, data, bytes);
    if (!frame) {
        udp->stack->held[flow->device] |= UINT64_C(1) << flow->queue;
        return -EAGAIN;
    }
    send_on_flow(udp, flow, frame);
    return HN_SEND_QUEUED;
}

/* A received datagram whose checksum was right has told already what its payload sums up to. */
static uint16_t sum_of_payload(const struct hn_frame *frame, const uint8_t *payload, bool modified)
{
    if (!modified && (frame->flags & HN_FRAME_SUMMED))
        return frame->received_sum;
    return hn_checksum_fold(hn_checksum_add(0, payload, frame->payload_length));
}

int hn_udp_send_frame(struct hn_udp *udp, const struct hn_address *to, struct hn_frame *frame,
                      bool modified)
{
    struct hn_flow *flow;
    uint32_t header_bytes = HN_ETHERNET_BYTES + HN_IPV6_BYTES + HN_UDP_BYTES;
    const uint8_t *base = hn_frame_base(&udp->stack->pool, frame);
    uint8_t *payload = frame->data + frame->payload_offset;
    if (frame->next != HN_FRAME_NONE || (size_t)(payload - base) < header_bytes)
        return -EINVAL;
    int verdict = choose_path(udp, to, frame->payload_length, &flow);
    if (verdict != HN_SEND_QUEUED)
        return verdict;
    hn_frame_set_owner(frame, HN_OWNER_USER, HN_OWNER_STACK);
    uint16_t sum = sum_of_payload(frame, payload, modified);
    frame->data = payload;
    frame->length = frame->payload_length;
    frame->payload_sum = sum;
    send_on_flow(udp, flow, frame);
    return HN_SEND_QUEUED;
}
