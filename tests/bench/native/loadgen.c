/* An open-loop UDP generator: it sends at the rate it is told, whether answers come or not, by
   AF_XDP in native copy mode; an XDP program on the same interface counts and drops the answers
   (loadgen.bpf.c).  So neither its own receive path nor a window hides what the server can do.

     loadgen --dev DEV --object FILE --source HOST --target HOST:PORT --target-mac MAC
             [--flows N] [--burst N]

   Then, per line on standard input, one step:   SIZE RATE WARM_UP_S SECONDS
   RATE 0 is as fast as it can.  Frames have SIZE bytes of UDP payload, complete checksums, and
   one of N source ports.  Each step prints one JSON line:

     offered   packets that were due at RATE in the measured seconds (0: no rate was asked for)
     sent      packets handed to the interface in that time
     replies   answers counted in that time; others: packets that were no answers
     sent_all, replies_all, reply_bytes_all   warm-up and 50 ms of drain included
     behind    packets that were due and never sent, because sending did not keep up

   Ends at end of input.  Prints "ready" when it can take steps. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <getopt.h>
#include <inttypes.h>
#include <unistd.h>

#include "loadgen_maps.h"
#include "port.h"

#define HEADER_BYTES 42u /* Ethernet, IPv4, UDP */
#define FRAME_COUNT 4096u
#define PORT_FIRST 20000u
#define DRAIN_NS 50000000u
#define SIZE_MAX_BYTES 1472u
/* Longer than this behind its schedule, the generator gives up what was due: an open-loop source
   does not make up for a stall with a flood. */
#define DEBT_NS 2000000u

struct settings {
    struct hn_port_options port;
    struct in_addr source;
    struct in_addr target;
    uint16_t target_port;
    uint8_t target_mac[6];
    uint32_t flows;
    uint32_t burst;
};

struct step {
    uint32_t size;
    double rate;
    uint64_t warm_up_ns;
    uint64_t measure_ns;
};

