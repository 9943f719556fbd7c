/* Changes of the forwarding table: insert, remove, sweep, purge.

   Entries of one prefix form a list sorted by metric.  "Peers" are those of the same metric and
   tos; among them the order is the kernel's, for the first usable one is taken. */
#include "stack/ip/fib_internal.h"

enum { PROTOCOL_REDIRECT = 1, PROTOCOL_RA = 9 }; /* RTPROT_* */
enum { SCOPE_HOST = 254 };                       /* RT_SCOPE_* */

static bool same_hop(const struct hn_nexthop *a, const struct hn_nexthop *b)
{
    return a->ifindex == b->ifindex && a->gateway_family == b->gateway_family &&
           memcmp(a->gateway, b->gateway, sizeof a->gateway) == 0;
}

static bool hop_among(const struct hn_nexthop *hop, const struct hn_route *route)
{
    for (unsigned i = 0; i < route->nexthop_count; i++)
        if (same_hop(hop, &route->nexthops[i]))
            return true;
    return false;
}

static bool hops_within(const struct hn_route *part, const struct hn_route *whole)
{
    for (unsigned i = 0; i < part->nexthop_count; i++)
        if (!hop_among(&part->nexthops[i], whole))
            return false;
    return true;
}

static bool same_hops(const struct hn_route *a, const struct hn_route *b)
{
    return a->nexthop_count == b->nexthop_count && hops_within(a, b) && hops_within(b, a);
}

static bool identical(const struct hn_route *a, const struct hn_route *b)
{
    if (a->type != b->type || a->scope != b->scope || a->protocol != b->protocol ||
        a->mtu != b->mtu || a->nexthop_id != b->nexthop_id || a->has_prefsrc != b->has_prefsrc ||
        a->nexthop_count != b->nexthop_count ||
        memcmp(a->prefsrc, b->prefsrc, sizeof a->prefsrc) != 0)
        return false;
    for (unsigned i = 0; i < a->nexthop_count; i++)
        if (!same_hop(&a->nexthops[i], &b->nexthops[i]) ||
            a->nexthops[i].weight != b->nexthops[i].weight ||
            a->nexthops[i].flags != b->nexthops[i].flags)
            return false;
    return true;
}

static bool peers(const struct hn_fib_entry *entry, const struct hn_route *route)
{
    return entry->route.metric == route->metric && entry->route.tos == route->tos;
}

/* IPv6 gathers such routes into one group of equal next hops. */
static bool groups(const struct hn_route *route)
{
    return route->nexthop_id == 0 && route->nexthop_count > 0 &&
           route->nexthops[0].gateway_family != 0 && route->protocol != PROTOCOL_RA &&
           route->protocol != PROTOCOL_REDIRECT;
}

static int route_check(const struct hn_route *route)
{
    if (!hn_family_valid(route->key.family) ||
        route->key.prefix_bits > hn_family_bits(route->key.family))
        return -EINVAL;
    if (route->type == HN_ROUTE_UNSPEC || route->type > HN_ROUTE_THROW)
        return -EINVAL;
    for (unsigned i = 0; i < route->nexthop_count; i++)
        if (route->nexthops[i].weight == 0)
            return -EINVAL;
    return 0;
}

static struct hn_fib_prefix route_prefix(const struct hn_route *route)
{
    return hn_fib_prefix_mask(hn_fib_prefix_load(route->key.family, route->key.destination),
                              route->key.prefix_bits);
}

static void key_mask(struct hn_route_key *key)
{
    unsigned whole = key->prefix_bits / 8u, rest = key->prefix_bits % 8u;
    if (whole < sizeof key->destination) {
        key->destination[whole] &= (uint8_t)(0xff00u >> rest);
        memset(key->destination + whole + 1, 0, sizeof key->destination - whole - 1);
    }
}

static struct hn_fib_entry *entry_create(const struct hn_route *route, uint32_t epoch)
{
    size_t bytes = route->nexthop_count * sizeof(struct hn_nexthop);
    struct hn_fib_entry *entry = malloc(sizeof *entry + bytes);
    if (!entry)
        return NULL;
    entry->next = NULL;
    entry->epoch = epoch;
    entry->route = *route;
    key_mask(&entry->route.key);
    if (bytes)
        memcpy(entry->nexthops, route->nexthops, bytes);
    entry->route.nexthops = entry->nexthops;
    return entry;
}

static void entry_link(struct hn_fib *fib, struct hn_fib_entry **at, struct hn_fib_entry *entry)
{
    entry->next = *at;
    *at = entry;
    fib->counts[hn_family_index(entry->route.key.family)]++;
    if (entry->route.nexthop_id)
        fib->nexthop_filter[hn_fib_nexthop_bucket(entry->route.nexthop_id)]++;
    fib->generation++;
}

