#include "stack/flow.h"

#include "stack/wire/ethernet.h"
#include "stack/wire/ipv4.h"
#include "stack/wire/ipv6.h"

#define WAYS 2u
#define PATH_MTU_SLOTS 256u
#define PATH_MTU_LIFETIME_NS (UINT64_C(600) * 1000000000u)

struct path_mtu {
    uint8_t ip[16];
    uint64_t expires_ns;
    uint32_t mtu;
    uint8_t family;
};

struct hn_flows {
    uint32_t mask; /* of sets */
    struct path_mtu path_mtus[PATH_MTU_SLOTS];
    struct hn_flow flows[];
};

struct hn_flows *hn_flows_create(uint32_t max)
{
    if (max < WAYS || (max & (max - 1)) != 0)
        return NULL;
    size_t bytes = sizeof(struct hn_flows) + (size_t)max * sizeof(struct hn_flow);
    struct hn_flows *flows = calloc(1, bytes);
    if (flows)
        flows->mask = max / WAYS - 1;
    return flows;
}

void hn_flows_destroy(struct hn_flows *flows) { free(flows); }

size_t hn_flows_bytes(const struct hn_flows *flows)
{
    return sizeof *flows + (size_t)(flows->mask + 1) * WAYS * sizeof(struct hn_flow);
}

/* Every bit of the input reaches the low bits, which pick the set. */
static uint32_t mix(uint64_t value)
{
    value ^= value >> 32;
    value *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(value >> 32);
}

static uint32_t hash_address(const struct hn_address *address, uint32_t seed)
{
    uint64_t value = hn_load64(address->ip) ^ ((uint64_t)address->port << 48) ^ seed;
    return mix(value ^ mix(hn_load64(address->ip + 8) + address->family));
}

static struct path_mtu *path_mtu_slot(struct hn_flows *flows, const struct hn_address *to)
{
    struct hn_address host = *to;
    host.port = 0;
    return &flows->path_mtus[hash_address(&host, 0) % PATH_MTU_SLOTS];
}

static uint32_t path_mtu(struct hn_stack *stack, const struct hn_address *to, uint32_t mtu)
{
    const struct path_mtu *slot = path_mtu_slot(stack->flows, to);
    if (slot->family == to->family && slot->mtu < mtu && stack->now_ns < slot->expires_ns &&
        memcmp(slot->ip, to->ip, sizeof slot->ip) == 0)
        return slot->mtu;
    return mtu;
}

void hn_flows_learn_mtu(struct hn_stack *stack, const struct hn_address *destination, uint32_t mtu)
{
    /* An error that claims less than the protocol's minimum is not believed (RFC 1191 3: 68;
       RFC 8200 5: 1280); a collision only forgets the older one. */
    uint32_t floor_bytes = destination->family == HN_FAMILY_IPV6 ? 1280 : 68;
    if (mtu < floor_bytes)
        mtu = floor_bytes;
    struct path_mtu *slot = path_mtu_slot(stack->flows, destination);
    /* RFC 8201 4: an error never raises the estimate. */
    if (path_mtu(stack, destination, UINT32_MAX) < mtu)
        return;
    memcpy(slot->ip, destination->ip, sizeof slot->ip);
    slot->family = destination->family;
    slot->mtu = mtu;
    slot->expires_ns = stack->now_ns + PATH_MTU_LIFETIME_NS;
    if (slot->expires_ns < stack->path_mtu_expires_ns)
        stack->path_mtu_expires_ns = slot->expires_ns;
    stack->local_generation++;
}

void hn_flows_expire_mtu(struct hn_stack *stack)
{
    stack->path_mtu_expires_ns = UINT64_MAX;
    for (uint32_t i = 0; i < PATH_MTU_SLOTS; i++) {
        struct path_mtu *slot = &stack->flows->path_mtus[i];
        if (slot->expires_ns <= stack->now_ns)
            slot->family = 0;
        else if (slot->family && slot->expires_ns < stack->path_mtu_expires_ns)
            stack->path_mtu_expires_ns = slot->expires_ns;
    }
    stack->local_generation++;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i])
            return false;
    return true;
}

