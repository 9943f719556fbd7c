// sources: stack/*.c stack/graph/*.c stack/ip/*.c devices/wire.c
#include "world.h"

/* Which of the endpoints a datagram goes to. */
static struct hn_udp *found(struct world *world, const char *local, uint16_t port, const char *peer,
                            uint16_t peer_port)
{
    struct hn_address to = world_address(local, port), from = world_address(peer, peer_port);
    return hn_udp_find(world->stack, &to, &from);
}

static int open_error(struct world *world, const char *local, uint16_t port, uint32_t flags)
{
    struct hn_address address = world_address(local, port);
    int error = 0;
    struct hn_udp *udp = hn_udp_open(world->stack, &address, NULL, flags, &error);
    if (udp)
        hn_udp_close(udp);
    return error;
}

static void test_most_specific_endpoint_gets_the_datagram(void)
{
    struct world world = world_open();
    struct hn_udp *dual = world_bind(&world, "::", 5, NULL, 0, HN_UDP_REUSE);
    struct hn_udp *any4 = world_bind(&world, "0.0.0.0", 5, NULL, 0, HN_UDP_REUSE);
    struct hn_udp *bound = world_bind(&world, "10.0.0.1", 5, NULL, 0, HN_UDP_REUSE);
    struct hn_udp *peer = world_bind(&world, "10.0.0.1", 5, "10.0.0.2", 7, HN_UDP_REUSE);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 7) == peer);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 8) == bound);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.3", 7) == bound);
    CHECK(found(&world, "10.0.0.9", 5, "10.0.0.2", 7) == any4);
    CHECK(found(&world, "fd00::1", 5, "fd00::2", 7) == dual);
    CHECK(found(&world, "10.0.0.1", 6, "10.0.0.2", 7) == NULL);
    CHECK(found(&world, "10.0.0.1", 5 + HN_UDP_BUCKETS, "10.0.0.2", 7) == NULL);
    hn_udp_close(any4);
    CHECK(found(&world, "10.0.0.9", 5, "10.0.0.2", 7) == dual);
    hn_udp_close(peer);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 7) == bound);
    struct hn_udp *newer = world_bind(&world, "10.0.0.1", 5, NULL, 0, HN_UDP_REUSE);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 7) == newer);
    hn_udp_close(newer);
    hn_udp_close(bound);
    hn_udp_close(dual);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 7) == NULL);
    world_close(&world);
}

static void test_ipv6_wildcard_takes_ipv4_unless_told_not_to(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "::", 5, NULL, 0, HN_UDP_V6ONLY);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 7) == NULL);
    CHECK(found(&world, "fd00::1", 5, "fd00::2", 7) == udp);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 7, "x"), -EAFNOSUPPORT);
    struct hn_udp *v4 = world_bind(&world, "0.0.0.0", 5, NULL, 0, 0);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 7) == v4);
    CHECK(found(&world, "fd00::1", 5, "fd00::2", 7) == udp);
    hn_udp_close(udp);
    CHECK(found(&world, "fd00::1", 5, "fd00::2", 7) == NULL);
    hn_udp_close(v4);
    world_close(&world);
}

static void test_address_can_be_taken_once_unless_both_share(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, HN_UDP_REUSE);
    CHECK_EQUAL(open_error(&world, "10.0.0.1", 5, 0), EADDRINUSE);
    CHECK_EQUAL(open_error(&world, "0.0.0.0", 5, 0), EADDRINUSE);
    CHECK_EQUAL(open_error(&world, "::", 5, 0), EADDRINUSE);
    CHECK_EQUAL(open_error(&world, "::", 5, HN_UDP_V6ONLY), 0);
    CHECK_EQUAL(open_error(&world, "fd00::1", 5, 0), 0);
    CHECK_EQUAL(open_error(&world, "10.0.0.9", 5, 0), 0);
    CHECK_EQUAL(open_error(&world, "10.0.0.1", 6, 0), 0);
    CHECK_EQUAL(open_error(&world, "10.0.0.1", 5 + HN_UDP_BUCKETS, 0), 0);
    CHECK_EQUAL(open_error(&world, "10.0.0.1", 5, HN_UDP_REUSE), 0);
    CHECK_EQUAL(open_error(&world, "10.0.0.1", 0, 0), EINVAL);
    hn_udp_close(udp);
    CHECK_EQUAL(open_error(&world, "10.0.0.1", 5, 0), 0);
    udp = world_bind(&world, "::", 5, NULL, 0, 0);
    CHECK_EQUAL(open_error(&world, "0.0.0.0", 5, 0), EADDRINUSE);
    CHECK_EQUAL(open_error(&world, "10.0.0.1", 5, 0), EADDRINUSE);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_link_local_address_is_one_per_link(void)
{
    struct world world = world_open();
    int error = 0;
    struct hn_address here = world_address("fe80::1", 5), there = here;
    here.scope_id = WORLD_IFINDEX;
    there.scope_id = WORLD_IFINDEX + 1;
    struct hn_udp *other = hn_udp_open(world.stack, &there, NULL, 0, &error);
    struct hn_udp *udp = hn_udp_open(world.stack, &here, NULL, 0, &error);
    CHECK(udp && other);
    world_push_udp(&world, "fe80::2", 9, "fe80::1", 5, "here");
    CHECK_EQUAL(world_poll(&world), 1);
    CHECK(other->queue_count == 0 && udp->queue_count == 1);
    CHECK_EQUAL(hn_stack_pool(world.stack)->frames[udp->queue_head].peer.scope_id, WORLD_IFINDEX);
    world_expect(udp, "here");
    hn_udp_close(udp);
    hn_udp_close(other);
    world_close(&world);
}

