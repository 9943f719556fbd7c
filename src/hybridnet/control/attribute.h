/* Walks netlink attributes without trusting any length.  Numbers are in host order and may lie at
   any address.  Source: linux/netlink.h. */
#ifndef HN_ATTRIBUTE_H
#define HN_ATTRIBUTE_H

#include "stack/base.h"

#define HN_NETLINK_ALIGN(bytes) (((bytes) + (size_t)3) & ~(size_t)3)

struct hn_bytes {
    const uint8_t *data;
    size_t length;
};

struct hn_attribute {
    struct hn_bytes value;
    uint16_t type;
};

struct hn_attribute_walk {
    struct hn_bytes rest;
    bool malformed; /* an attribute did not fit into what was left */
};

static inline bool hn_attribute_next(struct hn_attribute_walk *walk, struct hn_attribute *attribute)
{
    const size_t header = 4;
    if (walk->rest.length < header) {
        /* Less than the padding of an attribute is nothing; more would be half a header. */
        walk->malformed |= walk->rest.length > 0;
        return false;
    }
    size_t length = hn_load16(walk->rest.data);
    if (length < header || length > walk->rest.length) {
        walk->malformed = true;
        return false;
    }
    attribute->type = hn_load16(walk->rest.data + 2) & 0x3fff; /* NLA_TYPE_MASK */
    attribute->value.data = walk->rest.data + header;
    attribute->value.length = length - header;
    size_t step = HN_NETLINK_ALIGN(length);
    if (step > walk->rest.length)
        step = walk->rest.length;
    walk->rest.data += step;
    walk->rest.length -= step;
    return true;
}

/* False unless the value is exactly a 32-bit number. */
static inline bool hn_attribute_u32(const struct hn_attribute *attribute, uint32_t *number)
{
    if (attribute->value.length != sizeof *number)
        return false;
    *number = hn_load32(attribute->value.data);
    return true;
}

static inline bool hn_attribute_copy(const struct hn_attribute *attribute, uint8_t *to,
                                     size_t bytes)
{
    if (attribute->value.length != bytes)
        return false;
    memcpy(to, attribute->value.data, bytes);
    return true;
}

#endif
