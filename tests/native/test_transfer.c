// sources: stack/*.c stack/graph/*.c stack/ip/*.c xsk/transfer.c xsk/device.c xsk/socket.c
// flags: -Wl,--wrap=sendto -Wl,--wrap=recvfrom
/* The AF_XDP device over rings in plain memory, with a kernel played by this file: it takes frames
   from the fill ring, reports packets in rx, sends what is in tx when kicked, completes it. */
#include <fcntl.h>
#include <unistd.h>

#include "check.h"
#include "stack/stack.h"
#include "xsk/if_xdp_abi.h"
#include "xsk/xsk.h"

enum { RING = 64, FRAMES = 512, LENT = 48 };

struct fake_kernel {
    uint32_t cursors[4][3];
    uint64_t fill_entries[RING], completion_entries[RING];
    struct xdp_desc rx_entries[RING], tx_entries[RING];
    struct hn_ring fill, rx, tx, completion; /* the kernel's ends */
    uint32_t send_budget;                    /* descriptors one kick moves */
    uint32_t kicks, wakeups;
    int kick_fd;
    uint32_t sent_count, sent_bytes;
};

struct rig {
    struct hn_stack *stack;
    struct hn_pool *pool;
    struct hn_device *device;
    struct hn_xsk_queue *queue;
    struct fake_kernel *kernel;
    uint32_t index;
};

static struct fake_kernel *kicked; /* by the system calls below */

/* Moves transmitted frames from tx to completion as far as budget and room go. */
static uint32_t kernel_send(struct fake_kernel *kernel)
{
    uint32_t count = hn_ring_available(&kernel->tx, kernel->send_budget);
    count = hn_ring_room(&kernel->completion, count);
    for (uint32_t i = 0; i < count; i++) {
        struct xdp_desc sent = kernel->tx_entries[kernel->tx.cached_consumer++ & (RING - 1)];
        kernel->sent_count++;
        kernel->sent_bytes += sent.len;
        kernel->completion_entries[kernel->completion.cached_producer++ & (RING - 1)] = sent.addr;
    }
    hn_ring_release(&kernel->tx);
    hn_ring_publish(&kernel->completion);
    return count;
}

ssize_t __wrap_sendto(int fd, const void *data, size_t bytes, int flags, const struct sockaddr *to,
                      socklen_t to_bytes);
ssize_t __wrap_sendto(int fd, const void *data, size_t bytes, int flags, const struct sockaddr *to,
                      socklen_t to_bytes)
{
    CHECK_EQUAL(fd, kicked->kick_fd);
    CHECK(!data && bytes == 0 && flags == MSG_DONTWAIT && !to && to_bytes == 0);
    kicked->kicks++;
    kernel_send(kicked);
    return 0;
}

ssize_t __wrap_recvfrom(int fd, void *data, size_t bytes, int flags, struct sockaddr *from,
                        socklen_t *from_bytes);
ssize_t __wrap_recvfrom(int fd, void *data, size_t bytes, int flags, struct sockaddr *from,
                        socklen_t *from_bytes)
{
    CHECK(fd >= 0 && !data && bytes == 0 && flags == MSG_DONTWAIT && !from && !from_bytes);
    kicked->wakeups++;
    return 0;
}

static void join(struct hn_ring *ours, struct hn_ring *theirs, uint32_t *cursors, void *entries)
{
    hn_ring_init_memory(ours, cursors, entries, RING, UINT32_MAX - 30);
    hn_ring_init_memory(theirs, cursors, entries, RING, UINT32_MAX - 30);
}

