/* Flows: for a sender and a destination, everything its packets' headers need.

   Resolving asks the FIB, the neighbour table and the devices once; the answer is good as long as
   the stack's generation stands still, so a changed route takes effect on the next packet and an
   unchanged one costs a comparison. */
#ifndef HN_FLOW_H
#define HN_FLOW_H

#include "stack/stack.h"

enum hn_flow_verdict {
    HN_FLOW_FAST = 0,   /* by an attached interface */
    HN_FLOW_KERNEL,     /* the kernel's business: local, multicast, other interfaces, tunnels */
    HN_FLOW_UNREACHABLE /* only without a kernel path; errno in flow->error */
};

/* Who sends: what a socket is bound to and how its headers look. */
struct hn_flow_source {
    struct hn_address local; /* ip unspecified: chosen by route */
    uint32_t id;             /* distinguishes senders with the same destination */
    uint8_t protocol;
    uint8_t ttl; /* of IPv4 headers, as tos; the other two of IPv6 headers */
    uint8_t tos;
    uint8_t hop_limit;
    uint8_t traffic_class;
};

struct hn_flow {
    uint64_t generation; /* of the stack when resolved */
    uint64_t last_walk;  /* stack->walks at the last use */
    struct hn_address destination;
    uint32_t source_id;
    uint8_t verdict; /* enum hn_flow_verdict */
    uint8_t device;
    uint8_t queue;
    uint8_t family;
    uint16_t l3_mtu;
    uint16_t source_port;
    int32_t error;
    uint32_t l4_sum; /* pseudo-header without lengths, and ports, unfolded */
    uint32_t l3_sum; /* IPv4: header with total length zero, unfolded */
    /* These two are good as long as the generation stands still; see hn_flow_neighbor. */
    struct hn_neighbor *neighbor;
    uint8_t ethernet[16]; /* header; valid when neighbor->resolved at resolve time */
    uint8_t ip[40];       /* header; length and IPv4 checksum filled in per packet */
    uint8_t next_hop[16]; /* what `neighbor` stands for */
    uint8_t next_hop_family;
};

struct hn_flows *hn_flows_create(uint32_t max);
void hn_flows_destroy(struct hn_flows *flows);
size_t hn_flows_bytes(const struct hn_flows *flows);

/* The current flow; resolves anew when it is unknown or out of date.  Never NULL.  The pointer is
   good for packets put into the graph before the next walk. */
struct hn_flow *hn_flow_get(struct hn_stack *stack, const struct hn_flow_source *source,
                            const struct hn_address *destination);

/* For packets that were in the graph while a table changed: the neighbour as it is now, since the
   entry may have gone, or belong to somebody else.  NULL: the table is full, or the device is
   gone. */
struct hn_neighbor *hn_flow_neighbor(struct hn_stack *stack, const struct hn_flow *flow);

/* Path MTU by destination address, from ICMP errors. */
void hn_flows_learn_mtu(struct hn_stack *stack, const struct hn_address *destination, uint32_t mtu);
/* Forgets what is too old; called when stack->path_mtu_expires_ns has passed. */
void hn_flows_expire_mtu(struct hn_stack *stack);

#endif
