/* The measuring side of an echo: an ordinary kernel socket that keeps a window of datagrams in
   flight and takes the time of each.

     slots    [ sequence, sent_ns, busy ]   one per datagram of the window
     datagram [ sequence 8 | slot 4 | magic 4 | pattern ... ]

   A datagram names its slot, so that an answer finds its send time without a search.  An answer
   whose sequence is not the slot's is late: the slot was given up and used again.  Sends and
   receives go in bursts; a burst shares one clock reading, which at window 1 is exact. */
#define _GNU_SOURCE
#include "cli/echo_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define ECHO_MAGIC 0x6563686fu
#define ECHO_BURST_MAX 64u
/* How long a receive sleeps before losses are looked for; also how late a step may end. */
#define ECHO_WAIT_US 5000
/* Room for a whole window of the largest datagrams, as far as the kernel grants it. */
#define ECHO_SOCKET_BUFFER_BYTES (8 << 20)

struct echo_header {
    uint64_t sequence;
    uint32_t slot;
    uint32_t magic;
};
_Static_assert(sizeof(struct echo_header) == HN_ECHO_PAYLOAD_MIN, "the smallest datagram");

struct echo_slot {
    uint64_t sequence;
    uint64_t sent_ns;
    bool busy;
};

struct hn_echo_client {
    int fd;
    uint32_t window;
    uint32_t payload_bytes;
    uint32_t burst; /* the smaller of window and ECHO_BURST_MAX */
    uint64_t loss_timeout_ns;
    uint64_t next_sequence;
    uint64_t next_loss_check_ns;
    uint32_t *free_slots; /* last in, first out */
    uint32_t free_count;
    struct echo_slot *slots;
    uint8_t *tx_memory; /* burst datagrams, pattern written once */
    uint8_t *rx_memory; /* burst datagrams with one byte more, which shows what is too long */
    struct hn_echo_result result;
    struct iovec tx_iov[ECHO_BURST_MAX];
    struct iovec rx_iov[ECHO_BURST_MAX];
    struct mmsghdr tx[ECHO_BURST_MAX];
    struct mmsghdr rx[ECHO_BURST_MAX];
};

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* 64 buckets per power of two; below 64 ns every value has its own. */
static uint32_t bucket_of(uint64_t ns)
{
    if (ns < 64)
        return (uint32_t)ns;
    uint32_t exponent = 63u - (uint32_t)__builtin_clzll(ns);
    uint32_t bucket = (exponent - 5u) * 64u + (uint32_t)((ns >> (exponent - 6u)) & 63u);
    return bucket < HN_ECHO_BUCKETS ? bucket : HN_ECHO_BUCKETS - 1u;
}

uint64_t hn_echo_bucket_ns(uint32_t bucket)
{
    if (bucket < 64)
        return bucket;
    uint32_t shift = bucket / 64u - 1u;
    return ((64ull + bucket % 64u) << shift) + ((1ull << shift) >> 1);
}

