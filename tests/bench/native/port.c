#include "port.h"

#include <bpf/bpf.h>
#include <linux/if_link.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "xsk/if_xdp_abi.h"

volatile sig_atomic_t hn_stop;

static struct hn_pool the_pool;

struct hn_stack;
struct hn_pool *hn_stack_pool(struct hn_stack *stack);
struct hn_pool *hn_stack_pool(struct hn_stack *stack)
{
    (void)stack;
    return &the_pool;
}

static void on_signal(int number)
{
    (void)number;
    hn_stop = 1;
}

void hn_stop_on_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

uint64_t hn_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int fail(const char *what, const char *name, int error)
{
    fprintf(stderr, "bench: %s %s: %s\n", what, name, strerror(-error));
    return error;
}

static int read_interface(struct hn_port *port, const char *name, uint32_t *mtu)
{
    struct ifreq request = {0};
    if (strlen(name) >= sizeof request.ifr_name)
        return -EINVAL;
    memcpy(request.ifr_name, name, strlen(name));
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int error = 0;
    if (ioctl(fd, SIOCGIFHWADDR, &request) != 0)
        error = -errno;
    else
        memcpy(port->mac, request.ifr_hwaddr.sa_data, sizeof port->mac);
    if (!error && ioctl(fd, SIOCGIFMTU, &request) != 0)
        error = -errno;
    *mtu = (uint32_t)request.ifr_mtu;
    close(fd);
    port->ifindex = if_nametoindex(name);
    return error;
}

static int attach(struct hn_port *port, const struct hn_port_options *options)
{
    port->object = bpf_object__open_file(options->object_path, NULL);
    if (!port->object)
        return fail("cannot open", options->object_path, -errno);
    int error = bpf_object__load(port->object);
    if (error)
        return fail("the kernel refused", options->object_path, error);
    struct bpf_program *program = bpf_object__find_program_by_name(port->object, options->program);
    if (!program)
        return fail("no program", options->program, -ENOENT);
    LIBBPF_OPTS(bpf_link_create_opts, link_options,
                .flags = options->generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE);
    port->link_fd =
        bpf_link_create(bpf_program__fd(program), (int)port->ifindex, BPF_XDP, &link_options);
    if (port->link_fd < 0)
        return fail("cannot attach to", options->interface, port->link_fd);
    return 0;
}

static int open_queue(struct hn_port *port, const struct hn_port_options *options, uint32_t mtu)
{
    int error = hn_pool_init(&the_pool, options->frame_count, 2048);
    if (error)
        return fail("no memory for", "frames", error);
    port->pool = &the_pool;
    port->device = hn_xsk_device_create(NULL, port->ifindex, 1, mtu, port->mac, true);
    if (!port->device)
        return fail("no memory for", options->interface, -ENOMEM);
    /* A socket closed a moment ago keeps its queue until the kernel has come round to it. */
    for (int attempt = 0; attempt < 100; attempt++) {
        error = hn_xsk_open_queue(port->device, 0, &options->xsk);
        if (error != -EBUSY || hn_stop)
            break;
        usleep(20000);
    }
    if (error)
        return fail("cannot open AF_XDP on", options->interface, error);
    int map = hn_port_map(port, "sockets");
    if (map < 0)
        return 0; /* a program that redirects nothing */
    uint32_t queue = 0;
    int fd = hn_xsk_fd(port->device, 0);
    if (bpf_map_update_elem(map, &queue, &fd, BPF_ANY) != 0)
        return fail("cannot fill the map of", options->program, -errno);
    return 0;
}

int hn_port_open(struct hn_port *port, const struct hn_port_options *options)
{
    memset(port, 0, sizeof *port);
    port->link_fd = -1;
    uint32_t mtu = 0;
    int error = read_interface(port, options->interface, &mtu);
    if (error)
        return fail("no interface", options->interface, error);
    error = attach(port, options);
    if (!error && !options->without_queue)
        error = open_queue(port, options, mtu);
    if (error)
        hn_port_close(port);
    return error;
}

void hn_port_close(struct hn_port *port)
{
    if (port->link_fd >= 0)
        close(port->link_fd);
    if (port->device)
        port->device->ops->close(port->device);
    if (port->pool)
        hn_pool_free(port->pool);
    bpf_object__close(port->object);
    memset(port, 0, sizeof *port);
    port->link_fd = -1;
}

int hn_port_map(const struct hn_port *port, const char *name)
{
    const struct bpf_map *map = bpf_object__find_map_by_name(port->object, name);
    return map ? bpf_map__fd(map) : -ENOENT;
}

uint64_t hn_port_counter(const struct hn_port *port, const char *map_name, uint32_t index)
{
    static uint64_t per_cpu[4096];
    int map = hn_port_map(port, map_name);
    int cpus = libbpf_num_possible_cpus();
    if (map < 0 || cpus < 1 || (size_t)cpus > sizeof per_cpu / sizeof *per_cpu ||
        bpf_map_lookup_elem(map, &index, per_cpu) != 0)
        return 0;
    uint64_t total = 0;
    for (int cpu = 0; cpu < cpus; cpu++)
        total += per_cpu[cpu];
    return total;
}
