/* The way down: IPv4 and IPv6 output and the link layer.

   A packet comes with its flow; each node puts its own header in front.  The lengths are the
   packet's, over all its frames. */
#include "stack/flow.h"
#include "stack/wire/ethernet.h"
#include "stack/wire/ipv4.h"
#include "stack/wire/ipv6.h"
#include "stack/wire/udp.h"

void hn_ip4_output(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                   uint32_t count)
{
    (void)node;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        const struct hn_flow *flow = frame->flow;
        uint16_t total =
            __builtin_bswap16((uint16_t)(HN_IPV4_BYTES + HN_UDP_BYTES + frame->payload_length));
        frame->data -= HN_IPV4_BYTES;
        frame->length += HN_IPV4_BYTES;
        memcpy(frame->data, flow->ip, HN_IPV4_BYTES);
        memcpy(frame->data + 2, &total, sizeof total);
        uint16_t sum = (uint16_t)~hn_checksum_fold((uint64_t)flow->l3_sum + total);
        memcpy(frame->data + 10, &sum, sizeof sum);
        hn_graph_put(graph, HN_NODE_NEIGHBOR_OUTPUT, frame);
    }
}

void hn_ip6_output(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                   uint32_t count)
{
    (void)node;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        frame->data -= HN_IPV6_BYTES;
        frame->length += HN_IPV6_BYTES;
        memcpy(frame->data, frame->flow->ip, HN_IPV6_BYTES);
        hn_store16_be(frame->data + 4, (uint16_t)(HN_UDP_BYTES + frame->payload_length));
        hn_graph_put(graph, HN_NODE_NEIGHBOR_OUTPUT, frame);
    }
}

/* The link-layer header from what the tables say now; frame->data is at the IP header. */
static void emit_ethernet(const struct hn_stack *stack, struct hn_frame *frame,
                          const struct hn_neighbor *neighbor)
{
    uint16_t ethertype = frame->data[0] >> 4 == 4 ? HN_ETHERTYPE_IPV4 : HN_ETHERTYPE_IPV6;
    frame->data -= HN_ETHERNET_BYTES;
    frame->length += HN_ETHERNET_BYTES;
    memcpy(frame->data, neighbor->mac, 6);
    memcpy(frame->data + 6, stack->devices[frame->device]->mac, 6);
    hn_store16_be(frame->data + 12, ethertype);
}

static void wait_for_neighbor(struct hn_stack *stack, struct hn_frame *frame,
                              struct hn_neighbor *neighbor)
{
    hn_neighbor_want(stack->neighbors, neighbor);
    stack->neighbors_wanted = true;
    if (hn_neighbor_queue(&stack->pool, neighbor, frame) != 0)
        hn_stack_drop(stack, frame, HN_DROP_NEIGHBOR_QUEUE_FULL);
}

/* Tells the table that the neighbour is in use, so that the kernel probes a stale one. */
static void note_use(struct hn_stack *stack, struct hn_neighbor *neighbor)
{
    hn_neighbor_use(stack->neighbors, neighbor);
    stack->neighbors_wanted |= neighbor->wanted;
}

/* A packet that was in the graph when a table changed. */
static void output_stale(struct hn_stack *stack, struct hn_frame *frame, const struct hn_flow *flow)
{
    struct hn_neighbor *neighbor = hn_flow_neighbor(stack, flow);
    if (!neighbor) {
        hn_stack_drop(stack, frame, HN_DROP_NEIGHBOR_UNREACHABLE);
        return;
    }
    note_use(stack, neighbor);
    if (neighbor->resolved) {
        emit_ethernet(stack, frame, neighbor);
        hn_graph_put(stack->graph, HN_NODE_DEV_TX, frame);
    } else {
        wait_for_neighbor(stack, frame, neighbor);
    }
}

void hn_neighbor_output(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                        uint32_t count)
{
    struct hn_stack *stack = node->context;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        const struct hn_flow *flow = frame->flow;
        frame->device = flow->device;
        frame->queue = flow->queue;
        if (hn_unlikely(flow->generation != hn_stack_generation(stack))) {
            output_stale(stack, frame, flow);
            continue;
        }
        struct hn_neighbor *neighbor = flow->neighbor;
        if (hn_unlikely(!neighbor->used))
            note_use(stack, neighbor);
        if (hn_likely(neighbor->resolved)) {
            frame->data -= HN_ETHERNET_BYTES;
            frame->length += HN_ETHERNET_BYTES;
            memcpy(frame->data, flow->ethernet, HN_ETHERNET_BYTES);
            hn_graph_put(graph, HN_NODE_DEV_TX, frame);
        } else {
            wait_for_neighbor(stack, frame, neighbor);
        }
    }
}

struct release {
    struct hn_stack *stack;
    bool any;
};

/* Sends what waited for a neighbour that has an address now; drops what waited for one that the
   kernel gave up (RFC 1122 2.3.2.2; RFC 4861 7.2.2). */
static bool release_neighbor(struct hn_neighbor *entry, void *context)
{
    struct release *release = context;
    struct hn_stack *stack = release->stack;
    if (entry->pending_count == 0 || (!entry->resolved && entry->state != HN_NUD_FAILED))
        return true;
    struct hn_frame *frame;
    while ((frame = hn_neighbor_dequeue(&stack->pool, entry)) != NULL) {
        if (!entry->resolved || !stack->devices[frame->device]) {
            hn_stack_drop(stack, frame, HN_DROP_NEIGHBOR_UNREACHABLE);
            continue;
        }
        emit_ethernet(stack, frame, entry);
        hn_graph_put(stack->graph, HN_NODE_DEV_TX, frame);
        release->any = true;
    }
    return true;
}

void hn_stack_neighbors_changed(struct hn_stack *stack, uint64_t now_ns)
{
    struct release release = {.stack = stack};
    stack->now_ns = now_ns;
    hn_neighbors_visit(stack->neighbors, release_neighbor, &release);
    if (release.any)
        (void)hn_stack_flush(stack, now_ns);
}
