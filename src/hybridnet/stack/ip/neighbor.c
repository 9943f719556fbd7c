#include "stack/ip/neighbor.h"

/* Entries come from one array allocated at the start, so pointers into it stay good and nothing is
   allocated later.  An entry that is not in the hash has family 0 and lies on the free list. */
struct hn_neighbors {
    uint64_t generation;
    uint64_t refused;
    struct hn_neighbor *entries;
    struct hn_neighbor **buckets;
    struct hn_neighbor *free_list; /* chained by hash_next */
    struct hn_neighbor *wanted_head;
    struct hn_neighbor *wanted_tail;
    uint32_t mask;
    uint32_t max;
    uint32_t count;
    uint32_t reclaim_hand;
    uint64_t seed;
};

#define RECLAIM_STEPS 64u /* entries looked at when the table is full */

static size_t family_bytes(uint8_t family) { return family == HN_FAMILY_IPV6 ? 16 : 4; }

static struct hn_neighbor **bucket_of(const struct hn_neighbors *table, uint32_t ifindex,
                                      uint8_t family, const uint8_t *ip)
{
    uint64_t x = table->seed ^ ((uint64_t)ifindex << 8 | family);
    if (family == HN_FAMILY_IPV6) {
        x = (x ^ hn_load64(ip)) * UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ x >> 32 ^ hn_load64(ip + 8)) * UINT64_C(0xd6e8feb86659fd93);
    } else {
        x = (x ^ (uint64_t)hn_load32(ip) << 32) * UINT64_C(0x9e3779b97f4a7c15);
    }
    x ^= x >> 29;
    return &table->buckets[(x * UINT64_C(0xbf58476d1ce4e5b9) >> 32) & table->mask];
}

struct hn_neighbors *hn_neighbors_create(uint32_t max)
{
    struct hn_neighbors *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    uint32_t bucket_count = 16;
    while (bucket_count < max && bucket_count < 1u << 30)
        bucket_count *= 2;
    table->entries = calloc(max ? max : 1, sizeof *table->entries);
    table->buckets = calloc(bucket_count, sizeof(struct hn_neighbor *));
    if (!table->entries || !table->buckets) {
        free(table->entries);
        free(table->buckets);
        free(table);
        return NULL;
    }
    table->mask = bucket_count - 1;
    table->max = max;
    table->seed = (uint64_t)(uintptr_t)table->entries * UINT64_C(0x2545f4914f6cdd1d);
    for (uint32_t i = max; i-- > 0;) {
        table->entries[i].hash_next = table->free_list;
        table->free_list = &table->entries[i];
    }
    return table;
}

void hn_neighbors_destroy(struct hn_neighbors *table)
{
    if (!table)
        return;
    for (uint32_t i = 0; i < table->max; i++)
        hn_assert(table->entries[i].family == 0 || table->entries[i].pending_count == 0);
    free(table->entries);
    free(table->buckets);
    free(table);
}

uint64_t hn_neighbors_generation(const struct hn_neighbors *table) { return table->generation; }
size_t hn_neighbors_count(const struct hn_neighbors *table) { return table->count; }
uint64_t hn_neighbors_refused(const struct hn_neighbors *table) { return table->refused; }

struct hn_neighbor *hn_neighbor_find(const struct hn_neighbors *table, uint32_t ifindex,
                                     uint8_t family, const uint8_t *ip)
{
    struct hn_neighbor *entry = *bucket_of(table, ifindex, family, ip);
    while (entry && (entry->ifindex != ifindex || entry->family != family ||
                     memcmp(entry->ip, ip, family_bytes(family)) != 0))
        entry = entry->hash_next;
    return entry;
}

static void wanted_unlink(struct hn_neighbors *table, struct hn_neighbor *entry)
{
    if (!entry->wanted)
        return;
    struct hn_neighbor *before = NULL, *at = table->wanted_head;
    while (at != entry) {
        before = at;
        at = at->wanted_next;
    }
    if (before)
        before->wanted_next = entry->wanted_next;
    else
        table->wanted_head = entry->wanted_next;
    if (table->wanted_tail == entry)
        table->wanted_tail = before;
    entry->wanted = false;
    entry->wanted_next = NULL;
}

