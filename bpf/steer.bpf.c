// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/* The steering program: which packets leave the kernel for the stack in userspace.

     Ethernet -> VLAN tags -> IPv4 | IPv6 and its extension headers -> UDP | TCP port
       an endpoint of ours -> XDP_REDIRECT to the AF_XDP socket of the receiving queue
       anything else       -> XDP_PASS

   When in doubt a packet passes: every endpoint also has a kernel socket, so what the fast path
   leaves alone still arrives.  Nothing is ever dropped here, and nothing is changed.  Every
   packet adds one to exactly one counter.

   Only the linear part of a packet is read.  Headers that reach beyond it count as odd.

   ICMP errors that quote one of our endpoints are counted and passed: the kernel socket of the
   endpoint reports them through its error queue and the kernel learns the path MTU from them, so
   one delivery serves both paths.

   The same body is compiled once per situation; the loader takes the first that the kernel
   accepts.  The entry points are at the end. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer_maps.h"

#define VLAN_TAGS_MAX 2
#define EXTENSIONS_MAX 8
#define VLAN_ID_MASK 0x0fff
#define IPV4_FRAGMENT_MASK 0x3fff /* more fragments, and the offset */
#define IPV4_OFFSET_MASK 0x1fff

enum { EXT_HOP = 0, EXT_ROUTING = 43, EXT_FRAGMENT = 44, EXT_DESTINATION = 60 };

/* Not a reason yet: the packet is still in the run. */
#define GO_ON (-1)

struct vlan_tag {
    __be16 control;
    __be16 next_type;
};

struct extension {
    __u8 next;
    __u8 length_units; /* of 8 bytes, not counting the first */
    __u8 routing_type;
    __u8 segments_left;
};

struct icmp_header {
    __u8 type;
    __u8 code;
    __be16 checksum;
    __be32 rest;
};

/* How one buffer that holds several datagrams (UDP segmentation offload) is told from one
   datagram.  Native mode never sees such buffers. */
enum gso_rule { GSO_NEVER, GSO_SHARED_INFO, GSO_CHECKSUM };

/* Where parsing stands.  `left` counts the bytes that the layers so far say are there; it may go
   beyond `end`, which closes the linear part. */
struct cursor {
    void *at;
    void *end;
    __u32 left;
};

/* What the headers said. */
struct packet {
    struct hn_endpoint_key to;
    __u8 from[16] __attribute__((aligned(4)));
    __u8 protocol;
    __u32 ip_bytes;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HN_STEER_ENDPOINTS_MAX);
    __type(key, struct hn_endpoint_key);
    __type(value, __u8);
} hn_endpoints SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HN_STEER_LOCAL_MAX);
    __type(key, struct hn_local_key);
    __type(value, __u8);
} hn_local SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 1); /* the loader sets the number of queues */
    __type(key, __u32);
    __type(value, __u32);
} hn_sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hn_steer_settings);
} hn_settings SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, HN_STEER_REASON_COUNT);
    __type(key, __u32);
    __type(value, __u64);
} hn_counters SEC(".maps");

/* ---- Several datagrams in one buffer ---- */

/* The kernel's own structures, as far as they are read; offsets are fixed up at load time. */
struct xdp_buff {
    void *data_hard_start;
    __u32 frame_sz;
} __attribute__((preserve_access_index));