/* Group, broadcast, loopback, unspecified: never on the wire by our hand. */
static bool is_for_kernel(const struct hn_address *to)
{
    if (to->family == HN_FAMILY_IPV4)
        return to->ip[0] == 0 || to->ip[0] == 127 || to->ip[0] >= 224;
    static const uint8_t loopback[16] = {[15] = 1};
    return to->ip[0] == 0xff || is_zero(to->ip, 16) || memcmp(to->ip, loopback, 16) == 0;
}

static bool is_link_local6(const struct hn_address *address)
{
    return address->family == HN_FAMILY_IPV6 && address->ip[0] == 0xfe &&
           (address->ip[1] & 0xc0) == 0x80;
}

static int error_of_route(const struct hn_fib_result *route)
{
    if (!route->found)
        return ENETUNREACH;
    switch (route->type) {
    case HN_ROUTE_PROHIBIT:
        return EACCES;
    case HN_ROUTE_BLACKHOLE:
        return EINVAL;
    default:
        return EHOSTUNREACH;
    }
}

static void give_up(struct hn_stack *stack, struct hn_flow *flow, int error)
{
    flow->verdict = stack->kernel_path ? HN_FLOW_KERNEL : HN_FLOW_UNREACHABLE;
    flow->error = error;
}

/* The route for the destination; false: not by one of our devices. */
static bool find_route(struct hn_stack *stack, const struct hn_flow_source *source,
                       struct hn_flow *flow, struct hn_fib_result *route)
{
    const struct hn_address *to = &flow->destination;
    if (is_for_kernel(to)) {
        give_up(stack, flow, ENETUNREACH);
        return false;
    }
    if (is_link_local6(to)) {
        uint32_t ifindex = to->scope_id ? to->scope_id : source->local.scope_id;
        memset(route, 0, sizeof *route);
        route->type = HN_ROUTE_UNICAST;
        route->nexthop.ifindex = ifindex;
    } else {
        bool bound = source->local.family == to->family && !is_zero(source->local.ip, 16);
        hn_fib_lookup(stack->fib, to->family, bound ? source->local.ip : NULL, to->ip,
                      hash_address(to, source->id), route);
        if (route->type != HN_ROUTE_UNICAST) {
            give_up(stack, flow, error_of_route(route));
            return false;
        }
    }
    int32_t device = hn_stack_find_device(stack, route->nexthop.ifindex);
    if (device < 0 || (route->nexthop.flags & HN_NEXTHOP_ENCAP) ||
        (stack->devices[device]->flags & HN_DEVICE_DOWN)) {
        give_up(stack, flow, EHOSTUNREACH);
        return false;
    }
    flow->device = (uint8_t)device;
    return true;
}

static bool choose_source(struct hn_stack *stack, const struct hn_flow_source *source,
                          const struct hn_flow *flow, const struct hn_fib_result *route,
                          uint8_t *ip)
{
    if (source->local.family == flow->family && !is_zero(source->local.ip, 16)) {
        memcpy(ip, source->local.ip, 16);
        return true;
    }
    if (route->has_prefsrc) {
        memcpy(ip, route->prefsrc, 16);
        return true;
    }
    memset(ip, 0, 16);
    /* IPv4 goes by the next hop's subnet, IPv6 by the destination (RFC 6724). */
    bool by_gateway =
        flow->family == HN_FAMILY_IPV4 && route->nexthop.gateway_family == HN_FAMILY_IPV4;
    return hn_fib_source(stack->fib, flow->family, route->nexthop.ifindex,
                         by_gateway ? route->nexthop.gateway : flow->destination.ip, ip);
}

