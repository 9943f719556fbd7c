// sources: stack/*.c stack/graph/*.c stack/ip/*.c devices/wire.c
#include "world.h"

static void test_sizes_out_of_range_are_refused(void)
{
    static const uint32_t wrong[] = {0, 1, 3, 100};
    int error = 0;
    for (size_t i = 0; i < 4; i++) {
        struct hn_stack_config config = world_config();
        config.backlog_max = wrong[i];
        CHECK(hn_stack_create(&config, &error) == NULL && error == EINVAL);
        config = world_config();
        config.flows_max = wrong[i];
        CHECK(hn_stack_create(&config, &error) == NULL && error == EINVAL);
        config = world_config();
        config.frame_bytes = wrong[i];
        CHECK(hn_stack_create(&config, &error) == NULL && error == EINVAL);
    }
    struct hn_stack_config config = world_config();
    config.frame_count = 0;
    CHECK(hn_stack_create(&config, &error) == NULL && error == EINVAL);
}

static void test_creation_without_the_nth_allocation_leaves_nothing_behind(void)
{
    struct hn_stack_config config = world_config();
    uint64_t n = 1;
    for (;; n++) {
        int error = 0;
        check_fail_allocation(n);
        struct hn_stack *stack = hn_stack_create(&config, &error);
        bool failed = check_allocation_failed();
        check_fail_allocation(0);
        if (!failed) {
            CHECK(stack && error == 0);
            hn_stack_destroy(stack);
            break;
        }
        CHECK(!stack);
        CHECK_EQUAL(error, ENOMEM);
    }
    CHECK(n > 6); /* stack, pool, graph, fib, neighbours, flows at least */
    hn_stack_destroy(NULL);
}

static void test_device_is_not_taken_without_memory_for_its_backlog(void)
{
    struct world world = world_open();
    struct hn_device *more = hn_wire_create(world.stack, 8, 1500, WORLD_MAC, false);
    uint64_t n = 1;
    int index;
    for (;; n++) {
        check_fail_allocation(n);
        index = hn_stack_add_device(world.stack, more);
        bool failed = check_allocation_failed();
        check_fail_allocation(0);
        if (!failed)
            break;
        CHECK_EQUAL(index, -ENOMEM);
        CHECK_EQUAL(hn_stack_find_device(world.stack, 8), -1);
    }
    CHECK_EQUAL(n, 3);
    CHECK_EQUAL(index, 1);
    check_fail_allocation(1);
    CHECK(hn_wire_create(world.stack, 9, 1500, WORLD_MAC, false) == NULL);
    check_fail_allocation(0);
    world_close(&world);
}

static void test_devices_are_bounded_and_one_per_interface(void)
{
    struct world world = world_open();
    struct hn_device *device = hn_wire_create(world.stack, WORLD_IFINDEX, 1500, WORLD_MAC, false);
    CHECK_EQUAL(hn_stack_add_device(world.stack, device), -EEXIST);
    device->ops->close(device);
    for (uint32_t i = 1; i < HN_DEVICES_MAX; i++) {
        device = hn_wire_create(world.stack, 100 + i, 1500, WORLD_MAC, false);
        CHECK_EQUAL(hn_stack_add_device(world.stack, device), (int)i);
    }
    device = hn_wire_create(world.stack, 99, 1500, WORLD_MAC, false);
    CHECK_EQUAL(hn_stack_add_device(world.stack, device), -ENOSPC);
    hn_stack_remove_device(world.stack, 5);
    CHECK_EQUAL(hn_stack_find_device(world.stack, 105), -1);
    CHECK_EQUAL(hn_stack_add_device(world.stack, device), 5);
    CHECK_EQUAL(hn_stack_find_device(world.stack, 99), 5);
    hn_stack_remove_device(world.stack, HN_DEVICES_MAX); /* no such device: nothing happens */
    world_close(&world);
}

