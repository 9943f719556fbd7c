// sources: stack/*.c stack/graph/*.c stack/ip/*.c devices/wire.c
/* Received frames: whatever comes, each packet is delivered once or dropped for one reason, every
   answer is a valid packet, and no frame of the pool is lost.

   The input is a list of frames, each behind its length in two bytes (big endian, modulo what is
   left); the first byte of all is a set of switches, see below.  */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>

#include "stack/udp.h"
#include "stack/wire/ethernet.h"
#include "stack/wire/ipv4.h"
#include "stack/wire/ipv6.h"

#include "devices/wire_api.h"

enum {
    VIRTUAL = 1,     /* CHECKSUM_PARTIAL is accepted */
    RESOLVED = 2,    /* the peers' link-layer addresses are known */
    SMALL_RING = 4,  /* the transmit ring takes three packets */
    SMALL_QUEUE = 8, /* endpoints take two packets */
    IN_PLACE = 16,   /* answers reuse the received frame where they can */
    ONE_BY_ONE = 32, /* a poll per frame */
    LEARN_MTU = 64,  /* a path MTU is learnt in between */
    CHANGED = 128    /* answers in place have other bytes than the question */
};

enum { FRAMES = 256, IFINDEX = 3, ENDPOINTS = 5 };

#define REQUIRE(condition)                                                            \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

struct run {
    struct hn_stack *stack;
    struct hn_device *wire;
    struct hn_udp *udp[ENDPOINTS];
    uint64_t now_ns;
    uint64_t sent;     /* datagrams that endpoints were told are queued */
    uint64_t received; /* datagrams that endpoints gave */
    uint8_t switches;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static struct hn_address address(const char *text, uint16_t port)
{
    struct hn_address made = {.port = port};
    made.family = strchr(text, ':') ? HN_FAMILY_IPV6 : HN_FAMILY_IPV4;
    int family = made.family == HN_FAMILY_IPV6 ? AF_INET6 : AF_INET;
    REQUIRE(inet_pton(family, text, made.ip) == 1);
    return made;
}

static void add_route(struct run *run, const char *prefix, uint8_t bits, const char *gateway)
{
    struct hn_nexthop hop = {.ifindex = IFINDEX, .weight = 1};
    struct hn_address to = address(prefix, 0);
    struct hn_route route = {.type = HN_ROUTE_UNICAST, .nexthops = &hop, .nexthop_count = 1};
    memcpy(route.key.destination, to.ip, 16);
    route.key.family = to.family;
    route.key.prefix_bits = bits;
    route.key.table = 254;
    if (gateway) {
        struct hn_address via = address(gateway, 0);
        memcpy(hop.gateway, via.ip, 16);
        hop.gateway_family = via.family;
    }
    REQUIRE(hn_fib_insert(hn_stack_fib(run->stack), &route, HN_FIB_REPLACE, 1) == 0);
}

static void set_neighbor(struct run *run, const char *ip, uint8_t state)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 2};
    struct hn_address made = address(ip, 0);
    (void)hn_neighbor_set(hn_stack_neighbors(run->stack), IFINDEX, made.family, made.ip, state, mac,
                          1);
}

static void fill_tables(struct run *run)
{
    struct hn_local_address list[3] = {
        {.ifindex = IFINDEX, .family = 4, .prefix_bits = 24},
        {.ifindex = IFINDEX, .family = 6, .prefix_bits = 64},
        {.ifindex = IFINDEX, .family = 6, .prefix_bits = 64, .scope = 253},
    };
    memcpy(list[0].ip, address("10.0.0.1", 0).ip, 16);
    memcpy(list[1].ip, address("fd00::1", 0).ip, 16);
    memcpy(list[2].ip, address("fe80::1", 0).ip, 16);
    REQUIRE(hn_fib_set_addresses(hn_stack_fib(run->stack), list, 3) == 0);
    add_route(run, "10.0.0.0", 24, NULL);
    add_route(run, "fd00::", 64, NULL);
    add_route(run, "0.0.0.0", 0, "10.0.0.2");
    add_route(run, "::", 0, "fd00::2");
    if (run->switches & RESOLVED) {
        set_neighbor(run, "10.0.0.2", HN_NUD_REACHABLE);
        set_neighbor(run, "fd00::2", HN_NUD_STALE);
        set_neighbor(run, "fe80::2", HN_NUD_REACHABLE);
    }
}

