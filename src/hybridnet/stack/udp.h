/* UDP endpoints: demultiplexing, the receive queue, sending.  Source: RFC 768; RFC 1122 4.1. */
#ifndef HN_UDP_H
#define HN_UDP_H

#include "stack/flow.h"
#include "stack/wire/udp.h"

#define HN_UDP_RECEIVE_LIMIT_DEFAULT (2u << 20) /* until the layer above says otherwise */
#define HN_UDP_RECEIVE_MIN 16u /* datagrams that may wait also when the pool is at its reserve */

struct hn_udp {
    struct hn_stack *stack;
    struct hn_udp *bucket_next; /* same port, newest first */
    struct hn_udp *ready_next;
    void *owner; /* of the layer above, carried through the ready list */
    struct hn_flow_source source;
    struct hn_address remote; /* family 0: not connected */
    uint32_t flags;           /* enum hn_udp_flags */
    bool ready;               /* on the stack's ready list */
    bool wildcard;
    uint32_t queue_head; /* received packets, chained through queue_next */
    uint32_t queue_tail;
    uint32_t queue_count;
    uint32_t queue_bytes; /* frame memory they hold */
    uint32_t queue_limit;
    struct hn_udp_statistics statistics;
};

/* Finds the endpoint for a received datagram, the most specific first, of equals the newest;
   NULL: none. */
struct hn_udp *hn_udp_find(const struct hn_stack *stack, const struct hn_address *local,
                           const struct hn_address *peer);

/* True when no other endpoint can have the same local port, and this one takes any peer. */
bool hn_udp_is_only(const struct hn_udp *udp);

/* Queues a received datagram (owner STACK; peer, payload_offset and payload_length set).  Takes
   the frame in any case: full queues drop by reason. */
void hn_udp_enqueue(struct hn_udp *udp, struct hn_frame *frame);

/* Gives up to max datagrams, owner SOCKET, oldest first. */
uint32_t hn_udp_receive(struct hn_udp *udp, struct hn_frame **frames, uint32_t max);

/* Gives the next endpoint that has something to receive, taken off the list; NULL: none. */
struct hn_udp *hn_udp_next_ready(struct hn_stack *stack);
/* Puts an endpoint back on the list if it still has datagrams. */
void hn_udp_mark_ready(struct hn_udp *udp);

/* Sends a leased datagram (owner USER, single frame, payload in place) without copying; as
   hn_udp_send.  `modified`: the payload may differ from what was received.  Takes the frame on HN_SEND_QUEUED only. */
int hn_udp_send_frame(struct hn_udp *udp, const struct hn_address *to, struct hn_frame *frame,
                      bool modified);

/* Copies a datagram's payload out of its chain; `to` has room for payload_length bytes. */
void hn_udp_copy_payload(const struct hn_pool *pool, const struct hn_frame *frame, uint8_t *to);

#endif
