/* The neighbour table: link-layer addresses as the kernel has them, and the packets that wait.

   The kernel does ARP and neighbour discovery; entries arrive by netlink.  An address in use that
   the kernel does not have is asked for through `wanted` (control/ drains it and tells the kernel
   to resolve); packets for it wait in a bounded queue and go out, or are dropped by reason, when
   the answer comes.

   Source: RFC 1122 2.3.2; RFC 4861 7.2.2. */
#ifndef HN_NEIGHBOR_H
#define HN_NEIGHBOR_H

#include "stack/frame.h"
#include "stack/ip/ip.h"

#define HN_NEIGHBOR_PENDING_MAX 64u /* packets per unresolved neighbour */

/* Values are those of NUD_* in linux/neighbour.h. */
enum hn_neighbor_state {
    HN_NUD_NONE = 0x00,
    HN_NUD_INCOMPLETE = 0x01,
    HN_NUD_REACHABLE = 0x02,
    HN_NUD_STALE = 0x04,
    HN_NUD_DELAY = 0x08,
    HN_NUD_PROBE = 0x10,
    HN_NUD_FAILED = 0x20,
    HN_NUD_NOARP = 0x40,
    HN_NUD_PERMANENT = 0x80
};

struct hn_neighbor {
    uint8_t ip[16];
    uint32_t ifindex;
    uint8_t family;
    uint8_t state; /* enum hn_neighbor_state */
    bool resolved; /* mac is valid: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT */
    bool used;     /* a packet went to it since the flag was cleared (keep-alive) */
    uint8_t mac[6];
    bool wanted; /* in the list of those to be resolved by the kernel */
    uint8_t reserved;
    uint32_t pending_count;
    uint32_t pending_head; /* frame indices; packets chain through queue_next */
    uint32_t pending_tail;
    uint32_t epoch;
    struct hn_neighbor *hash_next;
    struct hn_neighbor *wanted_next;
};

struct hn_neighbor *hn_neighbor_find(const struct hn_neighbors *table, uint32_t ifindex,
                                     uint8_t family, const uint8_t *ip);
/* Applies what the kernel said.  mac is borrowed; NULL or all zero: none, which is never resolved.
   Raises the generation when mac or `resolved` changed, and when packets wait in vain (FAILED).
   An address that is neither known nor resolved is not added.  An entry that was used since it
   last went STALE, and goes STALE again, is wanted: the kernel then probes it (keep-alive).
   -ENOSPC  the table is full */
int hn_neighbor_set(struct hn_neighbors *table, uint32_t ifindex, uint8_t family, const uint8_t *ip,
                    uint8_t state, const uint8_t *mac, uint32_t epoch);
/* The kernel forgot it: removed.  While packets wait it stays, unresolved and wanted again. */
void hn_neighbor_remove(struct hn_neighbors *table, uint32_t ifindex, uint8_t family,
                        const uint8_t *ip);
/* Puts an entry on the wanted list again (once). */
void hn_neighbor_want(struct hn_neighbors *table, struct hn_neighbor *entry);
/* Takes the oldest wanted entry off the list; NULL: none. */
struct hn_neighbor *hn_neighbor_next_wanted(struct hn_neighbors *table);
/* Calls `visit` for every entry until it returns false. */
void hn_neighbors_visit(struct hn_neighbors *table,
                        bool (*visit)(struct hn_neighbor *entry, void *context), void *context);

/* Queues a packet (owner STACK) behind an unresolved neighbour.
   Takes frame on 0; -ENOBUFS: the queue is full, the caller keeps it. */
int hn_neighbor_queue(struct hn_pool *pool, struct hn_neighbor *entry, struct hn_frame *frame);
/* Gives the oldest waiting packet, or NULL. */
struct hn_frame *hn_neighbor_dequeue(struct hn_pool *pool, struct hn_neighbor *entry);

#endif
