/* RTM_NEWROUTE and RTM_DELROUTE.  Source: linux/rtnetlink.h, linux/lwtunnel.h. */
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "control/rtnl_internal.h"

#define NEXTHOPS_MAX 512u

struct route_parse {
    struct hn_route route;
    struct hn_nexthop single; /* RTA_OIF, RTA_GATEWAY, RTA_VIA, RTA_ENCAP of the route itself */
    bool has_destination;
    bool multipath;
    struct hn_nexthop nexthops[NEXTHOPS_MAX];
};

static size_t family_bytes(uint8_t family) { return family == HN_FAMILY_IPV6 ? 16 : 4; }

static uint8_t nexthop_flags(uint32_t kernel)
{
    return kernel & (RTNH_F_DEAD | RTNH_F_LINKDOWN | RTNH_F_ONLINK);
}
_Static_assert(HN_NEXTHOP_DEAD == RTNH_F_DEAD && HN_NEXTHOP_LINKDOWN == RTNH_F_LINKDOWN &&
                   HN_NEXTHOP_ONLINK == RTNH_F_ONLINK,
               "flags are taken over as they are");

static bool parse_gateway(const struct hn_attribute *attribute, uint8_t family,
                          struct hn_nexthop *hop)
{
    hop->gateway_family = family;
    return hn_attribute_copy(attribute, hop->gateway, family_bytes(family));
}

/* struct rtvia: the gateway's own family, then its address. */
static bool parse_via(const struct hn_attribute *attribute, struct hn_nexthop *hop)
{
    if (attribute->value.length < 2)
        return false;
    uint16_t number = hn_load16(attribute->value.data);
    uint8_t family = number <= UINT8_MAX ? hn_rtnl_family((uint8_t)number) : 0;
    struct hn_attribute address = *attribute;
    address.value.data += 2;
    address.value.length -= 2;
    return family && parse_gateway(&address, family, hop);
}

/* What a next hop may carry, in a multipath list or in the route itself; *known tells. */
static bool parse_hop_attribute(const struct hn_attribute *attribute, uint8_t family,
                                struct hn_nexthop *hop, bool *known)
{
    *known = true;
    switch (attribute->type) {
    case RTA_GATEWAY:
        return parse_gateway(attribute, family, hop);
    case RTA_VIA:
        return parse_via(attribute, hop);
    case RTA_ENCAP:
    case RTA_ENCAP_TYPE:
    case RTA_NEWDST:
        hop->flags |= HN_NEXTHOP_ENCAP;
        return true;
    default:
        *known = false;
        return true;
    }
}

static bool parse_multipath_hop(struct hn_bytes attributes, uint8_t family, struct hn_nexthop *hop)
{
    struct hn_attribute_walk walk = {.rest = attributes};
    struct hn_attribute attribute;
    bool known;
    while (hn_attribute_next(&walk, &attribute))
        if (!parse_hop_attribute(&attribute, family, hop, &known))
            return false;
    return !walk.malformed;
}

static bool parse_multipath(const struct hn_attribute *attribute, struct route_parse *parse)
{
    struct hn_bytes rest = attribute->value;
    const size_t header = sizeof(struct rtnexthop);
    uint16_t count = 0;
    while (rest.length >= header) {
        struct rtnexthop raw;
        memcpy(&raw, rest.data, header);
        if (raw.rtnh_len < header || raw.rtnh_len > rest.length || count == NEXTHOPS_MAX)
            return false;
        struct hn_nexthop *hop = &parse->nexthops[count++];
        memset(hop, 0, sizeof *hop);
        hop->ifindex = (uint32_t)raw.rtnh_ifindex;
        hop->weight = (uint16_t)(raw.rtnh_hops + 1);
        hop->flags = nexthop_flags(raw.rtnh_flags);
        struct hn_bytes nested = {rest.data + header, raw.rtnh_len - header};
        if (!parse_multipath_hop(nested, parse->route.key.family, hop))
            return false;
        size_t step = HN_NETLINK_ALIGN(raw.rtnh_len);
        if (step > rest.length)
            step = rest.length;
        rest.data += step;
        rest.length -= step;
    }
    parse->multipath = true;
    parse->route.nexthop_count = count;
    return rest.length == 0;
}

static bool parse_metrics(const struct hn_attribute *attribute, struct hn_route *route)
{
    struct hn_attribute_walk walk = {.rest = attribute->value};
    struct hn_attribute metric;
    while (hn_attribute_next(&walk, &metric))
        if (metric.type == RTAX_MTU && !hn_attribute_u32(&metric, &route->mtu))
            return false;
    return !walk.malformed;
}