struct progress {
    uint64_t sent;
    uint64_t behind;
    uint64_t replies[HN_REPLY_COUNTERS];
    uint64_t at_ns;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static uint32_t sum_words(const uint8_t *bytes, size_t count, uint32_t sum)
{
    for (size_t i = 0; i + 1 < count; i += 2)
        sum += hn_load16_be(bytes + i);
    if (count & 1)
        sum += (uint32_t)bytes[count - 1] << 8;
    return sum;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Writes one frame; `flow` chooses the source port, and the payload is a pattern. */
static void build_frame(uint8_t *frame, const struct settings *settings, const uint8_t *own_mac,
                        uint32_t size, uint32_t flow)
{
    uint8_t *ip = frame + 14;
    uint8_t *udp = ip + 20;
    memcpy(frame, settings->target_mac, 6);
    memcpy(frame + 6, own_mac, 6);
    hn_store16_be(frame + 12, 0x0800);

    memset(ip, 0, 20);
    ip[0] = 0x45;
    hn_store16_be(ip + 2, (uint16_t)(28 + size));
    hn_store16_be(ip + 6, 0x4000); /* do not fragment */
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
    memcpy(ip + 12, &settings->source, 4);
    memcpy(ip + 16, &settings->target, 4);
    hn_store16_be(ip + 10, fold(sum_words(ip, 20, 0)));

    hn_store16_be(udp, (uint16_t)(PORT_FIRST + flow));
    hn_store16_be(udp + 2, settings->target_port);
    hn_store16_be(udp + 4, (uint16_t)(8 + size));
    hn_store16_be(udp + 6, 0);
    for (uint32_t i = 0; i < size; i++)
        udp[8 + i] = (uint8_t)(i * 7 + flow);
    uint32_t pseudo = sum_words(ip + 12, 8, IPPROTO_UDP + 8 + size);
    uint16_t checksum = fold(sum_words(udp, 8 + size, pseudo));
    hn_store16_be(udp + 6, checksum ? checksum : 0xffff);
}

/* Every frame of the pool holds its packet from the start: sending is descriptors only. */
static void build_all(const struct hn_port *port, const struct settings *settings, uint32_t size)
{
    for (uint32_t i = 0; i < port->pool->frame_count; i++)
        build_frame(hn_frame_base(port->pool, &port->pool->frames[i]) + HN_FRAME_HEADROOM, settings,
                    port->mac, size, i % settings->flows);
}

static void snapshot(const struct hn_port *port, struct progress *progress, struct progress *to)
{
    for (uint32_t i = 0; i < HN_REPLY_COUNTERS; i++)
        progress->replies[i] = hn_port_counter(port, "counters", i);
    progress->at_ns = hn_now_ns();
    *to = *progress;
}

/* Sends up to `count` packets and returns how many went. */
static uint32_t send_burst(struct hn_port *port, uint32_t count, uint32_t size)
{
    struct hn_frame *frames[HN_BURST_MAX];
    uint32_t ready = 0;
    for (; ready < count; ready++) {
        struct hn_frame *frame = hn_frame_alloc(port->pool, HN_OWNER_STACK);
        if (!frame)
            break;
        frame->length = HEADER_BYTES + size;
        frames[ready] = frame;
    }
    uint32_t sent = port->device->ops->tx_burst(port->device, 0, frames, ready);
    for (uint32_t i = sent; i < ready; i++)
        hn_frame_free(port->pool, frames[i], HN_OWNER_STACK);
    port->device->ops->flush(port->device, 0);
    return sent;
}

static void send_until(struct hn_port *port, const struct settings *settings,
                       const struct step *step, uint64_t start_ns, uint64_t end_ns,
                       struct progress *progress)
{
    double packets_per_ns = step->rate / 1e9;
    uint64_t debt_max = (uint64_t)(packets_per_ns * DEBT_NS) + settings->burst;
    for (;;) {
        uint64_t now = hn_now_ns();
        if (now >= end_ns || hn_stop)
            return;
        uint64_t due = settings->burst;
        if (step->rate > 0) {
            uint64_t scheduled = (uint64_t)((double)(now - start_ns) * packets_per_ns);
            due = scheduled - progress->sent - progress->behind;
            if (due == 0) {
                relax();
                continue;
            }
            if (due > debt_max) {
                progress->behind += due - debt_max;
                due = debt_max;
            }
        }
        uint32_t count = due < settings->burst ? (uint32_t)due : settings->burst;
        progress->sent += send_burst(port, count, step->size);
    }
}

static void run_step(struct hn_port *port, const struct settings *settings, const struct step *step)
{
    struct progress progress = {0};
    struct progress before;
    struct progress first;
    struct progress last;
    struct progress after;
    snapshot(port, &progress, &before);
    uint64_t start = before.at_ns;
    send_until(port, settings, step, start, start + step->warm_up_ns, &progress);
    snapshot(port, &progress, &first);
    send_until(port, settings, step, start, first.at_ns + step->measure_ns, &progress);
    snapshot(port, &progress, &last);
    while (hn_now_ns() < last.at_ns + DRAIN_NS && !hn_stop)
        usleep(5000);
    snapshot(port, &progress, &after);

    double seconds = (double)(last.at_ns - first.at_ns) / 1e9;
    uint64_t sent = last.sent - first.sent;
    uint64_t replies = last.replies[HN_REPLY_PACKETS] - first.replies[HN_REPLY_PACKETS];
    printf("{\"size\": %u, \"rate\": %.0f, \"seconds\": %.4f, \"offered\": %.0f, "
           "\"sent\": %" PRIu64 ", \"behind\": %" PRIu64 ", \"replies\": %" PRIu64
           ", \"others\": %" PRIu64 ", \"sent_all\": %" PRIu64 ", \"replies_all\": %" PRIu64
           ", \"reply_bytes_all\": %" PRIu64 ", \"sent_per_s\": %.0f, \"replies_per_s\": %.0f}\n",
           step->size, step->rate, seconds, step->rate * seconds, sent, last.behind - first.behind,
           replies, last.replies[HN_REPLY_OTHERS] - first.replies[HN_REPLY_OTHERS],
           after.sent - before.sent,
           after.replies[HN_REPLY_PACKETS] - before.replies[HN_REPLY_PACKETS],
           after.replies[HN_REPLY_BYTES] - before.replies[HN_REPLY_BYTES], (double)sent / seconds,
           (double)replies / seconds);
    fflush(stdout);
}

static void run_steps(struct hn_port *port, const struct settings *settings)
{
    char line[256];
    uint32_t built = 0;
    while (!hn_stop && fgets(line, sizeof line, stdin)) {
        struct step step;
        double warm_up_s;
        double seconds;
        if (sscanf(line, "%u %lf %lf %lf", &step.size, &step.rate, &warm_up_s, &seconds) != 4 ||
            step.size > SIZE_MAX_BYTES || !(step.rate >= 0 && step.rate < 1e9) ||
            !(warm_up_s >= 0 && warm_up_s < 3600) || !(seconds > 0 && seconds < 3600)) {
            fputs("loadgen: a step is SIZE RATE WARM_UP_S SECONDS\n", stderr);
            continue;
        }
        step.warm_up_ns = (uint64_t)(warm_up_s * 1e9);
        step.measure_ns = (uint64_t)(seconds * 1e9);
        if (step.size != built)
            build_all(port, settings, step.size);
        built = step.size;
        run_step(port, settings, &step);
    }
}

static bool parse_target(char *text, struct settings *settings)
{
    char *colon = strrchr(text, ':');
    if (!colon)
        return false;
    *colon = '\0';
    settings->target_port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return inet_pton(AF_INET, text, &settings->target) == 1;
}

static bool parse_mac(const char *text, uint8_t *mac)
{
    return sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3],
                  &mac[4], &mac[5]) == 6;
}

