/* The loader of the steering program: bpf/steer.bpf.c.

   open   object -> load (the best variant that this kernel takes) -> bpf_link
   close  the link first, so that nothing is redirected to maps that are going away

   The maps are never pinned and the link is only held by its descriptor: nothing outlives the
   process, and no bpffs is needed. */
#include "xsk/program.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include "steer_maps.h"
#include "xsk/program_report.h"

/* A single page is what any driver takes; longer frames depend on multi-buffer XDP. */
#define MTU_OF_ONE_PAGE 3498u

struct hn_program {
    struct bpf_object *object;
    int program_fd;
    int link_fd; /* -1: loaded for tests only */
    int endpoints_fd;
    int local_fd;
    int sockets_fd;
    int settings_fd;
    int counters_fd;
    uint32_t queue_count;
    uint32_t cpu_count;
    uint64_t *per_cpu; /* one counter of every processor */
};

/* ---- Loading ---- */

/* The program in the object that suits this kernel best, by name; see the end of steer.bpf.c. */
struct variant {
    const char *name;
    bool needs_64_byte_lines;
};

#define VARIANTS_MAX 3

static const struct variant native_variants[VARIANTS_MAX] = {{"hn_steer_drv", false},
                                                             {"hn_steer_drv_lin", false}};
static const struct variant generic_variants[VARIANTS_MAX] = {
    {"hn_steer_skb", true}, {"hn_steer_skb_sum", false}, {"hn_steer_skb_lin", false}};

static bool variant_is_possible(const struct variant *variant)
{
#if defined(__x86_64__) || defined(__aarch64__)
    (void)variant;
    return true;
#else
    return !variant->needs_64_byte_lines;
#endif
}

/* Opens the object with only `name` to be loaded, and the maps sized.  *wanted is NULL when the
   object has no such variant. */
static struct bpf_object *object_prepare(const char *path, const char *name, uint32_t queue_count,
                                         struct bpf_program **wanted)
{
    *wanted = NULL;
    struct bpf_object *object = bpf_object__open_file(path, NULL);
    if (!object)
        return NULL;
    struct bpf_program *program;
    bpf_object__for_each_program(program, object)
    {
        bool is_wanted = strcmp(bpf_program__name(program), name) == 0;
        bpf_program__set_autoload(program, is_wanted);
        if (is_wanted)
            *wanted = program;
    }
    struct bpf_map *sockets = bpf_object__find_map_by_name(object, "hn_sockets");
    if (!sockets || bpf_map__set_max_entries(sockets, queue_count))
        *wanted = NULL;
    return object;
}

/* Loads the first variant that the kernel accepts; the maps and the program belong to the object
   then.  NULL with errno, and the log, of the last attempt. */
static struct bpf_object *object_load(const char *path, const struct variant *variants,
                                      uint32_t queue_count, int *program_fd)
{
    int error = EINVAL;
    hn_log_clear();
    for (int i = 0; i < VARIANTS_MAX && variants[i].name; i++) {
        if (!variant_is_possible(&variants[i]))
            continue;
        struct bpf_program *program;
        struct bpf_object *object = object_prepare(path, variants[i].name, queue_count, &program);
        if (!object)
            return NULL;
        if (program) {
            hn_log_clear();
            if (bpf_object__load(object) == 0) {
                *program_fd = bpf_program__fd(program);
                return object;
            }
            error = errno;
        }
        bpf_object__close(object);
    }
    errno = error;
    return NULL;
}

static void explain_load_error(const struct hn_report *report, const char *path, int error)
{
    const char *line = hn_log_last_line();
    char text[128];
    libbpf_strerror(error, text, sizeof text);
    if (access(path, R_OK) != 0)
        hn_report_fail(report, errno,
                       "the steering program %s cannot be read (%s): reinstall hybridnet", path,
                       strerror(errno));
    else if (error == EPERM || (error == EACCES && hn_lacks_perfmon()))
        hn_report_privileges(report);
    else if (error == ENOMEM)
        hn_report_fail(report, ENOMEM, "the kernel has no memory for the steering program's maps");
    else if (error == ENOSYS)
        hn_report_fail(report, EOPNOTSUPP,
                       "the kernel has no BPF (CONFIG_BPF_SYSCALL); choose mode "
                       "\"kernel\"");
    else if (libbpf_probe_bpf_map_type(BPF_MAP_TYPE_XSKMAP, NULL) == 0)
        hn_report_fail(report, EOPNOTSUPP,
                       "the kernel has no AF_XDP (CONFIG_XDP_SOCKETS); choose mode "
                       "\"kernel\"");
    else if (access("/sys/kernel/btf/vmlinux", R_OK) != 0)
        hn_report_fail(report, EOPNOTSUPP,
                       "the kernel does not show its types in /sys/kernel/btf/vmlinux "
                       "(CONFIG_DEBUG_INFO_BTF); choose mode \"kernel\"");
    else
        hn_report_fail(report, EINVAL, "the steering program was refused (%s): %s", text, line);
}