static void test_connected_endpoint_gets_its_peers_datagrams_in_any_burst(void)
{
    struct world world = world_open();
    struct hn_udp *connected = world_bind(&world, "10.0.0.1", 5, "10.0.0.2", 7, HN_UDP_REUSE);
    struct hn_udp *open = world_bind(&world, "10.0.0.1", 5, NULL, 0, HN_UDP_REUSE);
    for (int i = 0; i < 4; i++) {
        world_push_udp(&world, "10.0.0.3", 7, "10.0.0.1", 5, "anybody");
        world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "peer");
    }
    CHECK_EQUAL(world_poll(&world), 8);
    CHECK_EQUAL(connected->queue_count, 4);
    CHECK_EQUAL(open->queue_count, 4);
    for (int i = 0; i < 4; i++) {
        world_expect(connected, "peer");
        world_expect(open, "anybody");
    }
    hn_udp_close(open);
    hn_udp_close(connected);
    world_close(&world);
}

static void test_datagram_to_no_address_at_all_is_not_local(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "0.0.0.0", 5, NULL, 0, 0);
    world_push_udp(&world, "10.0.0.2", 7, "0.0.0.0", 5, "to nobody");
    CHECK_EQUAL(world_poll(&world), 1);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_IP4_NOT_LOCAL), 1);
    CHECK_EQUAL(udp->queue_count, 0);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_receive_limit_bounds_frame_memory_and_counts_the_rest(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    struct hn_udp_statistics statistics;
    hn_udp_set_receive_limit(udp, 3 * 2048);
    for (int i = 0; i < 5; i++)
        world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "x");
    world_poll(&world);
    hn_udp_read_statistics(udp, &statistics);
    CHECK_EQUAL(statistics.rx_fast_datagrams, 3);
    CHECK_EQUAL(statistics.rx_fast_bytes, 3);
    CHECK_EQUAL(statistics.rx_queue_full, 2);
    CHECK_EQUAL(statistics.rx_queue_datagrams, 3);
    CHECK_EQUAL(statistics.rx_queue_bytes, 3 * 2048);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_UDP_QUEUE_FULL), 2);
    world_expect(udp, "x");
    world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "y");
    world_poll(&world);
    CHECK_EQUAL(udp->queue_count, 3);
    hn_udp_close(udp);
    world_close(&world);
}

static void receive_many(struct world *world, uint16_t port, int count)
{
    for (int i = 0; i < count; i++) {
        world_push_udp(world, "10.0.0.2", 7, "10.0.0.1", port, "x");
        world_poll(world);
    }
}

/* One full queue takes what is above the reserve; another endpoint still gets its minimum. */
static void test_endpoints_leave_the_reserve_alone_but_for_a_few_each(void)
{
    struct hn_stack_config config = world_config();
    config.reserve_frames = WORLD_FRAMES - 40;
    struct world world = world_open_with(&config);
    struct hn_udp *greedy = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    struct hn_udp *modest = world_bind(&world, "10.0.0.1", 6, NULL, 0, 0);
    receive_many(&world, 5, 60);
    CHECK_EQUAL(greedy->queue_count, 40);
    CHECK_EQUAL(greedy->statistics.rx_no_frames, 20);
    receive_many(&world, 6, 20);
    CHECK_EQUAL(modest->queue_count, HN_UDP_RECEIVE_MIN);
    CHECK_EQUAL(modest->statistics.rx_no_frames, 20 - HN_UDP_RECEIVE_MIN);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_UDP_NO_FRAMES), 40 - HN_UDP_RECEIVE_MIN);
    hn_udp_close(greedy);
    hn_udp_close(modest);
    world_close(&world);
}

