/* What every C file of the project may use: types, branch hints, byte order, bug assertions. */
#ifndef HN_BASE_H
#define HN_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stack/base_api.h"

_Static_assert(sizeof(struct hn_address) == 24, "kept small: one is copied per datagram");

#define hn_likely(x) __builtin_expect(!!(x), 1)
#define hn_unlikely(x) __builtin_expect(!!(x), 0)
#define hn_container_of(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#define HN_CACHE_LINE 64

#ifndef HN_DEBUG
#define HN_DEBUG 0
#endif

/* For our own bugs only, never for what a peer sent or a caller passed.  Debug builds stop at the
   line; release builds compile it away. */
#if HN_DEBUG
#define hn_assert(condition)                                                                \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "hybridnet: %s:%d: assertion failed: %s\n", __FILE__, __LINE__, \
                    #condition);                                                            \
            abort();                                                                        \
        }                                                                                   \
    } while (0)
#else
#define hn_assert(condition) ((void)sizeof(condition))
#endif

/* Unaligned loads and stores: wire headers lie at any address. */
static inline uint16_t hn_load16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t hn_load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t hn_load64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint16_t hn_load16_be(const void *p) { return __builtin_bswap16(hn_load16(p)); }
static inline uint32_t hn_load32_be(const void *p) { return __builtin_bswap32(hn_load32(p)); }
static inline void hn_store16_be(void *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}
static inline void hn_store32_be(void *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

#endif
