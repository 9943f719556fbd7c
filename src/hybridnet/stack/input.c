/* The way up: Ethernet, IPv4 and IPv6 input.

   Each node checks its own header against the bytes that are really there and drops by reason.
   Headers must lie in a packet's first frame, which always holds at least 1.7 KB of it. */
#include "stack/stack.h"
#include "stack/wire/ethernet.h"
#include "stack/wire/ipv4.h"
#include "stack/wire/ipv6.h"

void hn_eth_input(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                  uint32_t count)
{
    struct hn_stack *stack = node->context;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        if (i + 4 < count)
            __builtin_prefetch(frames[i + 4]->data);
        uint16_t ethertype;
        uint32_t offset = hn_ethernet_parse(frame->data, frame->length, &ethertype);
        frame->l3_offset = (uint16_t)offset;
        if (hn_unlikely(offset == 0))
            hn_stack_drop(stack, frame, HN_DROP_ETHERNET_TRUNCATED);
        else if (ethertype == HN_ETHERTYPE_IPV4)
            hn_graph_put(graph, HN_NODE_IP4_INPUT, frame);
        else if (ethertype == HN_ETHERTYPE_IPV6)
            hn_graph_put(graph, HN_NODE_IP6_INPUT, frame);
        else
            hn_stack_drop(stack, frame, HN_DROP_ETHERNET_UNKNOWN_TYPE);
    }
}

/* Cuts link-layer padding off, so that what follows sees the IP packet's own length. */
static void trim(struct hn_frame *frame, uint32_t packet_bytes)
{
    uint32_t end = frame->l3_offset + packet_bytes;
    frame->total_length = end;
    if (frame->length > end)
        frame->length = end;
}

static void to_transport(struct hn_stack *stack, struct hn_frame *frame, uint8_t protocol)
{
    if (hn_likely(protocol == HN_PROTOCOL_UDP))
        hn_graph_put(stack->graph, HN_NODE_UDP_INPUT, frame);
    else
        hn_stack_drop(stack, frame, HN_DROP_IP_UNKNOWN_PROTOCOL);
}

void hn_ip4_input(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                  uint32_t count)
{
    static const enum hn_drop_reason reasons[] = {
        [HN_IPV4_TRUNCATED] = HN_DROP_IP4_TRUNCATED,
        [HN_IPV4_BAD_HEADER] = HN_DROP_IP4_BAD_HEADER,
        [HN_IPV4_BAD_LENGTH] = HN_DROP_IP4_BAD_LENGTH,
        [HN_IPV4_BAD_CHECKSUM] = HN_DROP_IP4_BAD_CHECKSUM,
    };
    struct hn_stack *stack = node->context;
    /* Bursts mostly go to one address.  Wider than one, so that no address is the start. */
    uint64_t last_local = UINT64_MAX;
    (void)graph;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        struct hn_ipv4 ip;
        enum hn_ipv4_fault fault =
            hn_ipv4_parse(frame->data + frame->l3_offset, frame->length - frame->l3_offset,
                          frame->total_length - frame->l3_offset, &ip);
        if (hn_unlikely(fault != HN_IPV4_OK)) {
            hn_stack_drop(stack, frame, reasons[fault]);
            continue;
        }
        if (hn_unlikely(ip.fragment)) {
            hn_stack_drop(stack, frame, HN_DROP_IP4_FRAGMENT);
            continue;
        }
        /* RFC 1122 3.2.1.3: never a source; 0.0.0.0/8, loopback, multicast and above. */
        if (hn_unlikely(ip.source[0] == 0 || ip.source[0] == 127 || ip.source[0] >= 224)) {
            hn_stack_drop(stack, frame, HN_DROP_IP4_BAD_SOURCE);
            continue;
        }
        uint32_t destination = hn_load32(ip.destination);
        if (hn_unlikely(destination != last_local)) {
            uint8_t wide[16] = {0};
            memcpy(wide, ip.destination, 4);
            if (!hn_fib_is_local(stack->fib, HN_FAMILY_IPV4, wide)) {
                hn_stack_drop(stack, frame, HN_DROP_IP4_NOT_LOCAL);
                continue;
            }
            last_local = destination;
        }
        trim(frame, ip.total_bytes);
        frame->l4_offset = (uint16_t)(frame->l3_offset + ip.header_bytes);
        to_transport(stack, frame, ip.protocol);
    }
}

void hn_ip6_input(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                  uint32_t count)
{
    static const enum hn_drop_reason reasons[] = {
        [HN_IPV6_TRUNCATED] = HN_DROP_IP6_TRUNCATED,
        [HN_IPV6_BAD_VERSION] = HN_DROP_IP6_BAD_VERSION,
        [HN_IPV6_BAD_LENGTH] = HN_DROP_IP6_BAD_LENGTH,
        [HN_IPV6_BAD_EXTENSION] = HN_DROP_IP6_BAD_EXTENSION,
        [HN_IPV6_FRAGMENT] = HN_DROP_IP6_FRAGMENT,
    };
    static const uint8_t unspecified[16];
    static const uint8_t loopback[16] = {[15] = 1};
    struct hn_stack *stack = node->context;
    (void)graph;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        struct hn_ipv6 ip;
        enum hn_ipv6_fault fault =
            hn_ipv6_parse(frame->data + frame->l3_offset, frame->length - frame->l3_offset,
                          frame->total_length - frame->l3_offset, &ip);
        if (hn_unlikely(fault != HN_IPV6_OK)) {
            hn_stack_drop(stack, frame, reasons[fault]);
            continue;
        }
        /* RFC 4291 2.5.2, 2.5.3, 2.7: not as a source on a link. */
        if (hn_unlikely(ip.source[0] == 0xff || memcmp(ip.source, unspecified, 16) == 0 ||
                        memcmp(ip.source, loopback, 16) == 0)) {
            hn_stack_drop(stack, frame, HN_DROP_IP6_BAD_SOURCE);
            continue;
        }
        if (hn_unlikely(!hn_fib_is_local(stack->fib, HN_FAMILY_IPV6, ip.destination))) {
            hn_stack_drop(stack, frame, HN_DROP_IP6_NOT_LOCAL);
            continue;
        }
        trim(frame, ip.total_bytes);
        frame->l4_offset = (uint16_t)(frame->l3_offset + ip.header_bytes);
        to_transport(stack, frame, ip.protocol);
    }
}
