/* Making, joining and asking the stack; the nodes' work is in the files they are named after. */
#include "stack/stack.h"

#include "stack/flow.h"

static const char *const drop_names[] = {
#define HN_DROP_NAME(name, text) text,
    HN_DROP_REASONS(HN_DROP_NAME)
#undef HN_DROP_NAME
};

uint32_t hn_drop_count(void) { return HN_DROP_REASON_COUNT; }

const char *hn_drop_name(uint32_t reason)
{
    return reason < HN_DROP_REASON_COUNT ? drop_names[reason] : NULL;
}

uint64_t hn_stack_drops(const struct hn_stack *stack, uint32_t reason)
{
    return reason < HN_DROP_REASON_COUNT ? stack->drops[reason] : 0;
}

static int add_nodes(struct hn_stack *stack)
{
    static const struct {
        const char *name;
        hn_node_process process;
    } nodes[HN_NODE_STACK_COUNT] = {
        [HN_NODE_ETH_INPUT] = {"eth_input", hn_eth_input},
        [HN_NODE_IP4_INPUT] = {"ip4_input", hn_ip4_input},
        [HN_NODE_IP6_INPUT] = {"ip6_input", hn_ip6_input},
        [HN_NODE_UDP_INPUT] = {"udp_input", hn_udp_input},
        [HN_NODE_UDP_OUTPUT] = {"udp_output", hn_udp_output},
        [HN_NODE_IP4_OUTPUT] = {"ip4_output", hn_ip4_output},
        [HN_NODE_IP6_OUTPUT] = {"ip6_output", hn_ip6_output},
        [HN_NODE_NEIGHBOR_OUTPUT] = {"neighbor_output", hn_neighbor_output},
        [HN_NODE_DEV_TX] = {"dev_tx", hn_dev_tx},
    };
    for (uint32_t i = 0; i < HN_NODE_STACK_COUNT; i++)
        if (hn_graph_add(stack->graph, nodes[i].name, nodes[i].process, stack) < 0)
            return -ENOSPC;
    return 0;
}

/* A backlog of one could never be half empty; flows come in sets of two. */
static bool is_size(uint32_t value) { return value >= 2 && (value & (value - 1)) == 0; }

struct hn_stack *hn_stack_create(const struct hn_stack_config *config, int *error)
{
    *error = EINVAL;
    if (!is_size(config->backlog_max) || !is_size(config->flows_max))
        return NULL;
    struct hn_stack *stack = calloc(1, sizeof *stack);
    if (!stack) {
        *error = ENOMEM;
        return NULL;
    }
    stack->reserve_frames = config->reserve_frames;
    stack->backlog_max = config->backlog_max;
    stack->kernel_path = config->kernel_path;
    stack->walks = 1;
    stack->path_mtu_expires_ns = UINT64_MAX;
    int result = hn_pool_init(&stack->pool, config->frame_count, config->frame_bytes);
    if (result == 0) {
        stack->graph = hn_graph_create();
        stack->fib = hn_fib_create();
        stack->neighbors = hn_neighbors_create(config->neighbors_max);
        stack->flows = hn_flows_create(config->flows_max);
        if (!stack->graph || !stack->fib || !stack->neighbors || !stack->flows)
            result = -ENOMEM;
        else
            result = add_nodes(stack);
    }
    if (result) {
        hn_stack_destroy(stack);
        *error = -result;
        return NULL;
    }
    *error = 0;
    return stack;
}

void hn_stack_destroy(struct hn_stack *stack)
{
    if (!stack)
        return;
    for (uint32_t i = 0; i < HN_DEVICES_MAX; i++)
        if (stack->devices[i])
            hn_stack_remove_device(stack, i);
    if (stack->neighbors)
        hn_neighbors_destroy(stack->neighbors);
    if (stack->fib)
        hn_fib_destroy(stack->fib);
    hn_flows_destroy(stack->flows);
    hn_graph_destroy(stack->graph);
    hn_pool_free(&stack->pool);
    free(stack);
}

