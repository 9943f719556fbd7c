/* The limit: receive, swap addresses, transmit, on the project's xsk/ layer and nothing above it.
   One queue, native copy mode.

     bare_echo --dev DEV --listen HOST:PORT --object FILE [--wait poll|spin] [--burst N]
               [--rx N] [--fill N] [--generic] [--clear-checksum] [--drop]

   --rx and --fill are ring sizes: the more frames are lent, the colder they come back.
   --wait poll blocks in poll(2) when nothing has come, spin never blocks.
   --clear-checksum answers with UDP checksum zero: a veth peer that leaves checksums to the
   device has sent only a partial sum, which is no valid one to send back.
   --drop attaches a program that drops everything and waits.

   Answers whatever UDP comes in; HOST:PORT is only printed.  Prints "ready HOST:PORT MODE", and
   one JSON line when it is told to stop. */
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <unistd.h>

#include "port.h"

#define ETHERNET_BYTES 14u
#define IPV4_BYTES 20u
#define UDP_BYTES 8u

struct settings {
    struct hn_port_options port;
    const char *listen;
    uint32_t burst;
    bool spin;
    bool clear_checksum;
};

struct totals {
    uint64_t received;
    uint64_t sent;
    uint64_t malformed;
    uint64_t tx_full;
    uint64_t waits;
};

static void swap_bytes(uint8_t *a, uint8_t *b, size_t bytes)
{
    uint8_t kept[8];
    memcpy(kept, a, bytes);
    memcpy(a, b, bytes);
    memcpy(b, kept, bytes);
}

/* Turns a packet round in place; checksums stay right because sums do not know the order. */
static bool turn_round(struct hn_frame *frame, bool clear_checksum)
{
    if (frame->length < ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES)
        return false;
    uint8_t *eth = frame->data;
    uint8_t *ip = eth + ETHERNET_BYTES;
    uint32_t header_bytes = (ip[0] & 15u) * 4u;
    if (frame->length < ETHERNET_BYTES + header_bytes + UDP_BYTES)
        return false;
    uint8_t *udp = ip + header_bytes;
    swap_bytes(eth, eth + 6, 6);
    swap_bytes(ip + 12, ip + 16, 4);
    swap_bytes(udp, udp + 2, 2);
    if (clear_checksum)
        hn_store16_be(udp + 6, 0);
    return true;
}

static void transmit(struct hn_port *port, struct hn_frame **frames, uint32_t count,
                     struct totals *totals)
{
    const struct hn_device_ops *ops = port->device->ops;
    uint32_t sent = ops->tx_burst(port->device, 0, frames, count);
    ops->flush(port->device, 0);
    if (hn_unlikely(sent < count)) {
        sent += ops->tx_burst(port->device, 0, frames + sent, count - sent);
        ops->flush(port->device, 0);
    }
    totals->sent += sent;
    totals->tx_full += count - sent;
    for (uint32_t i = sent; i < count; i++)
        hn_packet_free(port->pool, frames[i], HN_OWNER_STACK);
}

static void serve(struct hn_port *port, const struct settings *settings, struct totals *totals)
{
    struct hn_frame *frames[HN_BURST_MAX];
    struct pollfd wait = {.fd = hn_xsk_fd(port->device, 0), .events = POLLIN};
    while (!hn_stop) {
        uint32_t count = port->device->ops->rx_burst(port->device, 0, frames, settings->burst);
        if (count == 0) {
            if (!settings->spin) {
                totals->waits++;
                (void)poll(&wait, 1, 1000);
            }
            continue;
        }
        totals->received += count;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (hn_likely(turn_round(frames[i], settings->clear_checksum))) {
                frames[kept++] = frames[i];
            } else {
                totals->malformed++;
                hn_packet_free(port->pool, frames[i], HN_OWNER_STACK);
            }
        }
        transmit(port, frames, kept, totals);
    }
}

static void report(struct hn_port *port, const struct settings *settings,
                   const struct totals *totals)
{
    struct hn_xsk_statistics kernel = {0};
    (void)hn_xsk_read_statistics(port->device, 0, &kernel);
    printf("{\"mode\": \"%s\", \"wait\": \"%s\", \"received\": %" PRIu64 ", \"sent\": %" PRIu64
           ", \"malformed\": %" PRIu64 ", \"tx_full\": %" PRIu64 ", \"waits\": %" PRIu64
           ", \"kicks\": %" PRIu64 ", \"rx_ring_full\": %" PRIu64
           ", \"rx_fill_ring_empty\": %" PRIu64 ", \"rx_dropped\": %" PRIu64 "}\n",
           settings->port.generic ? "generic" : "native", settings->spin ? "spin" : "poll",
           totals->received, totals->sent, totals->malformed, totals->tx_full, totals->waits,
           kernel.tx_kicks, kernel.rx_ring_full, kernel.rx_fill_ring_empty, kernel.rx_dropped);
}

static int usage(void)
{
    fputs("usage: bare_echo --dev DEV --listen HOST:PORT --object FILE [--wait poll|spin] "
          "[--burst N] [--rx N] [--fill N] [--generic] [--clear-checksum] [--drop]\n",
          stderr);
    return 2;
}

static bool parse(int argc, char **argv, struct settings *settings)
{
    static const struct option options[] = {{"dev", required_argument, NULL, 'd'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"object", required_argument, NULL, 'o'},
                                            {"wait", required_argument, NULL, 'w'},
                                            {"burst", required_argument, NULL, 'b'},
                                            {"fill", required_argument, NULL, 'f'},
                                            {"rx", required_argument, NULL, 'r'},
                                            {"generic", no_argument, NULL, 'g'},
                                            {"clear-checksum", no_argument, NULL, 'c'},
                                            {"drop", no_argument, NULL, 'x'},
                                            {0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'd':
            settings->port.interface = optarg;
            break;
        case 'l':
            settings->listen = optarg;
            break;
        case 'o':
            settings->port.object_path = optarg;
            break;
        case 'w':
            settings->spin = strcmp(optarg, "spin") == 0;
            break;
        case 'b':
            settings->burst = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'f':
            settings->port.xsk.fill_size = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'r':
            settings->port.xsk.rx_size = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'g':
            settings->port.generic = true;
            break;
        case 'c':
            settings->clear_checksum = true;
            break;
        case 'x':
            settings->port.program = "drop_all";
            settings->port.without_queue = true;
            break;
        default:
            return false;
        }
    }
    return settings->port.interface && settings->port.object_path && settings->listen &&
           settings->burst >= 1 && settings->burst <= HN_BURST_MAX;
}

int main(int argc, char **argv)
{
    struct settings settings = {
        .port =
            {.program = "redirect_udp",
             .frame_count = 4096,
             .xsk = {.rx_size = 1024, .tx_size = 2048, .fill_size = 1024, .completion_size = 2048}},
        .burst = 64,
    };
    if (!parse(argc, argv, &settings))
        return usage();
    hn_stop_on_signals();
    struct hn_port port;
    if (hn_port_open(&port, &settings.port) != 0)
        return 1;
    printf("ready %s %s\n", settings.listen, settings.port.generic ? "generic" : "native");
    fflush(stdout);
    if (settings.port.without_queue) {
        while (!hn_stop)
            (void)poll(NULL, 0, 1000);
        printf("{\"mode\": \"native\", \"received\": %" PRIu64 "}\n",
               hn_port_counter(&port, "dropped", 0));
    } else {
        struct totals totals = {0};
        serve(&port, &settings, &totals);
        report(&port, &settings, &totals);
    }
    hn_port_close(&port);
    return 0;
}
