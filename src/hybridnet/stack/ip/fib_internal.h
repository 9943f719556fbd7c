/* How the forwarding table is laid out; for the files that implement fib.h only.

     hn_fib --- rules[family]        sorted by priority, each with its table
        |
        +------ tables (hash by family, id)
                  present            one bit per prefix length that has routes
                  levels[length]     open-addressed hash: masked prefix -> entries
                                     entries sorted by metric; equal ones in the kernel's order

   A lookup walks the present lengths from the longest: one probe each, no allocation.
   Every level keeps at least a quarter of its slots free, so a probe for what is not there ends
   soon.  Addresses are held as two words in host order; IPv4 uses the first only. */
#ifndef HN_FIB_INTERNAL_H
#define HN_FIB_INTERNAL_H

#include "stack/ip/fib.h"

#define HN_FIB_TABLE_BUCKETS 64u
#define HN_FIB_NEXTHOP_FILTER 1024u /* counters; a power of two */

struct hn_fib_prefix {
    uint64_t word[2];
};

struct hn_fib_entry {
    struct hn_fib_entry *next;
    struct hn_route route; /* nexthops points at the array below */
    uint32_t epoch;
    struct hn_nexthop nexthops[];
};

struct hn_fib_slot {
    struct hn_fib_prefix prefix;
    struct hn_fib_entry *first; /* NULL: the slot is free */
};

struct hn_fib_level {
    struct hn_fib_slot *slots;
    uint32_t count;
    uint32_t mask; /* slots - 1; a power of two of them, or none at all */
};

struct hn_fib_table {
    struct hn_fib_table *bucket_next;
    uint32_t id;
    uint8_t family;
    uint8_t bits; /* 32 or 128 */
    uint64_t present[3];
    struct hn_fib_level levels[]; /* bits + 1 */
};

struct hn_fib_rule {
    struct hn_rule rule;
    struct hn_fib_prefix source;
    struct hn_fib_prefix destination;
    const struct hn_fib_table *table; /* NULL: no such table (yet) */
};

struct hn_fib_rules {
    struct hn_fib_rule *list;
    size_t count;
};

struct hn_fib {
    uint64_t generation;
    struct hn_fib_rules rules[2];
    struct hn_fib_table *buckets[HN_FIB_TABLE_BUCKETS];
    size_t counts[2];
    uint32_t nexthop_filter[HN_FIB_NEXTHOP_FILTER]; /* routes by hash of their nexthop object */
    struct hn_local_address *addresses;
    size_t address_count;
    uint32_t *address_slots; /* open-addressed: index + 1 into addresses, 0: free */
    uint32_t address_mask;
};

static inline bool hn_family_valid(uint8_t family)
{
    return family == HN_FAMILY_IPV4 || family == HN_FAMILY_IPV6;
}

static inline unsigned hn_family_index(uint8_t family) { return family == HN_FAMILY_IPV6; }

static inline uint8_t hn_family_bits(uint8_t family) { return family == HN_FAMILY_IPV6 ? 128 : 32; }

static inline struct hn_fib_prefix hn_fib_prefix_load(uint8_t family, const uint8_t *ip)
{
    struct hn_fib_prefix prefix;
    if (family == HN_FAMILY_IPV4) {
        prefix.word[0] = (uint64_t)hn_load32_be(ip) << 32;
        prefix.word[1] = 0;
    } else {
        prefix.word[0] = __builtin_bswap64(hn_load64(ip));
        prefix.word[1] = __builtin_bswap64(hn_load64(ip + 8));
    }
    return prefix;
}

/* The first `bits` bits; both families are left-aligned, so one function serves both. */
static inline struct hn_fib_prefix hn_fib_prefix_mask(struct hn_fib_prefix prefix, unsigned bits)
{
    if (bits < 64) {
        prefix.word[0] &= bits ? ~UINT64_C(0) << (64 - bits) : 0;
        prefix.word[1] = 0;
    } else if (bits < 128) {
        prefix.word[1] &= bits > 64 ? ~UINT64_C(0) << (128 - bits) : 0;
    }
    return prefix;
}

static inline bool hn_fib_prefix_equal(struct hn_fib_prefix a, struct hn_fib_prefix b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static inline uint32_t hn_fib_prefix_hash(struct hn_fib_prefix prefix)
{
    uint64_t x = prefix.word[0] * UINT64_C(0x9e3779b97f4a7c15);
    x ^= (prefix.word[1] ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    x ^= x >> 29;
    return (uint32_t)((x * UINT64_C(0xbf58476d1ce4e5b9)) >> 32);
}

static inline struct hn_fib_slot *hn_fib_level_find(const struct hn_fib_level *level,
                                                    struct hn_fib_prefix prefix)
{
    if (!level->slots)
        return NULL;
    for (uint32_t i = hn_fib_prefix_hash(prefix) & level->mask;; i = (i + 1) & level->mask) {
        struct hn_fib_slot *slot = &level->slots[i];
        if (!slot->first)
            return NULL;
        if (hn_fib_prefix_equal(slot->prefix, prefix))
            return slot;
    }
}

/* fib_table.c */
struct hn_fib_table *hn_fib_table_find(const struct hn_fib *fib, uint8_t family, uint32_t id);
/* Finds or adds; NULL: no memory. */
struct hn_fib_table *hn_fib_table_get(struct hn_fib *fib, uint8_t family, uint32_t id);
void hn_fib_table_destroy(struct hn_fib_table *table);
/* Makes room for one more prefix, so that hn_fib_table_slot cannot fail.  -ENOMEM. */
int hn_fib_table_reserve(struct hn_fib_table *table, uint8_t prefix_bits);
/* Finds the slot of a prefix or takes a free one, which the caller fills at once. */
struct hn_fib_slot *hn_fib_table_slot(struct hn_fib_table *table, uint8_t prefix_bits,
                                      struct hn_fib_prefix prefix);
/* Gives up a slot whose last entry went; the one that follows may move into its place. */
void hn_fib_table_release(struct hn_fib_table *table, uint8_t prefix_bits,
                          struct hn_fib_slot *slot);

/* fib.c: calls `visit` with each slot of a family's tables until it returns false.  After a
   release the visitor returns true with *again set: another prefix may lie there now. */
struct hn_fib_cursor {
    struct hn_fib_table *table;
    uint8_t prefix_bits;
    struct hn_fib_slot *slot;
};
void hn_fib_each_slot(const struct hn_fib *fib, uint8_t family,
                      bool (*visit)(const struct hn_fib_cursor *at, bool *again, void *context),
                      void *context);

/* rule.c */
int hn_fib_rules_init(struct hn_fib *fib);
void hn_fib_rules_free(struct hn_fib *fib);
/* A table came into being: rules that name it point at it from now on. */
void hn_fib_rules_resolve(struct hn_fib *fib, const struct hn_fib_table *table);

static inline bool hn_fib_rule_matches(const struct hn_fib_rule *rule, struct hn_fib_prefix source,
                                       struct hn_fib_prefix destination)
{
    if (hn_likely((rule->rule.source_bits | rule->rule.destination_bits) == 0))
        return true;
    return hn_fib_prefix_equal(hn_fib_prefix_mask(source, rule->rule.source_bits), rule->source) &&
           hn_fib_prefix_equal(hn_fib_prefix_mask(destination, rule->rule.destination_bits),
                               rule->destination);
}

static inline uint32_t hn_fib_nexthop_bucket(uint32_t id)
{
    return (id * 0x9e3779b9u >> 16) & (HN_FIB_NEXTHOP_FILTER - 1);
}

#endif
