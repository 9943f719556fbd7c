// sources: stack/ip/neighbor.c stack/frame.c
#include "check.h"
#include "stack/ip/neighbor.h"

static const uint8_t MAC[6] = {2, 0, 0, 0, 0, 1}, OTHER_MAC[6] = {2, 0, 0, 0, 0, 2};
static const uint8_t ZERO_MAC[6];

static const uint8_t *ip(uint8_t last)
{
    static uint8_t ring[8][16];
    static unsigned next;
    uint8_t *made = ring[next++ % 8];
    memcpy(made, (uint8_t[16]){10, 0, 0, last}, 16);
    return made;
}

static void test_unknown_neighbor_is_wanted_once(void)
{
    struct hn_neighbors *table = hn_neighbors_create(8);
    CHECK(hn_neighbor_find(table, 1, 4, ip(1)) == NULL);
    struct hn_neighbor *entry = hn_neighbor_get(table, 1, 4, ip(1));
    CHECK(entry && !entry->resolved && entry->wanted);
    CHECK(hn_neighbor_get(table, 1, 4, ip(1)) == entry);
    CHECK(hn_neighbor_get(table, 2, 4, ip(1)) != entry);
    CHECK(hn_neighbor_next_wanted(table) == entry);
    CHECK(hn_neighbor_next_wanted(table) == hn_neighbor_find(table, 2, 4, ip(1)));
    CHECK(hn_neighbor_next_wanted(table) == NULL);
    hn_neighbors_destroy(table);
}

static void test_answer_resolves_and_raises_the_generation_only_when_it_changes(void)
{
    struct hn_neighbors *table = hn_neighbors_create(8);
    struct hn_neighbor *entry = hn_neighbor_get(table, 1, 4, ip(1));
    uint64_t before = hn_neighbors_generation(table);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_REACHABLE, MAC, 1), 0);
    CHECK(entry->resolved && memcmp(entry->mac, MAC, 6) == 0 && !entry->wanted);
    CHECK_EQUAL(hn_neighbors_generation(table), before + 1);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_STALE, MAC, 1), 0);
    CHECK(entry->resolved);
    CHECK_EQUAL(hn_neighbors_generation(table), before + 1);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_STALE, OTHER_MAC, 1), 0);
    CHECK_EQUAL(hn_neighbors_generation(table), before + 2);
    hn_neighbors_destroy(table);
}

static void test_failed_neighbor_is_unresolved_and_wanted_by_the_next_packet(void)
{
    struct hn_neighbors *table = hn_neighbors_create(8);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_REACHABLE, MAC, 1), 0);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_FAILED, NULL, 1), 0);
    struct hn_neighbor *entry = hn_neighbor_find(table, 1, 4, ip(1));
    CHECK(entry && !entry->resolved && !entry->wanted);
    CHECK(hn_neighbor_get(table, 1, 4, ip(1)) == entry && entry->wanted);
    hn_neighbors_destroy(table);
}

static void test_zero_or_missing_mac_never_resolves(void)
{
    struct hn_neighbors *table = hn_neighbors_create(8);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_NOARP, ZERO_MAC, 1), 0);
    CHECK(hn_neighbor_find(table, 1, 4, ip(1)) == NULL);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_REACHABLE, MAC, 1), 0);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_PERMANENT, NULL, 1), 0);
    CHECK(!hn_neighbor_find(table, 1, 4, ip(1))->resolved);
    hn_neighbors_destroy(table);
}

static void test_used_neighbor_going_stale_is_wanted_and_idle_one_is_not(void)
{
    struct hn_neighbors *table = hn_neighbors_create(8);
    hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_REACHABLE, MAC, 1);
    struct hn_neighbor *entry = hn_neighbor_find(table, 1, 4, ip(1));
    hn_neighbor_use(table, entry);
    CHECK(!entry->wanted);
    hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_STALE, MAC, 1);
    CHECK(entry->wanted && !entry->used && entry->resolved);
    CHECK(hn_neighbor_next_wanted(table) == entry);
    hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_REACHABLE, MAC, 1);
    hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_STALE, MAC, 1);
    CHECK(!entry->wanted);
    hn_neighbor_use(table, entry); /* the first packet after a pause */
    CHECK(entry->wanted && entry->used);
    hn_neighbors_destroy(table);
}