static int program_find_maps(struct hn_program *program)
{
    struct {
        const char *name;
        int *fd;
    } maps[] = {{"hn_endpoints", &program->endpoints_fd},
                {"hn_local", &program->local_fd},
                {"hn_sockets", &program->sockets_fd},
                {"hn_settings", &program->settings_fd},
                {"hn_counters", &program->counters_fd}};
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        *maps[i].fd = bpf_object__find_map_fd_by_name(program->object, maps[i].name);
        if (*maps[i].fd < 0)
            return -EINVAL;
    }
    return 0;
}

/* Everything but attaching. */
static struct hn_program *program_load(const char *path, enum hn_xdp_mode mode, uint32_t mtu,
                                       uint32_t queue_count, const struct hn_report *report)
{
    libbpf_set_print(hn_log_print);
    if ((mode != HN_XDP_NATIVE && mode != HN_XDP_GENERIC) || queue_count == 0) {
        hn_report_fail(report, EINVAL,
                       "the mode has to be native or generic, with at least one queue");
        return NULL;
    }
    int cpu_count = libbpf_num_possible_cpus();
    struct hn_program *program = calloc(1, sizeof *program);
    if (program && cpu_count > 0)
        program->per_cpu = calloc((size_t)cpu_count, sizeof *program->per_cpu);
    if (!program || !program->per_cpu) {
        hn_report_fail(report, ENOMEM, "no memory for the steering program's counters");
        hn_program_close(program);
        return NULL;
    }
    program->link_fd = -1;
    program->queue_count = queue_count;
    program->cpu_count = (uint32_t)cpu_count;
    program->object = object_load(path, mode == HN_XDP_NATIVE ? native_variants : generic_variants,
                                  queue_count, &program->program_fd);
    if (!program->object) {
        explain_load_error(report, path, errno);
        hn_program_close(program);
        return NULL;
    }
    int error = program_find_maps(program);
    if (error == 0)
        error = hn_program_set_link(program, mtu, NULL);
    if (error) {
        hn_report_fail(report, -error,
                       "%s is not the steering program of this version: reinstall "
                       "hybridnet",
                       path);
        hn_program_close(program);
        return NULL;
    }
    return program;
}

/* ---- Attaching ---- */

/* The program that holds the interface, whatever its mode; 0 when there is none. */
static uint32_t foreign_program(uint32_t ifindex)
{
    LIBBPF_OPTS(bpf_xdp_query_opts, found);
    if (bpf_xdp_query((int)ifindex, 0, &found))
        return 0;
    if (found.prog_id)
        return found.prog_id;
    if (found.drv_prog_id)
        return found.drv_prog_id;
    return found.skb_prog_id ? found.skb_prog_id : found.hw_prog_id;
}

static void program_name(uint32_t id, char *name, size_t bytes)
{
    struct bpf_prog_info info = {0};
    uint32_t info_bytes = sizeof info;
    snprintf(name, bytes, "?");
    int fd = bpf_prog_get_fd_by_id(id);
    if (fd < 0)
        return;
    if (bpf_obj_get_info_by_fd(fd, &info, &info_bytes) == 0 && info.name[0])
        snprintf(name, bytes, "%.*s", (int)sizeof info.name, info.name);
    close(fd);
}

static void explain_busy(const struct hn_report *report, uint32_t ifindex, const char *interface)
{
    uint32_t id = foreign_program(ifindex);
    if (id == 0) {
        hn_report_fail(
            report, EBUSY,
            "interface %s cannot take an XDP program, because a device above it (bond, bridge "
            "...) runs one; detach that or choose mode \"kernel\"",
            interface);
        return;
    }
    char name[BPF_OBJ_NAME_LEN + 1];
    program_name(id, name, sizeof name);
    hn_report_fail(report, EBUSY,
                   "interface %s already runs XDP program '%s' (id %u); detach it or choose mode "
                   "\"kernel\"",
                   interface, name, id);
}

