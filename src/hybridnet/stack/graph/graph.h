/* The graph: nodes that process vectors of packets, and the walk over them.

   A node takes the vector that earlier nodes have put for it, decides per packet, and puts each
   one for a later node.  Nodes are numbered in walk order and edges only lead to higher numbers,
   so one sweep over the busy mask, lowest first, empties the graph and every node runs on the
   largest vector there is.

     put(eth_input, frame) ... walk():  eth_input -> ip4_input -> udp_input -> (endpoint)
                                        udp_output -> ip4_output -> neighbor_output -> dev_tx

   A node owns the packets it is given until it has put them elsewhere, queued or freed them. */
#ifndef HN_GRAPH_H
#define HN_GRAPH_H

#include "stack/frame.h"

#define HN_NODES_MAX 64u

struct hn_graph;
struct hn_node;

typedef void (*hn_node_process)(struct hn_graph *graph, struct hn_node *node,
                                struct hn_frame **frames, uint32_t count);

struct hn_node {
    hn_node_process process;
    void *context;
    const char *name;
    uint64_t calls;
    uint64_t packets;
    uint64_t ticks; /* of hn_ticks(); see hn_graph_ticks_to_ns */
    uint32_t pending_count;
    uint32_t index;
    struct hn_frame *pending[HN_BURST_MAX];
};

struct hn_graph {
    uint64_t busy; /* bit i: node i has packets */
    uint64_t start_ticks;
    uint64_t start_ns;
    uint32_t node_count;
    struct hn_node nodes[HN_NODES_MAX];
};

/* Allocates an empty graph; NULL: no memory. */
struct hn_graph *hn_graph_create(void);
void hn_graph_destroy(struct hn_graph *graph);

/* Adds a node behind all others and returns its index; -ENOSPC.  Borrows name. */
int hn_graph_add(struct hn_graph *graph, const char *name, hn_node_process process, void *context);

/* Processes the packets of one node now. */
void hn_graph_run_node(struct hn_graph *graph, uint32_t index);

/* Runs nodes until none has packets. */
void hn_graph_walk(struct hn_graph *graph);

/* Nanoseconds that a tick count stands for, calibrated over the graph's life so far. */
uint64_t hn_graph_ticks_to_ns(const struct hn_graph *graph, uint64_t ticks);

/* Puts a packet for a node; a full vector is processed at once. */
static inline void hn_graph_put(struct hn_graph *graph, uint32_t index, struct hn_frame *frame)
{
    struct hn_node *node = &graph->nodes[index];
    node->pending[node->pending_count++] = frame;
    graph->busy |= UINT64_C(1) << index;
    if (hn_unlikely(node->pending_count == HN_BURST_MAX))
        hn_graph_run_node(graph, index);
}

#endif
