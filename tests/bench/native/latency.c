/* Round trips over a plain kernel UDP socket, one request at a time.

     latency HOST PORT SIZE REQUESTS [SECONDS_MAX]

   Blocks in recv(2): no spinning, so that what is measured includes the wake-up that any client
   pays.  A reply that does not come within 200 ms counts as lost; a late one is told by its
   number and passed over.  Prints one JSON line. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SIZE_MAX_BYTES 65507u
#define WARM_UP 300u
#define TIMEOUT_US 200000

static uint8_t buffer[SIZE_MAX_BYTES];

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int open_socket(const char *host, const char *port)
{
    struct sockaddr_in server = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
    if (inet_pton(AF_INET, host, &server.sin_addr) != 1)
        return -EINVAL;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    struct timeval timeout = {.tv_usec = TIMEOUT_US};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
        connect(fd, (struct sockaddr *)&server, sizeof server) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

/* One exchange; false when it was lost. */
static bool ask(int fd, uint64_t number, size_t size, uint64_t *round_trip_ns)
{
    memcpy(buffer, &number, sizeof number);
    uint64_t start = now_ns();
    if (send(fd, buffer, size, 0) != (ssize_t)size)
        return false;
    for (;;) {
        ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        uint64_t end = now_ns();
        if (got < 0) /* nothing in time, or nobody listens there */
            return false;
        uint64_t answered = 0;
        if ((size_t)got == size)
            memcpy(&answered, buffer, sizeof answered);
        if ((size_t)got == size && answered == number) {
            *round_trip_ns = end - start;
            return true;
        }
        if (end - start > (uint64_t)TIMEOUT_US * 1000)
            return false;
    }
}

static uint64_t quantile(const uint64_t *sorted, size_t count, unsigned per_mille)
{
    return count == 0 ? 0 : sorted[(count - 1) * per_mille / 1000];
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 6) {
        fputs("usage: latency HOST PORT SIZE REQUESTS [SECONDS_MAX]\n", stderr);
        return 2;
    }
    size_t size = strtoul(argv[3], NULL, 10);
    size_t requests = strtoul(argv[4], NULL, 10);
    double seconds_max = argc == 6 ? strtod(argv[5], NULL) : 60;
    if (size < 8 || size > SIZE_MAX_BYTES || requests == 0 || requests > 10000000) {
        fputs("latency: SIZE is 8 to 65507, REQUESTS 1 to 10000000\n", stderr);
        return 2;
    }
    int fd = open_socket(argv[1], argv[2]);
    uint64_t *samples = calloc(requests, sizeof *samples);
    if (fd < 0 || !samples) {
        fprintf(stderr, "latency: %s\n", strerror(fd < 0 ? -fd : ENOMEM));
        return 1;
    }
    memset(buffer, 'x', sizeof buffer);
    uint64_t number = 1;
    uint64_t ignored;
    for (unsigned i = 0; i < WARM_UP; i++)
        (void)ask(fd, number++, size, &ignored);

    size_t lost = 0;
    size_t answered = 0;
    uint64_t sum = 0;
    uint64_t start = now_ns();
    uint64_t deadline = start + (uint64_t)(seconds_max * 1e9);
    while (answered + lost < requests && now_ns() < deadline) {
        if (ask(fd, number++, size, &samples[answered]))
            sum += samples[answered++];
        else
            lost++;
    }
    double seconds = (double)(now_ns() - start) / 1e9;
    qsort(samples, answered, sizeof *samples, by_value);
    printf("{\"size\": %zu, \"requests\": %zu, \"lost\": %zu, \"seconds\": %.3f, "
           "\"mean_ns\": %" PRIu64 ", \"min_ns\": %" PRIu64 ", \"p50_ns\": %" PRIu64
           ", \"p90_ns\": %" PRIu64 ", \"p99_ns\": %" PRIu64 "}\n",
           size, answered + lost, lost, seconds, answered ? sum / answered : 0,
           quantile(samples, answered, 0), quantile(samples, answered, 500),
           quantile(samples, answered, 900), quantile(samples, answered, 990));
    free(samples);
    close(fd);
    return 0;
}