static void entry_drop(struct hn_fib *fib, struct hn_fib_entry **at)
{
    struct hn_fib_entry *entry = *at;
    *at = entry->next;
    fib->counts[hn_family_index(entry->route.key.family)]--;
    if (entry->route.nexthop_id)
        fib->nexthop_filter[hn_fib_nexthop_bucket(entry->route.nexthop_id)]--;
    fib->generation++;
    free(entry);
}

static struct hn_fib_entry **first_peer(struct hn_fib_entry **at, const struct hn_route *route)
{
    while (*at && (*at)->route.metric < route->metric)
        at = &(*at)->next;
    while (*at && (*at)->route.metric == route->metric && (*at)->route.tos != route->tos)
        at = &(*at)->next;
    return at;
}

static struct hn_fib_entry **behind_peers(struct hn_fib_entry **at, const struct hn_route *route)
{
    at = first_peer(at, route);
    while (*at && (*at)->route.metric == route->metric)
        at = &(*at)->next;
    return at;
}

static struct hn_fib_entry **find_identical(struct hn_fib_entry **at, const struct hn_route *route)
{
    for (at = first_peer(at, route); *at && (*at)->route.metric == route->metric; at = &(*at)->next)
        if (peers(*at, route) && identical(&(*at)->route, route))
            return at;
    return NULL;
}

/* A dump gives peers in the kernel's order, and old ones still lie among them. */
static struct hn_fib_entry **behind_seen_peers(struct hn_fib_entry **at,
                                               const struct hn_route *route, uint32_t epoch)
{
    struct hn_fib_entry **place = first_peer(at, route);
    for (at = place; *at && (*at)->route.metric == route->metric; at = &(*at)->next)
        if (peers(*at, route) && (*at)->epoch == epoch)
            place = &(*at)->next;
    return place;
}

/* Marks an entry as seen and puts it behind those seen before; true when it was there. */
static bool refresh(struct hn_fib *fib, struct hn_fib_slot *slot, const struct hn_route *route,
                    bool dump, uint32_t epoch)
{
    struct hn_fib_entry **found = find_identical(&slot->first, route);
    if (!found)
        return false;
    struct hn_fib_entry *entry = *found;
    if (entry->epoch == epoch || !dump) {
        entry->epoch = epoch;
        return true;
    }
    *found = entry->next;
    struct hn_fib_entry **place = behind_seen_peers(&slot->first, route, epoch);
    if (place != found)
        fib->generation++;
    entry->next = *place;
    *place = entry;
    entry->epoch = epoch;
    return true;
}

/* Which of the peers the kernel replaced: the same nexthop object, else the first one of the same
   kind (IPv6 tells grouped routes from others), else the first. */
static struct hn_fib_entry **replaced_peer(struct hn_fib_entry **head, const struct hn_route *route)
{
    struct hn_fib_entry **first = NULL, **alike = NULL;
    for (struct hn_fib_entry **at = first_peer(head, route);
         *at && (*at)->route.metric == route->metric; at = &(*at)->next) {
        if (!peers(*at, route))
            continue;
        if (route->nexthop_id && (*at)->route.nexthop_id == route->nexthop_id)
            return at;
        if (!first)
            first = at;
        if (!alike &&
            (route->key.family == HN_FAMILY_IPV4 || groups(&(*at)->route) == groups(route)))
            alike = at;
    }
    return alike ? alike : first;
}

/* Drops the peers for which `obsolete` says so, but never `keep`. */
static void drop_peers(struct hn_fib *fib, struct hn_fib_entry **head, const struct hn_route *route,
                       const struct hn_fib_entry *keep,
                       bool (*obsolete)(const struct hn_route *old, const struct hn_route *new))
{
    struct hn_fib_entry **at = first_peer(head, route);
    while (*at && (*at)->route.metric == route->metric) {
        if (*at != keep && peers(*at, route) && obsolete(&(*at)->route, route))
            entry_drop(fib, at);
        else
            at = &(*at)->next;
    }
}

static bool any(const struct hn_route *old, const struct hn_route *new)
{
    (void)old;
    (void)new;
    return true;
}

static bool both_grouped(const struct hn_route *old, const struct hn_route *new)
{
    return groups(old) && groups(new);
}

/* A group that grew: what it was before is part of it. */
static bool part_of(const struct hn_route *old, const struct hn_route *new)
{
    return old->type == new->type && old->nexthop_id == new->nexthop_id && old->nexthop_count > 0 &&
           hops_within(old, new);
}