static void test_calls_for_a_device_that_is_not_there_do_nothing(void)
{
    struct world world = world_open();
    struct hn_device_statistics statistics;
    CHECK_EQUAL(hn_stack_poll(world.stack, 17, 0, 64, 1), 0);
    CHECK_EQUAL(hn_stack_poll(world.stack, 1000, 0, 64, 1), 0);
    CHECK_EQUAL(hn_stack_poll(world.stack, world.index, 1, 64, 1), 0);
    CHECK_EQUAL(hn_stack_device_statistics(world.stack, 17, &statistics), -ENODEV);
    CHECK_EQUAL(hn_stack_device_statistics(world.stack, 1000, &statistics), -ENODEV);
    hn_stack_set_device(world.stack, 17, 1500, WORLD_MAC, true);
    CHECK(hn_drop_name(hn_drop_count()) == NULL);
    CHECK_EQUAL(hn_stack_drops(world.stack, hn_drop_count()), 0);
    world_close(&world);
}

/* Fills graph, backlog, ring and neighbour queue of the world's device; returns how many. */
static uint32_t make_everything_wait(struct world *world, struct hn_udp *udp)
{
    hn_wire_set_room(world->wire, 4);
    for (int i = 0; i < 10; i++)
        CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "ring and backlog"), HN_SEND_QUEUED);
    for (int i = 0; i < 5; i++)
        CHECK_EQUAL(world_send(udp, "10.0.0.50", 9, "neighbour"), HN_SEND_QUEUED);
    world_flush(world);
    struct hn_device_statistics statistics;
    CHECK_EQUAL(hn_stack_device_statistics(world->stack, world->index, &statistics), 0);
    CHECK_EQUAL(statistics.backlog, 6);
    CHECK_EQUAL(statistics.tx_packets, 4);
    for (int i = 0; i < 3; i++)
        CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "graph"), HN_SEND_QUEUED);
    CHECK_EQUAL(world_send(udp, "10.0.0.50", 9, "graph too"), HN_SEND_QUEUED);
    return 10 + 5 + 3 + 1;
}

static void test_removed_device_drops_what_waits_for_it_by_reason(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    make_everything_wait(&world, udp);
    world_push_udp(&world, "10.0.0.2", 9, "10.0.0.1", 5, "not yet received");
    hn_stack_remove_device(world.stack, world.index);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_DEVICE_DOWN), 6 + 3);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_NEIGHBOR_UNREACHABLE), 5 + 1);
    CHECK_EQUAL(world_free(&world), world.free_at_start);
    CHECK_EQUAL(world.stack->backlog_total, 0);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), -EHOSTUNREACH);
    CHECK(world_flush(&world));
    hn_udp_close(udp);
    world_close(&world);
}

static void test_destroyed_stack_takes_packets_under_way_along(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    make_everything_wait(&world, udp);
    hn_udp_close(udp);
    hn_stack_destroy(world.stack); /* the sanitizer looks for what is left */
}

static void test_removed_device_leaves_other_devices_packets_alone(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "0.0.0.0", 5, NULL, 0, 0);
    struct hn_device *second = hn_wire_create(world.stack, 8, 1500, WORLD_MAC, false);
    int index = hn_stack_add_device(world.stack, second);
    CHECK_EQUAL(index, 1);
    world_add_route(&world, "10.8.0.0/16", NULL, 8);
    CHECK_EQUAL(world_send(udp, "10.8.0.1", 9, "on the second"), HN_SEND_QUEUED);
    CHECK_EQUAL(world_send(udp, "10.0.0.50", 9, "on the first"), HN_SEND_QUEUED);
    world_flush(&world);
    hn_stack_remove_device(world.stack, world.index);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_NEIGHBOR_UNREACHABLE), 1);
    struct hn_address peer = world_address("10.8.0.1", 0);
    CHECK_EQUAL(hn_neighbor_set(hn_stack_neighbors(world.stack), 8, 4, peer.ip, HN_NUD_REACHABLE,
                                WORLD_PEER_MAC, 1),
                0);
    hn_stack_neighbors_changed(world.stack, 5);
    struct hn_device_statistics statistics;
    CHECK_EQUAL(hn_stack_device_statistics(world.stack, 1, &statistics), 0);
    CHECK_EQUAL(statistics.tx_packets, 1);
    hn_udp_close(udp);
    hn_stack_remove_device(world.stack, 1);
    world_close(&world);
}