static void entry_remove(struct hn_neighbors *table, struct hn_neighbor *entry)
{
    hn_assert(entry->pending_count == 0);
    wanted_unlink(table, entry);
    struct hn_neighbor **link = bucket_of(table, entry->ifindex, entry->family, entry->ip);
    while (*link != entry)
        link = &(*link)->hash_next;
    *link = entry->hash_next;
    memset(entry, 0, sizeof *entry);
    entry->hash_next = table->free_list;
    table->free_list = entry;
    table->count--;
    table->generation++;
}

/* Room in a full table: an entry that holds neither an answer nor a packet. */
static bool reclaim(struct hn_neighbors *table)
{
    uint32_t steps = table->max < RECLAIM_STEPS ? table->max : RECLAIM_STEPS;
    while (steps-- > 0) {
        struct hn_neighbor *entry = &table->entries[table->reclaim_hand];
        table->reclaim_hand = (table->reclaim_hand + 1) % table->max;
        if (entry->family && !entry->resolved && !entry->wanted && entry->pending_count == 0) {
            entry_remove(table, entry);
            return true;
        }
    }
    return false;
}

static struct hn_neighbor *entry_add(struct hn_neighbors *table, uint32_t ifindex, uint8_t family,
                                     const uint8_t *ip)
{
    if (!table->free_list && !reclaim(table)) {
        table->refused++;
        return NULL;
    }
    struct hn_neighbor *entry = table->free_list;
    table->free_list = entry->hash_next;
    memcpy(entry->ip, ip, family_bytes(family));
    entry->ifindex = ifindex;
    entry->family = family;
    entry->pending_head = HN_FRAME_NONE;
    entry->pending_tail = HN_FRAME_NONE;
    struct hn_neighbor **bucket = bucket_of(table, ifindex, family, ip);
    entry->hash_next = *bucket;
    *bucket = entry;
    table->count++;
    return entry;
}

struct hn_neighbor *hn_neighbor_get(struct hn_neighbors *table, uint32_t ifindex, uint8_t family,
                                    const uint8_t *ip)
{
    struct hn_neighbor *entry = hn_neighbor_find(table, ifindex, family, ip);
    if (!entry) {
        entry = entry_add(table, ifindex, family, ip);
        if (!entry)
            return NULL;
    }
    if (entry->state == HN_NUD_NONE || entry->state == HN_NUD_FAILED)
        hn_neighbor_want(table, entry);
    return entry;
}

/* An all-zero address is what an interface without link-layer addresses reports, and what must
   never be sent to. */
static bool mac_valid(const uint8_t *mac)
{
    static const uint8_t zero[6];
    return mac && memcmp(mac, zero, sizeof zero) != 0;
}

static void entry_update(struct hn_neighbors *table, struct hn_neighbor *entry, uint8_t state,
                         const uint8_t *mac, bool resolved)
{
    bool changed = entry->resolved != resolved;
    if (resolved && memcmp(entry->mac, mac, sizeof entry->mac) != 0) {
        memcpy(entry->mac, mac, sizeof entry->mac);
        changed = true;
    }
    bool in_vain = state == HN_NUD_FAILED && entry->state != state && entry->pending_count > 0;
    /* REACHABLE, and unused for long: STALE.  If packets went to it meanwhile, the kernel, which
       did not see them, has to probe it on our behalf.  A dump may repeat STALE: no news. */
    if (state == HN_NUD_STALE && entry->state != HN_NUD_STALE && entry->used) {
        entry->used = false;
        hn_neighbor_want(table, entry);
    }
    entry->resolved = resolved;
    entry->state = state;
    if (resolved && state != HN_NUD_STALE)
        wanted_unlink(table, entry);
    if (changed || in_vain)
        table->generation++;
}

int hn_neighbor_set(struct hn_neighbors *table, uint32_t ifindex, uint8_t family, const uint8_t *ip,
                    uint8_t state, const uint8_t *mac, uint32_t epoch)
{
    const uint8_t usable = HN_NUD_REACHABLE | HN_NUD_STALE | HN_NUD_DELAY | HN_NUD_PROBE |
                           HN_NUD_NOARP | HN_NUD_PERMANENT;
    bool resolved = (state & usable) && mac_valid(mac);
    struct hn_neighbor *entry = hn_neighbor_find(table, ifindex, family, ip);
    if (!entry) {
        if (!resolved)
            return 0;
        entry = entry_add(table, ifindex, family, ip);
        if (!entry)
            return -ENOSPC;
    }
    entry->epoch = epoch;
    entry_update(table, entry, state, mac, resolved);
    return 0;
}

