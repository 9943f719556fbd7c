#include "stack/graph/graph.h"

#include <time.h>

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Two reads per node and vector: the time-stamp counter costs a third of the clock. */
static inline uint64_t hn_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return monotonic_ns();
#endif
}

struct hn_graph *hn_graph_create(void)
{
    /* C17 7.22.3.1: a multiple of the alignment. */
    size_t bytes = (sizeof(struct hn_graph) + HN_CACHE_LINE - 1) / HN_CACHE_LINE * HN_CACHE_LINE;
    struct hn_graph *graph = aligned_alloc(HN_CACHE_LINE, bytes);
    if (!graph)
        return NULL;
    memset(graph, 0, bytes);
    graph->start_ticks = hn_ticks();
    graph->start_ns = monotonic_ns();
    return graph;
}

void hn_graph_destroy(struct hn_graph *graph) { free(graph); }

int hn_graph_add(struct hn_graph *graph, const char *name, hn_node_process process, void *context)
{
    if (graph->node_count == HN_NODES_MAX)
        return -ENOSPC;
    struct hn_node *node = &graph->nodes[graph->node_count];
    node->name = name;
    node->process = process;
    node->context = context;
    node->index = graph->node_count;
    return (int)graph->node_count++;
}

void hn_graph_run_node(struct hn_graph *graph, uint32_t index)
{
    struct hn_node *node = &graph->nodes[index];
    uint32_t count = node->pending_count;
    node->pending_count = 0;
    graph->busy &= ~(UINT64_C(1) << index);
    uint64_t start = hn_ticks();
    node->process(graph, node, node->pending, count);
    node->ticks += hn_ticks() - start;
    node->calls++;
    node->packets += count;
}

void hn_graph_walk(struct hn_graph *graph)
{
    while (graph->busy)
        hn_graph_run_node(graph, (uint32_t)__builtin_ctzll(graph->busy));
}

uint64_t hn_graph_ticks_to_ns(const struct hn_graph *graph, uint64_t ticks)
{
    uint64_t elapsed_ticks = hn_ticks() - graph->start_ticks;
    uint64_t elapsed_ns = monotonic_ns() - graph->start_ns;
    if (elapsed_ticks == 0)
        return 0;
    return (uint64_t)((double)ticks * ((double)elapsed_ns / (double)elapsed_ticks));
}
