/* IPv6 header and the walk over its extension headers.  No state.
   Source: RFC 8200 3, 4; RFC 7045 (a node may drop what it does not know). */
#ifndef HN_WIRE_IPV6_H
#define HN_WIRE_IPV6_H

#include "stack/base.h"

#define HN_IPV6_BYTES 40u
#define HN_IPV6_EXTENSIONS_MAX 8u /* more in one packet is an attack, not a use */

enum hn_ipv6_fault {
    HN_IPV6_OK = 0,
    HN_IPV6_TRUNCATED,
    HN_IPV6_BAD_VERSION,
    HN_IPV6_BAD_LENGTH,
    HN_IPV6_BAD_EXTENSION, /* beyond the packet, too many, or one that must not pass */
    HN_IPV6_FRAGMENT
};

struct hn_ipv6 {
    const uint8_t *source;
    const uint8_t *destination;
    uint32_t header_bytes; /* with extensions: offset of the upper-layer header */
    uint32_t total_bytes;
    uint8_t protocol;
};

/* True when every option of a hop-by-hop or destination options header lies in it and is known,
   or may be skipped by who does not know it (the type's upper two bits, RFC 8200 4.2). */
static inline bool hn_ipv6_options_pass(const uint8_t *header, uint32_t bytes)
{
    for (uint32_t at = 2; at < bytes;) {
        uint8_t type = header[at];
        if (type == 0) { /* Pad1: has no length */
            at++;
            continue;
        }
        if (type >> 6 != 0 || at + 2 > bytes)
            return false;
        at += 2u + header[at + 1];
        if (at > bytes)
            return false;
    }
    return true;
}

static inline enum hn_ipv6_fault hn_ipv6_parse(const uint8_t *header, uint32_t linear,
                                               uint32_t length, struct hn_ipv6 *out)
{
    if (linear < HN_IPV6_BYTES)
        return HN_IPV6_TRUNCATED;
    if (header[0] >> 4 != 6)
        return HN_IPV6_BAD_VERSION;
    uint32_t total = HN_IPV6_BYTES + hn_load16_be(header + 4);
    if (total > length)
        return HN_IPV6_BAD_LENGTH;
    if (linear > total)
        linear = total;
    uint8_t next = header[6];
    uint32_t offset = HN_IPV6_BYTES;
    for (uint32_t i = 0;; i++) {
        bool routing = next == 43;
        if (next == 44)
            return HN_IPV6_FRAGMENT;
        if (next != 0 && next != 60 && !routing)
            break;
        if (i == HN_IPV6_EXTENSIONS_MAX || offset + 8 > linear)
            return HN_IPV6_BAD_EXTENSION;
        /* Hop-by-hop options anywhere but in front are an unknown header (RFC 8200 4). */
        if (next == 0 && i > 0)
            return HN_IPV6_BAD_EXTENSION;
        uint32_t bytes = (header[offset + 1] + 1u) * 8u;
        if (bytes > linear - offset)
            return HN_IPV6_BAD_EXTENSION;
        /* Segments left: this host would have to forward (RFC 5095 forbids type 0). */
        if (routing ? header[offset + 3] != 0 : !hn_ipv6_options_pass(header + offset, bytes))
            return HN_IPV6_BAD_EXTENSION;
        next = header[offset];
        offset += bytes;
    }
    out->source = header + 8;
    out->destination = header + 24;
    out->header_bytes = offset;
    out->total_bytes = total;
    out->protocol = next;
    return HN_IPV6_OK;
}

static inline void hn_ipv6_emit(uint8_t *header, const uint8_t *source, const uint8_t *destination,
                                uint8_t protocol, uint8_t traffic_class, uint8_t hop_limit,
                                uint16_t payload_bytes)
{
    header[0] = (uint8_t)(0x60 | traffic_class >> 4);
    header[1] = (uint8_t)(traffic_class << 4);
    header[2] = header[3] = 0;
    hn_store16_be(header + 4, payload_bytes);
    header[6] = protocol;
    header[7] = hop_limit;
    memcpy(header + 8, source, 16);
    memcpy(header + 24, destination, 16);
}

#endif