static bool parse_attribute(const struct hn_attribute *attribute, struct route_parse *parse)
{
    struct hn_route *route = &parse->route;
    uint8_t family = route->key.family;
    bool known;
    switch (attribute->type) {
    case RTA_DST:
        parse->has_destination = true;
        return hn_attribute_copy(attribute, route->key.destination, family_bytes(family));
    case RTA_TABLE:
        return hn_attribute_u32(attribute, &route->key.table);
    case RTA_PRIORITY:
        return hn_attribute_u32(attribute, &route->metric);
    case RTA_OIF:
        return hn_attribute_u32(attribute, &parse->single.ifindex);
    case RTA_NH_ID:
        return hn_attribute_u32(attribute, &route->nexthop_id);
    case RTA_PREFSRC:
        route->has_prefsrc = true;
        return hn_attribute_copy(attribute, route->prefsrc, family_bytes(family));
    case RTA_METRICS:
        return parse_metrics(attribute, route);
    case RTA_MULTIPATH:
        return parse_multipath(attribute, parse);
    default:
        return parse_hop_attribute(attribute, family, &parse->single, &known);
    }
}

/* Brings the two ways of naming next hops into one. */
static void settle_nexthops(struct route_parse *parse, const struct rtmsg *header)
{
    struct hn_route *route = &parse->route;
    if (!parse->multipath && (parse->single.ifindex || parse->single.gateway_family)) {
        parse->single.weight = 1;
        parse->single.flags |= nexthop_flags(header->rtm_flags);
        parse->nexthops[0] = parse->single;
        route->nexthop_count = 1;
    }
    if (route->type >= HN_ROUTE_BLACKHOLE)
        route->nexthop_count = 0; /* IPv6 names the loopback interface here */
    if (header->rtm_src_len)
        for (unsigned i = 0; i < route->nexthop_count; i++)
            parse->nexthops[i].flags |= HN_NEXTHOP_ENCAP;
    route->nexthops = parse->nexthops;
}

static bool parse_route(struct hn_bytes payload, const struct rtmsg *header,
                        struct route_parse *parse)
{
    struct hn_route *route = &parse->route;
    memset(route, 0, sizeof *route);
    memset(&parse->single, 0, sizeof parse->single);
    parse->has_destination = parse->multipath = false;
    route->key.family = hn_rtnl_family(header->rtm_family);
    route->key.prefix_bits = header->rtm_dst_len;
    route->key.table = header->rtm_table;
    route->tos = header->rtm_tos;
    route->protocol = header->rtm_protocol;
    route->scope = header->rtm_scope;
    route->type = header->rtm_type;
    struct hn_attribute_walk walk = {
        .rest = {payload.data + sizeof *header, payload.length - sizeof *header}};
    struct hn_attribute attribute;
    while (hn_attribute_next(&walk, &attribute))
        if (!parse_attribute(&attribute, parse))
            return false;
    if (walk.malformed || route->key.prefix_bits > family_bytes(route->key.family) * 8 ||
        (route->key.prefix_bits > 0 && !parse->has_destination))
        return false;
    settle_nexthops(parse, header);
    return true;
}

/* The kernel repeats in a notification how the route came in. */
static enum hn_fib_insert_mode insert_mode(const struct hn_rtnl_message *message)
{
    if (message->dump)
        return HN_FIB_REFRESH;
    if (message->flags & NLM_F_REPLACE)
        return HN_FIB_REPLACE;
    if (message->flags & NLM_F_EXCL)
        return HN_FIB_EXCLUSIVE;
    return message->flags & NLM_F_APPEND ? HN_FIB_APPEND : HN_FIB_PREPEND;
}

bool hn_rtnl_route(const struct hn_control_tables *tables, const struct hn_rtnl_message *message,
                   struct hn_control_result *result)
{
    struct rtmsg header;
    if (message->payload.length < sizeof header)
        return false;
    memcpy(&header, message->payload.data, sizeof header);
    if (hn_rtnl_family(header.rtm_family) == 0 || (header.rtm_flags & RTM_F_CLONED))
        return true; /* multicast and label routes; cached exceptions of a route */
    struct route_parse parse;
    if (!parse_route(message->payload, &header, &parse))
        return false;
    uint64_t before = hn_fib_generation(tables->fib);
    int error = 0;
    if (message->type == RTM_NEWROUTE)
        error = hn_fib_insert(tables->fib, &parse.route, insert_mode(message), message->epoch);
    else
        result->unmatched += hn_fib_remove(tables->fib, &parse.route) == -ENOENT;
    result->routes_changed += hn_fib_generation(tables->fib) != before;
    result->refused += error == -ENOMEM;
    return error != -EINVAL;
}
