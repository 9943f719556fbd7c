// sources: stack/*.c stack/graph/*.c stack/ip/*.c devices/wire.c
#include "world.h"

static const uint8_t OTHER_MAC[6] = {2, 0, 0, 0, 0, 9};

/* Sends, flushes and expects one frame to this link-layer address. */
static void expect_sent_to(struct world *world, struct hn_udp *udp, const char *to,
                           const uint8_t *mac)
{
    uint8_t *frame;
    CHECK_EQUAL(world_send(udp, to, 9, "x"), HN_SEND_QUEUED);
    world_flush(world);
    CHECK(world_pull(world, &frame) > 0);
    CHECK(memcmp(frame, mac, 6) == 0);
    CHECK(memcmp(frame + 6, world->wire->mac, 6) == 0);
    CHECK_EQUAL(world_drain(world), 0);
}

static void test_changed_route_takes_effect_on_the_next_packet(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    world_set_neighbor(&world, "10.0.0.254", HN_NUD_REACHABLE, OTHER_MAC);
    expect_sent_to(&world, udp, "10.0.0.2", WORLD_PEER_MAC);
    world_add_route(&world, "10.0.0.2/32", "10.0.0.254", WORLD_IFINDEX);
    expect_sent_to(&world, udp, "10.0.0.2", OTHER_MAC);
    world_remove_route(&world, "10.0.0.2/32");
    expect_sent_to(&world, udp, "10.0.0.2", WORLD_PEER_MAC);
    world_add_route(&world, "10.0.0.2/32", NULL, 99); /* an interface that is not ours */
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), -EHOSTUNREACH);
    world_remove_route(&world, "10.0.0.2/32");
    world_remove_route(&world, "10.0.0.0/24");
    world_remove_route(&world, "0.0.0.0/0");
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), -ENETUNREACH);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_refusing_route_types_have_errors_of_their_own(void)
{
    static const struct {
        uint8_t type;
        int error;
    } cases[] = {{HN_ROUTE_BLACKHOLE, EINVAL},
                 {HN_ROUTE_UNREACHABLE, EHOSTUNREACH},
                 {HN_ROUTE_PROHIBIT, EACCES}};
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    for (size_t i = 0; i < 3; i++) {
        struct hn_nexthop hop;
        struct hn_route route = world_route("10.9.0.0/16", &hop, NULL, 0);
        route.nexthop_count = 0;
        route.type = cases[i].type;
        CHECK_EQUAL(hn_fib_insert(hn_stack_fib(world.stack), &route, HN_FIB_REPLACE, 1), 0);
        CHECK_EQUAL(world_send(udp, "10.9.0.1", 9, "x"), -cases[i].error);
        world.stack->kernel_path = true;
        hn_udp_set_header(udp, 64, 0, 64, 0); /* anything that makes it look again */
        CHECK_EQUAL(world_send(udp, "10.9.0.1", 9, "x"), HN_SEND_KERNEL);
        world.stack->kernel_path = false;
    }
    hn_udp_close(udp);
    world_close(&world);
}

static void test_what_is_never_ours_goes_by_the_kernel(void)
{
    static const char *const destinations[] = {
        "127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "::", "ff02::1"};
    struct hn_stack_config config = world_config();
    config.kernel_path = true;
    struct world world = world_open_with(&config);
    struct hn_udp *v4 = world_bind(&world, "0.0.0.0", 5, NULL, 0, 0);
    struct hn_udp *v6 = world_bind(&world, "::", 6, NULL, 0, HN_UDP_V6ONLY);
    for (size_t i = 0; i < 7; i++) {
        const char *to = destinations[i];
        CHECK_EQUAL(world_send(strchr(to, ':') ? v6 : v4, to, 9, "x"), HN_SEND_KERNEL);
    }
    CHECK_EQUAL(world_send(v6, "fe80::5", 9, "x"), HN_SEND_KERNEL); /* which link? */
    hn_udp_close(v4);
    hn_udp_close(v6);
    world_close(&world);
}

static void test_link_local_destination_goes_by_its_scope(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "::", 5, NULL, 0, 0);
    world_set_neighbor(&world, "fe80::2", HN_NUD_REACHABLE, WORLD_PEER_MAC);
    struct hn_address to = world_address("fe80::2", 9);
    to.scope_id = WORLD_IFINDEX;
    CHECK_EQUAL(hn_udp_send(udp, &to, (const uint8_t *)"x", 1), HN_SEND_QUEUED);
    world_flush(&world);
    uint8_t *frame;
    CHECK(world_pull(&world, &frame) > 0);
    CHECK(memcmp(frame + 14 + 8, world_address("fe80::1", 0).ip, 16) == 0); /* source */
    hn_udp_close(udp);
    world_close(&world);
}

