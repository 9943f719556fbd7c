/* The stack: what the nodes share.

   Private to stack/ but for hn_stack_pool, which devices need.  One thread at a time. */
#ifndef HN_STACK_H
#define HN_STACK_H

#include "stack/device.h"
#include "stack/drop.h"
#include "stack/graph/graph.h"
#include "stack/ip/fib.h"
#include "stack/ip/neighbor.h"
#include "stack/stack_api.h"

struct hn_flows;

/* Nodes in walk order; edges lead downwards. */
enum hn_stack_node {
    HN_NODE_ETH_INPUT,
    HN_NODE_IP4_INPUT,
    HN_NODE_IP6_INPUT,
    HN_NODE_UDP_INPUT,
    HN_NODE_UDP_OUTPUT,
    HN_NODE_IP4_OUTPUT,
    HN_NODE_IP6_OUTPUT,
    HN_NODE_NEIGHBOR_OUTPUT,
    HN_NODE_DEV_TX,
    HN_NODE_STACK_COUNT
};

/* Packets that found the transmit ring full: a ring of their own, first in, first out. */
struct hn_backlog {
    struct hn_frame **frames;
    uint32_t head;
    uint32_t tail;
};

#define HN_UDP_BUCKETS 1024u

struct hn_stack {
    struct hn_graph *graph;
    struct hn_pool pool;
    struct hn_fib *fib;
    struct hn_neighbors *neighbors;
    struct hn_flows *flows;
    uint64_t now_ns;
    uint64_t walks;               /* flushes so far: tells whether a flow may be in the graph */
    uint64_t local_generation;    /* device, MTU and header changes; see hn_stack_generation */
    uint64_t path_mtu_expires_ns; /* when the first learnt path MTU has to be forgotten */
    uint32_t reserve_frames;
    uint32_t backlog_max;
    uint32_t backlog_total;
    uint64_t held[HN_DEVICES_MAX]; /* bit q: a sender was told that queue q is full */
    bool kernel_path;
    bool neighbors_wanted;     /* since the layer above last looked (hn_neighbor_next_wanted) */
    struct hn_udp *ready_head; /* endpoints with something to receive, each once */
    struct hn_udp *ready_tail;
    struct hn_device *devices[HN_DEVICES_MAX];
    struct hn_backlog *backlogs[HN_DEVICES_MAX]; /* one per queue */
    uint64_t dirty[HN_DEVICES_MAX];              /* bit q: queue q has to be flushed */
    struct hn_udp *udp_buckets[HN_UDP_BUCKETS];  /* by local port */
    uint64_t drops[HN_DROP_REASON_COUNT];
};

struct hn_pool *hn_stack_pool(struct hn_stack *stack);

/* How many packets may wait in each device's receive queue; UINT32_MAX: as many as it can. */
void hn_stack_set_depth(struct hn_stack *stack, uint32_t frames);

/* Frames came back to the pool: devices that ran out of them may receive again. */
void hn_stack_refill(struct hn_stack *stack);

/* Rises with every change after which a cached flow may be wrong. */
static inline uint64_t hn_stack_generation(const struct hn_stack *stack)
{
    return hn_fib_generation(stack->fib) + hn_neighbors_generation(stack->neighbors) +
           stack->local_generation;
}

/* Takes a packet (owner STACK), counts it and frees it. */
static inline void hn_stack_drop(struct hn_stack *stack, struct hn_frame *frame,
                                 enum hn_drop_reason reason)
{
    stack->drops[reason]++;
    hn_packet_free(&stack->pool, frame, HN_OWNER_STACK);
}

/* The nodes' process functions. */
void hn_eth_input(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_ip4_input(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_ip6_input(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_udp_input(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_udp_output(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_ip4_output(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_ip6_output(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_neighbor_output(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);
void hn_dev_tx(struct hn_graph *, struct hn_node *, struct hn_frame **, uint32_t);

/* transmit.c: drains backlogs and kicks the queues marked dirty; true when all is handed over. */
bool hn_transmit_flush(struct hn_stack *stack);
/* True when a sender may put more for this queue. */
bool hn_transmit_has_room(const struct hn_stack *stack, uint32_t device_index, uint32_t queue);
/* True when a queue that held a sender back has drained well below where it did; once each. */
bool hn_transmit_room_again(struct hn_stack *stack);
/* Drops what waits for a device's rings; its link is down. */
void hn_transmit_drop_backlog(struct hn_stack *stack, uint32_t device_index);
/* Drops what waits for a device that goes, and frees its backlogs. */
void hn_transmit_drop_device(struct hn_stack *stack, uint32_t device_index);

#endif
