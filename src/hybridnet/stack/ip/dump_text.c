/* The IP tables as text: for a person who looks at a live stack, and for the tests. */
#include <arpa/inet.h>
#include <stdarg.h>

#include "stack/ip/fib.h"
#include "stack/ip/neighbor.h"

struct text {
    char *at;
    size_t room;
    size_t needed;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->at, text->room, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    size_t written = (size_t)length < text->room ? (size_t)length : text->room ? text->room - 1 : 0;
    if (text->at)
        text->at += written;
    text->room -= written;
    text->needed += (size_t)length;
}

static const char *name(uint8_t family, const uint8_t *ip, char *buffer)
{
    int number = family == HN_FAMILY_IPV6 ? AF_INET6 : AF_INET;
    return inet_ntop(number, ip, buffer, INET6_ADDRSTRLEN) ? buffer : "?";
}

static bool add_route(const struct hn_route *route, void *context)
{
    struct text *text = context;
    char ip[INET6_ADDRSTRLEN];
    add(text, "table %u %s/%u type %u metric %u tos %u protocol %u scope %u", route->key.table,
        name(route->key.family, route->key.destination, ip), route->key.prefix_bits, route->type,
        route->metric, route->tos, route->protocol, route->scope);
    if (route->nexthop_id)
        add(text, " nhid %u", route->nexthop_id);
    if (route->has_prefsrc)
        add(text, " src %s", name(route->key.family, route->prefsrc, ip));
    if (route->mtu)
        add(text, " mtu %u", route->mtu);
    for (unsigned i = 0; i < route->nexthop_count; i++) {
        const struct hn_nexthop *hop = &route->nexthops[i];
        add(text, " nexthop");
        if (hop->gateway_family)
            add(text, " via %s", name(hop->gateway_family, hop->gateway, ip));
        add(text, " dev %u weight %u flags %u", hop->ifindex, hop->weight, hop->flags);
    }
    add(text, "\n");
    return true;
}

size_t hn_fib_dump_text(const struct hn_fib *fib, uint8_t family, char *buffer, size_t bytes)
{
    struct text text = {.at = buffer, .room = bytes};
    if (bytes)
        buffer[0] = '\0';
    hn_fib_visit(fib, family, add_route, &text);
    return text.needed;
}

static bool add_neighbor(struct hn_neighbor *entry, void *context)
{
    char ip[INET6_ADDRSTRLEN];
    const uint8_t *mac = entry->mac;
    add(context,
        "dev %u %s mac %02x:%02x:%02x:%02x:%02x:%02x state %u resolved %u used %u "
        "wanted %u pending %u\n",
        entry->ifindex, name(entry->family, entry->ip, ip), mac[0], mac[1], mac[2], mac[3], mac[4],
        mac[5], entry->state, entry->resolved, entry->used, entry->wanted, entry->pending_count);
    return true;
}

size_t hn_neighbors_dump_text(const struct hn_neighbors *table, char *buffer, size_t bytes)
{
    struct text text = {.at = buffer, .room = bytes};
    if (bytes)
        buffer[0] = '\0';
    /* Visiting hands out entries to change; this visitor changes none. */
    hn_neighbors_visit((struct hn_neighbors *)(uintptr_t)table, add_neighbor, &text);
    return text.needed;
}
