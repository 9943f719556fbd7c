#include "stack/ip/fib_internal.h"

#define LEVEL_SLOTS_MIN 4u

static unsigned table_bucket(uint8_t family, uint32_t id)
{
    return (id * 2654435761u >> 16 ^ family) & (HN_FIB_TABLE_BUCKETS - 1);
}

struct hn_fib_table *hn_fib_table_find(const struct hn_fib *fib, uint8_t family, uint32_t id)
{
    struct hn_fib_table *table = fib->buckets[table_bucket(family, id)];
    while (table && (table->id != id || table->family != family))
        table = table->bucket_next;
    return table;
}

struct hn_fib_table *hn_fib_table_get(struct hn_fib *fib, uint8_t family, uint32_t id)
{
    struct hn_fib_table *table = hn_fib_table_find(fib, family, id);
    if (table)
        return table;
    uint8_t bits = hn_family_bits(family);
    table = calloc(1, sizeof *table + (bits + 1u) * sizeof table->levels[0]);
    if (!table)
        return NULL;
    table->id = id;
    table->family = family;
    table->bits = bits;
    struct hn_fib_table **bucket = &fib->buckets[table_bucket(family, id)];
    table->bucket_next = *bucket;
    *bucket = table;
    hn_fib_rules_resolve(fib, table);
    return table;
}

static void entries_free(struct hn_fib_entry *entry)
{
    while (entry) {
        struct hn_fib_entry *next = entry->next;
        free(entry);
        entry = next;
    }
}

void hn_fib_table_destroy(struct hn_fib_table *table)
{
    for (unsigned bits = 0; bits <= table->bits; bits++) {
        struct hn_fib_level *level = &table->levels[bits];
        for (uint32_t i = 0; level->slots && i <= level->mask; i++)
            entries_free(level->slots[i].first);
        free(level->slots);
    }
    free(table);
}

static struct hn_fib_slot *level_free_slot(const struct hn_fib_level *level,
                                           struct hn_fib_prefix prefix)
{
    uint32_t i = hn_fib_prefix_hash(prefix) & level->mask;
    while (level->slots[i].first)
        i = (i + 1) & level->mask;
    return &level->slots[i];
}

static int level_resize(struct hn_fib_level *level, uint32_t slot_count)
{
    struct hn_fib_level larger = {.count = level->count, .mask = slot_count - 1};
    larger.slots = calloc(slot_count, sizeof *larger.slots);
    if (!larger.slots)
        return -ENOMEM;
    for (uint32_t i = 0; level->slots && i <= level->mask; i++)
        if (level->slots[i].first)
            *level_free_slot(&larger, level->slots[i].prefix) = level->slots[i];
    free(level->slots);
    *level = larger;
    return 0;
}

int hn_fib_table_reserve(struct hn_fib_table *table, uint8_t prefix_bits)
{
    struct hn_fib_level *level = &table->levels[prefix_bits];
    if (!level->slots)
        return level_resize(level, LEVEL_SLOTS_MIN);
    uint64_t slot_count = (uint64_t)level->mask + 1;
    if ((level->count + 1ull) * 4 <= slot_count * 3)
        return 0;
    if (slot_count > UINT32_MAX / 2)
        return -ENOMEM;
    return level_resize(level, (uint32_t)(slot_count * 2));
}

struct hn_fib_slot *hn_fib_table_slot(struct hn_fib_table *table, uint8_t prefix_bits,
                                      struct hn_fib_prefix prefix)
{
    struct hn_fib_level *level = &table->levels[prefix_bits];
    struct hn_fib_slot *slot = hn_fib_level_find(level, prefix);
    if (slot)
        return slot;
    hn_assert(level->slots && level->count < level->mask);
    slot = level_free_slot(level, prefix);
    slot->prefix = prefix;
    level->count++;
    table->present[prefix_bits / 64] |= UINT64_C(1) << (prefix_bits % 64);
    return slot;
}

/* Closes the gap instead of leaving a mark, so that probes never grow longer with time. */
static void level_close_gap(struct hn_fib_level *level, uint32_t gap)
{
    for (uint32_t i = (gap + 1) & level->mask; level->slots[i].first; i = (i + 1) & level->mask) {
        uint32_t home = hn_fib_prefix_hash(level->slots[i].prefix) & level->mask;
        if (((i - home) & level->mask) < ((i - gap) & level->mask))
            continue;
        level->slots[gap] = level->slots[i];
        level->slots[i].first = NULL;
        gap = i;
    }
}

void hn_fib_table_release(struct hn_fib_table *table, uint8_t prefix_bits, struct hn_fib_slot *slot)
{
    struct hn_fib_level *level = &table->levels[prefix_bits];
    hn_assert(!slot->first);
    level_close_gap(level, (uint32_t)(slot - level->slots));
    if (--level->count == 0)
        table->present[prefix_bits / 64] &= ~(UINT64_C(1) << (prefix_bits % 64));
}