struct hn_pool *hn_stack_pool(struct hn_stack *stack) { return &stack->pool; }
struct hn_fib *hn_stack_fib(struct hn_stack *stack) { return stack->fib; }
struct hn_neighbors *hn_stack_neighbors(struct hn_stack *stack) { return stack->neighbors; }

int32_t hn_stack_find_device(const struct hn_stack *stack, uint32_t ifindex)
{
    for (int32_t i = 0; i < (int32_t)HN_DEVICES_MAX; i++)
        if (stack->devices[i] && stack->devices[i]->ifindex == ifindex)
            return i;
    return -1;
}

static struct hn_backlog *create_backlogs(uint32_t queues, uint32_t max)
{
    struct hn_backlog *backlogs = calloc(queues, sizeof *backlogs);
    if (!backlogs)
        return NULL;
    for (uint32_t i = 0; i < queues; i++) {
        backlogs[i].frames = calloc(max, sizeof(struct hn_frame *));
        if (!backlogs[i].frames) {
            while (i--)
                free(backlogs[i].frames);
            free(backlogs);
            return NULL;
        }
    }
    return backlogs;
}

int hn_stack_add_device(struct hn_stack *stack, struct hn_device *device)
{
    if (hn_stack_find_device(stack, device->ifindex) >= 0)
        return -EEXIST;
    for (uint32_t i = 0; i < HN_DEVICES_MAX; i++) {
        if (stack->devices[i])
            continue;
        stack->backlogs[i] = create_backlogs(device->queue_count, stack->backlog_max);
        if (!stack->backlogs[i])
            return -ENOMEM;
        device->index = (uint8_t)i;
        stack->devices[i] = device;
        stack->local_generation++;
        return (int)i;
    }
    return -ENOSPC;
}

struct removal {
    struct hn_stack *stack;
    uint32_t ifindex;
};

static bool drop_pending(struct hn_neighbor *entry, void *context)
{
    const struct removal *removal = context;
    struct hn_stack *stack = removal->stack;
    struct hn_frame *frame;
    if (entry->ifindex != removal->ifindex)
        return true;
    while ((frame = hn_neighbor_dequeue(&stack->pool, entry)) != NULL)
        hn_stack_drop(stack, frame, HN_DROP_NEIGHBOR_UNREACHABLE);
    return true;
}

void hn_stack_remove_device(struct hn_stack *stack, uint32_t device_index)
{
    struct hn_device *device = device_index < HN_DEVICES_MAX ? stack->devices[device_index] : NULL;
    if (!device)
        return;
    /* Packets under way may still point to it. */
    hn_graph_walk(stack->graph);
    stack->walks++;
    struct removal removal = {stack, device->ifindex};
    hn_neighbors_visit(stack->neighbors, drop_pending, &removal);
    hn_transmit_drop_device(stack, device_index);
    stack->devices[device_index] = NULL;
    stack->local_generation++;
    device->ops->close(device);
}

void hn_stack_set_device(struct hn_stack *stack, uint32_t device_index, uint32_t mtu,
                         const uint8_t *mac, bool up)
{
    struct hn_device *device = device_index < HN_DEVICES_MAX ? stack->devices[device_index] : NULL;
    if (!device)
        return;
    device->mtu = mtu;
    memcpy(device->mac, mac, sizeof device->mac);
    device->flags = up ? device->flags & ~(uint32_t)HN_DEVICE_DOWN : device->flags | HN_DEVICE_DOWN;
    if (!up)
        hn_transmit_drop_backlog(stack, device_index);
    stack->local_generation++;
}

int hn_stack_device_statistics(const struct hn_stack *stack, uint32_t device_index,
                               struct hn_device_statistics *statistics)
{
    const struct hn_device *device =
        device_index < HN_DEVICES_MAX ? stack->devices[device_index] : NULL;
    memset(statistics, 0, sizeof *statistics);
    if (!device)
        return -ENODEV;
    for (uint32_t queue = 0; queue < device->queue_count; queue++) {
        statistics->rx_packets += device->counters[queue].rx_packets;
        statistics->rx_bytes += device->counters[queue].rx_bytes;
        statistics->tx_packets += device->counters[queue].tx_packets;
        statistics->tx_bytes += device->counters[queue].tx_bytes;
        const struct hn_backlog *backlog = &stack->backlogs[device_index][queue];
        statistics->backlog += backlog->tail - backlog->head;
    }
    return 0;
}