static struct rig rig_open(void)
{
    struct rig rig;
    struct hn_stack_config config = {.frame_count = FRAMES,
                                     .frame_bytes = 2048,
                                     .neighbors_max = 16,
                                     .flows_max = 16,
                                     .backlog_max = 64};
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    int error = 0;
    rig.stack = hn_stack_create(&config, &error);
    CHECK(rig.stack);
    rig.pool = hn_stack_pool(rig.stack);
    rig.device = hn_xsk_device_create(rig.stack, 3, 2, 1500, mac, false);
    CHECK(rig.device);
    rig.index = (uint32_t)hn_stack_add_device(rig.stack, rig.device);
    rig.kernel = kicked = calloc(1, sizeof *rig.kernel);
    CHECK(rig.kernel);
    rig.queue = &hn_xsk_of(rig.device)->queues[1]; /* queue 0 stays closed */
    rig.queue->fd = open("/dev/null", O_RDWR);
    rig.queue->tx_fd = open("/dev/null", O_RDWR);
    CHECK(rig.queue->fd >= 0 && rig.queue->tx_fd >= 0);
    rig.kernel->kick_fd = rig.queue->tx_fd;
    rig.queue->lent_max = LENT;
    join(&rig.queue->fill, &rig.kernel->fill, rig.kernel->cursors[0], rig.kernel->fill_entries);
    join(&rig.queue->rx, &rig.kernel->rx, rig.kernel->cursors[1], rig.kernel->rx_entries);
    join(&rig.queue->tx, &rig.kernel->tx, rig.kernel->cursors[2], rig.kernel->tx_entries);
    join(&rig.queue->completion, &rig.kernel->completion, rig.kernel->cursors[3],
         rig.kernel->completion_entries);
    rig.kernel->cursors[2][2] = 1; /* need_wakeup: copy mode wants a kick for every send */
    rig.kernel->send_budget = 32;
    hn_xsk_refill(rig.device, 1);
    return rig;
}

/* Fails when a frame has not come back. */
static void rig_close(struct rig *rig)
{
    hn_stack_remove_device(rig->stack, rig->index);
    CHECK_EQUAL(rig->pool->free_count, FRAMES);
    hn_stack_destroy(rig->stack);
    free(rig->kernel);
}

/* One descriptor into rx: a frame from the fill ring with `length` bytes of `fill_byte`. */
static void kernel_receive(struct rig *rig, uint32_t length, uint8_t fill_byte, bool more)
{
    struct fake_kernel *kernel = rig->kernel;
    CHECK_EQUAL(hn_ring_available(&kernel->fill, 1), 1);
    CHECK_EQUAL(hn_ring_room(&kernel->rx, 1), 1);
    uint64_t address = kernel->fill_entries[kernel->fill.cached_consumer++ & (RING - 1)];
    hn_ring_release(&kernel->fill);
    CHECK_EQUAL(address % 2048, 0);
    address += HN_FRAME_HEADROOM;
    memset(rig->pool->memory + address, fill_byte, length);
    kernel->rx_entries[kernel->rx.cached_producer++ & (RING - 1)] =
        (struct xdp_desc){.addr = address, .len = length, .options = more ? XDP_PKT_CONTD : 0};
    hn_ring_publish(&kernel->rx);
}

static uint32_t receive(struct rig *rig, struct hn_frame **frames, uint32_t max)
{
    return hn_xsk_rx_burst(rig->device, 1, frames, max);
}

static struct hn_frame *packet_of(struct rig *rig, uint32_t pieces)
{
    struct hn_frame *head = NULL, *tail = NULL;
    while (pieces--) {
        struct hn_frame *frame = hn_frame_alloc(rig->pool, HN_OWNER_STACK);
        CHECK(frame);
        frame->length = 100;
        if (tail)
            tail->next = hn_frame_index(rig->pool, frame);
        else
            head = frame;
        tail = frame;
    }
    return head;
}

static void test_refill_lends_what_was_agreed_and_no_more(void)
{
    struct rig rig = rig_open();
    CHECK_EQUAL(rig.pool->free_count, FRAMES - LENT);
    CHECK_EQUAL(rig.queue->lent, LENT);
    hn_xsk_refill(rig.device, 1);
    CHECK_EQUAL(rig.pool->free_count, FRAMES - LENT);
    rig_close(&rig);
}