static void test_device_that_goes_down_drops_its_backlog_and_comes_back(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    make_everything_wait(&world, udp);
    hn_stack_set_device(world.stack, world.index, 1500, WORLD_MAC, false);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_DEVICE_DOWN), 6);
    world_flush(&world);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_DEVICE_DOWN), 6 + 3);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), -EHOSTUNREACH);
    CHECK_EQUAL(world_drain(&world), 4); /* had been taken by the ring before */
    hn_stack_set_device(world.stack, world.index, 1500, WORLD_PEER_MAC, true);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), HN_SEND_QUEUED);
    world_flush(&world);
    uint8_t *frame;
    CHECK(world_pull(&world, &frame) > 0);
    CHECK(memcmp(frame + 6, WORLD_PEER_MAC, 6) == 0); /* its new address */
    hn_udp_close(udp);
    world_close(&world);
}

static void test_full_backlog_holds_senders_back_before_it_drops(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    hn_wire_set_room(world.wire, 4);
    uint32_t sent = 0;
    while (world_send(udp, "10.0.0.2", 9, "x") == HN_SEND_QUEUED) {
        sent++;
        CHECK(sent < 5000);
        if (sent % 10 == 0)
            CHECK_EQUAL(world_flush(&world), sent <= 4);
    }
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), -EAGAIN);
    CHECK_EQUAL(world_drops(&world), 0);
    CHECK(sent >= 128 && sent <= 128 + 4 + 10);
    uint32_t got = 0;
    for (int i = 0; i < 1000 && got < sent; i++) {
        got += world_drain(&world);
        world_flush(&world);
    }
    CHECK_EQUAL(got, sent);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), HN_SEND_QUEUED);
    world_flush(&world);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_one_turn_of_many_sends_overflows_the_backlog_by_reason_only(void)
{
    struct hn_stack_config config = world_config();
    config.backlog_max = 16;
    struct world world = world_open_with(&config);
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    hn_wire_set_room(world.wire, 4);
    for (int i = 0; i < 100; i++) /* nothing has been walked: nobody knows of the full ring */
        CHECK_EQUAL(world_send(udp, "10.0.0.2", 9, "x"), HN_SEND_QUEUED);
    world_flush(&world);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_DEVICE_QUEUE_FULL), 100 - 4 - 16);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_order_is_kept_through_ring_and_backlog(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    uint32_t sent = 0, got = 0;
    uint64_t seed = 5;
    uint8_t *frame;
    printf("seed %llu\n", (unsigned long long)seed);
    while (got < 2000) {
        hn_wire_set_room(world.wire, (uint32_t)(check_random(&seed) % 20));
        for (uint64_t i = check_random(&seed) % 12; i > 0; i--) {
            char text[16];
            snprintf(text, sizeof text, "%u", sent);
            if (world_send(udp, "10.0.0.2", 9, text) == HN_SEND_QUEUED)
                sent++;
        }
        world_flush(&world);
        for (uint64_t i = check_random(&seed) % 12; i > 0; i--) {
            size_t bytes = world_pull(&world, &frame);
            if (bytes == 0)
                break;
            frame[bytes] = 0;
            CHECK_EQUAL(atoi((char *)frame + 42), got);
            got++;
        }
    }
    CHECK_EQUAL(world_drops(&world), 0);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_received_packets_are_delivered_or_dropped_for_one_reason(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "0.0.0.0", 5, NULL, 0, 0);
    uint64_t seed = 77;
    uint8_t frame[256];
    uint32_t pushed = 0;
    printf("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 20000; round++) {
        size_t bytes = world_build(frame, "10.0.0.2", 9, "10.0.0.1", 5, "0123456789", 10);
        for (uint64_t i = check_random(&seed) % 3; i > 0; i--)
            frame[check_random(&seed) % bytes] ^= (uint8_t)(1u << check_random(&seed) % 8);
        if (check_random(&seed) % 4 == 0)
            bytes = check_random(&seed) % bytes + 1;
        world_push(&world, frame, bytes);
        pushed++;
        if (round % 50 == 0)
            world_poll(&world);
    }
    world_poll(&world);
    struct hn_device_statistics statistics;
    CHECK_EQUAL(hn_stack_device_statistics(world.stack, world.index, &statistics), 0);
    CHECK_EQUAL(statistics.rx_packets, pushed);
    CHECK(udp->statistics.rx_fast_datagrams > 100);
    CHECK_EQUAL(world_drops(&world) + udp->statistics.rx_fast_datagrams, pushed);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_poll_stays_within_its_budget(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    for (int i = 0; i < 300; i++)
        world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "x");
    CHECK_EQUAL(hn_stack_poll(world.stack, world.index, 0, 0, 1), 0);
    CHECK_EQUAL(hn_stack_poll(world.stack, world.index, 0, 1, 1), 1);
    CHECK_EQUAL(hn_stack_poll(world.stack, world.index, 0, 100, 1), 100);
    CHECK_EQUAL(hn_stack_poll(world.stack, world.index, 0, 1000, 1), 199);
    CHECK_EQUAL(udp->queue_count, 300);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_nodes_count_calls_and_packets(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    for (int i = 0; i < 64; i++)
        world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "x");
    world_poll(&world);
    CHECK_EQUAL(hn_stack_node_count(world.stack), HN_NODE_STACK_COUNT);
    for (uint32_t i = 0; i < HN_NODE_STACK_COUNT; i++) {
        struct hn_node_statistics node;
        CHECK_EQUAL(hn_stack_node_statistics(world.stack, i, &node), 0);
        bool used = i == HN_NODE_ETH_INPUT || i == HN_NODE_IP4_INPUT || i == HN_NODE_UDP_INPUT;
        CHECK_EQUAL(node.packets, used ? 64 : 0);
        CHECK_EQUAL(node.calls, used ? 1 : 0); /* one vector through the whole graph */
    }
    struct hn_node_statistics node;
    CHECK_EQUAL(hn_stack_node_statistics(world.stack, HN_NODE_STACK_COUNT, &node), -EINVAL);
    hn_udp_close(udp);
    world_close(&world);
}

int main(void)
{
    RUN(test_sizes_out_of_range_are_refused);
    RUN(test_creation_without_the_nth_allocation_leaves_nothing_behind);
    RUN(test_device_is_not_taken_without_memory_for_its_backlog);
    RUN(test_devices_are_bounded_and_one_per_interface);
    RUN(test_calls_for_a_device_that_is_not_there_do_nothing);
    RUN(test_removed_device_drops_what_waits_for_it_by_reason);
    RUN(test_destroyed_stack_takes_packets_under_way_along);
    RUN(test_removed_device_leaves_other_devices_packets_alone);
    RUN(test_device_that_goes_down_drops_its_backlog_and_comes_back);
    RUN(test_full_backlog_holds_senders_back_before_it_drops);
    RUN(test_one_turn_of_many_sends_overflows_the_backlog_by_reason_only);
    RUN(test_order_is_kept_through_ring_and_backlog);
    RUN(test_received_packets_are_delivered_or_dropped_for_one_reason);
    RUN(test_poll_stays_within_its_budget);
    RUN(test_nodes_count_calls_and_packets);
    return 0;
}