static struct hn_udp *open_udp(struct run *run, const char *ip, const char *peer, uint32_t flags)
{
    struct hn_address local = address(ip, 9000), remote;
    int error;
    if (peer)
        remote = address(peer, 9000);
    struct hn_udp *udp = hn_udp_open(run->stack, &local, peer ? &remote : NULL, flags, &error);
    REQUIRE(udp);
    if (run->switches & SMALL_QUEUE)
        hn_udp_set_receive_limit(udp, 2 * 2048);
    return udp;
}

static void start(struct run *run)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    struct hn_stack_config config = {.frame_count = FRAMES,
                                     .frame_bytes = 2048,
                                     .reserve_frames = 16,
                                     .neighbors_max = 4,
                                     .flows_max = 4,
                                     .backlog_max = 16};
    int error;
    run->stack = hn_stack_create(&config, &error);
    REQUIRE(run->stack);
    run->wire = hn_wire_create(run->stack, IFINDEX, 9000, mac, run->switches & VIRTUAL);
    REQUIRE(run->wire && hn_stack_add_device(run->stack, run->wire) == 0);
    fill_tables(run);
    run->udp[0] = open_udp(run, "::", NULL, HN_UDP_REUSE);
    run->udp[1] = open_udp(run, "10.0.0.1", NULL, HN_UDP_REUSE);
    run->udp[2] = open_udp(run, "10.0.0.1", "10.0.0.2", HN_UDP_REUSE);
    run->udp[3] = open_udp(run, "fd00::1", NULL, HN_UDP_REUSE);
    run->udp[4] = open_udp(run, "fe80::1", "fe80::2", HN_UDP_REUSE);
    if (run->switches & SMALL_RING)
        hn_wire_set_room(run->wire, 3);
}

static void take_for_user(struct hn_pool *pool, struct hn_frame *frame)
{
    for (;; frame = &pool->frames[frame->next]) {
        hn_frame_set_owner(frame, HN_OWNER_SOCKET, HN_OWNER_USER);
        if (frame->next == HN_FRAME_NONE)
            return;
    }
}

/* Sends a datagram back to where it came from. */
static void answer(struct run *run, struct hn_udp *udp, struct hn_frame *frame)
{
    static uint8_t payload[65536];
    struct hn_pool *pool = hn_stack_pool(run->stack);
    struct hn_address to = frame->peer;
    REQUIRE(frame->payload_offset <= frame->length);
    hn_udp_copy_payload(pool, frame, payload);
    take_for_user(pool, frame);
    bool changed = run->switches & CHANGED;
    if (changed && frame->payload_length && frame->payload_offset < frame->length)
        frame->data[frame->payload_offset] ^= 0x55;
    if ((run->switches & IN_PLACE) &&
        hn_udp_send_frame(udp, &to, frame, changed) == HN_SEND_QUEUED) {
        run->sent++;
        return;
    }
    size_t bytes = frame->payload_length;
    hn_packet_free(pool, frame, HN_OWNER_USER);
    if (hn_udp_send(udp, &to, payload, bytes) == HN_SEND_QUEUED)
        run->sent++;
}

static void serve(struct run *run)
{
    struct hn_udp *udp;
    while ((udp = hn_udp_next_ready(run->stack)) != NULL) {
        struct hn_frame *frames[8];
        uint32_t count;
        while ((count = hn_udp_receive(udp, frames, 8)) > 0) {
            run->received += count;
            for (uint32_t i = 0; i < count; i++)
                answer(run, udp, frames[i]);
        }
    }
}