static void test_refill_takes_what_an_almost_empty_pool_has_and_comes_back_for_the_rest(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[64], *hoard = NULL;
    for (uint8_t i = 0; i < 10; i++)
        kernel_receive(&rig, 60, i, false);
    while (rig.pool->free_count > 3) {
        struct hn_frame *frame = hn_frame_alloc(rig.pool, HN_OWNER_STACK);
        frame->next = hoard ? hn_frame_index(rig.pool, hoard) : HN_FRAME_NONE;
        hoard = frame;
    }
    CHECK_EQUAL(receive(&rig, frames, 64), 10);
    CHECK_EQUAL(rig.queue->lent, LENT - 7);
    CHECK_EQUAL(rig.pool->free_count, 0);
    hn_packet_free(rig.pool, hoard, HN_OWNER_STACK);
    CHECK_EQUAL(receive(&rig, frames + 10, 54), 0); /* nothing came, and still it refills */
    CHECK_EQUAL(rig.queue->lent, LENT);
    for (uint32_t i = 0; i < 10; i++)
        hn_packet_free(rig.pool, frames[i], HN_OWNER_STACK);
    rig_close(&rig);
}

static void test_refill_wakes_a_driver_that_asks_for_it(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frame;
    kernel_receive(&rig, 60, 1, false);
    CHECK_EQUAL(receive(&rig, &frame, 1), 1);
    CHECK_EQUAL(rig.kernel->wakeups, 0);
    hn_packet_free(rig.pool, frame, HN_OWNER_STACK);
    rig.kernel->cursors[0][2] = 1;
    kernel_receive(&rig, 60, 1, false);
    CHECK_EQUAL(receive(&rig, &frame, 1), 1);
    CHECK_EQUAL(rig.kernel->wakeups, 1);
    hn_packet_free(rig.pool, frame, HN_OWNER_STACK);
    rig_close(&rig);
}

static void test_received_packets_come_in_order_with_their_bytes(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[32];
    uint32_t received = 0;
    uint8_t next = 0;
    for (int round = 0; round < 40; round++) { /* the cursors wrap on the way */
        for (uint8_t i = 0; i < 20; i++)
            kernel_receive(&rig, 60u + i, (uint8_t)(received + i), false);
        uint32_t count = 0;
        while (count < 20)
            count += receive(&rig, frames + count, 7 < 20 - count ? 7 : 20 - count);
        for (uint32_t i = 0; i < count; i++, next++) {
            CHECK(frames[i]->length == 60 + i && frames[i]->total_length == 60 + i);
            CHECK(frames[i]->data[0] == next && frames[i]->data[59] == next);
            CHECK(frames[i]->next == HN_FRAME_NONE && frames[i]->owner == HN_OWNER_STACK);
            CHECK(frames[i]->device == rig.index && frames[i]->queue == 1);
            hn_packet_free(rig.pool, frames[i], HN_OWNER_STACK);
        }
        received += count;
    }
    CHECK_EQUAL(received, 800);
    rig_close(&rig);
}

static void test_packet_of_several_descriptors_is_one_chain(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[8];
    kernel_receive(&rig, 64, 1, false);
    kernel_receive(&rig, 1700, 2, true);
    kernel_receive(&rig, 1700, 3, true);
    kernel_receive(&rig, 10, 4, false);
    kernel_receive(&rig, 65, 5, false);
    CHECK_EQUAL(receive(&rig, frames, 8), 3);
    CHECK(frames[0]->total_length == 64 && frames[2]->total_length == 65);
    CHECK(frames[1]->length == 1700 && frames[1]->total_length == 3410);
    const struct hn_frame *second = &rig.pool->frames[frames[1]->next];
    const struct hn_frame *third = &rig.pool->frames[second->next];
    CHECK(second->data[0] == 3 && third->data[0] == 4 && third->length == 10);
    CHECK(third->next == HN_FRAME_NONE);
    for (uint32_t i = 0; i < 3; i++)
        hn_packet_free(rig.pool, frames[i], HN_OWNER_STACK);
    rig_close(&rig);
}

