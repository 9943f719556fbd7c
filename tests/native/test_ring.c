// sources:
#include "check.h"
#include "xsk/ring.h"

enum { SIZE = 64 };
static const uint32_t START = UINT32_MAX - 100;

/* The two ends of a ring, as the kernel and the process have them: cursors of their own. */
struct pair {
    uint32_t cursors[3];
    uint64_t entries[SIZE];
    struct hn_ring producer;
    struct hn_ring consumer;
};

static void pair_init(struct pair *pair, uint32_t start)
{
    memset(pair, 0, sizeof *pair);
    hn_ring_init_memory(&pair->producer, pair->cursors, pair->entries, SIZE, start);
    hn_ring_init_memory(&pair->consumer, pair->cursors, pair->entries, SIZE, start);
}

static uint32_t produce(struct pair *pair, uint32_t wanted, uint64_t *next)
{
    struct hn_ring *ring = &pair->producer;
    uint32_t room = hn_ring_room(ring, wanted);
    for (uint32_t i = 0; i < room; i++)
        pair->entries[ring->cached_producer++ & ring->mask] = (*next)++;
    hn_ring_publish(ring);
    return room;
}

static uint32_t consume(struct pair *pair, uint32_t wanted, uint64_t *next)
{
    struct hn_ring *ring = &pair->consumer;
    uint32_t available = hn_ring_available(ring, wanted);
    for (uint32_t i = 0; i < available; i++)
        CHECK_EQUAL(pair->entries[ring->cached_consumer++ & ring->mask], (*next)++);
    hn_ring_release(ring);
    return available;
}

static void test_empty_ring_has_all_room_and_nothing_available(void)
{
    struct pair pair;
    pair_init(&pair, START);
    CHECK_EQUAL(hn_ring_room(&pair.producer, SIZE), SIZE);
    CHECK_EQUAL(hn_ring_room(&pair.producer, SIZE + 5), SIZE);
    CHECK_EQUAL(hn_ring_room(&pair.producer, 3), 3);
    CHECK_EQUAL(hn_ring_available(&pair.consumer, SIZE), 0);
    CHECK(hn_ring_drained(&pair.producer));
}

static void test_full_ring_has_no_room_until_something_is_released(void)
{
    struct pair pair;
    uint64_t put = 0, got = 0;
    pair_init(&pair, START);
    CHECK_EQUAL(produce(&pair, SIZE, &put), SIZE);
    CHECK_EQUAL(produce(&pair, 1, &put), 0);
    CHECK(!hn_ring_drained(&pair.producer));
    CHECK_EQUAL(consume(&pair, 1, &got), 1);
    CHECK_EQUAL(produce(&pair, SIZE, &put), 1);
    CHECK_EQUAL(consume(&pair, SIZE, &got), SIZE);
    CHECK(hn_ring_drained(&pair.producer));
}

static void test_unpublished_entries_are_not_available(void)
{
    struct pair pair;
    pair_init(&pair, START);
    pair.producer.cached_producer += 5;
    CHECK_EQUAL(hn_ring_available(&pair.consumer, SIZE), 0);
    hn_ring_publish(&pair.producer);
    CHECK_EQUAL(hn_ring_available(&pair.consumer, SIZE), 5);
}

static void test_entries_keep_their_order_over_the_wrap_of_the_cursors(void)
{
    struct pair pair;
    uint64_t put = 0, got = 0, seed = 0x9e3779b97f4a7c15u;
    printf("seed %llx\n", (unsigned long long)seed);
    pair_init(&pair, START);
    while (got < 50000) {
        produce(&pair, (uint32_t)(check_random(&seed) % (SIZE + 1)), &put);
        consume(&pair, (uint32_t)(check_random(&seed) % (SIZE + 1)), &got);
        CHECK(put - got <= SIZE);
        CHECK_EQUAL(pair.cursors[0], START + (uint32_t)put);
        CHECK_EQUAL(pair.cursors[1], START + (uint32_t)got);
    }
    CHECK(pair.cursors[1] < START); /* it did wrap */
}

static void test_wakeup_flag_is_the_lowest_bit(void)
{
    struct pair pair;
    pair_init(&pair, 0);
    CHECK(!hn_ring_needs_wakeup(&pair.producer));
    pair.cursors[2] = 1;
    CHECK(hn_ring_needs_wakeup(&pair.producer));
    pair.cursors[2] = 2;
    CHECK(!hn_ring_needs_wakeup(&pair.producer));
}

int main(void)
{
    RUN(test_empty_ring_has_all_room_and_nothing_available);
    RUN(test_full_ring_has_no_room_until_something_is_released);
    RUN(test_unpublished_entries_are_not_available);
    RUN(test_entries_keep_their_order_over_the_wrap_of_the_cursors);
    RUN(test_wakeup_flag_is_the_lowest_bit);
    return 0;
}