static void test_source_belongs_to_the_next_hops_subnet(void)
{
    struct world world = world_open();
    struct hn_local_address list[2] = {
        {.ip = {10, 0, 0, 1}, .ifindex = WORLD_IFINDEX, .family = 4, .prefix_bits = 24},
        {.ip = {192, 168, 1, 1}, .ifindex = WORLD_IFINDEX, .family = 4, .prefix_bits = 24},
    };
    CHECK_EQUAL(hn_fib_set_addresses(hn_stack_fib(world.stack), list, 2), 0);
    world_add_route(&world, "0.0.0.0/0", "192.168.1.254", WORLD_IFINDEX);
    world_set_neighbor(&world, "192.168.1.254", HN_NUD_REACHABLE, OTHER_MAC);
    struct hn_udp *udp = world_bind(&world, "0.0.0.0", 5, NULL, 0, 0);
    CHECK_EQUAL(world_send(udp, "8.8.8.8", 9, "x"), HN_SEND_QUEUED);
    world_flush(&world);
    uint8_t *frame;
    CHECK(world_pull(&world, &frame) > 0);
    CHECK(memcmp(frame + 14 + 12, list[1].ip, 4) == 0);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_neighbor_without_address_holds_packets_until_it_has_one(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    uint8_t *frame;
    for (int i = 0; i < 3; i++)
        CHECK_EQUAL(world_send(udp, "10.0.0.3", 9, "abc"), HN_SEND_QUEUED);
    world_flush(&world);
    CHECK_EQUAL(world_drain(&world), 0);
    CHECK(world.stack->neighbors_wanted);
    struct hn_neighbor *wanted = hn_neighbor_next_wanted(hn_stack_neighbors(world.stack));
    CHECK(wanted && wanted->ip[3] == 3 && wanted->pending_count == 3);
    world_set_neighbor(&world, "10.0.0.3", HN_NUD_REACHABLE, OTHER_MAC);
    hn_stack_neighbors_changed(world.stack, ++world.now_ns);
    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(world_pull(&world, &frame), 14 + 20 + 8 + 3);
        CHECK(memcmp(frame, OTHER_MAC, 6) == 0);
    }
    hn_udp_close(udp);
    world_close(&world);
}

static void test_neighbor_queue_is_bounded_and_a_failed_one_is_dropped_by_reason(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    for (uint32_t i = 0; i < HN_NEIGHBOR_PENDING_MAX + 6; i++)
        CHECK_EQUAL(world_send(udp, "10.0.0.3", 9, "abc"), HN_SEND_QUEUED);
    world_flush(&world);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_NEIGHBOR_QUEUE_FULL), 6);
    world_set_neighbor(&world, "10.0.0.3", HN_NUD_FAILED, NULL);
    hn_stack_neighbors_changed(world.stack, ++world.now_ns);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_NEIGHBOR_UNREACHABLE), HN_NEIGHBOR_PENDING_MAX);
    CHECK_EQUAL(world_free(&world), world.free_at_start);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_address_that_comes_before_the_flush_is_used_by_it(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    uint8_t *frame;
    CHECK_EQUAL(world_send(udp, "10.0.0.3", 9, "x"), HN_SEND_QUEUED);
    world_set_neighbor(&world, "10.0.0.3", HN_NUD_REACHABLE, OTHER_MAC);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), HN_SEND_QUEUED);
    world_set_neighbor(&world, "10.0.0.2", HN_NUD_REACHABLE, OTHER_MAC);
    world_flush(&world);
    for (int i = 0; i < 2; i++) {
        CHECK(world_pull(&world, &frame) > 0);
        CHECK(memcmp(frame, OTHER_MAC, 6) == 0);
    }
    hn_udp_close(udp);
    world_close(&world);
}

