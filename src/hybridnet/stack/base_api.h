/* Plain declarations, read by cffi and (through base.h) by the C compiler. */

enum { HN_FAMILY_IPV4 = 4, HN_FAMILY_IPV6 = 6 };

/* An IP endpoint as the stack passes it around.  IPv4 lies in the first four bytes of `ip`, the
   rest zero.  `port` is in host order.  `scope_id` is an interface index, for link-local only. */
struct hn_address {
    uint8_t ip[16];
    uint32_t scope_id;
    uint16_t port;
    uint8_t family;
    uint8_t reserved;
};