/* What leaves is an Ethernet frame with a whole IP packet and a UDP datagram, all sums right. */
static void check_transmitted(const uint8_t *frame, uint32_t bytes)
{
    uint16_t type;
    uint32_t at = hn_ethernet_parse(frame, bytes, &type);
    struct hn_ipv4 v4;
    struct hn_ipv6 v6;
    struct hn_udp_header udp;
    uint64_t pseudo;
    REQUIRE(at == HN_ETHERNET_BYTES && frame[0] == 2 && frame[5] == 2 && frame[11] == 1);
    if (type == HN_ETHERTYPE_IPV4) {
        REQUIRE(hn_ipv4_parse(frame + at, bytes - at, bytes - at, &v4) == HN_IPV4_OK);
        REQUIRE(v4.total_bytes == bytes - at && v4.protocol == HN_PROTOCOL_UDP);
        at += v4.header_bytes;
        pseudo = hn_checksum_pseudo(v4.source, v4.destination, 4, HN_PROTOCOL_UDP, bytes - at);
    } else {
        REQUIRE(type == HN_ETHERTYPE_IPV6);
        REQUIRE(hn_ipv6_parse(frame + at, bytes - at, bytes - at, &v6) == HN_IPV6_OK);
        REQUIRE(v6.total_bytes == bytes - at && v6.protocol == HN_PROTOCOL_UDP);
        at += v6.header_bytes;
        pseudo = hn_checksum_pseudo(v6.source, v6.destination, 16, HN_PROTOCOL_UDP, bytes - at);
    }
    REQUIRE(hn_udp_parse(frame + at, bytes - at, bytes - at, &udp) && udp.length == bytes - at);
    REQUIRE(udp.source_port == 9000 && udp.destination_port != 0 && udp.checksum != 0);
    REQUIRE(hn_checksum_fold(hn_checksum_add(pseudo, frame + at, udp.length)) == 0xffff);
}

static void turn(struct run *run)
{
    static uint8_t frame[66000];
    int32_t bytes;
    hn_stack_poll(run->stack, 0, 0, UINT32_MAX, ++run->now_ns);
    serve(run);
    hn_stack_flush(run->stack, run->now_ns);
    while ((bytes = hn_wire_pull(run->wire, frame, sizeof frame)) > 0)
        check_transmitted(frame, (uint32_t)bytes);
    REQUIRE(bytes == 0);
}

static uint64_t drops(const struct run *run, bool on_the_way_down)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < hn_drop_count(); i++)
        if ((i >= HN_DROP_NEIGHBOR_QUEUE_FULL) == on_the_way_down)
            total += hn_stack_drops(run->stack, i);
    return total;
}

/* Everything has come to rest: the books must balance. */
static void check_accounts(struct run *run)
{
    struct hn_device_statistics device;
    for (int i = 0; i < 100; i++)
        turn(run);
    REQUIRE(hn_stack_device_statistics(run->stack, 0, &device) == 0);
    REQUIRE(device.rx_packets == run->received + drops(run, false));
    uint64_t waiting = 0;
    struct hn_neighbors *neighbors = hn_stack_neighbors(run->stack);
    set_neighbor(run, "10.0.0.2", HN_NUD_FAILED);
    hn_stack_neighbors_changed(run->stack, run->now_ns);
    while (hn_neighbor_next_wanted(neighbors))
        continue;
    waiting = run->sent - device.tx_packets - drops(run, true);
    REQUIRE(waiting <= 4 * HN_NEIGHBOR_PENDING_MAX);
    for (int i = 0; i < ENDPOINTS; i++)
        hn_udp_close(run->udp[i]);
    hn_stack_remove_device(run->stack, 0);
    /* What still waited for a neighbour is a drop now. */
    REQUIRE(run->sent == device.tx_packets + drops(run, true));
    REQUIRE(hn_stack_pool(run->stack)->free_count == FRAMES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct run run = {.now_ns = 1};
    if (bytes == 0)
        return 0;
    run.switches = *data++;
    bytes--;
    start(&run);
    while (bytes >= 3) {
        size_t length = hn_load16_be(data) % (bytes - 2) + 1;
        data += 2;
        bytes -= 2;
        if (hn_wire_push(run.wire, data, length) != 0 || (run.switches & ONE_BY_ONE)) {
            turn(&run);
            if (run.switches & LEARN_MTU) {
                struct hn_address peer = address(length & 1 ? "10.0.0.2" : "fd00::2", 0);
                hn_stack_learn_path_mtu(run.stack, &peer, (uint32_t)length, run.now_ns);
            }
        }
        data += length;
        bytes -= length;
    }
    check_accounts(&run);
    hn_stack_destroy(run.stack);
    return 0;
}
