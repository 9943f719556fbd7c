/* The forwarding information base: routes as the kernel has them, and the lookup.

   Routes come from netlink (control/) or from a test; every next hop is kept, with metric,
   preferred source and type.  Tables are selected by policy rules in order of priority, as
   `ip rule` lists them.  Each change raises `generation`, by which cached flows notice.

   Lookup: rules in order; in each selected table the longest prefix, of its entries the lowest
   metric with a usable next hop; HN_ROUTE_THROW goes on with the next rule.

   Source: RFC 1812 5.2.4; linux/rtnetlink.h; linux/fib_rules.h. */
#ifndef HN_FIB_H
#define HN_FIB_H

#include "stack/ip/ip.h"

_Static_assert(sizeof(struct hn_nexthop) == 24, "next hops lie packed behind their route");

struct hn_route_key {
    uint8_t destination[16];
    uint32_t table;
    uint8_t family; /* HN_FAMILY_* */
    uint8_t prefix_bits;
};

struct hn_route {
    struct hn_route_key key;
    uint32_t metric;
    uint32_t mtu;        /* RTAX_MTU, 0: the interface's */
    uint32_t nexthop_id; /* kernel nexthop object, 0: none */
    uint8_t prefsrc[16];
    bool has_prefsrc;
    uint8_t type;     /* enum hn_route_type */
    uint8_t protocol; /* RTPROT_* */
    uint8_t scope;
    uint8_t tos;
    uint16_t nexthop_count;            /* 0 for blackhole and its like */
    const struct hn_nexthop *nexthops; /* borrowed on insert, owned by the table on lookup */
};

enum hn_fib_insert_mode {
    HN_FIB_REFRESH = 0,  /* dump: the same route seen again gets the new epoch, else added */
    HN_FIB_REPLACE = 1,  /* NLM_F_REPLACE: the entry of the same key, tos and metric goes */
    HN_FIB_APPEND = 2,   /* a notification: behind those of the same key, tos and metric */
    HN_FIB_PREPEND = 3,  /* in front of them */
    HN_FIB_EXCLUSIVE = 4 /* NLM_F_EXCL: the only one of its key, tos and metric; others go */
};

/* Adds or refreshes one route; `epoch` marks it as seen (see hn_fib_sweep).  Copies.
   IPv4 may hold several routes of the same key, tos and metric (`ip route append`).  An IPv6
   message names the whole group of equal next hops, so entries whose next hops are all among the
   new ones go; same-metric routes over other devices stay.
   The generation rises only when something changed.
   -EINVAL  family, prefix length or type out of range
   -ENOMEM */
int hn_fib_insert(struct hn_fib *fib, const struct hn_route *route, enum hn_fib_insert_mode mode,
                  uint32_t epoch);
/* Removes the route with the same key, tos, metric, type (UNSPEC: any) and next hops (none
   given: any; weights and flags do not count).  IPv6 deletes single next hops of a multipath
   route that way.
   -ENOENT  nothing matched (a notification older than the dump) */
int hn_fib_remove(struct hn_fib *fib, const struct hn_route *route);
/* Calls `visit` for every route, in no order, until it returns false. */
void hn_fib_visit(const struct hn_fib *fib, uint8_t family,
                  bool (*visit)(const struct hn_route *route, void *context), void *context);

#endif
