// flags: -fno-sanitize=address,undefined -fsanitize=thread
// libraries: pthread
/* The two ends of a ring on two threads, under ThreadSanitizer: it knows whether the release of one
   end orders the entries before the acquire of the other. */
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "xsk/ring.h"

enum { SIZE = 32, COUNT = 60000 };

static uint32_t cursors[3];
static uint64_t entries[SIZE];

static void *produce(void *context)
{
    struct hn_ring *ring = context;
    for (uint64_t next = 0; next < COUNT;) {
        uint32_t room = hn_ring_room(ring, 7);
        if (room == 0)
            sched_yield();
        for (uint32_t i = 0; i < room && next < COUNT; i++)
            entries[ring->cached_producer++ & ring->mask] = next++ * 3;
        hn_ring_publish(ring);
    }
    return NULL;
}

static void test_two_threads_see_every_entry_once_and_in_order(void)
{
    struct hn_ring producer, consumer;
    hn_ring_init_memory(&producer, cursors, entries, SIZE, UINT32_MAX - 1000);
    hn_ring_init_memory(&consumer, cursors, entries, SIZE, UINT32_MAX - 1000);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, produce, &producer), 0);
    for (uint64_t next = 0; next < COUNT;) {
        uint32_t available = hn_ring_available(&consumer, 5);
        if (available == 0)
            sched_yield();
        for (uint32_t i = 0; i < available; i++)
            CHECK_EQUAL(entries[consumer.cached_consumer++ & consumer.mask], next++ * 3);
        hn_ring_release(&consumer);
    }
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(hn_ring_drained(&producer));
}

int main(void)
{
    RUN(test_two_threads_see_every_entry_once_and_in_order);
    return 0;
}