/* A refused link carries no text, but the same request over netlink does.  In the unlikely case
   that it is granted it is taken back at once; a foreign program is never replaced.  Returns the
   kernel's sentence or NULL. */
static const char *ask_kernel_why(const struct hn_program *program, uint32_t ifindex,
                                  uint32_t flags)
{
    hn_log_clear();
    if (bpf_xdp_attach((int)ifindex, program->program_fd, flags | XDP_FLAGS_UPDATE_IF_NOEXIST,
                       NULL) == 0) {
        LIBBPF_OPTS(bpf_xdp_attach_opts, ours, .old_prog_fd = program->program_fd);
        bpf_xdp_detach((int)ifindex, flags | XDP_FLAGS_REPLACE, &ours);
        return NULL;
    }
    return hn_log_kernel_sentence();
}

static void explain_native_refusal(const struct hn_report *report, const char *interface,
                                   const char *why, int error, uint32_t mtu)
{
    bool about_mtu = error == ERANGE || (why && (strstr(why, "MTU") || strstr(why, "mtu")));
    /* Most drivers say it in the kernel log only. */
    if (!why && mtu > MTU_OF_ONE_PAGE && (error == EINVAL || error == EOPNOTSUPP))
        about_mtu = true;
    if (about_mtu)
        hn_report_fail(
            report, ERANGE,
            "interface %s: MTU %u is too large for native XDP on this driver (%s); lower the "
            "MTU or choose mode \"generic\"",
            interface, mtu, why ? why : strerror(error));
    else
        hn_report_fail(report, EOPNOTSUPP,
                       "interface %s: the driver refuses native XDP (%s); choose mode \"generic\"",
                       interface, why ? why : strerror(error));
}

static void explain_attach_error(const struct hn_program *program, const struct hn_report *report,
                                 uint32_t ifindex, const char *interface, uint32_t flags,
                                 uint32_t mtu, int error)
{
    char again[IF_NAMESIZE];
    if (error == EBUSY || error == EEXIST) {
        explain_busy(report, ifindex, interface);
    } else if (error == EPERM) {
        hn_report_privileges(report);
    } else if (!if_indextoname(ifindex, again)) {
        hn_report_fail(report, ENODEV, "interface %s went away", interface);
    } else if (error == ENOMEM) {
        hn_report_fail(report, ENOMEM, "interface %s: the kernel has no memory for XDP", interface);
    } else {
        const char *why = ask_kernel_why(program, ifindex, flags);
        if (flags & XDP_FLAGS_DRV_MODE)
            explain_native_refusal(report, interface, why, error, mtu);
        else
            hn_report_fail(report, error, "interface %s refuses XDP (%s); choose mode \"kernel\"",
                           interface, why ? why : strerror(error));
    }
}

struct hn_program *hn_program_open(const char *object_path, uint32_t ifindex, enum hn_xdp_mode mode,
                                   uint32_t mtu, uint32_t queue_count, int *error_number,
                                   char *message, size_t message_bytes)
{
    const struct hn_report report = {error_number, message, message_bytes};
    char interface[IF_NAMESIZE];
    if (!if_indextoname(ifindex, interface)) {
        hn_report_fail(&report, ENODEV,
                       "there is no interface with index %u in this network namespace", ifindex);
        return NULL;
    }
    struct hn_program *program = program_load(object_path, mode, mtu, queue_count, &report);
    if (!program)
        return NULL;
    uint32_t flags = mode == HN_XDP_NATIVE ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = flags);
    program->link_fd = bpf_link_create(program->program_fd, (int)ifindex, BPF_XDP, &options);
    if (program->link_fd < 0) {
        explain_attach_error(program, &report, ifindex, interface, flags, mtu, -program->link_fd);
        hn_program_close(program);
        return NULL;
    }
    return program;
}

struct hn_program *hn_program_load(const char *object_path, enum hn_xdp_mode mode, uint32_t mtu,
                                   uint32_t queue_count, int *error_number, char *message,
                                   size_t message_bytes)
{
    const struct hn_report report = {error_number, message, message_bytes};
    return program_load(object_path, mode, mtu, queue_count, &report);
}

void hn_program_close(struct hn_program *program)
{
    if (!program)
        return;
    if (program->link_fd >= 0) {
        /* A forked child may still hold the descriptor, so closing alone would not detach. */
        bpf_link_detach(program->link_fd);
        close(program->link_fd);
    }
    bpf_object__close(program->object);
    free(program->per_cpu);
    free(program);
}

