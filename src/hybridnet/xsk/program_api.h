/* Plain declarations, read by cffi and (through program.h) by the C compiler. */

enum hn_xdp_mode {
    HN_XDP_NATIVE = 1, /* in the driver (XDP_FLAGS_DRV_MODE) */
    HN_XDP_GENERIC = 2 /* on the socket buffer (XDP_FLAGS_SKB_MODE) */
};

/* One steering program on one interface, held by a bpf_link: it detaches when the process ends,
   however it ends. */
struct hn_program;

/* Loads `object_path` and attaches it to `ifindex`.
   Needs CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON (or root).  On failure everything is undone,
   *error_number holds the errno and `message` (message_bytes long) one sentence that says what
   to do:
   EBUSY   another XDP program is attached; the message names it (id and name)
   EPERM   privileges missing; the message names them
   EOPNOTSUPP  the driver has no native XDP, or the kernel no XDP
   ENODEV  no such interface
   EINVAL  the kernel refused the program (verifier); the message has the last line of its log
   ERANGE  the MTU is too large for native XDP on this driver
   Returns NULL then. */
struct hn_program *hn_program_open(const char *object_path, uint32_t ifindex, enum hn_xdp_mode mode,
                                   uint32_t mtu, uint32_t queue_count, int *error_number,
                                   char *message, size_t message_bytes);
/* Detaches and frees; packets go to the kernel from here on. */
void hn_program_close(struct hn_program *program);

/* The receiving AF_XDP socket of a queue.  0 or -errno. */
int hn_program_set_socket(struct hn_program *program, uint32_t queue, int xsk_fd);
int hn_program_clear_socket(struct hn_program *program, uint32_t queue);

/* What is lifted: `protocol` is IPPROTO_UDP or IPPROTO_TCP, `local` an address of this machine or
   the unspecified address (wildcard: every address that hn_program_set_local lists), port in host
   order.  0 or -errno (ENOENT when removing what is not there, E2BIG when the map is full). */
int hn_program_add_endpoint(struct hn_program *program, uint8_t protocol,
                            const struct hn_address *local);
int hn_program_remove_endpoint(struct hn_program *program, uint8_t protocol,
                               const struct hn_address *local);
/* Wildcard endpoints match only these destination addresses. */
int hn_program_set_local(struct hn_program *program, const struct hn_address *local, bool present);
/* What the kernel says of the link.  Generic mode leaves larger datagrams than the MTU to the
   kernel; frames for another host's MAC address are never lifted (NULL: not known, no check). */
int hn_program_set_link(struct hn_program *program, uint32_t mtu, const uint8_t *mac);

/* Packets by reason since attach, summed over the processors.  Names are those of
   hn_program_reason_name, 0 <= reason < hn_program_reason_count(). */
uint32_t hn_program_reason_count(void);
const char *hn_program_reason_name(uint32_t reason);
int hn_program_counters(struct hn_program *program, uint64_t *packets, uint32_t count);

/* For tests: loads without attaching (no interface needed) and runs one frame through it as if
   it had come in on queue 0.  verdict is XDP_PASS, XDP_REDIRECT …  0 or -errno. */
struct hn_program *hn_program_load(const char *object_path, enum hn_xdp_mode mode, uint32_t mtu,
                                   uint32_t queue_count, int *error_number, char *message,
                                   size_t message_bytes);
int hn_program_test_run(struct hn_program *program, const uint8_t *frame, uint32_t length,
                        uint32_t repeat, uint32_t *verdict, uint32_t *duration_ns);