static void entry_forget(struct hn_neighbors *table, struct hn_neighbor *entry, uint8_t state)
{
    if (entry->resolved || entry->state != state)
        table->generation++;
    entry->resolved = false;
    entry->state = state;
}

void hn_neighbor_remove(struct hn_neighbors *table, uint32_t ifindex, uint8_t family,
                        const uint8_t *ip)
{
    struct hn_neighbor *entry = hn_neighbor_find(table, ifindex, family, ip);
    if (!entry)
        return;
    if (entry->pending_count == 0) {
        entry_remove(table, entry);
        return;
    }
    entry_forget(table, entry, HN_NUD_NONE);
    hn_neighbor_want(table, entry);
}

void hn_neighbors_sweep(struct hn_neighbors *table, uint8_t family, uint32_t epoch)
{
    for (uint32_t i = 0; i < table->max; i++) {
        struct hn_neighbor *entry = &table->entries[i];
        if (entry->family != family || entry->epoch == epoch)
            continue;
        if (entry->pending_count > 0) {
            entry_forget(table, entry, HN_NUD_NONE);
            hn_neighbor_want(table, entry);
        } else if (!entry->wanted) {
            entry_remove(table, entry);
        }
    }
}

void hn_neighbors_purge_interface(struct hn_neighbors *table, uint32_t ifindex)
{
    for (uint32_t i = 0; i < table->max; i++) {
        struct hn_neighbor *entry = &table->entries[i];
        if (entry->family == 0 || entry->ifindex != ifindex)
            continue;
        wanted_unlink(table, entry);
        if (entry->pending_count > 0)
            entry_forget(table, entry, HN_NUD_FAILED);
        else
            entry_remove(table, entry);
    }
}

void hn_neighbor_want(struct hn_neighbors *table, struct hn_neighbor *entry)
{
    if (entry->wanted)
        return;
    entry->wanted = true;
    entry->wanted_next = NULL;
    if (table->wanted_tail)
        table->wanted_tail->wanted_next = entry;
    else
        table->wanted_head = entry;
    table->wanted_tail = entry;
}

struct hn_neighbor *hn_neighbor_next_wanted(struct hn_neighbors *table)
{
    struct hn_neighbor *entry = table->wanted_head;
    if (!entry)
        return NULL;
    table->wanted_head = entry->wanted_next;
    if (!table->wanted_head)
        table->wanted_tail = NULL;
    entry->wanted = false;
    entry->wanted_next = NULL;
    return entry;
}

void hn_neighbor_use(struct hn_neighbors *table, struct hn_neighbor *entry)
{
    if (hn_likely(entry->used))
        return;
    entry->used = true;
    if (entry->state == HN_NUD_STALE)
        hn_neighbor_want(table, entry);
}

void hn_neighbors_visit(struct hn_neighbors *table,
                        bool (*visit)(struct hn_neighbor *entry, void *context), void *context)
{
    for (uint32_t i = 0; i < table->max; i++)
        if (table->entries[i].family && !visit(&table->entries[i], context))
            return;
}

int hn_neighbor_queue(struct hn_pool *pool, struct hn_neighbor *entry, struct hn_frame *frame)
{
    hn_assert(frame->owner == HN_OWNER_STACK);
    if (entry->pending_count >= HN_NEIGHBOR_PENDING_MAX)
        return -ENOBUFS;
    uint32_t index = hn_frame_index(pool, frame);
    frame->queue_next = HN_FRAME_NONE;
    if (entry->pending_count == 0)
        entry->pending_head = index;
    else
        pool->frames[entry->pending_tail].queue_next = index;
    entry->pending_tail = index;
    entry->pending_count++;
    return 0;
}

struct hn_frame *hn_neighbor_dequeue(struct hn_pool *pool, struct hn_neighbor *entry)
{
    if (entry->pending_count == 0)
        return NULL;
    struct hn_frame *frame = &pool->frames[entry->pending_head];
    entry->pending_head = frame->queue_next;
    if (--entry->pending_count == 0)
        entry->pending_tail = HN_FRAME_NONE;
    return frame;
}
