/* UDP on the way up: header, checksum, the endpoint and its queue. */
#include "stack/udp.h"
#include "stack/wire/checksum.h"

/* Sum of `length` bytes from `offset` of the packet's first frame on, through its chain. */
static uint64_t sum_packet(const struct hn_pool *pool, const struct hn_frame *frame,
                           uint32_t offset, uint32_t length)
{
    uint64_t sum = 0;
    uint32_t done = 0;
    for (;;) {
        uint32_t piece = frame->length - offset;
        if (piece > length - done)
            piece = length - done;
        const uint8_t *data = frame->data + offset;
        sum = done & 1 ? hn_checksum_add_odd(sum, data, piece) : hn_checksum_add(sum, data, piece);
        done += piece;
        if (done == length || frame->next == HN_FRAME_NONE)
            return sum;
        frame = &pool->frames[frame->next];
        offset = 0;
    }
}

/* RFC 768: zero means none was computed, which IPv6 forbids (RFC 8200 8.1).  A frame that never
   left this machine may carry the pseudo-header's sum alone (CHECKSUM_PARTIAL): the NIC that
   would have filled it in does not exist. */
static bool checksum_is_good(const struct hn_stack *stack, struct hn_frame *frame,
                             const struct hn_udp_header *header, uint64_t pseudo, bool is_ipv4)
{
    if (header->checksum == 0)
        return is_ipv4;
    uint64_t sum = pseudo + sum_packet(&stack->pool, frame, frame->l4_offset, header->length);
    if (hn_likely(hn_checksum_fold(sum) == 0xffff)) {
        frame->flags |= HN_FRAME_SUMMED;
        return true;
    }
    const struct hn_device *device = stack->devices[frame->device];
    return (device->flags & HN_DEVICE_VIRTUAL) && header->checksum == hn_checksum_fold(pseudo);
}

static void read_addresses(const struct hn_frame *frame, struct hn_address *local,
                           struct hn_address *peer)
{
    const uint8_t *ip = frame->data + frame->l3_offset;
    memset(local, 0, sizeof *local);
    memset(peer, 0, sizeof *peer);
    if (ip[0] >> 4 == 4) {
        local->family = peer->family = HN_FAMILY_IPV4;
        memcpy(peer->ip, ip + 12, 4);
        memcpy(local->ip, ip + 16, 4);
    } else {
        local->family = peer->family = HN_FAMILY_IPV6;
        memcpy(peer->ip, ip + 8, 16);
        memcpy(local->ip, ip + 24, 16);
    }
}

static uint64_t pseudo_sum(const struct hn_address *local, const struct hn_address *peer,
                           uint16_t length)
{
    return hn_checksum_pseudo(peer->ip, local->ip, local->family == HN_FAMILY_IPV4 ? 4 : 16, 17,
                              length);
}

static bool is_link_local(const struct hn_address *address)
{
    return address->ip[0] == 0xfe && (address->ip[1] & 0xc0) == 0x80;
}

static void input_one(struct hn_stack *stack, struct hn_frame *frame, struct hn_address *last,
                      struct hn_udp **last_udp)
{
    struct hn_udp_header header;
    struct hn_address local, peer;
    uint32_t available = frame->total_length - frame->l4_offset;
    if (!hn_udp_parse(frame->data + frame->l4_offset, frame->length - frame->l4_offset, available,
                      &header)) {
        bool short_packet =
            available < HN_UDP_BYTES || frame->length < (uint32_t)frame->l4_offset + HN_UDP_BYTES;
        hn_stack_drop(stack, frame, short_packet ? HN_DROP_UDP_TRUNCATED : HN_DROP_UDP_BAD_LENGTH);
        return;
    }
    read_addresses(frame, &local, &peer);
    bool is_ipv4 = local.family == HN_FAMILY_IPV4;
    uint64_t pseudo = pseudo_sum(&local, &peer, header.length);
    if (!checksum_is_good(stack, frame, &header, pseudo, is_ipv4)) {
        hn_stack_drop(stack, frame, HN_DROP_UDP_BAD_CHECKSUM);
        return;
    }
    local.port = header.destination_port;
    peer.port = header.source_port;
    if (peer.port == 0 || local.port == 0) {
        hn_stack_drop(stack, frame, HN_DROP_UDP_BAD_PORT);
        return;
    }
    /* fe80::/10 means something on its link only. */
    if (!is_ipv4) {
        if (is_link_local(&peer))
            peer.scope_id = stack->devices[frame->device]->ifindex;
        if (is_link_local(&local))
            local.scope_id = stack->devices[frame->device]->ifindex;
    }
    if (!*last_udp || !hn_udp_is_only(*last_udp) || memcmp(&local, last, sizeof local) != 0) {
        *last_udp = hn_udp_find(stack, &local, &peer);
        *last = local;
    }
    if (!*last_udp) {
        hn_stack_drop(stack, frame, HN_DROP_UDP_NO_ENDPOINT);
        return;
    }
    frame->peer = peer;
    frame->payload_offset = (uint16_t)(frame->l4_offset + HN_UDP_BYTES);
    frame->payload_length = (uint16_t)(header.length - HN_UDP_BYTES);
    /* All of it sums up to minus zero, so the payload is the complement of the rest. */
    const uint8_t *udp_header = frame->data + frame->l4_offset;
    frame->received_sum =
        (uint16_t)~hn_checksum_fold(hn_checksum_add(pseudo, udp_header, HN_UDP_BYTES));
    hn_udp_enqueue(*last_udp, frame);
}

/* The checksum is the first to touch a payload, which another core has written: fetched ahead,
   the lines of a large one come side by side instead of one after the other. */
#define PREFETCH_AHEAD 2u

static void prefetch_payload(const struct hn_frame *frame)
{
    for (uint32_t at = frame->l4_offset; at < frame->length; at += HN_CACHE_LINE)
        __builtin_prefetch(frame->data + at);
}

void hn_udp_input(struct hn_graph *graph, struct hn_node *node, struct hn_frame **frames,
                  uint32_t count)
{
    struct hn_stack *stack = node->context;
    /* Bursts mostly go to one endpoint: the last one found is taken again for the same address,
       unless it depends on the peer, or another one might want this peer's more. */
    struct hn_address last = {.family = 0};
    struct hn_udp *last_udp = NULL;
    (void)graph;
    for (uint32_t i = 0; i < count; i++) {
        if (i + PREFETCH_AHEAD < count)
            prefetch_payload(frames[i + PREFETCH_AHEAD]);
        input_one(stack, frames[i], &last, &last_udp);
    }
}