static void test_neighbor_forgotten_before_the_flush_is_asked_for_again(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    struct hn_neighbors *neighbors = hn_stack_neighbors(world.stack);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), HN_SEND_QUEUED);
    CHECK_EQUAL(world_send(udp, "10.0.0.3", 9, "x"), HN_SEND_QUEUED);
    hn_neighbors_purge_interface(neighbors, WORLD_IFINDEX);
    world_set_neighbor(&world, "10.0.0.77", HN_NUD_REACHABLE, OTHER_MAC); /* takes an entry over */
    world_flush(&world);
    CHECK_EQUAL(world_drain(&world), 0);
    for (uint8_t last = 2; last <= 3; last++) {
        uint8_t ip[16] = {10, 0, 0, last};
        struct hn_neighbor *entry = hn_neighbor_find(neighbors, WORLD_IFINDEX, 4, ip);
        CHECK(entry && entry->pending_count == 1 && entry->wanted);
    }
    world_set_neighbor(&world, "10.0.0.2", HN_NUD_REACHABLE, WORLD_PEER_MAC);
    hn_stack_neighbors_changed(world.stack, ++world.now_ns);
    CHECK_EQUAL(world_drain(&world), 1);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_full_neighbor_table_never_sends_to_the_wrong_neighbor(void)
{
    struct hn_stack_config config = world_config();
    config.neighbors_max = 3; /* two are taken by the peers */
    struct world world = world_open_with(&config);
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    struct hn_neighbors *neighbors = hn_stack_neighbors(world.stack);
    CHECK_EQUAL(world_send(udp, "10.0.0.3", 9, "for three"), HN_SEND_QUEUED);
    while (hn_neighbor_next_wanted(neighbors))
        continue;
    CHECK_EQUAL(world_send(udp, "10.0.0.4", 9, "for four"), HN_SEND_QUEUED); /* its entry */
    world_set_neighbor(&world, "10.0.0.4", HN_NUD_REACHABLE, OTHER_MAC);
    world_flush(&world);
    uint8_t *frame;
    CHECK_EQUAL(world_pull(&world, &frame), 14 + 20 + 8 + 8);
    CHECK(frame[14 + 19] == 4 && memcmp(frame, OTHER_MAC, 6) == 0);
    CHECK_EQUAL(world_drain(&world), 0);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_NEIGHBOR_UNREACHABLE), 1);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_stale_neighbor_in_use_is_probed(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    world_set_neighbor(&world, "10.0.0.3", HN_NUD_STALE, OTHER_MAC);
    CHECK(hn_neighbor_next_wanted(hn_stack_neighbors(world.stack)) == NULL);
    expect_sent_to(&world, udp, "10.0.0.3", OTHER_MAC);
    CHECK(world.stack->neighbors_wanted);
    struct hn_neighbor *wanted = hn_neighbor_next_wanted(hn_stack_neighbors(world.stack));
    CHECK(wanted && wanted->ip[3] == 3);
    expect_sent_to(&world, udp, "10.0.0.3", OTHER_MAC);
    CHECK(hn_neighbor_next_wanted(hn_stack_neighbors(world.stack)) == NULL); /* once */
    hn_udp_close(udp);
    world_close(&world);
}

static int send_bytes(struct hn_udp *udp, const char *to, size_t bytes)
{
    static const uint8_t payload[65536];
    struct hn_address address = world_address(to, 9);
    return hn_udp_send(udp, &address, payload, bytes);
}

static void test_mtu_of_device_and_route_bound_the_datagram(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "::", 5, NULL, 0, 0);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 1472), HN_SEND_QUEUED);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 1473), -EMSGSIZE);
    CHECK_EQUAL(send_bytes(udp, "fd00::2", 1452), HN_SEND_QUEUED);
    CHECK_EQUAL(send_bytes(udp, "fd00::2", 1453), -EMSGSIZE);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 65536), -EMSGSIZE);
    hn_stack_set_device(world.stack, world.index, 9000, WORLD_MAC, true);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 8972), HN_SEND_QUEUED);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 8973), -EMSGSIZE);
    struct hn_nexthop hop;
    struct hn_route route = world_route("10.0.0.2/32", &hop, NULL, WORLD_IFINDEX);
    route.mtu = 600;
    CHECK_EQUAL(hn_fib_insert(hn_stack_fib(world.stack), &route, HN_FIB_REPLACE, 1), 0);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 572), HN_SEND_QUEUED);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 573), -EMSGSIZE);
    world.stack->kernel_path = true; /* which fragments */
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 573), HN_SEND_KERNEL);
    world_flush(&world);
    CHECK_EQUAL(world_drain(&world), 4);
    hn_udp_close(udp);
    world_close(&world);
}

static void learn(struct world *world, const char *to, uint32_t mtu)
{
    struct hn_address address = world_address(to, 0);
    hn_stack_learn_path_mtu(world->stack, &address, mtu, world->now_ns);
}