static struct hn_fib_entry **place_for(struct hn_fib *fib, struct hn_fib_entry **head,
                                       const struct hn_route *route, enum hn_fib_insert_mode mode,
                                       uint32_t epoch)
{
    bool ipv6 = route->key.family == HN_FAMILY_IPV6;
    switch (mode) {
    case HN_FIB_REPLACE: {
        struct hn_fib_entry **at = replaced_peer(head, route);
        if (!at)
            return behind_peers(head, route);
        entry_drop(fib, at);
        if (ipv6) /* the list before `at` holds no grouped peer, so `at` stays where it is */
            drop_peers(fib, at, route, NULL, both_grouped);
        return at;
    }
    case HN_FIB_EXCLUSIVE:
        drop_peers(fib, head, route, NULL, any);
        return behind_peers(head, route);
    case HN_FIB_REFRESH:
        return behind_seen_peers(head, route, epoch);
    case HN_FIB_PREPEND:
        if (!ipv6)
            return first_peer(head, route);
        break;
    case HN_FIB_APPEND:
        break;
    }
    if (ipv6)
        drop_peers(fib, head, route, NULL, part_of);
    return behind_peers(head, route);
}

/* The same news twice (a dump and the notification it overlaps) must change nothing. */
static bool known(struct hn_fib *fib, struct hn_fib_slot *slot, const struct hn_route *route,
                  enum hn_fib_insert_mode mode, uint32_t epoch)
{
    if (mode != HN_FIB_REPLACE && mode != HN_FIB_EXCLUSIVE)
        return refresh(fib, slot, route, mode == HN_FIB_REFRESH, epoch);
    struct hn_fib_entry **at = mode == HN_FIB_REPLACE ? replaced_peer(&slot->first, route)
                                                      : find_identical(&slot->first, route);
    if (!at || !identical(&(*at)->route, route))
        return false;
    struct hn_fib_entry *entry = *at;
    entry->epoch = epoch;
    if (mode == HN_FIB_EXCLUSIVE)
        drop_peers(fib, &slot->first, route, entry, any);
    else if (route->key.family == HN_FAMILY_IPV6)
        drop_peers(fib, &slot->first, route, entry, both_grouped);
    return true;
}

int hn_fib_insert(struct hn_fib *fib, const struct hn_route *route, enum hn_fib_insert_mode mode,
                  uint32_t epoch)
{
    int error = route_check(route);
    if (error < 0)
        return error;
    struct hn_fib_table *table = hn_fib_table_get(fib, route->key.family, route->key.table);
    if (!table)
        return -ENOMEM;
    struct hn_fib_prefix prefix = route_prefix(route);
    uint8_t bits = route->key.prefix_bits;
    struct hn_fib_slot *slot = hn_fib_level_find(&table->levels[bits], prefix);
    if (slot && known(fib, slot, route, mode, epoch))
        return 0;
    struct hn_fib_entry *entry = entry_create(route, epoch);
    if (!entry)
        return -ENOMEM;
    if (!slot && hn_fib_table_reserve(table, bits) < 0) {
        free(entry);
        return -ENOMEM;
    }
    if (!slot)
        slot = hn_fib_table_slot(table, bits, prefix);
    entry_link(fib, place_for(fib, &slot->first, route, mode, epoch), entry);
    return 0;
}

/* Takes single next hops out of an entry; false when it has none of them.  *empty: none left. */
static bool entry_strip(struct hn_fib *fib, struct hn_fib_entry *entry,
                        bool (*goes)(const struct hn_nexthop *hop, const void *what),
                        const void *what, bool *empty)
{
    uint16_t kept = 0;
    for (uint16_t i = 0; i < entry->route.nexthop_count; i++)
        if (!goes(&entry->nexthops[i], what))
            entry->nexthops[kept++] = entry->nexthops[i];
    bool changed = kept != entry->route.nexthop_count;
    entry->route.nexthop_count = kept;
    *empty = kept == 0;
    if (changed)
        fib->generation++;
    return changed;
}

static bool removable(const struct hn_fib_entry *entry, const struct hn_route *route)
{
    return peers(entry, route) &&
           (route->type == HN_ROUTE_UNSPEC || entry->route.type == route->type);
}

static bool hop_named(const struct hn_nexthop *hop, const void *route)
{
    return hop_among(hop, route);
}