static void test_chain_goes_on_over_bursts(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[4];
    kernel_receive(&rig, 1700, 1, true);
    CHECK_EQUAL(receive(&rig, frames, 4), 0);
    kernel_receive(&rig, 1700, 2, true);
    CHECK_EQUAL(receive(&rig, frames, 4), 0);
    kernel_receive(&rig, 5, 3, false);
    CHECK_EQUAL(receive(&rig, frames, 4), 1);
    CHECK_EQUAL(frames[0]->total_length, 3405);
    hn_packet_free(rig.pool, frames[0], HN_OWNER_STACK);
    rig_close(&rig);
}

static void test_chain_longer_than_any_packet_is_freed_and_counted(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[4];
    for (uint32_t i = 0; i < HN_XSK_CHAIN_MAX; i++)
        kernel_receive(&rig, 100, 1, true);
    kernel_receive(&rig, 100, 1, false);
    uint32_t count = 0;
    for (int i = 0; i < 20; i++)
        count += receive(&rig, frames, 4);
    CHECK_EQUAL(count, 0);
    CHECK_EQUAL(rig.queue->counters.rx_overlong, 1);
    CHECK_EQUAL(rig.pool->free_count, FRAMES - LENT);
    kernel_receive(&rig, 60, 9, false); /* the next packet is a packet of its own */
    CHECK_EQUAL(receive(&rig, frames, 4), 1);
    CHECK_EQUAL(frames[0]->total_length, 60);
    hn_packet_free(rig.pool, frames[0], HN_OWNER_STACK);
    rig_close(&rig);
}

static void test_transmit_takes_what_fits_the_ring_and_reclaims_what_was_sent(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[RING + 10];
    for (uint32_t i = 0; i < RING + 10; i++)
        frames[i] = packet_of(&rig, 1);
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames, RING + 10), RING);
    CHECK_EQUAL(frames[0]->owner, HN_OWNER_TX);
    CHECK_EQUAL(frames[RING]->owner, HN_OWNER_STACK);
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->sent_count, RING);
    CHECK_EQUAL(rig.kernel->kicks, 2);
    CHECK_EQUAL(rig.queue->sending, 0);
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames + RING, 10), 10);
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->sent_count, RING + 10);
    CHECK_EQUAL(rig.kernel->sent_bytes, (RING + 10) * 100);
    CHECK_EQUAL(rig.pool->free_count, FRAMES - LENT);
    rig_close(&rig);
}

static void test_transmit_leaves_room_in_the_completion_ring(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[RING];
    for (uint32_t i = 0; i < RING; i++)
        frames[i] = packet_of(&rig, 1);
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames, 40), 40);
    /* The kernel has read them all and completed none: tx is empty, and still they count. */
    rig.kernel->tx.cached_producer = rig.kernel->tx.cached_consumer += 40;
    hn_ring_release(&rig.kernel->tx);
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames + 40, 24), 24);
    struct hn_frame *more = packet_of(&rig, 1);
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, &more, 1), 0);
    hn_packet_free(rig.pool, more, HN_OWNER_STACK);
    CHECK_EQUAL(rig.queue->sending, RING);
    rig_close(&rig); /* takes back what the kernel kept */
}

static void test_transmit_takes_a_chain_whole_or_not_at_all(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[3];
    frames[0] = packet_of(&rig, 40);
    frames[1] = packet_of(&rig, 24);
    frames[2] = packet_of(&rig, 2);
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames, 3), 2);
    const struct xdp_desc *descriptors = rig.kernel->tx_entries;
    uint32_t first = rig.kernel->tx.cached_consumer;
    for (uint32_t i = 0; i < RING; i++)
        CHECK_EQUAL(descriptors[(first + i) & (RING - 1)].options,
                    i == 39 || i == 63 ? 0 : XDP_PKT_CONTD);
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames + 2, 1), 1);
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->sent_count, 66);
    CHECK_EQUAL(rig.pool->free_count, FRAMES - LENT);
    rig_close(&rig);
}