static void test_waiting_packets_are_bounded_and_leave_in_order(void)
{
    struct hn_pool pool;
    CHECK_EQUAL(hn_pool_init(&pool, HN_NEIGHBOR_PENDING_MAX + 1, 2048), 0);
    struct hn_neighbors *table = hn_neighbors_create(8);
    struct hn_neighbor *entry = hn_neighbor_get(table, 1, 4, ip(1));
    struct hn_frame *frames[HN_NEIGHBOR_PENDING_MAX + 1];
    CHECK(hn_neighbor_dequeue(&pool, entry) == NULL);
    for (unsigned i = 0; i <= HN_NEIGHBOR_PENDING_MAX; i++) {
        frames[i] = hn_frame_alloc(&pool, HN_OWNER_STACK);
        CHECK_EQUAL(hn_neighbor_queue(&pool, entry, frames[i]),
                    i < HN_NEIGHBOR_PENDING_MAX ? 0 : -ENOBUFS);
    }
    hn_frame_free(&pool, frames[HN_NEIGHBOR_PENDING_MAX], HN_OWNER_STACK);
    for (unsigned i = 0; i < HN_NEIGHBOR_PENDING_MAX; i++) {
        CHECK(hn_neighbor_dequeue(&pool, entry) == frames[i]);
        hn_frame_free(&pool, frames[i], HN_OWNER_STACK);
    }
    CHECK(hn_neighbor_dequeue(&pool, entry) == NULL);
    CHECK_EQUAL(entry->pending_count, 0);
    hn_neighbors_destroy(table);
    hn_pool_free(&pool);
}

static void test_entry_with_waiting_packets_outlives_removal_sweep_and_purge(void)
{
    struct hn_pool pool;
    CHECK_EQUAL(hn_pool_init(&pool, 4, 2048), 0);
    struct hn_neighbors *table = hn_neighbors_create(8);
    struct hn_neighbor *entry = hn_neighbor_get(table, 1, 4, ip(1));
    struct hn_frame *frame = hn_frame_alloc(&pool, HN_OWNER_STACK);
    CHECK_EQUAL(hn_neighbor_queue(&pool, entry, frame), 0);
    CHECK(hn_neighbor_next_wanted(table) == entry);
    hn_neighbor_remove(table, 1, 4, ip(1));
    CHECK(hn_neighbor_next_wanted(table) == entry);
    hn_neighbors_sweep(table, 4, 9);
    CHECK(hn_neighbor_next_wanted(table) == entry);
    uint64_t before = hn_neighbors_generation(table);
    hn_neighbors_purge_interface(table, 1);
    CHECK_EQUAL(entry->state, HN_NUD_FAILED);
    CHECK(hn_neighbors_generation(table) > before);
    CHECK(hn_neighbor_dequeue(&pool, entry) == frame);
    hn_frame_free(&pool, frame, HN_OWNER_STACK);
    hn_neighbors_purge_interface(table, 1);
    CHECK_EQUAL(hn_neighbors_count(table), 0);
    hn_neighbors_destroy(table);
    hn_pool_free(&pool);
}

static void test_failure_while_packets_wait_raises_the_generation(void)
{
    struct hn_pool pool;
    CHECK_EQUAL(hn_pool_init(&pool, 4, 2048), 0);
    struct hn_neighbors *table = hn_neighbors_create(8);
    struct hn_neighbor *entry = hn_neighbor_get(table, 1, 4, ip(1));
    struct hn_frame *frame = hn_frame_alloc(&pool, HN_OWNER_STACK);
    hn_neighbor_queue(&pool, entry, frame);
    uint64_t before = hn_neighbors_generation(table);
    hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_INCOMPLETE, NULL, 1);
    CHECK_EQUAL(hn_neighbors_generation(table), before);
    hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_FAILED, NULL, 1);
    CHECK_EQUAL(hn_neighbors_generation(table), before + 1);
    hn_frame_free(&pool, hn_neighbor_dequeue(&pool, entry), HN_OWNER_STACK);
    hn_neighbors_destroy(table);
    hn_pool_free(&pool);
}

