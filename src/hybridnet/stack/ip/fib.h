/* The forwarding information base: routes as the kernel has them, and the lookup.

   Routes come from netlink (control/) or from a test; every next hop is kept, with metric,
   preferred source and type.  Tables are selected by policy rules in order of priority, as
   `ip rule` lists them.  Each change raises `generation`, by which cached flows notice.

   Lookup: rules in order; in each selected table the longest prefix, of its entries the lowest
   metric with a usable next hop; HN_ROUTE_THROW goes on with the next rule.

   Source: RFC 1812 5.2.4; linux/rtnetlink.h; linux/fib_rules.h. */
#ifndef HN_FIB_H
#define HN_FIB_H

#include "stack/base.h"

/* Values are those of RTN_* in linux/rtnetlink.h. */
enum hn_route_type {
    HN_ROUTE_UNSPEC = 0,
    HN_ROUTE_UNICAST = 1,
    HN_ROUTE_LOCAL = 2,
    HN_ROUTE_BROADCAST = 3,
    HN_ROUTE_ANYCAST = 4,
    HN_ROUTE_MULTICAST = 5,
    HN_ROUTE_BLACKHOLE = 6,
    HN_ROUTE_UNREACHABLE = 7,
    HN_ROUTE_PROHIBIT = 8,
    HN_ROUTE_THROW = 9
};

enum hn_nexthop_flags {
    HN_NEXTHOP_DEAD = 1,    /* RTNH_F_DEAD: not usable */
    HN_NEXTHOP_LINKDOWN = 16, /* RTNH_F_LINKDOWN: usable, as in the kernel's default */
    HN_NEXTHOP_ONLINK = 4,
    HN_NEXTHOP_ENCAP = 128 /* leaves through a tunnel encapsulation: kernel path only */
};

struct hn_nexthop {
    uint8_t gateway[16];
    uint32_t ifindex;
    uint16_t weight; /* 1..256, relative */
    uint8_t gateway_family; /* 0: the destination is on the link; may differ from the route's */
    uint8_t flags;
};
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
    uint32_t mtu;     /* RTAX_MTU, 0: the interface's */
    uint32_t nexthop_id; /* kernel nexthop object, 0: none */
    uint8_t prefsrc[16];
    bool has_prefsrc;
    uint8_t type;     /* enum hn_route_type */
    uint8_t protocol; /* RTPROT_* */
    uint8_t scope;
    uint8_t tos;
    uint16_t nexthop_count; /* 0 for blackhole and its like */
    const struct hn_nexthop *nexthops; /* borrowed on insert, owned by the table on lookup */
};

/* One policy rule; selectors that the stack cannot evaluate set `opaque`: when the lookup reaches
   such a rule the answer is "ask the kernel" (HN_ROUTE_UNSPEC). */
struct hn_rule {
    uint32_t priority;
    uint32_t table;
    uint8_t family;
    uint8_t source_bits;
    uint8_t destination_bits;
    uint8_t action; /* FR_ACT_*: 1 to table, 6 blackhole, 7 unreachable, 8 prohibit */
    bool opaque;
    uint8_t source[16];
    uint8_t destination[16];
};

enum hn_fib_insert_mode {
    HN_FIB_REFRESH = 0, /* dump: the same route seen again gets the new epoch, else added */
    HN_FIB_REPLACE = 1, /* NLM_F_REPLACE: the entry of the same key, tos and metric goes */
    HN_FIB_APPEND = 2   /* a notification without NLM_F_REPLACE */
};

struct hn_fib_result {
    uint8_t type; /* enum hn_route_type; UNSPEC: let the kernel decide; UNREACHABLE: no route */
    bool found;   /* false with UNREACHABLE: no route matched at all */
    bool has_prefsrc;
    uint8_t prefsrc[16];
    uint32_t mtu;
    struct hn_nexthop nexthop; /* chosen by the flow hash among usable ones, by weight */
};

struct hn_fib;

/* Allocates an empty table with the kernel's default rules (local, main, default).  NULL: no
   memory. */
struct hn_fib *hn_fib_create(void);
void hn_fib_destroy(struct hn_fib *fib);
uint64_t hn_fib_generation(const struct hn_fib *fib);
/* Number of routes of a family. */
size_t hn_fib_count(const struct hn_fib *fib, uint8_t family);

/* Adds or refreshes one route; `epoch` marks it as seen (see hn_fib_sweep).  Copies.
   -EINVAL  family, prefix length or type out of range
   -ENOMEM */
int hn_fib_insert(struct hn_fib *fib, const struct hn_route *route, enum hn_fib_insert_mode mode,
                  uint32_t epoch);
/* Removes the route with the same key, tos, metric (0: any) and next hops (none given: any).
   IPv6 deletes single next hops of a multipath route that way.
   -ENOENT  nothing matched (a notification older than the dump) */
int hn_fib_remove(struct hn_fib *fib, const struct hn_route *route);
/* Removes every route of `family` whose epoch is not `epoch`; returns how many. */
size_t hn_fib_sweep(struct hn_fib *fib, uint8_t family, uint32_t epoch);
/* Removes next hops over ifindex, and routes that have none left; for link-down and link-delete,
   of which the kernel does not tell for IPv4.  Returns how many routes changed. */
size_t hn_fib_purge_interface(struct hn_fib *fib, uint8_t family, uint32_t ifindex);
/* Calls `visit` for every route, in no order, until it returns false. */
void hn_fib_visit(const struct hn_fib *fib, uint8_t family,
                  bool (*visit)(const struct hn_route *route, void *context), void *context);

/* Replaces the policy rules of a family; copies, sorts by priority.  -ENOMEM, -EINVAL. */
int hn_fib_set_rules(struct hn_fib *fib, uint8_t family, const struct hn_rule *rules,
                     size_t count);

/* Decides for one destination.  source may be NULL (unspecified); flow_hash picks the next hop.
   Always fills *result; no allocation. */
void hn_fib_lookup(const struct hn_fib *fib, uint8_t family, const uint8_t *source,
                   const uint8_t *destination, uint32_t flow_hash, struct hn_fib_result *result);

/* Source of an unbound socket for a destination over an interface, from the address list below:
   the same-scope address of the interface whose prefix covers the next hop first, then the
   interface's first primary address; IPv6 by RFC 6724 rules 1, 2, 3, 5, 8.  false: none. */
bool hn_fib_source(const struct hn_fib *fib, uint8_t family, uint32_t ifindex,
                   const uint8_t *destination, uint8_t *source);

struct hn_local_address {
    uint8_t ip[16];
    uint32_t ifindex;
    uint32_t flags; /* IFA_F_* */
    uint8_t family;
    uint8_t prefix_bits;
    uint8_t scope; /* RT_SCOPE_* */
    uint8_t reserved;
};
/* Replaces the list of the machine's addresses (all interfaces).  -ENOMEM. */
int hn_fib_set_addresses(struct hn_fib *fib, const struct hn_local_address *list, size_t count);
/* True when ip is one of them, on any interface (the weak host model, as Linux's). */
bool hn_fib_is_local(const struct hn_fib *fib, uint8_t family, const uint8_t *ip);

#endif