static void test_ready_list_names_each_endpoint_once_in_order_of_arrival(void)
{
    struct world world = world_open();
    struct hn_udp *udp[3];
    for (uint16_t i = 0; i < 3; i++)
        udp[i] = world_bind(&world, "10.0.0.1", (uint16_t)(5 + i), NULL, 0, 0);
    CHECK(hn_udp_next_ready(world.stack) == NULL);
    for (int round = 0; round < 2; round++)
        for (uint16_t i = 3; i-- > 0;)
            world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", (uint16_t)(5 + i), "x");
    world_poll(&world);
    CHECK(hn_udp_next_ready(world.stack) == udp[2]);
    hn_udp_close(udp[1]); /* from the list's head, with udp[0] behind it */
    CHECK(hn_udp_next_ready(world.stack) == udp[0]);
    CHECK(hn_udp_next_ready(world.stack) == NULL);
    hn_udp_mark_ready(udp[0]);
    hn_udp_mark_ready(udp[0]);
    hn_udp_mark_ready(udp[2]);
    hn_udp_close(udp[2]); /* from its tail */
    world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "x");
    world_poll(&world);
    CHECK(hn_udp_next_ready(world.stack) == udp[0]);
    CHECK(hn_udp_next_ready(world.stack) == NULL);
    struct hn_frame *frames[8];
    CHECK_EQUAL(hn_udp_receive(udp[0], frames, 8), 3);
    for (int i = 0; i < 3; i++)
        hn_packet_free(hn_stack_pool(world.stack), frames[i], HN_OWNER_SOCKET);
    hn_udp_mark_ready(udp[0]); /* has nothing: not listed */
    CHECK(hn_udp_next_ready(world.stack) == NULL);
    hn_udp_close(udp[0]);
    world_close(&world);
}

static void test_closing_drops_what_is_queued_by_reason(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    for (int i = 0; i < 7; i++)
        world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "x");
    world_poll(&world);
    CHECK_EQUAL(world_free(&world), world.free_at_start - 7);
    hn_udp_close(udp);
    CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_UDP_CLOSED), 7);
    CHECK_EQUAL(world_free(&world), world.free_at_start);
    CHECK(hn_udp_next_ready(world.stack) == NULL);
    world_close(&world);
}

static void test_endpoint_closed_with_datagrams_in_the_graph_still_sends_them(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 7, "last words"), HN_SEND_QUEUED);
    hn_udp_close(udp);
    world_flush(&world);
    CHECK_EQUAL(world_drain(&world), 1);
    world_close(&world);
}

static void test_datagram_over_several_frames_is_received_whole(void)
{
    static const size_t sizes[] = {1749, 1750, 1751, 4000, 8972, 65507};
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "0.0.0.0", 5, NULL, 0, 0);
    static uint8_t payload[65536], frame[65600], copy[65536];
    uint64_t seed = 99;
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)check_random(&seed);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct hn_frame *received;
        size_t bytes = world_build(frame, "10.0.0.2", 7, "10.0.0.1", 5, payload, sizes[i]);
        world_push(&world, frame, bytes);
        frame[bytes - 1] ^= 1; /* checksum over all of the chain */
        world_push(&world, frame, bytes);
        CHECK_EQUAL(world_poll(&world), 2);
        CHECK_EQUAL(hn_stack_drops(world.stack, HN_DROP_UDP_BAD_CHECKSUM), i + 1);
        CHECK_EQUAL(hn_udp_receive(udp, &received, 1), 1);
        CHECK_EQUAL(received->payload_length, sizes[i]);
        hn_udp_copy_payload(hn_stack_pool(world.stack), received, copy);
        CHECK(memcmp(copy, payload, sizes[i]) == 0);
        hn_packet_free(hn_stack_pool(world.stack), received, HN_OWNER_SOCKET);
        CHECK(udp->queue_bytes == 0);
    }
    world_push(&world, frame, world_build(frame, "10.0.0.2", 7, "10.0.0.1", 5, payload, 8972));
    world_poll(&world);
    CHECK_EQUAL(udp->queue_bytes, 6 * 2048);
    hn_udp_close(udp); /* a chain in its queue */
    world_close(&world);
}

static void test_datagram_over_several_frames_is_sent_whole(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "::", 5, NULL, 0, 0);
    static uint8_t payload[9000];
    uint8_t *frame;
    uint64_t seed = 7;
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)check_random(&seed);
    hn_stack_set_device(world.stack, world.index, 9000, WORLD_MAC, true);
    for (size_t bytes = 1700; bytes <= 8900; bytes += 57) {
        struct hn_address to = world_address("fd00::2", 7);
        CHECK_EQUAL(hn_udp_send(udp, &to, payload, bytes), HN_SEND_QUEUED);
        world_flush(&world);
        CHECK_EQUAL(world_pull(&world, &frame), 14 + 40 + 8 + bytes);
        CHECK(memcmp(frame + 62, payload, bytes) == 0);
        uint32_t length = (uint32_t)bytes + 8;
        uint64_t sum = hn_checksum_pseudo(frame + 22, frame + 38, 16, 17, length);
        CHECK_EQUAL(hn_checksum_fold(hn_checksum_add(sum, frame + 54, length)), 0xffff);
    }
    hn_udp_close(udp);
    world_close(&world);
}