static int connect_to(const struct hn_address *server)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(server->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons(server->port),
                              .sin6_scope_id = server->scope_id};
    memcpy(&v4.sin_addr, server->ip, sizeof v4.sin_addr);
    memcpy(&v6.sin6_addr, server->ip, sizeof v6.sin6_addr);
    bool is_v4 = server->family == HN_FAMILY_IPV4;
    const struct sockaddr *to = is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;

    int fd = socket(to->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int bytes = ECHO_SOCKET_BUFFER_BYTES;
    /* The privileged variant ignores the system's limit; without it the limit will have to do. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    struct timeval wait = {.tv_usec = ECHO_WAIT_US};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0 ||
        connect(fd, to, is_v4 ? sizeof v4 : sizeof v6) != 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

static bool allocate(struct hn_echo_client *client)
{
    size_t tx_bytes = client->payload_bytes;
    size_t rx_bytes = tx_bytes + 1;
    client->free_slots = calloc(client->window, sizeof *client->free_slots);
    client->slots = calloc(client->window, sizeof *client->slots);
    client->tx_memory = malloc(tx_bytes * client->burst);
    client->rx_memory = malloc(rx_bytes * client->burst);
    if (!client->free_slots || !client->slots || !client->tx_memory || !client->rx_memory)
        return false;
    for (uint32_t i = 0; i < client->window; i++)
        client->free_slots[i] = client->window - 1 - i;
    client->free_count = client->window;
    for (size_t i = 0; i < tx_bytes * client->burst; i++)
        client->tx_memory[i] = (uint8_t)((i % tx_bytes) * 131u + 7u);
    for (uint32_t i = 0; i < client->burst; i++) {
        client->tx_iov[i] = (struct iovec){client->tx_memory + i * tx_bytes, tx_bytes};
        client->rx_iov[i] = (struct iovec){client->rx_memory + i * rx_bytes, rx_bytes};
        client->tx[i].msg_hdr.msg_iov = &client->tx_iov[i];
        client->tx[i].msg_hdr.msg_iovlen = 1;
        client->rx[i].msg_hdr.msg_iov = &client->rx_iov[i];
        client->rx[i].msg_hdr.msg_iovlen = 1;
    }
    return true;
}

struct hn_echo_client *hn_echo_open(const struct hn_address *server, uint32_t window,
                                    uint32_t payload_bytes, uint64_t loss_timeout_ns,
                                    int *error_number)
{
    *error_number = EINVAL;
    if (window == 0 || window > HN_ECHO_WINDOW_MAX || payload_bytes < HN_ECHO_PAYLOAD_MIN ||
        payload_bytes > HN_ECHO_PAYLOAD_MAX ||
        (server->family != HN_FAMILY_IPV4 && server->family != HN_FAMILY_IPV6))
        return NULL;
    *error_number = ENOMEM;
    struct hn_echo_client *client = calloc(1, sizeof *client);
    if (!client)
        return NULL;
    client->fd = -1;
    client->window = window;
    client->payload_bytes = payload_bytes;
    client->burst = window < ECHO_BURST_MAX ? window : ECHO_BURST_MAX;
    client->loss_timeout_ns = loss_timeout_ns;
    client->result.rtt_min_ns = UINT64_MAX;
    if (!allocate(client)) {
        hn_echo_close(client);
        return NULL;
    }
    client->fd = connect_to(server);
    if (client->fd < 0) {
        *error_number = -client->fd;
        hn_echo_close(client);
        return NULL;
    }
    *error_number = 0;
    return client;
}

void hn_echo_close(struct hn_echo_client *client)
{
    if (!client)
        return;
    if (client->fd >= 0)
        close(client->fd);
    free(client->free_slots);
    free(client->slots);
    free(client->tx_memory);
    free(client->rx_memory);
    free(client);
}

const struct hn_echo_result *hn_echo_result(const struct hn_echo_client *client)
{
    return &client->result;
}

/* What the socket says about one datagram, or about a queue that is full for now, is counted or
   waited for; everything else ends the measurement. */
static int sort_error(struct hn_echo_client *client, int error)
{
    switch (error) {
    case ECONNREFUSED:
        client->result.refused++;
        return 0;
    case EAGAIN:
    case EINTR:
    case ENOBUFS:
        return 0;
    default:
        return -error;
    }
}

/* Fills the free part of the window with one burst.  Returns how many went out, or -errno. */
static int send_burst(struct hn_echo_client *client)
{
    uint32_t n = client->free_count < client->burst ? client->free_count : client->burst;
    if (n == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        struct echo_header header = {.sequence = client->next_sequence + i,
                                     .slot = client->free_slots[client->free_count - 1 - i],
                                     .magic = ECHO_MAGIC};
        memcpy(client->tx_iov[i].iov_base, &header, sizeof header);
    }
    uint64_t now = now_ns();
    int sent = sendmmsg(client->fd, client->tx, n, 0);
    if (sent < 0)
        return sort_error(client, errno);
    for (int i = 0; i < sent; i++) {
        struct echo_slot *slot = &client->slots[client->free_slots[--client->free_count]];
        slot->sequence = client->next_sequence++;
        slot->sent_ns = now;
        slot->busy = true;
    }
    client->result.sent += (uint32_t)sent;
    return sent;
}

static void take_answer(struct hn_echo_client *client, uint32_t index, uint64_t now)
{
    struct hn_echo_result *result = &client->result;
    const uint8_t *data = client->rx_iov[index].iov_base;
    struct echo_header header;
    size_t tail = client->payload_bytes - sizeof header;
    memcpy(&header, data, sizeof header);
    /* Every send buffer holds the same pattern behind its header. */
    if (client->rx[index].msg_len != client->payload_bytes || header.magic != ECHO_MAGIC ||
        header.slot >= client->window ||
        memcmp(data + sizeof header, client->tx_memory + sizeof header, tail) != 0) {
        result->corrupt++;
        return;
    }
    struct echo_slot *slot = &client->slots[header.slot];
    if (!slot->busy || slot->sequence != header.sequence) {
        result->late++;
        return;
    }
    uint64_t rtt = now - slot->sent_ns;
    slot->busy = false;
    client->free_slots[client->free_count++] = header.slot;
    result->received++;
    result->rtt_sum_ns += rtt;
    if (rtt < result->rtt_min_ns)
        result->rtt_min_ns = rtt;
    if (rtt > result->rtt_max_ns)
        result->rtt_max_ns = rtt;
    result->buckets[bucket_of(rtt)]++;
}

/* Waits for at least one answer (or ECHO_WAIT_US) and takes all that are there. */
static int receive_burst(struct hn_echo_client *client, uint64_t *now)
{
    int n = recvmmsg(client->fd, client->rx, client->burst, MSG_WAITFORONE, NULL);
    int error = n < 0 ? errno : 0;
    *now = now_ns();
    if (n < 0)
        return sort_error(client, error);
    for (int i = 0; i < n; i++)
        take_answer(client, (uint32_t)i, *now);
    return n;
}

static void give_up_lost(struct hn_echo_client *client, uint64_t now)
{
    if (now < client->next_loss_check_ns)
        return;
    client->next_loss_check_ns = now + client->loss_timeout_ns / 4;
    for (uint32_t i = 0; i < client->window; i++) {
        struct echo_slot *slot = &client->slots[i];
        if (!slot->busy || now - slot->sent_ns < client->loss_timeout_ns)
            continue;
        slot->busy = false;
        client->free_slots[client->free_count++] = i;
        client->result.lost++;
    }
}

int hn_echo_step(struct hn_echo_client *client, uint64_t duration_ns)
{
    uint64_t start = now_ns();
    uint64_t now = start;
    int status = 0;
    while (status >= 0 && now - start < duration_ns) {
        status = send_burst(client);
        if (status >= 0)
            status = receive_burst(client, &now);
        give_up_lost(client, now);
    }
    client->result.elapsed_ns += now_ns() - start;
    return status < 0 ? status : 0;
}
