/* IPv4 header: check and emit.  No state.  Source: RFC 791; RFC 1122 3.2.1. */
#ifndef HN_WIRE_IPV4_H
#define HN_WIRE_IPV4_H

#include "stack/wire/checksum.h"

#define HN_IPV4_BYTES 20u
#define HN_IPV4_DONT_FRAGMENT 0x4000u
#define HN_PROTOCOL_ICMP 1u
#define HN_PROTOCOL_TCP 6u
#define HN_PROTOCOL_UDP 17u
#define HN_PROTOCOL_ICMPV6 58u

enum hn_ipv4_fault {
    HN_IPV4_OK = 0,
    HN_IPV4_TRUNCATED,  /* shorter than its header */
    HN_IPV4_BAD_HEADER, /* version or header length */
    HN_IPV4_BAD_LENGTH, /* total length beyond the packet or below the header */
    HN_IPV4_BAD_CHECKSUM
};

struct hn_ipv4 {
    const uint8_t *source;
    const uint8_t *destination;
    uint32_t header_bytes;
    uint32_t total_bytes;
    uint8_t protocol;
    bool fragment; /* MF set or offset not zero */
};

/* Validates `header` of which `linear` bytes are readable, in a packet of `length` bytes. */
static inline enum hn_ipv4_fault hn_ipv4_parse(const uint8_t *header, uint32_t linear,
                                               uint32_t length, struct hn_ipv4 *out)
{
    if (linear < HN_IPV4_BYTES)
        return HN_IPV4_TRUNCATED;
    uint32_t header_bytes = (header[0] & 15u) * 4u;
    if (header[0] >> 4 != 4 || header_bytes < HN_IPV4_BYTES)
        return HN_IPV4_BAD_HEADER;
    if (linear < header_bytes)
        return HN_IPV4_TRUNCATED;
    uint32_t total = hn_load16_be(header + 2);
    if (total < header_bytes || total > length)
        return HN_IPV4_BAD_LENGTH;
    if (hn_checksum_fold(hn_checksum_add(0, header, header_bytes)) != 0xffff)
        return HN_IPV4_BAD_CHECKSUM;
    out->source = header + 12;
    out->destination = header + 16;
    out->header_bytes = header_bytes;
    out->total_bytes = total;
    out->protocol = header[9];
    out->fragment = (hn_load16_be(header + 6) & 0x3fff) != 0;
    return HN_IPV4_OK;
}

/* Writes a 20-byte header, checksum included.  An atomic datagram (DF) may carry any
   identification (RFC 6864 4.1); zero as Linux does. */
static inline void hn_ipv4_emit(uint8_t *header, const uint8_t *source, const uint8_t *destination,
                                uint8_t protocol, uint8_t tos, uint8_t ttl, uint16_t total_bytes)
{
    header[0] = 0x45;
    header[1] = tos;
    hn_store16_be(header + 2, total_bytes);
    hn_store16_be(header + 4, 0);
    hn_store16_be(header + 6, HN_IPV4_DONT_FRAGMENT);
    header[8] = ttl;
    header[9] = protocol;
    memset(header + 10, 0, 2);
    memcpy(header + 12, source, 4);
    memcpy(header + 16, destination, 4);
    uint16_t sum = (uint16_t)~hn_checksum_fold(hn_checksum_add(0, header, HN_IPV4_BYTES));
    memcpy(header + 10, &sum, sizeof sum);
}

#endif
