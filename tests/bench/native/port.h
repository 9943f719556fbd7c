/* One interface as the benchmarks use it: an XDP program of their own on it (held by a bpf_link,
   native mode unless asked otherwise) and one AF_XDP queue of the project's xsk/ layer.

   There is no stack here: xsk/ takes its frames from hn_stack_pool, and port.c answers that with
   the pool of the one port that a process may have. */
#ifndef HN_BENCH_PORT_H
#define HN_BENCH_PORT_H

#include <bpf/libbpf.h>
#include <net/if.h>
#include <signal.h>

#include "stack/device.h"
#include "xsk/xsk.h"

struct hn_port_options {
    const char *interface;
    const char *object_path;
    const char *program;
    uint32_t frame_count;
    bool generic;
    bool without_queue; /* the program only */
    struct hn_xsk_options xsk;
};

struct hn_port {
    struct bpf_object *object;
    int link_fd;
    uint32_t ifindex;
    uint8_t mac[6];
    struct hn_pool *pool;
    struct hn_device *device; /* NULL: without_queue */
};

/* Loads, attaches, opens queue 0.  0 or -errno, after one sentence on standard error and with
   nothing left attached. */
int hn_port_open(struct hn_port *port, const struct hn_port_options *options);
void hn_port_close(struct hn_port *port);
/* The descriptor of a map of the port's object, -ENOENT. */
int hn_port_map(const struct hn_port *port, const char *name);
/* One entry of a per-processor array of u64, summed; 0 when there is none. */
uint64_t hn_port_counter(const struct hn_port *port, const char *map_name, uint32_t index);

/* Set by SIGINT and SIGTERM once hn_stop_on_signals was called; system calls are interrupted. */
extern volatile sig_atomic_t hn_stop;
void hn_stop_on_signals(void);

uint64_t hn_now_ns(void);

#endif
