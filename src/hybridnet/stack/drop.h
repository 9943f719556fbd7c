/* Every reason for which the stack drops a packet, in one list: enum, name and counter. */
#ifndef HN_DROP_H
#define HN_DROP_H

#define HN_DROP_REASONS(X)                            \
    X(ETHERNET_TRUNCATED, "ethernet_truncated")       \
    X(ETHERNET_UNKNOWN_TYPE, "ethernet_unknown_type") \
    X(IP4_TRUNCATED, "ip4_truncated")                 \
    X(IP4_BAD_HEADER, "ip4_bad_header")               \
    X(IP4_BAD_LENGTH, "ip4_bad_length")               \
    X(IP4_BAD_CHECKSUM, "ip4_bad_checksum")           \
    X(IP4_BAD_SOURCE, "ip4_bad_source")               \
    X(IP4_FRAGMENT, "ip4_fragment")                   \
    X(IP4_NOT_LOCAL, "ip4_not_local")                 \
    X(IP6_TRUNCATED, "ip6_truncated")                 \
    X(IP6_BAD_VERSION, "ip6_bad_version")             \
    X(IP6_BAD_LENGTH, "ip6_bad_length")               \
    X(IP6_BAD_EXTENSION, "ip6_bad_extension")         \
    X(IP6_BAD_SOURCE, "ip6_bad_source")               \
    X(IP6_FRAGMENT, "ip6_fragment")                   \
    X(IP6_NOT_LOCAL, "ip6_not_local")                 \
    X(IP_UNKNOWN_PROTOCOL, "ip_unknown_protocol")     \
    X(UDP_TRUNCATED, "udp_truncated")                 \
    X(UDP_BAD_LENGTH, "udp_bad_length")               \
    X(UDP_BAD_CHECKSUM, "udp_bad_checksum")           \
    X(UDP_BAD_PORT, "udp_bad_port")                   \
    X(UDP_NO_ENDPOINT, "udp_no_endpoint")             \
    X(UDP_QUEUE_FULL, "udp_queue_full")               \
    X(UDP_NO_FRAMES, "udp_no_frames")                 \
    X(UDP_CLOSED, "udp_closed")                       \
    X(NEIGHBOR_QUEUE_FULL, "neighbor_queue_full")     \
    X(NEIGHBOR_UNREACHABLE, "neighbor_unreachable")   \
    X(DEVICE_QUEUE_FULL, "device_queue_full")         \
    X(DEVICE_DOWN, "device_down")

enum hn_drop_reason {
#define HN_DROP_ENUM(name, text) HN_DROP_##name,
    HN_DROP_REASONS(HN_DROP_ENUM)
#undef HN_DROP_ENUM
        HN_DROP_REASON_COUNT
};

#endif
