/* Plain declarations, read by cffi and (through echo_client.h) by the C compiler. */

enum {
    HN_ECHO_WINDOW_MAX = 4096,
    HN_ECHO_PAYLOAD_MIN = 16,
    HN_ECHO_PAYLOAD_MAX = 65507,
    HN_ECHO_BUCKETS = 2048 /* of the round-trip histogram; see hn_echo_bucket_ns */
};

/* What one measurement saw since hn_echo_open.  Sums at every moment:
   sent == received + lost + in flight. */
struct hn_echo_result {
    uint64_t sent;       /* datagrams handed to the kernel */
    uint64_t received;   /* answers in time, payload as sent */
    uint64_t lost;       /* given up after loss_timeout_ns; the window moves on */
    uint64_t late;       /* answers after that; not in `received` */
    uint64_t corrupt;    /* answers whose length or payload is not what was sent */
    uint64_t refused;    /* ICMP said that nobody listens */
    uint64_t elapsed_ns; /* spent inside hn_echo_step */
    uint64_t rtt_min_ns; /* UINT64_MAX before the first answer */
    uint64_t rtt_max_ns;
    uint64_t rtt_sum_ns; /* over `received` */
    uint64_t buckets[HN_ECHO_BUCKETS];
};

struct hn_echo_client;

/* Opens a connected kernel UDP socket to `server` that keeps `window` datagrams of payload_bytes
   in flight.  Allocates all it needs.  On failure NULL and *error_number:
   EINVAL  window not in 1..HN_ECHO_WINDOW_MAX, payload_bytes not in its range, or a family that
           is neither HN_FAMILY_IPV4 nor HN_FAMILY_IPV6
   ENOMEM, and what socket(2) and connect(2) give */
struct hn_echo_client *hn_echo_open(const struct hn_address *server, uint32_t window,
                                    uint32_t payload_bytes, uint64_t loss_timeout_ns,
                                    int *error_number);

/* Sends and receives for duration_ns, blocking; what is in flight at the end stays in flight for
   the next step.  0, or the -errno of a socket that cannot be used any more. */
int hn_echo_step(struct hn_echo_client *client, uint64_t duration_ns);

/* Borrowed, valid until hn_echo_close; changes only inside hn_echo_step. */
const struct hn_echo_result *hn_echo_result(const struct hn_echo_client *client);

/* The middle of a bucket: round trips counted in it are within 1.6 % of this value. */
uint64_t hn_echo_bucket_ns(uint32_t bucket);

void hn_echo_close(struct hn_echo_client *client);
