/* UDP header: parse and emit.  No state.  Source: RFC 768; RFC 8200 8.1. */
#ifndef HN_WIRE_UDP_H
#define HN_WIRE_UDP_H

#include "stack/base.h"

#define HN_UDP_BYTES 8u

struct hn_udp_header {
    uint16_t source_port;
    uint16_t destination_port;
    uint16_t length;   /* header and payload */
    uint16_t checksum; /* as it lies in memory */
};

/* Reads the header; false when `linear` or the IP payload (`available` bytes) is too short or
   the length field does not fit into it. */
static inline bool hn_udp_parse(const uint8_t *header, uint32_t linear, uint32_t available,
                                struct hn_udp_header *out)
{
    if (linear < HN_UDP_BYTES || available < HN_UDP_BYTES)
        return false;
    out->source_port = hn_load16_be(header);
    out->destination_port = hn_load16_be(header + 2);
    out->length = hn_load16_be(header + 4);
    out->checksum = hn_load16(header + 6);
    return out->length >= HN_UDP_BYTES && out->length <= available;
}

/* Writes the header; `checksum` as it shall lie in memory, already complemented. */
static inline void hn_udp_emit(uint8_t *header, uint16_t source_port, uint16_t destination_port,
                               uint16_t length, uint16_t checksum)
{
    hn_store16_be(header, source_port);
    hn_store16_be(header + 2, destination_port);
    hn_store16_be(header + 4, length);
    memcpy(header + 6, &checksum, sizeof checksum);
}

#endif
