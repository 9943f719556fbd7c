#include "stack/ip/fib_internal.h"

struct hn_fib *hn_fib_create(void)
{
    struct hn_fib *fib = calloc(1, sizeof *fib);
    if (fib && hn_fib_rules_init(fib) < 0) {
        hn_fib_destroy(fib);
        return NULL;
    }
    return fib;
}

void hn_fib_destroy(struct hn_fib *fib)
{
    if (!fib)
        return;
    for (unsigned i = 0; i < HN_FIB_TABLE_BUCKETS; i++) {
        struct hn_fib_table *table = fib->buckets[i];
        while (table) {
            struct hn_fib_table *next = table->bucket_next;
            hn_fib_table_destroy(table);
            table = next;
        }
    }
    hn_fib_rules_free(fib);
    free(fib->addresses);
    free(fib->address_slots);
    free(fib);
}

uint64_t hn_fib_generation(const struct hn_fib *fib) { return fib->generation; }

size_t hn_fib_count(const struct hn_fib *fib, uint8_t family)
{
    return fib->counts[hn_family_index(family)];
}

static bool each_slot_of_level(struct hn_fib_cursor *at,
                               bool (*visit)(const struct hn_fib_cursor *, bool *, void *),
                               void *context)
{
    const struct hn_fib_level *level = &at->table->levels[at->prefix_bits];
    for (uint32_t i = 0; level->slots && i <= level->mask; i++) {
        bool again = true;
        while (again && level->slots[i].first) {
            again = false;
            at->slot = &level->slots[i];
            if (!visit(at, &again, context))
                return false;
        }
    }
    return true;
}

void hn_fib_each_slot(const struct hn_fib *fib, uint8_t family,
                      bool (*visit)(const struct hn_fib_cursor *at, bool *again, void *context),
                      void *context)
{
    for (unsigned i = 0; i < HN_FIB_TABLE_BUCKETS; i++)
        for (struct hn_fib_table *table = fib->buckets[i]; table; table = table->bucket_next) {
            if (table->family != family)
                continue;
            for (unsigned bits = 0; bits <= table->bits; bits++) {
                struct hn_fib_cursor at = {.table = table, .prefix_bits = (uint8_t)bits};
                if (!each_slot_of_level(&at, visit, context))
                    return;
            }
        }
}

struct route_visit {
    bool (*visit)(const struct hn_route *route, void *context);
    void *context;
};

static bool visit_slot(const struct hn_fib_cursor *at, bool *again, void *context)
{
    const struct route_visit *call = context;
    (void)again;
    for (const struct hn_fib_entry *entry = at->slot->first; entry; entry = entry->next)
        if (!call->visit(&entry->route, call->context))
            return false;
    return true;
}

void hn_fib_visit(const struct hn_fib *fib, uint8_t family,
                  bool (*visit)(const struct hn_route *route, void *context), void *context)
{
    struct route_visit call = {.visit = visit, .context = context};
    hn_fib_each_slot(fib, family, visit_slot, &call);
}

/* Among the living ones, each with a share of the hash range as large as its weight. */
static const struct hn_nexthop *choose_weighted(const struct hn_nexthop *list, unsigned count,
                                                uint32_t flow_hash)
{
    uint32_t total = 0;
    for (unsigned i = 0; i < count; i++)
        if (!(list[i].flags & HN_NEXTHOP_DEAD))
            total += list[i].weight;
    uint32_t mark = (uint32_t)(((uint64_t)flow_hash * total) >> 32);
    for (unsigned i = 0; i < count; i++) {
        if (list[i].flags & HN_NEXTHOP_DEAD)
            continue;
        if (mark < list[i].weight)
            return &list[i];
        mark -= list[i].weight;
    }
    return NULL;
}

