/* A stack on an in-memory wire, with addresses, routes and neighbours, for the C tests.

     this host   10.0.0.1/24   fd00::1/64   02:00:00:00:00:01   interface 7
     the peer    10.0.0.2      fd00::2      02:00:00:00:00:02
     default     by 10.0.0.254 and fd00::fe

   A test is linked with all of stack/ and devices/wire.c; its head says so. */
#ifndef HN_WORLD_H
#define HN_WORLD_H

#include <arpa/inet.h>

#include "check.h"
#include "stack/udp.h"
#include "stack/wire/ethernet.h"
#include "stack/wire/ipv4.h"
#include "stack/wire/ipv6.h"

#include "devices/wire_api.h" /* behind the types it uses */

enum { WORLD_IFINDEX = 7, WORLD_FRAMES = 2048, WORLD_BYTES = 70000 };

static const uint8_t WORLD_MAC[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t WORLD_PEER_MAC[6] = {2, 0, 0, 0, 0, 2};

struct world {
    struct hn_stack *stack;
    struct hn_device *wire;
    uint32_t index;
    uint32_t free_at_start;
    uint64_t now_ns;
};

static inline struct hn_address world_address(const char *text, uint16_t port)
{
    struct hn_address address = {.port = port};
    address.family = strchr(text, ':') ? HN_FAMILY_IPV6 : HN_FAMILY_IPV4;
    CHECK_EQUAL(inet_pton(address.family == HN_FAMILY_IPV6 ? AF_INET6 : AF_INET, text, address.ip),
                1);
    return address;
}

/* "10.0.0.0/24"; gateway NULL: on the link. */
static inline struct hn_route world_route(const char *prefix, struct hn_nexthop *hop,
                                          const char *gateway, uint32_t ifindex)
{
    char text[64];
    snprintf(text, sizeof text, "%s", prefix);
    char *slash = strchr(text, '/');
    *slash = '\0';
    struct hn_address to = world_address(text, 0);
    *hop = (struct hn_nexthop){.ifindex = ifindex, .weight = 1};
    if (gateway) {
        struct hn_address via = world_address(gateway, 0);
        memcpy(hop->gateway, via.ip, sizeof hop->gateway);
        hop->gateway_family = via.family;
    }
    struct hn_route route = {.type = HN_ROUTE_UNICAST, .nexthops = hop, .nexthop_count = 1};
    memcpy(route.key.destination, to.ip, sizeof to.ip);
    route.key.family = to.family;
    route.key.prefix_bits = (uint8_t)atoi(slash + 1);
    route.key.table = 254;
    return route;
}

static inline void world_add_route(struct world *world, const char *prefix, const char *gateway,
                                   uint32_t ifindex)
{
    struct hn_nexthop hop;
    struct hn_route route = world_route(prefix, &hop, gateway, ifindex);
    CHECK_EQUAL(hn_fib_insert(hn_stack_fib(world->stack), &route, HN_FIB_REPLACE, 1), 0);
}

static inline void world_remove_route(struct world *world, const char *prefix)
{
    struct hn_nexthop hop;
    struct hn_route route = world_route(prefix, &hop, NULL, 0);
    route.nexthop_count = 0;
    CHECK_EQUAL(hn_fib_remove(hn_stack_fib(world->stack), &route), 0);
}

static inline void world_set_neighbor(struct world *world, const char *ip, uint8_t state,
                                      const uint8_t *mac)
{
    struct hn_address address = world_address(ip, 0);
    CHECK_EQUAL(hn_neighbor_set(hn_stack_neighbors(world->stack), WORLD_IFINDEX, address.family,
                                address.ip, state, mac, 1),
                0);
}

static inline struct hn_stack_config world_config(void)
{
    return (struct hn_stack_config){.frame_count = WORLD_FRAMES,
                                    .frame_bytes = 2048,
                                    .reserve_frames = 64,
                                    .neighbors_max = 64,
                                    .flows_max = 64,
                                    .backlog_max = 256};
}

static inline void world_set_addresses(struct world *world)
{
    struct hn_local_address list[3] = {
        {.ifindex = WORLD_IFINDEX, .family = HN_FAMILY_IPV4, .prefix_bits = 24},
        {.ifindex = WORLD_IFINDEX, .family = HN_FAMILY_IPV6, .prefix_bits = 64},
        {.ifindex = WORLD_IFINDEX, .family = HN_FAMILY_IPV6, .prefix_bits = 64, .scope = 253},
    };
    static const char *const texts[3] = {"10.0.0.1", "fd00::1", "fe80::1"};
    for (size_t i = 0; i < 3; i++) {
        struct hn_address address = world_address(texts[i], 0);
        memcpy(list[i].ip, address.ip, sizeof list[i].ip);
    }
    CHECK_EQUAL(hn_fib_set_addresses(hn_stack_fib(world->stack), list, 3), 0);
}

/* With the peer's link-layer address known. */
static inline struct world world_open_with(const struct hn_stack_config *config)
{
    int error = 0;
    struct world world = {.now_ns = 1000};
    world.stack = hn_stack_create(config, &error);
    CHECK(world.stack && error == 0);
    world.wire = hn_wire_create(world.stack, WORLD_IFINDEX, 1500, WORLD_MAC, false);
    CHECK(world.wire);
    int index = hn_stack_add_device(world.stack, world.wire);
    CHECK(index >= 0);
    world.index = (uint32_t)index;
    world_set_addresses(&world);
    world_add_route(&world, "10.0.0.0/24", NULL, WORLD_IFINDEX);
    world_add_route(&world, "fd00::/64", NULL, WORLD_IFINDEX);
    world_add_route(&world, "0.0.0.0/0", "10.0.0.254", WORLD_IFINDEX);
    world_add_route(&world, "::/0", "fd00::fe", WORLD_IFINDEX);
    world_set_neighbor(&world, "10.0.0.2", HN_NUD_REACHABLE, WORLD_PEER_MAC);
    world_set_neighbor(&world, "fd00::2", HN_NUD_REACHABLE, WORLD_PEER_MAC);
    world.free_at_start = hn_stack_pool(world.stack)->free_count;
    return world;
}

static inline struct world world_open(void)
{
    struct hn_stack_config config = world_config();
    return world_open_with(&config);
}

static inline uint32_t world_free(const struct world *world)
{
    return hn_stack_pool(world->stack)->free_count;
}

/* Fails when a frame has leaked. */
static inline void world_close(struct world *world)
{
    if (world->stack->devices[world->index] == world->wire)
        hn_stack_remove_device(world->stack, world->index);
    CHECK_EQUAL(world_free(world), world->free_at_start);
    hn_stack_destroy(world->stack);
}

static inline struct hn_udp *world_bind(struct world *world, const char *local, uint16_t port,
                                        const char *remote, uint16_t remote_port, uint32_t flags)
{
    struct hn_address own = world_address(local, port), peer;
    int error = 0;
    if (remote)
        peer = world_address(remote, remote_port);
    struct hn_udp *udp = hn_udp_open(world->stack, &own, remote ? &peer : NULL, flags, &error);
    CHECK(udp && error == 0);
    return udp;
}

/* Writes an Ethernet frame with one UDP datagram; returns its length. */
static inline size_t world_build(uint8_t *frame, const char *from, uint16_t from_port,
                                 const char *to, uint16_t to_port, const void *payload,
                                 size_t bytes)
{
    struct hn_address source = world_address(from, from_port);
    struct hn_address destination = world_address(to, to_port);
    bool v4 = source.family == HN_FAMILY_IPV4;
    uint16_t length = (uint16_t)(HN_UDP_BYTES + bytes);
    memcpy(frame, WORLD_MAC, 6);
    memcpy(frame + 6, WORLD_PEER_MAC, 6);
    hn_store16_be(frame + 12, v4 ? HN_ETHERTYPE_IPV4 : HN_ETHERTYPE_IPV6);
    uint8_t *ip = frame + HN_ETHERNET_BYTES;
    uint8_t *udp = ip + (v4 ? HN_IPV4_BYTES : HN_IPV6_BYTES);
    if (v4)
        hn_ipv4_emit(ip, source.ip, destination.ip, 17, 0, 64, (uint16_t)(HN_IPV4_BYTES + length));
    else
        hn_ipv6_emit(ip, source.ip, destination.ip, 17, 0, 64, length);
    hn_udp_emit(udp, from_port, to_port, length, 0);
    if (bytes)
        memcpy(udp + HN_UDP_BYTES, payload, bytes);
    uint64_t sum = hn_checksum_pseudo(source.ip, destination.ip, v4 ? 4 : 16, 17, length);
    uint16_t checksum = (uint16_t)~hn_checksum_fold(hn_checksum_add(sum, udp, length));
    memcpy(udp + 6, &checksum, sizeof checksum);
    return (size_t)(udp - frame) + length;
}

static inline void world_push(struct world *world, const uint8_t *frame, size_t bytes)
{
    CHECK_EQUAL(hn_wire_push(world->wire, frame, bytes), 0);
}

static inline void world_push_udp(struct world *world, const char *from, uint16_t from_port,
                                  const char *to, uint16_t to_port, const char *text)
{
    uint8_t frame[2048];
    world_push(world, frame, world_build(frame, from, from_port, to, to_port, text, strlen(text)));
}

static inline uint32_t world_poll(struct world *world)
{
    return hn_stack_poll(world->stack, world->index, 0, 4096, ++world->now_ns);
}

static inline bool world_flush(struct world *world)
{
    return hn_stack_flush(world->stack, ++world->now_ns);
}

/* The next transmitted frame in a buffer of its own; 0: none. */
static inline size_t world_pull(struct world *world, uint8_t **frame)
{
    static uint8_t memory[WORLD_BYTES];
    *frame = memory;
    int32_t bytes = hn_wire_pull(world->wire, memory, sizeof memory);
    CHECK(bytes >= 0);
    return (size_t)bytes;
}

/* How many frames the stack has sent; they are thrown away. */
static inline uint32_t world_drain(struct world *world)
{
    uint32_t count = 0;
    uint8_t *frame;
    while (world_pull(world, &frame))
        count++;
    return count;
}

static inline uint64_t world_drops(const struct world *world)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < hn_drop_count(); i++)
        total += hn_stack_drops(world->stack, i);
    return total;
}

static inline int world_send(struct hn_udp *udp, const char *to, uint16_t port, const char *text)
{
    struct hn_address address = world_address(to, port);
    return hn_udp_send(udp, &address, (const uint8_t *)text, strlen(text));
}

/* Takes one datagram out of the endpoint's queue and compares it; "" is an empty payload. */
static inline void world_expect(struct hn_udp *udp, const char *text)
{
    struct hn_frame *frame;
    uint8_t payload[WORLD_BYTES];
    CHECK_EQUAL(hn_udp_receive(udp, &frame, 1), 1);
    CHECK_EQUAL(frame->payload_length, strlen(text));
    hn_udp_copy_payload(&udp->stack->pool, frame, payload);
    CHECK(memcmp(payload, text, strlen(text)) == 0);
    hn_packet_free(&udp->stack->pool, frame, HN_OWNER_SOCKET);
}

#endif