/* ---- Maps ---- */

int hn_program_set_socket(struct hn_program *program, uint32_t queue, int xsk_fd)
{
    if (queue >= program->queue_count)
        return -EINVAL;
    return bpf_map_update_elem(program->sockets_fd, &queue, &xsk_fd, BPF_ANY);
}

int hn_program_clear_socket(struct hn_program *program, uint32_t queue)
{
    if (queue >= program->queue_count)
        return -EINVAL;
    return bpf_map_delete_elem(program->sockets_fd, &queue);
}

/* false: neither IPv4 nor IPv6. */
static bool address_copy(uint8_t out[16], const struct hn_address *address)
{
    memset(out, 0, 16);
    if (address->family == HN_FAMILY_IPV4)
        memcpy(out, address->ip, 4);
    else if (address->family == HN_FAMILY_IPV6)
        memcpy(out, address->ip, 16);
    else
        return false;
    return true;
}

static int endpoint_key(struct hn_endpoint_key *key, uint8_t protocol,
                        const struct hn_address *local)
{
    if ((protocol != IPPROTO_UDP && protocol != IPPROTO_TCP) || local->port == 0)
        return -EINVAL;
    key->protocol = protocol;
    key->family = local->family;
    key->port_be = htons(local->port);
    return address_copy(key->address, local) ? 0 : -EINVAL;
}

int hn_program_add_endpoint(struct hn_program *program, uint8_t protocol,
                            const struct hn_address *local)
{
    struct hn_endpoint_key key;
    uint8_t value = 1;
    int error = endpoint_key(&key, protocol, local);
    return error ? error : bpf_map_update_elem(program->endpoints_fd, &key, &value, BPF_ANY);
}

int hn_program_remove_endpoint(struct hn_program *program, uint8_t protocol,
                               const struct hn_address *local)
{
    struct hn_endpoint_key key;
    int error = endpoint_key(&key, protocol, local);
    return error ? error : bpf_map_delete_elem(program->endpoints_fd, &key);
}

int hn_program_set_local(struct hn_program *program, const struct hn_address *local, bool present)
{
    struct hn_local_key key = {.family = local->family};
    uint8_t value = 1;
    if (!address_copy(key.address, local))
        return -EINVAL;
    if (present)
        return bpf_map_update_elem(program->local_fd, &key, &value, BPF_ANY);
    int error = bpf_map_delete_elem(program->local_fd, &key);
    return error == -ENOENT ? 0 : error;
}

int hn_program_set_link(struct hn_program *program, uint32_t mtu, const uint8_t *mac)
{
    struct hn_steer_settings settings = {.mtu = mtu, .has_mac = mac != NULL};
    if (mac)
        memcpy(settings.mac, mac, sizeof settings.mac);
    uint32_t only = 0;
    return bpf_map_update_elem(program->settings_fd, &only, &settings, BPF_ANY);
}

/* ---- Counters ---- */

#define REASON_NAME(id, name) name,
static const char *const reason_names[] = {HN_STEER_REASONS(REASON_NAME)};
#undef REASON_NAME
_Static_assert(sizeof reason_names / sizeof reason_names[0] == HN_STEER_REASON_COUNT,
               "one name per reason");

uint32_t hn_program_reason_count(void) { return HN_STEER_REASON_COUNT; }

const char *hn_program_reason_name(uint32_t reason)
{
    return reason < HN_STEER_REASON_COUNT ? reason_names[reason] : NULL;
}

int hn_program_counters(struct hn_program *program, uint64_t *packets, uint32_t count)
{
    for (uint32_t reason = 0; reason < count; reason++) {
        packets[reason] = 0;
        if (reason >= HN_STEER_REASON_COUNT)
            continue;
        int error = bpf_map_lookup_elem(program->counters_fd, &reason, program->per_cpu);
        if (error)
            return error;
        for (uint32_t cpu = 0; cpu < program->cpu_count; cpu++)
            packets[reason] += program->per_cpu[cpu];
    }
    return 0;
}

/* ---- Tests ---- */

int hn_program_test_run(struct hn_program *program, const uint8_t *frame, uint32_t length,
                        uint32_t repeat, uint32_t *verdict, uint32_t *duration_ns)
{
    LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame, .data_size_in = length,
                .repeat = (int)repeat);
    int error = bpf_prog_test_run_opts(program->program_fd, &run);
    if (error)
        return error;
    *verdict = run.retval;
    if (duration_ns)
        *duration_ns = run.duration;
    return 0;
}