static bool entry_usable(const struct hn_fib_entry *entry, uint32_t flow_hash,
                         const struct hn_nexthop **nexthop)
{
    const struct hn_route *route = &entry->route;
    *nexthop = NULL;
    if (hn_unlikely(route->tos))
        return false;
    if (hn_likely(route->nexthop_count == 1)) {
        *nexthop = entry->nexthops;
        return !(entry->nexthops[0].flags & HN_NEXTHOP_DEAD);
    }
    if (route->nexthop_count == 0)
        return true;
    *nexthop = choose_weighted(entry->nexthops, route->nexthop_count, flow_hash);
    return *nexthop != NULL;
}

static const struct hn_fib_entry *table_lookup(const struct hn_fib_table *table,
                                               struct hn_fib_prefix destination, uint32_t flow_hash,
                                               const struct hn_nexthop **nexthop)
{
    for (unsigned word = table->bits / 64 + 1; word-- > 0;) {
        uint64_t present = table->present[word];
        while (present) {
            unsigned bit = 63u - (unsigned)__builtin_clzll(present);
            present ^= UINT64_C(1) << bit;
            unsigned bits = word * 64 + bit;
            const struct hn_fib_slot *slot =
                hn_fib_level_find(&table->levels[bits], hn_fib_prefix_mask(destination, bits));
            if (!slot)
                continue;
            for (const struct hn_fib_entry *e = slot->first; e; e = e->next)
                if (hn_likely(entry_usable(e, flow_hash, nexthop)))
                    return e;
        }
    }
    return NULL;
}

static void result_fill(struct hn_fib_result *result, const struct hn_route *route,
                        const struct hn_nexthop *nexthop)
{
    result->type = route->type;
    result->found = true;
    result->has_prefsrc = route->has_prefsrc;
    if (route->has_prefsrc)
        memcpy(result->prefsrc, route->prefsrc, sizeof result->prefsrc);
    result->mtu = route->mtu;
    if (hn_likely(nexthop != NULL))
        result->nexthop = *nexthop;
    else if (route->type <= HN_ROUTE_MULTICAST)
        result->type = HN_ROUTE_UNSPEC; /* a nexthop object whose content nobody told us */
}

/* FR_ACT_* of linux/fib_rules.h to the route type that answers alike. */
static uint8_t rule_verdict(uint8_t action)
{
    switch (action) {
    case 6:
        return HN_ROUTE_BLACKHOLE;
    case 7:
        return HN_ROUTE_UNREACHABLE;
    default:
        return HN_ROUTE_PROHIBIT;
    }
}

void hn_fib_lookup(const struct hn_fib *fib, uint8_t family, const uint8_t *source,
                   const uint8_t *destination, uint32_t flow_hash, struct hn_fib_result *result)
{
    const struct hn_fib_rules *rules = &fib->rules[hn_family_index(family)];
    struct hn_fib_prefix to = hn_fib_prefix_load(family, destination);
    struct hn_fib_prefix from = {{0, 0}};
    if (source)
        from = hn_fib_prefix_load(family, source);
    memset(result, 0, sizeof *result);
    for (size_t i = 0; i < rules->count; i++) {
        const struct hn_fib_rule *rule = &rules->list[i];
        if (!hn_fib_rule_matches(rule, from, to))
            continue;
        if (hn_unlikely(rule->rule.opaque)) {
            result->type = HN_ROUTE_UNSPEC;
            result->found = true;
            return;
        }
        if (hn_unlikely(rule->rule.action != 1)) {
            if (rule->rule.action == 3)
                continue;
            result->type = rule_verdict(rule->rule.action);
            result->found = true;
            return;
        }
        if (!rule->table)
            continue;
        const struct hn_nexthop *nexthop;
        const struct hn_fib_entry *entry = table_lookup(rule->table, to, flow_hash, &nexthop);
        if (entry && entry->route.type != HN_ROUTE_THROW) {
            result_fill(result, &entry->route, nexthop);
            return;
        }
    }
    result->type = HN_ROUTE_UNREACHABLE;
}