static void test_full_table_reuses_unresolved_entries_and_counts_refusals(void)
{
    struct hn_neighbors *table = hn_neighbors_create(4);
    for (uint8_t i = 0; i < 3; i++)
        CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(i), HN_NUD_REACHABLE, MAC, 1), 0);
    CHECK(hn_neighbor_get(table, 1, 4, ip(10)) != NULL);
    CHECK(hn_neighbor_get(table, 1, 4, ip(11)) == NULL); /* the unresolved one is still wanted */
    CHECK_EQUAL(hn_neighbors_refused(table), 1);
    CHECK_EQUAL(hn_neighbor_set(table, 1, 4, ip(12), HN_NUD_REACHABLE, MAC, 1), -ENOSPC);
    CHECK(hn_neighbor_next_wanted(table) != NULL);
    uint64_t before = hn_neighbors_generation(table);
    CHECK(hn_neighbor_get(table, 1, 4, ip(11)) != NULL);
    CHECK(hn_neighbors_generation(table) > before);
    CHECK(hn_neighbor_find(table, 1, 4, ip(10)) == NULL);
    CHECK_EQUAL(hn_neighbors_count(table), 4);
    hn_neighbors_destroy(table);
}

static void test_sweep_removes_what_was_not_seen_in_its_family(void)
{
    struct hn_neighbors *table = hn_neighbors_create(8);
    hn_neighbor_set(table, 1, 4, ip(1), HN_NUD_REACHABLE, MAC, 1);
    hn_neighbor_set(table, 1, 4, ip(2), HN_NUD_REACHABLE, MAC, 2);
    hn_neighbor_set(table, 1, 6, ip(3), HN_NUD_REACHABLE, MAC, 1);
    hn_neighbors_sweep(table, 4, 2);
    CHECK(hn_neighbor_find(table, 1, 4, ip(1)) == NULL);
    CHECK(hn_neighbor_find(table, 1, 4, ip(2)) != NULL);
    CHECK(hn_neighbor_find(table, 1, 6, ip(3)) != NULL);
    hn_neighbors_destroy(table);
}

static void test_removing_wanted_entries_keeps_the_list_whole(void)
{
    uint64_t state = 42;
    printf("seed %llu\n", (unsigned long long)state);
    struct hn_neighbors *table = hn_neighbors_create(32);
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t random = check_random(&state);
        uint8_t last = (uint8_t)(random >> 8 & 63);
        uint32_t device = 1 + (uint32_t)(random >> 16 & 1);
        switch (random & 7) {
        case 0:
            hn_neighbor_remove(table, device, 4, ip(last));
            break;
        case 1:
            hn_neighbor_next_wanted(table);
            break;
        case 2:
            hn_neighbor_set(table, device, 4, ip(last), HN_NUD_STALE, MAC, step);
            break;
        case 3:
            if ((random >> 20 & 63) == 0)
                hn_neighbors_purge_interface(table, device);
            break;
        default:
            hn_neighbor_get(table, device, 4, ip(last));
        }
    }
    size_t wanted = 0;
    while (hn_neighbor_next_wanted(table))
        wanted++;
    CHECK(wanted <= hn_neighbors_count(table));
    hn_neighbors_sweep(table, 4, UINT32_MAX);
    CHECK_EQUAL(hn_neighbors_count(table), 0);
    hn_neighbors_destroy(table);
}

static void test_creation_without_memory_leaks_nothing(void)
{
    for (uint64_t n = 1; n <= 3; n++) {
        check_fail_allocation(n);
        CHECK(hn_neighbors_create(8) == NULL);
        check_fail_allocation(0);
    }
    hn_neighbors_destroy(NULL);
}

int main(void)
{
    RUN(test_unknown_neighbor_is_wanted_once);
    RUN(test_answer_resolves_and_raises_the_generation_only_when_it_changes);
    RUN(test_failed_neighbor_is_unresolved_and_wanted_by_the_next_packet);
    RUN(test_zero_or_missing_mac_never_resolves);
    RUN(test_used_neighbor_going_stale_is_wanted_and_idle_one_is_not);
    RUN(test_waiting_packets_are_bounded_and_leave_in_order);
    RUN(test_entry_with_waiting_packets_outlives_removal_sweep_and_purge);
    RUN(test_failure_while_packets_wait_raises_the_generation);
    RUN(test_full_table_reuses_unresolved_entries_and_counts_refusals);
    RUN(test_sweep_removes_what_was_not_seen_in_its_family);
    RUN(test_removing_wanted_entries_keeps_the_list_whole);
    RUN(test_creation_without_memory_leaks_nothing);
    return 0;
}