static void write_headers(const struct hn_stack *stack, const struct hn_flow_source *source,
                          struct hn_flow *flow, const uint8_t *source_ip)
{
    uint32_t address_bytes = flow->family == HN_FAMILY_IPV4 ? 4 : 16;
    if (flow->family == HN_FAMILY_IPV4) {
        hn_ipv4_emit(flow->ip, source_ip, flow->destination.ip, source->protocol, source->tos,
                     source->ttl, 0);
        memset(flow->ip + 10, 0, 2);
        flow->l3_sum = hn_checksum_fold(hn_checksum_add(0, flow->ip, HN_IPV4_BYTES));
    } else {
        hn_ipv6_emit(flow->ip, source_ip, flow->destination.ip, source->protocol,
                     source->traffic_class, source->hop_limit, 0);
    }
    uint64_t sum =
        hn_checksum_pseudo(source_ip, flow->destination.ip, address_bytes, source->protocol, 0);
    sum += __builtin_bswap16(source->local.port);
    sum += __builtin_bswap16(flow->destination.port);
    flow->l4_sum = hn_checksum_fold(sum);
    flow->source_port = source->local.port;

    memcpy(flow->ethernet, flow->neighbor->mac, 6);
    memcpy(flow->ethernet + 6, stack->devices[flow->device]->mac, 6);
    hn_store16_be(flow->ethernet + 12,
                  flow->family == HN_FAMILY_IPV4 ? HN_ETHERTYPE_IPV4 : HN_ETHERTYPE_IPV6);
}

struct hn_neighbor *hn_flow_neighbor(struct hn_stack *stack, const struct hn_flow *flow)
{
    const struct hn_device *device = stack->devices[flow->device];
    if (!device)
        return NULL;
    return hn_neighbor_get(stack->neighbors, device->ifindex, flow->next_hop_family,
                           flow->next_hop);
}

static void resolve(struct hn_stack *stack, const struct hn_flow_source *source,
                    struct hn_flow *flow)
{
    struct hn_fib_result route;
    uint8_t source_ip[16];
    flow->generation = hn_stack_generation(stack);
    flow->family = flow->destination.family;
    flow->error = 0;
    if (!find_route(stack, source, flow, &route))
        return;
    if (!choose_source(stack, source, flow, &route, source_ip)) {
        give_up(stack, flow, EADDRNOTAVAIL);
        return;
    }
    const struct hn_device *device = stack->devices[flow->device];
    bool via = route.nexthop.gateway_family != 0;
    flow->next_hop_family = via ? route.nexthop.gateway_family : flow->family;
    memcpy(flow->next_hop, via ? route.nexthop.gateway : flow->destination.ip, 16);
    flow->neighbor = hn_flow_neighbor(stack, flow);
    if (!flow->neighbor) {
        give_up(stack, flow, ENOBUFS);
        return;
    }
    /* Making room in the table may have raised it, which concerns other flows. */
    flow->generation = hn_stack_generation(stack);
    uint32_t mtu = route.mtu && route.mtu < device->mtu ? route.mtu : device->mtu;
    flow->l3_mtu = (uint16_t)path_mtu(stack, &flow->destination, mtu < 65535 ? mtu : 65535);
    flow->queue =
        (uint8_t)(hash_address(&flow->destination, source->local.port) % device->queue_count);
    flow->verdict = HN_FLOW_FAST;
    write_headers(stack, source, flow, source_ip);
}

static bool same_address(const struct hn_address *a, const struct hn_address *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

struct hn_flow *hn_flow_get(struct hn_stack *stack, const struct hn_flow_source *source,
                            const struct hn_address *destination)
{
    struct hn_flows *flows = stack->flows;
    uint32_t set = hash_address(destination, source->id) & flows->mask;
    struct hn_flow *ways = &flows->flows[set * WAYS];
    struct hn_flow *flow = NULL;
    for (uint32_t i = 0; i < WAYS && !flow; i++)
        if (ways[i].source_id == source->id && same_address(&ways[i].destination, destination))
            flow = &ways[i];
    if (hn_likely(flow && flow->generation == hn_stack_generation(stack))) {
        flow->last_walk = stack->walks;
        return flow;
    }
    if (!flow)
        flow = ways[0].last_walk <= ways[1].last_walk ? &ways[0] : &ways[1];
    /* Packets in the graph may still point to it. */
    if (flow->last_walk == stack->walks && flow->source_id != 0) {
        hn_graph_walk(stack->graph);
        stack->walks++;
    }
    flow->destination = *destination;
    flow->source_id = source->id;
    resolve(stack, source, flow);
    flow->last_walk = stack->walks;
    return flow;
}
