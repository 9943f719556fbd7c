/* Frames and the pool that owns their memory.

   One region of equal frames per stack.  Every AF_XDP socket of the stack registers the same
   region as its UMEM, so a frame received on one interface can leave by another uncopied, and
   each socket keeps its own mode.  A packet longer than a frame is a chain through `next`.

     memory   [ headroom 256 | packet .......................... ]  frame_bytes each
     frames   [ hn_frame ]   the descriptor of the same index, one cache line

   Every frame has exactly one owner at any time; debug builds check each hand-over.
   The headroom is what the kernel leaves in front of a received packet (XDP_PACKET_HEADROOM);
   transmit uses it for the headers. */
#ifndef HN_FRAME_H
#define HN_FRAME_H

#include "stack/base.h"

#define HN_FRAME_HEADROOM 256u
#define HN_FRAME_NONE UINT32_MAX
#define HN_BURST_MAX 256u

enum hn_frame_owner {
    HN_OWNER_POOL = 0, /* on the free list */
    HN_OWNER_FILL,     /* in a fill ring or being written by the kernel */
    HN_OWNER_STACK,    /* in the graph, or waiting for a neighbour */
    HN_OWNER_SOCKET,   /* in the receive queue of an endpoint */
    HN_OWNER_TX,       /* in a device's transmit queue or ring */
    HN_OWNER_USER      /* leased to the application */
};

enum hn_frame_flags {
    HN_FRAME_KERNEL = 1, /* arrived through the kernel path */
    HN_FRAME_SUMMED = 2  /* received: its UDP checksum was complete and right */
};

struct hn_flow;

struct hn_frame {
    uint8_t *data;       /* first byte of the packet, or of this piece of it */
    uint64_t arrival_ns; /* stamped once, at ingress */
    union {
        struct {                   /* on the way up, until the endpoint is known */
            uint16_t l3_offset;    /* from data */
            uint16_t l4_offset;    /* from data */
            uint32_t total_length; /* bytes of the whole packet from data on, chain included */
        };
        struct hn_flow *flow;      /* on the way down: everything the headers need */
        struct {                   /* while it waits in a queue */
            uint32_t queue_next;   /* index of the packet behind it */
            uint16_t received_sum; /* HN_FRAME_SUMMED: what the payload sums up to, folded */
        };
    };
    uint32_t length; /* bytes in this frame from data on */
    uint32_t next;   /* index of the packet's next frame, or HN_FRAME_NONE */
    union {
        struct hn_address peer; /* on the way up: where the datagram came from */
        uint32_t payload_sum;   /* on the way down: unfolded checksum of the payload */
    };
    uint16_t payload_offset; /* from data */
    uint16_t payload_length; /* of the whole datagram, chain included */
    uint8_t owner;
    uint8_t device; /* index in the stack */
    uint8_t queue;
    uint8_t flags;
};
_Static_assert(sizeof(struct hn_frame) == HN_CACHE_LINE, "one frame, one cache line");

struct hn_pool {
    uint8_t *memory;
    struct hn_frame *frames;
    uint32_t *free_list; /* last in, first out: the warmest frame is used next */
    uint32_t free_count;
    uint32_t free_count_min; /* low-water mark since start */
    uint32_t frame_count;
    uint32_t frame_bytes; /* a power of two */
    uint32_t frame_shift;
};

/* Allocates the region and its descriptors; frame_bytes is 2048 or 4096.
   -EINVAL  not a power of two in that range, or no frames
   -ENOMEM */
int hn_pool_init(struct hn_pool *pool, uint32_t frame_count, uint32_t frame_bytes);
void hn_pool_free(struct hn_pool *pool);

static inline uint32_t hn_frame_index(const struct hn_pool *pool, const struct hn_frame *frame)
{
    return (uint32_t)(frame - pool->frames);
}

static inline uint8_t *hn_frame_base(const struct hn_pool *pool, const struct hn_frame *frame)
{
    return pool->memory + ((size_t)hn_frame_index(pool, frame) << pool->frame_shift);
}

/* Bytes that fit from data to the end of the frame's memory. */
static inline uint32_t hn_frame_room(const struct hn_pool *pool, const struct hn_frame *frame)
{
    return (uint32_t)(hn_frame_base(pool, frame) + pool->frame_bytes - frame->data);
}

static inline void hn_frame_set_owner(struct hn_frame *frame, enum hn_frame_owner from,
                                      enum hn_frame_owner to)
{
    hn_assert(frame->owner == from);
    (void)from;
    frame->owner = (uint8_t)to;
}

/* Gives one empty frame to `owner`, data behind the headroom; NULL when none is left. */
static inline struct hn_frame *hn_frame_alloc(struct hn_pool *pool, enum hn_frame_owner owner)
{
    if (hn_unlikely(pool->free_count == 0))
        return NULL;
    struct hn_frame *frame = &pool->frames[pool->free_list[--pool->free_count]];
    if (pool->free_count < pool->free_count_min)
        pool->free_count_min = pool->free_count;
    hn_frame_set_owner(frame, HN_OWNER_POOL, owner);
    frame->data = hn_frame_base(pool, frame) + HN_FRAME_HEADROOM;
    frame->next = HN_FRAME_NONE;
    frame->length = 0;
    frame->flags = 0;
    return frame;
}

/* Takes one frame (not its chain) back from `owner`. */
static inline void hn_frame_free(struct hn_pool *pool, struct hn_frame *frame,
                                 enum hn_frame_owner owner)
{
    hn_frame_set_owner(frame, owner, HN_OWNER_POOL);
#if HN_DEBUG
    memset(hn_frame_base(pool, frame), 0xdb, pool->frame_bytes);
#endif
    pool->free_list[pool->free_count++] = hn_frame_index(pool, frame);
}

/* Takes a packet: the frame and all that are chained to it. */
static inline void hn_packet_free(struct hn_pool *pool, struct hn_frame *frame,
                                  enum hn_frame_owner owner)
{
    for (;;) {
        uint32_t next = frame->next;
        hn_frame_free(pool, frame, owner);
        if (hn_likely(next == HN_FRAME_NONE))
            return;
        frame = &pool->frames[next];
    }
}

#endif
