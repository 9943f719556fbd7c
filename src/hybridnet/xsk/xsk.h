/* AF_XDP as one device: one socket and four rings per queue over the stack's frame pool.

       fill        frames we lend to the kernel        U -> K
       rx          packets                             K -> U
       tx          packets                             U -> K
       completion  frames that have been sent          K -> U

   Every socket registers the pool's region as a UMEM of its own: interfaces share frames, and
   still each may be zero-copy, copy or generic as its driver allows.  See
   docs/decisions/0002-one-region-many-umems.md. */
#ifndef HN_XSK_H
#define HN_XSK_H

#include "stack/device.h"
#include "xsk/ring.h"
#include "xsk/xsk_api.h"

/* 64 KiB in 2 KiB frames, and the rest of a GSO super-frame's linear part. */
#define HN_XSK_CHAIN_MAX 40u

struct hn_xsk_queue {
    struct hn_ring fill;
    struct hn_ring rx;
    struct hn_ring tx;
    struct hn_ring completion;
    int fd;    /* receives, and is polled; -1: closed */
    int tx_fd; /* transmits, and is never polled: see socket.c */
    bool zero_copy;
    bool kick_wanted;
    uint32_t lent;       /* frames in the fill ring or with the kernel for receive */
    uint32_t lent_max;   /* how many to keep there */
    uint32_t sending;    /* frames in the tx ring or with the kernel for transmit */
    uint32_t chain_head; /* packet whose last descriptor has not been seen, HN_FRAME_NONE */
    uint32_t chain_tail;
    uint32_t chain_count;
    struct hn_xsk_statistics counters; /* ours only; the kernel's are read on demand */
    struct {
        void *address;
        size_t bytes;
    } maps[4];
};

struct hn_xsk_device {
    struct hn_device base;
    struct hn_xsk_queue queues[];
};

static inline struct hn_xsk_device *hn_xsk_of(const struct hn_device *device)
{
    return hn_container_of(device, struct hn_xsk_device, base);
}

/* socket.c: 0 or -errno, nothing left open on failure. */
int hn_xsk_socket_open(struct hn_xsk_queue *queue, const struct hn_pool *pool, uint32_t ifindex,
                       uint32_t queue_id, const struct hn_xsk_options *options);
void hn_xsk_socket_close(struct hn_xsk_queue *queue);

/* transfer.c: the four rings at work. */
uint32_t hn_xsk_rx_burst(struct hn_device *device, uint32_t queue, struct hn_frame **frames,
                         uint32_t max);
uint32_t hn_xsk_tx_burst(struct hn_device *device, uint32_t queue, struct hn_frame **frames,
                         uint32_t n);
bool hn_xsk_flush(struct hn_device *device, uint32_t queue);
/* Lends frames to the kernel until it has lent_max of them or the pool is empty. */
void hn_xsk_refill(struct hn_device *device, uint32_t queue);
/* Takes sent frames back into the pool. */
void hn_xsk_reclaim(struct hn_pool *pool, struct hn_xsk_queue *queue);

#endif
