/* Takes a buffer of netlink messages apart and hands each to its parser. */
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "control/rtnl_internal.h"

uint8_t hn_rtnl_family(uint8_t family)
{
    if (family == AF_INET)
        return HN_FAMILY_IPV4;
    return family == AF_INET6 ? HN_FAMILY_IPV6 : 0;
}

/* Payload: the negative errno, then the request as we sent it. */
static bool parse_error(const struct hn_control_tables *tables, struct hn_bytes payload,
                        struct hn_control_result *result)
{
    const size_t request_at = sizeof(int32_t), header = sizeof(struct nlmsghdr);
    if (payload.length < request_at)
        return false;
    int32_t error = (int32_t)hn_load32(payload.data);
    if (error == 0)
        return true;
    if (error < -4095 || error > 0)
        return false;
    result->error = -error;
    if (payload.length < request_at + header)
        return true;
    uint16_t type = hn_load16(payload.data + request_at + 4);
    if (type != RTM_NEWNEIGH && type != RTM_GETNEIGH)
        return true;
    struct hn_bytes request = {payload.data + request_at + header,
                               payload.length - request_at - header};
    return hn_rtnl_neighbor_refused(tables, request, result);
}

/* A dump that the kernel gave up carries its errno here. */
static void parse_done(struct hn_bytes payload, struct hn_control_result *result)
{
    result->done = true;
    if (payload.length < sizeof(int32_t))
        return;
    int32_t error = (int32_t)hn_load32(payload.data);
    if (error < 0 && error >= -4095)
        result->error = -error;
}

/* False: not for C, Python has to look at it. */
static bool parse_message(const struct hn_control_tables *tables,
                          const struct hn_rtnl_message *message, struct hn_control_result *result)
{
    bool good = true;
    switch (message->type) {
    case NLMSG_NOOP:
        break;
    case NLMSG_ERROR:
        good = parse_error(tables, message->payload, result);
        break;
    case NLMSG_DONE:
        parse_done(message->payload, result);
        break;
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
        good = hn_rtnl_route(tables, message, result);
        break;
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH:
        good = hn_rtnl_neighbor(tables, message, result);
        break;
    default:
        return false;
    }
    result->malformed += !good;
    return true;
}

int hn_control_parse(const struct hn_control_tables *tables, const uint8_t *buffer, size_t bytes,
                     bool dump, uint32_t epoch, struct hn_control_result *result)
{
    const size_t header = sizeof(struct nlmsghdr);
    memset(result, 0, sizeof *result);
    result->other_offset = UINT32_MAX;
    if (bytes < header || bytes > INT32_MAX)
        return -EINVAL;
    size_t at = 0;
    while (bytes - at >= header) {
        size_t length = hn_load32(buffer + at);
        if (length < header || length > bytes - at) {
            if (at == 0)
                return -EINVAL;
            /* Where the next message starts is anybody's guess now. */
            result->malformed++;
            at = bytes;
            break;
        }
        struct hn_rtnl_message message = {
            .payload = {buffer + at + header, length - header},
            .type = hn_load16(buffer + at + 4),
            .flags = hn_load16(buffer + at + 6),
            .dump = dump,
            .epoch = epoch,
        };
        result->interrupted |= dump && (message.flags & NLM_F_DUMP_INTR);
        if (!parse_message(tables, &message, result)) {
            result->other_offset = (uint32_t)at;
            result->consumed = (uint32_t)at;
            return 0;
        }
        result->messages++;
        size_t step = HN_NETLINK_ALIGN(length);
        at = step < bytes - at ? at + step : bytes;
    }
    if (at < bytes)
        result->malformed++;
    result->consumed = (uint32_t)bytes;
    return 0;
}
