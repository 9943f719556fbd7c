/* Ethernet II and VLAN tags: constants and the header walk.  No state.
   Source: IEEE 802.3; IEEE 802.1Q. */
#ifndef HN_WIRE_ETHERNET_H
#define HN_WIRE_ETHERNET_H

#include "stack/base.h"

#define HN_ETHERNET_BYTES 14u
#define HN_ETHERTYPE_IPV4 0x0800u
#define HN_ETHERTYPE_ARP 0x0806u
#define HN_ETHERTYPE_IPV6 0x86ddu
#define HN_ETHERTYPE_VLAN 0x8100u
#define HN_ETHERTYPE_QINQ 0x88a8u
#define HN_VLAN_TAGS_MAX 2u

/* Finds the EtherType behind at most two tags.  Returns the offset of the payload, 0: truncated
   or too many tags.  Linear bytes only. */
static inline uint32_t hn_ethernet_parse(const uint8_t *data, uint32_t length, uint16_t *ethertype)
{
    if (length < HN_ETHERNET_BYTES)
        return 0;
    uint32_t offset = HN_ETHERNET_BYTES;
    uint16_t type = hn_load16_be(data + 12);
    for (uint32_t tag = 0; type == HN_ETHERTYPE_VLAN || type == HN_ETHERTYPE_QINQ; tag++) {
        if (tag == HN_VLAN_TAGS_MAX || length < offset + 4)
            return 0;
        type = hn_load16_be(data + offset + 2);
        offset += 4;
    }
    *ethertype = type;
    return offset;
}

#endif
