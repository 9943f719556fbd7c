/* The Internet checksum, unfolded 64-bit and folded.

   Sums are over 16-bit words as they lie in memory; the one's-complement sum does not mind the
   byte order as long as all of it is the same (RFC 1071 section 2).  Every piece but the last
   must have an even length, or be added with hn_checksum_add_odd. */
#ifndef HN_WIRE_CHECKSUM_H
#define HN_WIRE_CHECKSUM_H

#include "stack/base.h"

/* 32-bit words into a 64-bit sum: no carry to handle below 16 GiB, and the compiler makes a
   vector loop of it. */
static inline uint64_t hn_checksum_add(uint64_t sum, const uint8_t *data, size_t length)
{
    size_t words = length / 4;
    uint64_t partial = 0;
    for (size_t i = 0; i < words; i++)
        partial += hn_load32(data + 4 * i);
    data += 4 * words;
    if (length & 2) {
        partial += hn_load16(data);
        data += 2;
    }
    if (length & 1)
        partial += *data; /* little endian: the byte, then a zero */
    return sum + partial;
}

/* The same while copying: the bytes are read once. */
static inline uint64_t hn_checksum_copy(uint64_t sum, uint8_t *restrict to,
                                        const uint8_t *restrict from, size_t length)
{
    size_t words = length / 4;
    uint64_t partial = 0;
    for (size_t i = 0; i < words; i++) {
        uint32_t word = hn_load32(from + 4 * i);
        partial += word;
        memcpy(to + 4 * i, &word, sizeof word);
    }
    size_t done = 4 * words;
    if (length & 2) {
        uint16_t half = hn_load16(from + done);
        partial += half;
        memcpy(to + done, &half, sizeof half);
        done += 2;
    }
    if (length & 1) {
        partial += from[done];
        to[done] = from[done];
    }
    return sum + partial;
}

static inline uint16_t hn_checksum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return (uint16_t)sum;
}

/* A piece that begins at an odd offset of the whole: its bytes change places. */
static inline uint64_t hn_checksum_add_odd(uint64_t sum, const uint8_t *data, size_t length)
{
    uint16_t folded = hn_checksum_fold(hn_checksum_add(0, data, length));
    return sum + __builtin_bswap16(folded);
}

/* The pseudo-header of UDP and TCP over IPv4 (RFC 768) and IPv6 (RFC 8200 8.1). */
static inline uint64_t hn_checksum_pseudo(const uint8_t *source, const uint8_t *destination,
                                          uint32_t address_bytes, uint8_t protocol, uint32_t length)
{
    uint64_t sum = hn_checksum_add(0, source, address_bytes);
    sum = hn_checksum_add(sum, destination, address_bytes);
    return sum + __builtin_bswap32(length) + ((uint64_t)protocol << 8);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the odd last byte and the pseudo-header constants are written for little endian"
#endif

#endif
