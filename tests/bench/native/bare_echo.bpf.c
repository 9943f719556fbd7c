/* The least an XDP program can do for an echo server: every IPv4 UDP packet to the AF_XDP socket,
   the rest (ARP, …) to the kernel.  And one that counts and drops all, to measure the
   generator alone. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} dropped SEC(".maps");

SEC("xdp")
int redirect_udp(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);

    if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) ||
        ip->protocol != IPPROTO_UDP)
        return XDP_PASS;
    return (int)bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}

SEC("xdp")
int drop_all(struct xdp_md *context)
{
    __u32 zero = 0;
    __u64 *count = bpf_map_lookup_elem(&dropped, &zero);

    (void)context;
    if (count)
        *count += 1;
    return XDP_DROP;
}

char hn_license[] SEC("license") = "Dual BSD/GPL";
