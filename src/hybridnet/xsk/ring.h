/* Single-producer single-consumer rings shared with the kernel.

     producer ->  [ . . x x x x . . ]  <- consumer
                        ^c      ^p       entries c..p-1 belong to the consumer

   The cursors are 32-bit, run freely and wrap at 2^32; the slot is cursor & mask.  Differences
   are taken in unsigned 32-bit arithmetic, so a wrap needs no care.  Each side publishes its own
   cursor with release order and reads the other's with acquire order; the copies kept here spare
   the cache-line transfer while there is known room.

   The memory may be the kernel's or, in tests, plain memory (hn_ring_init_memory). */
#ifndef HN_RING_H
#define HN_RING_H

#include "stack/base.h"

struct hn_ring {
    uint32_t *producer;
    uint32_t *consumer;
    uint32_t *flags;
    void *entries;
    uint32_t size; /* a power of two */
    uint32_t mask;
    uint32_t cached_producer;
    uint32_t cached_consumer;
};

/* A ring over memory of the caller: three cursors' worth and size entries; for tests. */
static inline void hn_ring_init_memory(struct hn_ring *ring, uint32_t *cursors, void *entries,
                                       uint32_t size, uint32_t start)
{
    cursors[0] = cursors[1] = start;
    cursors[2] = 0;
    *ring = (struct hn_ring){.producer = &cursors[0],
                             .consumer = &cursors[1],
                             .flags = &cursors[2],
                             .entries = entries,
                             .size = size,
                             .mask = size - 1,
                             .cached_producer = start,
                             .cached_consumer = start};
}

/* Producer: how many of `wanted` entries can be written now. */
static inline uint32_t hn_ring_room(struct hn_ring *ring, uint32_t wanted)
{
    uint32_t room = ring->size - (ring->cached_producer - ring->cached_consumer);
    if (room < wanted) {
        ring->cached_consumer = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
        room = ring->size - (ring->cached_producer - ring->cached_consumer);
    }
    return room < wanted ? room : wanted;
}

/* Producer: makes everything up to cached_producer visible. */
static inline void hn_ring_publish(struct hn_ring *ring)
{
    __atomic_store_n(ring->producer, ring->cached_producer, __ATOMIC_RELEASE);
}

/* Consumer: how many of `wanted` entries can be read now. */
static inline uint32_t hn_ring_available(struct hn_ring *ring, uint32_t wanted)
{
    uint32_t available = ring->cached_producer - ring->cached_consumer;
    if (available < wanted) {
        ring->cached_producer = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
        available = ring->cached_producer - ring->cached_consumer;
    }
    return available < wanted ? available : wanted;
}

/* Consumer: gives everything up to cached_consumer back. */
static inline void hn_ring_release(struct hn_ring *ring)
{
    __atomic_store_n(ring->consumer, ring->cached_consumer, __ATOMIC_RELEASE);
}

static inline bool hn_ring_needs_wakeup(const struct hn_ring *ring)
{
    return (__atomic_load_n(ring->flags, __ATOMIC_RELAXED) & 1u) != 0;
}

/* True when the other side has consumed all that was published. */
static inline bool hn_ring_drained(const struct hn_ring *ring)
{
    return __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE) == ring->cached_producer;
}

#endif