static void test_path_mtu_is_learnt_never_raised_by_errors_and_forgotten_after_ten_minutes(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 1472), HN_SEND_QUEUED);
    learn(&world, "10.0.0.2", 1000);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 973), -EMSGSIZE);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 972), HN_SEND_QUEUED);
    learn(&world, "10.0.0.2", 1400);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 973), -EMSGSIZE);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.7", 1472), HN_SEND_QUEUED); /* others are not concerned */
    world.now_ns += UINT64_C(599000000000);
    world_flush(&world);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 973), -EMSGSIZE);
    world.now_ns += UINT64_C(2000000000);
    world_flush(&world);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 1472), HN_SEND_QUEUED);
    world_flush(&world);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_path_mtu_below_the_protocols_minimum_is_not_believed(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "::", 5, NULL, 0, 0);
    learn(&world, "10.0.0.2", 0);
    learn(&world, "fd00::2", 68);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 40), HN_SEND_QUEUED);
    CHECK_EQUAL(send_bytes(udp, "10.0.0.2", 41), -EMSGSIZE);
    CHECK_EQUAL(send_bytes(udp, "fd00::2", 1232), HN_SEND_QUEUED);
    CHECK_EQUAL(send_bytes(udp, "fd00::2", 1233), -EMSGSIZE);
    world_flush(&world);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_flow_evicted_while_its_packets_are_in_the_graph_does_not_mix_them_up(void)
{
    struct hn_stack_config config = world_config();
    config.flows_max = 2; /* every destination wants the same two places */
    struct world world = world_open_with(&config);
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    bool seen[41] = {false};
    uint8_t *frame;
    for (int last = 2; last < 42; last++) {
        char to[24];
        snprintf(to, sizeof to, "10.0.0.%d", last);
        uint8_t mac[6] = {2, 0, 0, 0, 1, (uint8_t)last};
        world_set_neighbor(&world, to, HN_NUD_REACHABLE, mac);
    }
    for (int last = 2; last < 42; last++) {
        char to[24];
        snprintf(to, sizeof to, "10.0.0.%d", last);
        CHECK_EQUAL(world_send(udp, to, (uint16_t)(100 + last), "x"), HN_SEND_QUEUED);
    }
    world_flush(&world);
    for (int count = 0; count < 40; count++) {
        CHECK(world_pull(&world, &frame) > 0);
        uint8_t last = frame[14 + 19];
        CHECK(frame[5] == last && hn_load16_be(frame + 14 + 20 + 2) == 100 + last);
        CHECK(last >= 2 && last < 42 && !seen[last - 2]);
        seen[last - 2] = true;
    }
    hn_udp_close(udp);
    world_close(&world);
}

static void test_header_change_concerns_the_packets_after_it(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    uint8_t *frame;
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), HN_SEND_QUEUED);
    hn_udp_set_header(udp, 3, 0xb8, 3, 0xb8);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), HN_SEND_QUEUED);
    world_flush(&world);
    CHECK(world_pull(&world, &frame) > 0);
    CHECK(frame[14 + 8] == 64 && frame[14 + 1] == 0);
    CHECK(world_pull(&world, &frame) > 0);
    CHECK(frame[14 + 8] == 3 && frame[14 + 1] == 0xb8);
    CHECK_EQUAL(hn_checksum_fold(hn_checksum_add(0, frame + 14, 20)), 0xffff);
    hn_udp_close(udp);
    world_close(&world);
}

int main(void)
{
    RUN(test_changed_route_takes_effect_on_the_next_packet);
    RUN(test_refusing_route_types_have_errors_of_their_own);
    RUN(test_what_is_never_ours_goes_by_the_kernel);
    RUN(test_link_local_destination_goes_by_its_scope);
    RUN(test_source_belongs_to_the_next_hops_subnet);
    RUN(test_neighbor_without_address_holds_packets_until_it_has_one);
    RUN(test_neighbor_queue_is_bounded_and_a_failed_one_is_dropped_by_reason);
    RUN(test_address_that_comes_before_the_flush_is_used_by_it);
    RUN(test_neighbor_forgotten_before_the_flush_is_asked_for_again);
    RUN(test_full_neighbor_table_never_sends_to_the_wrong_neighbor);
    RUN(test_stale_neighbor_in_use_is_probed);
    RUN(test_mtu_of_device_and_route_bound_the_datagram);
    RUN(test_path_mtu_is_learnt_never_raised_by_errors_and_forgotten_after_ten_minutes);
    RUN(test_path_mtu_below_the_protocols_minimum_is_not_believed);
    RUN(test_flow_evicted_while_its_packets_are_in_the_graph_does_not_mix_them_up);
    RUN(test_header_change_concerns_the_packets_after_it);
    return 0;
}
