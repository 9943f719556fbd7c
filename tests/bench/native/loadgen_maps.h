/* What loadgen.c and its XDP program must agree on. */
#ifndef HN_BENCH_LOADGEN_MAPS_H
#define HN_BENCH_LOADGEN_MAPS_H

#include <linux/types.h>

/* Where replies come from, in network order. */
struct hn_reply_source {
    __u32 address_be;
    __u16 port_be;
    __u16 zero;
};

/* Indices into the per-processor counters. */
enum hn_reply_counter {
    HN_REPLY_PACKETS,
    HN_REPLY_BYTES,  /* of the UDP payloads */
    HN_REPLY_OTHERS, /* anything else; the kernel gets it */
    HN_REPLY_COUNTERS
};

#endif