struct skb_shared_info {
    unsigned short gso_size;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

/* The kernel rounds the shared info up to a cache line of the architecture, which its type
   information does not tell.  The loader uses this rule only where the line has 64 bytes. */
#define CACHE_LINE_BYTES 64u

/* In generic mode the buffer is that of a socket buffer, with the shared info at its very end. */
static __always_inline bool shared_info_has_gso(struct xdp_md *ctx)
{
    struct xdp_buff *buffer = bpf_cast_to_kern_ctx(ctx);
    __u32 info_bytes = bpf_core_type_size(struct skb_shared_info);
    info_bytes = (info_bytes + CACHE_LINE_BYTES - 1) & ~(CACHE_LINE_BYTES - 1);
    __u64 info = (__u64)buffer->data_hard_start + buffer->frame_sz - info_bytes;
    __u16 gso_size = 0;
    __u32 offset = bpf_core_field_offset(struct skb_shared_info, gso_size);
    if (bpf_probe_read_kernel(&gso_size, sizeof gso_size, (void *)(info + offset)))
        return true; /* cannot tell: the kernel path keeps the boundaries */
    return gso_size != 0;
}

static __always_inline __u32 sum_address(const __u8 *address)
{
    const __be32 *words = (const __be32 *)address;
    __u64 sum = (__u64)words[0] + words[1] + words[2] + words[3];
    sum = (sum & 0xffffffff) + (sum >> 32);
    return (__u32)((sum & 0xffff) + (sum >> 16));
}

/* Segmentation is always deferred together with the checksum, so the checksum field of such a
   buffer holds no more than the pseudo-header's sum.  So does that of any datagram from a
   virtual peer; those pass in vain, which is the price of not seeing the shared info. */
static __always_inline bool checksum_is_deferred(const struct packet *packet,
                                                 const struct udphdr *udp)
{
    /* Both addresses are zero behind their four bytes where they are IPv4. */
    __u32 sum = sum_address(packet->from) + sum_address(packet->to.address);
    sum += udp->len + bpf_htons(IPPROTO_UDP);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return udp->check == (__u16)sum;
}

/* ---- Endpoints ---- */

static __always_inline bool is_ours(const struct hn_endpoint_key *key)
{
    if (bpf_map_lookup_elem(&hn_endpoints, key))
        return true;
    struct hn_endpoint_key any = {
        .protocol = key->protocol, .family = key->family, .port_be = key->port_be};
    if (!bpf_map_lookup_elem(&hn_endpoints, &any))
        return false;
    struct hn_local_key local = {.family = key->family};
    __builtin_memcpy(local.address, key->address, sizeof local.address);
    return bpf_map_lookup_elem(&hn_local, &local) != NULL;
}

/* ---- Layers, outermost first.  Each moves the cursor over its header, or gives the reason why
   the packet stays with the kernel. ---- */

/* The kernel marks such frames PACKET_OTHERHOST and its IP layers never see them. */
static __always_inline bool is_for_another_host(const __u8 *destination)
{
    __u32 zero = 0;
    struct hn_steer_settings *settings = bpf_map_lookup_elem(&hn_settings, &zero);
    if (!settings || !settings->has_mac)
        return false;
    __u8 difference = 0;
#pragma unroll
    for (int i = 0; i < 6; i++)
        difference |= settings->mac[i] ^ destination[i];
    return difference != 0;
}

static __always_inline int parse_ethernet(struct cursor *cursor, __be16 *type)
{
    struct ethhdr *ethernet = cursor->at;
    if ((void *)(ethernet + 1) > cursor->end)
        return HN_STEER_ODD;
    *type = ethernet->h_proto;
    const __u8 *destination = ethernet->h_dest;
    bool group = destination[0] & 1;
    cursor->at = ethernet + 1;
    cursor->left -= sizeof *ethernet;
#pragma unroll
    for (int i = 0; i < VLAN_TAGS_MAX; i++) {
        if (*type != bpf_htons(ETH_P_8021Q) && *type != bpf_htons(ETH_P_8021AD))
            break;
        struct vlan_tag *tag = cursor->at;
        if ((void *)(tag + 1) > cursor->end)
            return HN_STEER_ODD;
        /* Identifier 0 only carries a priority; the frame belongs to the untagged network. */
        if (tag->control & bpf_htons(VLAN_ID_MASK))
            return HN_STEER_VLAN;
        *type = tag->next_type;
        cursor->at = tag + 1;
        cursor->left -= sizeof *tag;
    }
    if (*type == bpf_htons(ETH_P_8021Q) || *type == bpf_htons(ETH_P_8021AD))
        return HN_STEER_ODD;
    if (*type != bpf_htons(ETH_P_IP) && *type != bpf_htons(ETH_P_IPV6))
        return HN_STEER_NOT_IP;
    if (group)
        return HN_STEER_MULTICAST;
    return is_for_another_host(destination) ? HN_STEER_OTHER_HOST : GO_ON;
}

static __always_inline int check_ipv4_addresses(__be32 source, __be32 destination)
{
    __u32 from = bpf_ntohl(source), to = bpf_ntohl(destination);
    if (to >> 28 == 0xe || to == 0xffffffff)
        return HN_STEER_MULTICAST;
    if (to >> 24 == 127 || to >> 24 == 0)
        return HN_STEER_MARTIAN;
    if (from >> 24 == 127 || from >> 24 == 0 || from >> 28 == 0xe || from == 0xffffffff)
        return HN_STEER_MARTIAN;
    return GO_ON;
}

/* RFC 791 3.1. */
static __always_inline int parse_ipv4(struct cursor *cursor, struct packet *packet)
{
    struct iphdr *ip = cursor->at;
    if ((void *)(ip + 1) > cursor->end)
        return HN_STEER_ODD;
    __u32 header_bytes = ip->ihl * 4u, total = bpf_ntohs(ip->tot_len);
    if (ip->version != 4 || header_bytes < sizeof *ip || total < header_bytes ||
        total > cursor->left)
        return HN_STEER_ODD;
    if (ip->frag_off & bpf_htons(IPV4_FRAGMENT_MASK))
        return HN_STEER_FRAGMENT;
    int reason = check_ipv4_addresses(ip->saddr, ip->daddr);
    if (reason != GO_ON)
        return reason;
    packet->protocol = ip->protocol;
    packet->ip_bytes = total;
    packet->to.family = 4;
    __builtin_memcpy(packet->to.address, &ip->daddr, sizeof ip->daddr);
    __builtin_memcpy(packet->from, &ip->saddr, sizeof ip->saddr);
    cursor->at += header_bytes;
    cursor->left = total - header_bytes;
    return GO_ON;
}

static __always_inline bool ipv6_is_low(const struct in6_addr *address, __u32 last)
{
    const __be32 *words = address->in6_u.u6_addr32;
    return !(words[0] | words[1] | words[2]) && words[3] == bpf_htonl(last);
}

static __always_inline int check_ipv6_addresses(const struct in6_addr *source,
                                                const struct in6_addr *destination)
{
    if (destination->in6_u.u6_addr8[0] == 0xff)
        return HN_STEER_MULTICAST;
    if (source->in6_u.u6_addr8[0] == 0xff)
        return HN_STEER_MARTIAN;
    if (ipv6_is_low(destination, 0) || ipv6_is_low(destination, 1) || ipv6_is_low(source, 0) ||
        ipv6_is_low(source, 1))
        return HN_STEER_MARTIAN;
    /* An IPv4-mapped address is a notation and never on the wire. */
    const __be32 *words = source->in6_u.u6_addr32;
    if (!(words[0] | words[1]) && words[2] == bpf_htonl(0xffff))
        return HN_STEER_MARTIAN;
    return GO_ON;
}

/* Walks to the first header that is not an extension.  A routing header that still has segments
   to visit makes this node a router, which is the kernel's part.  RFC 8200 4. */
static __always_inline int parse_extensions(struct cursor *cursor, __u8 *protocol)
{
    for (int i = 0; i <= EXTENSIONS_MAX; i++) {
        __u8 type = *protocol;
        if (type == EXT_FRAGMENT)
            return HN_STEER_FRAGMENT;
        if (type != EXT_HOP && type != EXT_ROUTING && type != EXT_DESTINATION)
            return GO_ON;
        if (type == EXT_HOP && i > 0)
            return HN_STEER_ODD;
        struct extension *extension = cursor->at;
        if ((void *)(extension + 1) > cursor->end)
            return HN_STEER_ODD;
        __u32 bytes = (extension->length_units + 1u) * 8u;
        if (bytes > cursor->left || (type == EXT_ROUTING && extension->segments_left))
            return HN_STEER_ODD;
        *protocol = extension->next;
        cursor->at += bytes;
        cursor->left -= bytes;
    }
    return HN_STEER_ODD;
}

/* RFC 8200 3. */
static __always_inline int parse_ipv6(struct cursor *cursor, struct packet *packet)
{
    struct ipv6hdr *ip = cursor->at;
    if ((void *)(ip + 1) > cursor->end)
        return HN_STEER_ODD;
    __u32 payload = bpf_ntohs(ip->payload_len);
    if (ip->version != 6 || payload + sizeof *ip > cursor->left)
        return HN_STEER_ODD;
    int reason = check_ipv6_addresses(&ip->saddr, &ip->daddr);
    if (reason != GO_ON)
        return reason;
    packet->protocol = ip->nexthdr;
    packet->ip_bytes = payload + sizeof *ip;
    packet->to.family = 6;
    __builtin_memcpy(packet->to.address, &ip->daddr, sizeof ip->daddr);
    __builtin_memcpy(packet->from, &ip->saddr, sizeof ip->saddr);
    cursor->at = ip + 1;
    cursor->left = payload;
    return parse_extensions(cursor, &packet->protocol);
}

/* ---- ICMP errors ---- */

/* The start of the packet that the error is about: its source is the endpoint, were it ours.
   Routers cut it short, so no length in it is checked against anything. */
static __always_inline bool parse_quote(struct cursor *cursor, __u8 family,
                                        struct hn_endpoint_key *from)
{
    from->family = family;
    if (family == 4) {
        struct iphdr *ip = cursor->at;
        if ((void *)(ip + 1) > cursor->end || ip->version != 4 || ip->ihl < 5 ||
            (ip->frag_off & bpf_htons(IPV4_OFFSET_MASK)))
            return false;
        from->protocol = ip->protocol;
        __builtin_memcpy(from->address, &ip->saddr, sizeof ip->saddr);
        cursor->at += ip->ihl * 4u;
    } else {
        struct ipv6hdr *ip = cursor->at;
        if ((void *)(ip + 1) > cursor->end || ip->version != 6)
            return false;
        from->protocol = ip->nexthdr;
        __builtin_memcpy(from->address, &ip->saddr, sizeof ip->saddr);
        cursor->at = ip + 1;
        cursor->left = 0xffff;
        if (parse_extensions(cursor, &from->protocol) != GO_ON)
            return false;
    }
    if (from->protocol != IPPROTO_UDP && from->protocol != IPPROTO_TCP)
        return false;
    __be16 *ports = cursor->at;
    if ((void *)(ports + 2) > cursor->end)
        return false;
    from->port_be = ports[0];
    return true;
}

/* Destination unreachable, time exceeded, parameter problem; packet too big.
   RFC 792; RFC 4443 3. */
static __always_inline bool is_icmp_error(__u8 protocol, __u8 type)
{
    if (protocol == IPPROTO_ICMP)
        return type == 3 || type == 11 || type == 12;
    return type >= 1 && type <= 4;
}

static __always_inline int classify_icmp(struct cursor *cursor, const struct packet *packet)
{
    struct icmp_header *icmp = cursor->at;
    if ((void *)(icmp + 1) > cursor->end || sizeof *icmp > cursor->left)
        return HN_STEER_ODD;
    if (!is_icmp_error(packet->protocol, icmp->type))
        return HN_STEER_NOT_OURS;
    cursor->at = icmp + 1;
    struct hn_endpoint_key from = {};
    if (!parse_quote(cursor, packet->to.family, &from))
        return HN_STEER_NOT_OURS;
    return is_ours(&from) ? HN_STEER_ICMP_ERROR : HN_STEER_NOT_OURS;
}

/* ---- UDP and TCP ---- */

static __always_inline bool is_oversize(const struct packet *packet)
{
    __u32 zero = 0;
    struct hn_steer_settings *settings = bpf_map_lookup_elem(&hn_settings, &zero);
    return settings && packet->ip_bytes > settings->mtu;
}

static __always_inline int classify_udp(struct xdp_md *ctx, struct cursor *cursor,
                                        struct packet *packet, bool generic, enum gso_rule rule)
{
    struct udphdr *udp = cursor->at;
    if ((void *)(udp + 1) > cursor->end || sizeof *udp > cursor->left)
        return HN_STEER_ODD;
    packet->to.port_be = udp->dest;
    if (!is_ours(&packet->to))
        return HN_STEER_NOT_OURS;
    __u32 bytes = bpf_ntohs(udp->len);
    if (bytes < sizeof *udp || bytes > cursor->left)
        return HN_STEER_ODD;
    if (rule == GSO_SHARED_INFO && shared_info_has_gso(ctx))
        return HN_STEER_GSO;
    if (generic && is_oversize(packet))
        return HN_STEER_OVERSIZE;
    if (rule == GSO_CHECKSUM && checksum_is_deferred(packet, udp))
        return HN_STEER_GSO;
    return GO_ON;
}

static __always_inline int classify_tcp(struct cursor *cursor, struct packet *packet)
{
    struct tcphdr *tcp = cursor->at;
    if ((void *)(tcp + 1) > cursor->end || sizeof *tcp > cursor->left)
        return HN_STEER_ODD;
    packet->to.port_be = tcp->dest;
    if (!is_ours(&packet->to))
        return HN_STEER_NOT_OURS;
    __u32 header_bytes = tcp->doff * 4u;
    if (header_bytes < sizeof *tcp || header_bytes > cursor->left)
        return HN_STEER_ODD;
    return GO_ON;
}

static __always_inline int classify_transport(struct xdp_md *ctx, struct cursor *cursor,
                                              struct packet *packet, bool generic,
                                              enum gso_rule rule)
{
    __u8 icmp = packet->to.family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    packet->to.protocol = packet->protocol;
    if (packet->protocol == IPPROTO_UDP)
        return classify_udp(ctx, cursor, packet, generic, rule);
    if (packet->protocol == IPPROTO_TCP)
        return classify_tcp(cursor, packet);
    if (packet->protocol == icmp)
        return classify_icmp(cursor, packet);
    return HN_STEER_NOT_OURS;
}

static __always_inline int classify(struct xdp_md *ctx, bool generic, bool fragments,
                                    enum gso_rule rule)
{
    struct cursor cursor = {.at = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
    /* Kernels without multi-buffer XDP know neither the flag nor the helper. */
    cursor.left = fragments ? (__u32)bpf_xdp_get_buff_len(ctx) : (__u32)(cursor.end - cursor.at);
    __be16 type = 0;
    int reason = parse_ethernet(&cursor, &type);
    if (reason != GO_ON)
        return reason;
    struct packet packet = {};
    if (type == bpf_htons(ETH_P_IP))
        reason = parse_ipv4(&cursor, &packet);
    else
        reason = parse_ipv6(&cursor, &packet);
    if (reason != GO_ON)
        return reason;
    reason = classify_transport(ctx, &cursor, &packet, generic, rule);
    if (reason != GO_ON)
        return reason;
    __u32 queue = ctx->rx_queue_index;
    return bpf_map_lookup_elem(&hn_sockets, &queue) ? HN_STEER_REDIRECTED : HN_STEER_NO_SOCKET;
}

static __always_inline int steer(struct xdp_md *ctx, bool generic, bool fragments,
                                 enum gso_rule rule)
{
    __u32 reason = (__u32)classify(ctx, generic, fragments, rule);
    __u64 *packets = bpf_map_lookup_elem(&hn_counters, &reason);
    if (packets)
        (*packets)++;
    if (reason != HN_STEER_REDIRECTED)
        return XDP_PASS;
    /* The socket may have gone since it was looked up; its packet then belongs to the kernel. */
    return (int)bpf_redirect_map(&hn_sockets, ctx->rx_queue_index, XDP_PASS);
}

/* ---- Entry points.  drv: in the driver; skb: generic.  The ..._lin ones are for kernels before
   5.18, which have no multi-buffer XDP; skb_sum for those before 6.2, which cannot show the
   shared info. ---- */

SEC("xdp.frags")
int hn_steer_drv(struct xdp_md *ctx) { return steer(ctx, false, true, GSO_NEVER); }

SEC("xdp")
int hn_steer_drv_lin(struct xdp_md *ctx) { return steer(ctx, false, false, GSO_NEVER); }

SEC("xdp.frags")
int hn_steer_skb(struct xdp_md *ctx) { return steer(ctx, true, true, GSO_SHARED_INFO); }

SEC("xdp.frags")
int hn_steer_skb_sum(struct xdp_md *ctx) { return steer(ctx, true, true, GSO_CHECKSUM); }

SEC("xdp")
int hn_steer_skb_lin(struct xdp_md *ctx) { return steer(ctx, true, false, GSO_CHECKSUM); }

char hn_license[] SEC("license") = "Dual BSD/GPL";