static void test_flush_gives_up_on_a_kernel_that_does_not_move(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frame = packet_of(&rig, 1);
    CHECK(hn_xsk_flush(rig.device, 1)); /* nothing to kick for */
    CHECK_EQUAL(rig.kernel->kicks, 0);
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, &frame, 1), 1);
    rig.kernel->send_budget = 0;
    CHECK(!hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->kicks, 1);
    rig.kernel->send_budget = 1;
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->kicks, 2);
    rig_close(&rig);
}

static void test_flush_leaves_a_driver_alone_that_is_at_it(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[2] = {packet_of(&rig, 1), packet_of(&rig, 1)};
    rig.queue->zero_copy = true;
    rig.kernel->cursors[2][2] = 0;
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames, 1), 1);
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->kicks, 0);
    rig.kernel->cursors[2][2] = 1; /* it has gone to sleep */
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames + 1, 1), 1);
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->kicks, 1);
    CHECK_EQUAL(rig.kernel->sent_count, 2);
    rig_close(&rig);
}

static void test_copy_mode_is_kicked_whatever_the_flag_says(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frame = packet_of(&rig, 1);
    rig.kernel->cursors[2][2] = 0;
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, &frame, 1), 1);
    CHECK(hn_xsk_flush(rig.device, 1));
    CHECK_EQUAL(rig.kernel->kicks, 1);
    rig_close(&rig);
}

static void test_closed_queue_neither_gives_nor_takes(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frame = packet_of(&rig, 1), *received;
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 0, &frame, 1), 0);
    CHECK_EQUAL(hn_xsk_rx_burst(rig.device, 0, &received, 1), 0);
    CHECK(hn_xsk_flush(rig.device, 0));
    hn_packet_free(rig.pool, frame, HN_OWNER_STACK);
    rig_close(&rig);
}

static void test_close_gives_back_what_lies_in_every_ring_and_half_a_chain(void)
{
    struct rig rig = rig_open();
    struct hn_frame *frames[8];
    for (uint32_t i = 0; i < 8; i++)
        frames[i] = packet_of(&rig, i + 1);
    rig.kernel->send_budget = 9;
    CHECK_EQUAL(hn_xsk_tx_burst(rig.device, 1, frames, 8), 8);
    kernel_send(rig.kernel); /* some sent and completed, some not */
    kernel_receive(&rig, 60, 1, false);
    kernel_receive(&rig, 1700, 1, true);
    kernel_receive(&rig, 1700, 1, true);
    CHECK_EQUAL(receive(&rig, frames, 8), 1);
    hn_packet_free(rig.pool, frames[0], HN_OWNER_STACK);
    kernel_receive(&rig, 1700, 1, true); /* in rx, not looked at */
    rig_close(&rig);
}

int main(void)
{
    RUN(test_refill_lends_what_was_agreed_and_no_more);
    RUN(test_refill_takes_what_an_almost_empty_pool_has_and_comes_back_for_the_rest);
    RUN(test_refill_wakes_a_driver_that_asks_for_it);
    RUN(test_received_packets_come_in_order_with_their_bytes);
    RUN(test_packet_of_several_descriptors_is_one_chain);
    RUN(test_chain_goes_on_over_bursts);
    RUN(test_chain_longer_than_any_packet_is_freed_and_counted);
    RUN(test_transmit_takes_what_fits_the_ring_and_reclaims_what_was_sent);
    RUN(test_transmit_leaves_room_in_the_completion_ring);
    RUN(test_transmit_takes_a_chain_whole_or_not_at_all);
    RUN(test_flush_gives_up_on_a_kernel_that_does_not_move);
    RUN(test_flush_leaves_a_driver_alone_that_is_at_it);
    RUN(test_copy_mode_is_kicked_whatever_the_flag_says);
    RUN(test_closed_queue_neither_gives_nor_takes);
    RUN(test_close_gives_back_what_lies_in_every_ring_and_half_a_chain);
    return 0;
}
