/* What the steering program and its loader must agree on: map names are those of the variables in
   steer.bpf.c, key and value layouts and the reasons are here.  Plain C with the kernel's integer
   types only, because both the BPF target and the C library of the loader read it.

     hn_endpoints  hash      hn_endpoint_key -> u8      what is lifted
     hn_local      hash      hn_local_key -> u8         addresses that wildcards stand for
     hn_sockets    XSKMAP    queue -> AF_XDP socket
     hn_settings   array[1]  hn_steer_settings          changeable while running
     hn_counters   per CPU   reason -> u64 packets      each packet is counted exactly once */
#ifndef HN_STEER_MAPS_H
#define HN_STEER_MAPS_H

#include <linux/types.h>

#define HN_STEER_ENDPOINTS_MAX 65536
#define HN_STEER_LOCAL_MAX 4096

/* IPv4 lies in the first four bytes of `address`, the rest zero; all zero is the wildcard. */
struct hn_endpoint_key {
    __u8 protocol; /* IPPROTO_UDP, IPPROTO_TCP */
    __u8 family;   /* 4, 6 */
    __u16 port_be;
    __u8 address[16];
};
_Static_assert(sizeof(struct hn_endpoint_key) == 20, "hash keys have no padding");

struct hn_local_key {
    __u8 family;
    __u8 zero[3];
    __u8 address[16];
};
_Static_assert(sizeof(struct hn_local_key) == 20, "hash keys have no padding");

struct hn_steer_settings {
    __u32 mtu;     /* bytes of the largest IP packet that the interface takes unsplit */
    __u16 has_mac; /* 0: `mac` is not known, frames are taken whatever their destination */
    __u8 mac[6];   /* of the interface */
};

/* name, and what it means; REDIRECTED is the only one whose packets leave the kernel. */
#define HN_STEER_REASONS(X)                                                                     \
    X(REDIRECTED, "redirected") /* to the AF_XDP socket of the receiving queue */               \
    X(NO_SOCKET, "no_socket")   /* ours, but that queue has no socket */                        \
    X(NOT_OURS, "not_ours")     /* IP, but no endpoint of this stack */                         \
    X(NOT_IP, "not_ip")         /* ARP, LLDP, ... */                                            \
    X(VLAN, "vlan")             /* tagged with a VLAN identifier */                             \
    X(FRAGMENT, "fragment")     /* the kernel reassembles */                                    \
    X(MULTICAST, "multicast")   /* multicast or broadcast, of either layer */                   \
    X(OTHER_HOST, "other_host") /* to another MAC address: a bridge port, promiscuous mode */   \
    X(MARTIAN, "martian")       /* loopback, unspecified ... where the wire must not have it */ \
    X(OVERSIZE, "oversize")     /* generic mode: a datagram longer than the MTU */              \
    X(GSO, "gso")               /* generic mode: several datagrams in one buffer */             \
    X(ICMP_ERROR, "icmp_error") /* about a packet of ours: the kernel socket is told */         \
    X(ODD, "odd")               /* does not add up, or more headers than are looked at */

#define HN_STEER_ENUM(id, name) HN_STEER_##id,
enum hn_steer_reason { HN_STEER_REASONS(HN_STEER_ENUM) HN_STEER_REASON_COUNT };
#undef HN_STEER_ENUM

#endif
