/* Plain declarations, read by cffi and (through ip.h) by the C compiler.
   What of the IP tables is visible to Python: the values, and the functions that control/ and
   the tests call. */

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
    HN_NEXTHOP_DEAD = 1,      /* RTNH_F_DEAD: not usable */
    HN_NEXTHOP_LINKDOWN = 16, /* RTNH_F_LINKDOWN: usable, as in the kernel's default */
    HN_NEXTHOP_ONLINK = 4,
    HN_NEXTHOP_ENCAP = 128 /* leaves through a tunnel encapsulation, or depends on what the stack
                              cannot see (the source prefix): kernel path only */
};

struct hn_nexthop {
    uint8_t gateway[16];
    uint32_t ifindex;
    uint16_t weight;        /* 1..256, relative */
    uint8_t gateway_family; /* 0: the destination is on the link; may differ from the route's */
    uint8_t flags;
};

/* One policy rule; selectors that the stack cannot evaluate set `opaque`: when the lookup reaches
   such a rule the answer is "ask the kernel" (HN_ROUTE_UNSPEC). */
struct hn_rule {
    uint32_t priority;
    uint32_t table;
    uint8_t family;
    uint8_t source_bits;
    uint8_t destination_bits;
    uint8_t action; /* FR_ACT_*: 1 to table, 3 no operation, 6 blackhole, 7 unreachable,
                       8 prohibit; others need `opaque` */
    bool opaque;
    uint8_t source[16];
    uint8_t destination[16];
};

struct hn_fib_result {
    uint8_t type; /* enum hn_route_type; UNSPEC: let the kernel decide; UNREACHABLE: no route */
    bool found;   /* false with UNREACHABLE: no route matched at all */
    bool has_prefsrc;
    uint8_t prefsrc[16];
    uint32_t mtu;
    struct hn_nexthop nexthop; /* chosen by the flow hash among usable ones, by weight */
};

struct hn_local_address {
    uint8_t ip[16];
    uint32_t ifindex;
    uint32_t flags; /* IFA_F_* */
    uint8_t family;
    uint8_t prefix_bits;
    uint8_t scope; /* RT_SCOPE_* */
    uint8_t reserved;
};

struct hn_fib;
struct hn_neighbor;
struct hn_neighbors;

/* Allocates an empty table with the kernel's default rules (local, main, default).  NULL: no
   memory. */
struct hn_fib *hn_fib_create(void);
void hn_fib_destroy(struct hn_fib *fib);
uint64_t hn_fib_generation(const struct hn_fib *fib);
/* Number of routes of a family. */
size_t hn_fib_count(const struct hn_fib *fib, uint8_t family);

/* Removes every route of `family` whose epoch is not `epoch`; returns how many. */
size_t hn_fib_sweep(struct hn_fib *fib, uint8_t family, uint32_t epoch);
/* Removes next hops over ifindex, and routes that have none left; for link-down and link-delete,
   of which the kernel does not tell for IPv4.  IPv4 local routes stay, as in the kernel.
   Returns how many routes changed. */
size_t hn_fib_purge_interface(struct hn_fib *fib, uint8_t family, uint32_t ifindex);
/* Removes every route that uses the kernel's nexthop object `id`; returns how many. */
size_t hn_fib_purge_nexthop(struct hn_fib *fib, uint32_t id);
/* False when certainly no route uses nexthop object `id`; may err to the other side. */
bool hn_fib_nexthop_used(const struct hn_fib *fib, uint32_t id);

/* Replaces the policy rules of a family; copies, sorts by priority.  -ENOMEM, -EINVAL. */
int hn_fib_set_rules(struct hn_fib *fib, uint8_t family, const struct hn_rule *rules, size_t count);
/* Replaces the list of the machine's addresses (all interfaces).  -ENOMEM. */
int hn_fib_set_addresses(struct hn_fib *fib, const struct hn_local_address *list, size_t count);

/* Decides for one destination.  source may be NULL (unspecified); flow_hash picks the next hop.
   Always fills *result; no allocation.  Routes with a TOS of their own are passed over: they are
   for marked packets, and the caller's are not. */
void hn_fib_lookup(const struct hn_fib *fib, uint8_t family, const uint8_t *source,
                   const uint8_t *destination, uint32_t flow_hash, struct hn_fib_result *result);
/* Source of an unbound socket for a destination over an interface, from the address list: IPv4 as
   the kernel does, a primary address of the interface whose prefix covers the destination (give
   the next hop here) first, then the interface's first primary address, then another
   interface's; IPv6 by RFC 6724 rules 1, 2, 3, 5, 7, 8.  false: none. */
bool hn_fib_source(const struct hn_fib *fib, uint8_t family, uint32_t ifindex,
                   const uint8_t *destination, uint8_t *source);
/* True when ip is one of them, on any interface (the weak host model, as Linux's). */
bool hn_fib_is_local(const struct hn_fib *fib, uint8_t family, const uint8_t *ip);

/* Writes the routes as text, one line each, in no order, always terminated by a zero byte.
   Returns the bytes that the whole text needs, without the zero byte. */
size_t hn_fib_dump_text(const struct hn_fib *fib, uint8_t family, char *text, size_t text_bytes);

/* Room for `max` entries; more are refused and counted.  NULL: no memory. */
struct hn_neighbors *hn_neighbors_create(uint32_t max);
void hn_neighbors_destroy(struct hn_neighbors *table); /* no packet may wait any more */
uint64_t hn_neighbors_generation(const struct hn_neighbors *table);
size_t hn_neighbors_count(const struct hn_neighbors *table);
/* Entries refused so far because the table was full. */
uint64_t hn_neighbors_refused(const struct hn_neighbors *table);
/* Finds, or adds an unresolved entry (state NONE).  An entry that nobody is resolving (state NONE
   or FAILED) goes on the wanted list.  The pointer stays valid until the entry is removed, which
   raises the generation: by sweep, purge, hn_neighbor_remove, or when a full table needs the room
   of an unresolved entry behind which nothing waits.
   NULL: the table is full. */
struct hn_neighbor *hn_neighbor_get(struct hn_neighbors *table, uint32_t ifindex, uint8_t family,
                                    const uint8_t *ip);
/* Removes what was not seen in this epoch.  Entries behind which packets wait stay, unresolved,
   and are wanted again. */
void hn_neighbors_sweep(struct hn_neighbors *table, uint8_t family, uint32_t epoch);
/* The interface went: its entries are removed; those behind which packets wait stay, FAILED. */
void hn_neighbors_purge_interface(struct hn_neighbors *table, uint32_t ifindex);
/* A packet went to the entry: marks it used, and wants a STALE one probed. */
void hn_neighbor_use(struct hn_neighbors *table, struct hn_neighbor *entry);
/* As hn_fib_dump_text, for both families. */
size_t hn_neighbors_dump_text(const struct hn_neighbors *table, char *text, size_t text_bytes);