static void send_leased_in_place(const char *payload, bool modified)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    struct hn_frame *leased;
    uint8_t *frame;
    world_push_udp(&world, "10.0.0.2", 7, "10.0.0.1", 5, "hello");
    world_poll(&world);
    CHECK_EQUAL(hn_udp_receive(udp, &leased, 1), 1);
    hn_frame_set_owner(leased, HN_OWNER_SOCKET, HN_OWNER_USER);
    memcpy(leased->data + leased->payload_offset, payload, 5);
    struct hn_address to = leased->peer;
    CHECK_EQUAL(hn_udp_send_frame(udp, &to, leased, modified), HN_SEND_QUEUED);
    world_flush(&world);
    CHECK_EQUAL(world_pull(&world, &frame), 14 + 20 + 8 + 5);
    CHECK(memcmp(frame + 42, payload, 5) == 0);
    uint64_t sum = hn_checksum_pseudo(frame + 26, frame + 30, 4, 17, 13);
    CHECK_EQUAL(hn_checksum_fold(hn_checksum_add(sum, frame + 34, 13)), 0xffff);
    CHECK_EQUAL(hn_load16_be(frame + 36), 7);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_leased_frame_is_sent_in_place(void) { send_leased_in_place("HELLO", true); }

/* Its checksum follows from the received one, without a look at the payload. */
static void test_unchanged_leased_frame_keeps_its_sum(void)
{
    send_leased_in_place("hello", false);
}

static void test_sending_without_destination_port_or_family_is_refused(void)
{
    struct world world = world_open();
    struct hn_udp *udp = world_bind(&world, "10.0.0.1", 5, NULL, 0, 0);
    CHECK_EQUAL(hn_udp_send(udp, NULL, (const uint8_t *)"x", 1), -EDESTADDRREQ);
    CHECK_EQUAL(world_send(udp, "fd00::2", 7, "x"), -EAFNOSUPPORT);
    CHECK_EQUAL(world_send(udp, "10.0.0.2", 0, "x"), -EINVAL);
    struct hn_address peer = world_address("10.0.0.2", 7);
    hn_udp_connect(udp, &peer);
    CHECK_EQUAL(hn_udp_send(udp, NULL, NULL, 0), HN_SEND_QUEUED);
    hn_udp_connect(udp, NULL);
    CHECK_EQUAL(hn_udp_send(udp, NULL, (const uint8_t *)"x", 1), -EDESTADDRREQ);
    world_flush(&world);
    CHECK_EQUAL(world_drain(&world), 1);
    hn_udp_close(udp);
    world_close(&world);
}

static void test_open_without_memory_leaves_nothing_behind(void)
{
    struct world world = world_open();
    struct hn_address address = world_address("10.0.0.1", 5);
    int error = 0;
    check_fail_allocation(1);
    CHECK(hn_udp_open(world.stack, &address, NULL, 0, &error) == NULL);
    check_fail_allocation(0);
    CHECK_EQUAL(error, ENOMEM);
    CHECK(found(&world, "10.0.0.1", 5, "10.0.0.2", 7) == NULL);
    world_close(&world);
}

int main(void)
{
    RUN(test_most_specific_endpoint_gets_the_datagram);
    RUN(test_ipv6_wildcard_takes_ipv4_unless_told_not_to);
    RUN(test_address_can_be_taken_once_unless_both_share);
    RUN(test_link_local_address_is_one_per_link);
    RUN(test_connected_endpoint_gets_its_peers_datagrams_in_any_burst);
    RUN(test_datagram_to_no_address_at_all_is_not_local);
    RUN(test_receive_limit_bounds_frame_memory_and_counts_the_rest);
    RUN(test_endpoints_leave_the_reserve_alone_but_for_a_few_each);
    RUN(test_ready_list_names_each_endpoint_once_in_order_of_arrival);
    RUN(test_closing_drops_what_is_queued_by_reason);
    RUN(test_endpoint_closed_with_datagrams_in_the_graph_still_sends_them);
    RUN(test_datagram_over_several_frames_is_received_whole);
    RUN(test_datagram_over_several_frames_is_sent_whole);
    RUN(test_leased_frame_is_sent_in_place);
    RUN(test_unchanged_leased_frame_keeps_its_sum);
    RUN(test_sending_without_destination_port_or_family_is_refused);
    RUN(test_open_without_memory_leaves_nothing_behind);
    return 0;
}