static bool parse(int argc, char **argv, struct settings *settings)
{
    static const struct option options[] = {
        {"dev", required_argument, NULL, 'd'},        {"object", required_argument, NULL, 'o'},
        {"source", required_argument, NULL, 's'},     {"target", required_argument, NULL, 't'},
        {"target-mac", required_argument, NULL, 'm'}, {"flows", required_argument, NULL, 'f'},
        {"burst", required_argument, NULL, 'b'},      {0}};
    bool valid = true;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'd':
            settings->port.interface = optarg;
            break;
        case 'o':
            settings->port.object_path = optarg;
            break;
        case 's':
            valid &= inet_pton(AF_INET, optarg, &settings->source) == 1;
            break;
        case 't':
            valid &= parse_target(optarg, settings);
            break;
        case 'm':
            valid &= parse_mac(optarg, settings->target_mac);
            break;
        case 'f':
            settings->flows = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'b':
            settings->burst = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        default:
            valid = false;
        }
    }
    return valid && settings->port.interface && settings->port.object_path &&
           settings->target_port && settings->flows >= 1 && settings->flows <= FRAME_COUNT &&
           settings->burst >= 1 && settings->burst <= HN_BURST_MAX;
}

int main(int argc, char **argv)
{
    struct settings settings = {
        .port = {.program = "count_replies",
                 .frame_count = FRAME_COUNT,
                 .xsk = {.rx_size = 64, .tx_size = 2048, .fill_size = 64, .completion_size = 2048}},
        .flows = 16,
        .burst = 32,
    };
    if (!parse(argc, argv, &settings)) {
        fputs("usage: loadgen --dev DEV --object FILE --source HOST --target HOST:PORT "
              "--target-mac MAC [--flows N] [--burst N]\n",
              stderr);
        return 2;
    }
    hn_stop_on_signals();
    struct hn_port port;
    if (hn_port_open(&port, &settings.port) != 0)
        return 1;
    struct hn_reply_source source = {.address_be = settings.target.s_addr,
                                     .port_be = htons(settings.target_port)};
    uint32_t zero = 0;
    if (bpf_map_update_elem(hn_port_map(&port, "source"), &zero, &source, BPF_ANY) != 0) {
        perror("loadgen: map");
        hn_port_close(&port);
        return 1;
    }
    puts("ready");
    fflush(stdout);
    run_steps(&port, &settings);
    hn_port_close(&port);
    return 0;
}
