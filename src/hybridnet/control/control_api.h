/* Plain declarations, read by cffi and (through control.h) by the C compiler. */

struct hn_fib;
struct hn_neighbors;

/* Where parsed netlink messages go. */
struct hn_control_tables {
    struct hn_fib *fib;
    struct hn_neighbors *neighbors;
};

/* What one buffer of netlink messages held. */
struct hn_control_result {
    uint32_t routes_changed;
    uint32_t neighbors_changed;
    uint32_t other_offset; /* offset of the first message that is not a route or a neighbour, and
                              that Python has to look at; UINT32_MAX: none */
    uint32_t consumed;     /* bytes handled; stops in front of `other_offset` */
    bool done;             /* NLMSG_DONE seen */
    bool interrupted;      /* NLM_F_DUMP_INTR seen: the dump has to be repeated */
    int32_t error;         /* NLMSG_ERROR's errno, positive; 0: none */
    uint32_t messages;     /* handled, malformed ones among them */
    uint32_t malformed;    /* messages with a length or attribute that does not add up, ignored */
    uint32_t unmatched;    /* RTM_DELROUTE for a route that is not in the table */
    uint32_t refused;      /* not stored: the table is full, or no memory */
};

/* Parses RTM_NEWROUTE/DELROUTE/NEWNEIGH/DELNEIGH straight into the tables.  `dump` tells a dump's
   answer (refresh with `epoch`) from a notification.  Never trusts a length.  0, or -EINVAL when
   buffer is not a netlink message at all. */
int hn_control_parse(const struct hn_control_tables *tables, const uint8_t *buffer, size_t bytes,
                     bool dump, uint32_t epoch, struct hn_control_result *result);

/* Takes wanted neighbours off the list and writes the netlink messages that make the kernel
   resolve them and tell their state, one send() worth.  Returns the bytes written, 0: none is
   wanted; *asked: how many neighbours.  `bytes` is at least HN_CONTROL_RESOLVE_BYTES; what does
   not fit stays wanted.  The kernel's refusal comes back to the sending socket as NLMSG_ERROR and
   makes hn_control_parse mark the neighbour FAILED. */
size_t hn_control_resolve(const struct hn_control_tables *tables, uint8_t *buffer, size_t bytes,
                          uint32_t *asked);
enum { HN_CONTROL_RESOLVE_BYTES = 96 };