uint32_t hn_stack_poll(struct hn_stack *stack, uint32_t device_index, uint32_t queue,
                       uint32_t budget, uint64_t now_ns)
{
    struct hn_frame *frames[64];
    struct hn_device *device = device_index < HN_DEVICES_MAX ? stack->devices[device_index] : NULL;
    uint32_t total = 0;
    stack->now_ns = now_ns;
    if (!device || queue >= device->queue_count)
        return 0;
    struct hn_device_counters *counters = &device->counters[queue];
    while (total < budget) {
        uint32_t wanted = budget - total < 64 ? budget - total : 64;
        uint32_t count = device->ops->rx_burst(device, queue, frames, wanted);
        for (uint32_t i = 0; i < count; i++) {
            frames[i]->arrival_ns = now_ns;
            counters->rx_bytes += frames[i]->total_length;
            hn_graph_put(stack->graph, HN_NODE_ETH_INPUT, frames[i]);
        }
        counters->rx_packets += count;
        total += count;
        hn_graph_walk(stack->graph);
        if (count < wanted)
            break;
    }
    return total;
}

void hn_stack_set_depth(struct hn_stack *stack, uint32_t frames)
{
    for (uint32_t i = 0; i < HN_DEVICES_MAX; i++) {
        struct hn_device *device = stack->devices[i];
        if (!device || !device->ops->set_depth)
            continue;
        for (uint32_t queue = 0; queue < device->queue_count; queue++)
            device->ops->set_depth(device, queue, frames);
    }
}

void hn_stack_refill(struct hn_stack *stack)
{
    for (uint32_t i = 0; i < HN_DEVICES_MAX; i++) {
        struct hn_device *device = stack->devices[i];
        for (uint32_t queue = 0; device && queue < device->queue_count; queue++)
            (void)device->ops->rx_burst(device, queue, NULL, 0);
    }
}

bool hn_stack_flush(struct hn_stack *stack, uint64_t now_ns)
{
    stack->now_ns = now_ns;
    hn_graph_walk(stack->graph);
    stack->walks++;
    if (hn_unlikely(now_ns >= stack->path_mtu_expires_ns))
        hn_flows_expire_mtu(stack);
    return hn_transmit_flush(stack);
}

void hn_stack_learn_path_mtu(struct hn_stack *stack, const struct hn_address *destination,
                             uint32_t mtu, uint64_t now_ns)
{
    stack->now_ns = now_ns;
    hn_flows_learn_mtu(stack, destination, mtu);
}

uint32_t hn_stack_node_count(const struct hn_stack *stack) { return stack->graph->node_count; }

int hn_stack_node_statistics(const struct hn_stack *stack, uint32_t index,
                             struct hn_node_statistics *statistics)
{
    if (index >= stack->graph->node_count)
        return -EINVAL;
    const struct hn_node *node = &stack->graph->nodes[index];
    statistics->name = node->name;
    statistics->calls = node->calls;
    statistics->packets = node->packets;
    statistics->ns = hn_graph_ticks_to_ns(stack->graph, node->ticks);
    return 0;
}

void hn_stack_memory(const struct hn_stack *stack, struct hn_memory_statistics *statistics)
{
    const struct hn_pool *pool = &stack->pool;
    statistics->frames = pool->frame_count;
    statistics->frame_bytes = pool->frame_bytes;
    statistics->free = pool->free_count;
    statistics->free_min = pool->free_count_min;
    statistics->bytes_total = (uint64_t)pool->frame_count *
                                  (pool->frame_bytes + sizeof(struct hn_frame) + sizeof(uint32_t)) +
                              sizeof *stack + sizeof *stack->graph + hn_flows_bytes(stack->flows);
}