static int remove_from(struct hn_fib *fib, struct hn_fib_entry **head, const struct hn_route *route)
{
    struct hn_fib_entry **first = first_peer(head, route);
    for (struct hn_fib_entry **at = first; *at && (*at)->route.metric == route->metric;
         at = &(*at)->next)
        if (removable(*at, route) &&
            (route->nexthop_count == 0 || same_hops(&(*at)->route, route))) {
            entry_drop(fib, at);
            return 0;
        }
    if (route->key.family != HN_FAMILY_IPV6)
        return -ENOENT;
    for (struct hn_fib_entry **at = first; *at && (*at)->route.metric == route->metric;
         at = &(*at)->next) {
        bool empty;
        if (removable(*at, route) && hops_within(route, &(*at)->route) &&
            entry_strip(fib, *at, hop_named, route, &empty))
            return 0;
    }
    return -ENOENT;
}

int hn_fib_remove(struct hn_fib *fib, const struct hn_route *route)
{
    if (!hn_family_valid(route->key.family) ||
        route->key.prefix_bits > hn_family_bits(route->key.family))
        return -ENOENT;
    struct hn_fib_table *table = hn_fib_table_find(fib, route->key.family, route->key.table);
    if (!table)
        return -ENOENT;
    struct hn_fib_slot *slot =
        hn_fib_level_find(&table->levels[route->key.prefix_bits], route_prefix(route));
    if (!slot)
        return -ENOENT;
    int error = remove_from(fib, &slot->first, route);
    if (!slot->first)
        hn_fib_table_release(table, route->key.prefix_bits, slot);
    return error;
}

/* Walks every entry of a family; `examine` says what becomes of it. */
enum outcome { KEEP, CHANGED, DROP };

struct walk {
    struct hn_fib *fib;
    enum outcome (*examine)(struct hn_fib *fib, struct hn_fib_entry *entry, uint32_t argument);
    uint32_t argument;
    size_t changed;
};

static bool walk_slot(const struct hn_fib_cursor *at, bool *again, void *context)
{
    struct walk *walk = context;
    struct hn_fib_entry **link = &at->slot->first;
    while (*link) {
        enum outcome outcome = walk->examine(walk->fib, *link, walk->argument);
        walk->changed += outcome != KEEP;
        if (outcome == DROP)
            entry_drop(walk->fib, link);
        else
            link = &(*link)->next;
    }
    if (!at->slot->first) {
        hn_fib_table_release(at->table, at->prefix_bits, at->slot);
        *again = true;
    }
    return true;
}

static enum outcome unless_seen(struct hn_fib *fib, struct hn_fib_entry *entry, uint32_t epoch)
{
    (void)fib;
    return entry->epoch == epoch ? KEEP : DROP;
}

size_t hn_fib_sweep(struct hn_fib *fib, uint8_t family, uint32_t epoch)
{
    struct walk walk = {.fib = fib, .examine = unless_seen, .argument = epoch};
    hn_fib_each_slot(fib, family, walk_slot, &walk);
    return walk.changed;
}

static bool hop_over(const struct hn_nexthop *hop, const void *ifindex)
{
    return hop->ifindex == *(const uint32_t *)ifindex;
}

static enum outcome unless_over(struct hn_fib *fib, struct hn_fib_entry *entry, uint32_t ifindex)
{
    bool empty;
    /* The address is still the machine's, though its interface is down. */
    if (entry->route.key.family == HN_FAMILY_IPV4 && entry->route.scope == SCOPE_HOST)
        return KEEP;
    if (!entry_strip(fib, entry, hop_over, &ifindex, &empty))
        return KEEP;
    return empty ? DROP : CHANGED;
}

size_t hn_fib_purge_interface(struct hn_fib *fib, uint8_t family, uint32_t ifindex)
{
    struct walk walk = {.fib = fib, .examine = unless_over, .argument = ifindex};
    hn_fib_each_slot(fib, family, walk_slot, &walk);
    return walk.changed;
}

static enum outcome unless_by(struct hn_fib *fib, struct hn_fib_entry *entry, uint32_t id)
{
    (void)fib;
    return entry->route.nexthop_id == id ? DROP : KEEP;
}

bool hn_fib_nexthop_used(const struct hn_fib *fib, uint32_t id)
{
    return fib->nexthop_filter[hn_fib_nexthop_bucket(id)] != 0;
}

size_t hn_fib_purge_nexthop(struct hn_fib *fib, uint32_t id)
{
    struct walk walk = {.fib = fib, .examine = unless_by, .argument = id};
    if (id == 0 || !hn_fib_nexthop_used(fib, id))
        return 0;
    hn_fib_each_slot(fib, HN_FAMILY_IPV4, walk_slot, &walk);
    hn_fib_each_slot(fib, HN_FAMILY_IPV6, walk_slot, &walk);
    return walk.changed;
}
