/* The generator's own interface: counts the server's replies and drops them, so that receiving
   costs the generator next to nothing.  What is not a reply goes on to the kernel. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "loadgen_maps.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hn_reply_source);
} source SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, HN_REPLY_COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");

static __always_inline void add(__u32 counter, __u64 amount)
{
    __u64 *value = bpf_map_lookup_elem(&counters, &counter);
    if (value)
        *value += amount;
}

static __always_inline int pass(void)
{
    add(HN_REPLY_OTHERS, 1);
    return XDP_PASS;
}

SEC("xdp")
int count_replies(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);
    struct udphdr *udp = (void *)(ip + 1);
    __u32 zero = 0;

    if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
        return pass();
    struct hn_reply_source *expected = bpf_map_lookup_elem(&source, &zero);
    if (!expected || ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
        ip->saddr != expected->address_be || udp->source != expected->port_be)
        return pass();
    add(HN_REPLY_PACKETS, 1);
    add(HN_REPLY_BYTES, bpf_ntohs(udp->len) - sizeof *udp);
    return XDP_DROP;
}

char hn_license[] SEC("license") = "Dual BSD/GPL";
