/* One netlink message each, its header already checked; see rtnl.c. */
#ifndef HN_RTNL_INTERNAL_H
#define HN_RTNL_INTERNAL_H

#include "control/attribute.h"
#include "control/control.h"

struct hn_rtnl_message {
    struct hn_bytes payload; /* behind struct nlmsghdr */
    uint16_t type;
    uint16_t flags;
    bool dump;
    uint32_t epoch;
};

/* False: malformed, nothing was changed. */
bool hn_rtnl_route(const struct hn_control_tables *tables, const struct hn_rtnl_message *message,
                   struct hn_control_result *result);
bool hn_rtnl_neighbor(const struct hn_control_tables *tables, const struct hn_rtnl_message *message,
                      struct hn_control_result *result);
/* The kernel refused what hn_control_resolve asked: `payload` is that of our own request. */
bool hn_rtnl_neighbor_refused(const struct hn_control_tables *tables, struct hn_bytes payload,
                              struct hn_control_result *result);

/* HN_FAMILY_* for AF_*, 0 for any other. */
uint8_t hn_rtnl_family(uint8_t family);

#endif
