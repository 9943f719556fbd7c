/* RTM_NEWNEIGH and RTM_DELNEIGH, and the requests that make the kernel resolve.
   Source: linux/neighbour.h. */
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "control/rtnl_internal.h"

struct neighbor_parse {
    uint32_t ifindex;
    uint8_t family;
    uint8_t state;
    uint8_t flags;
    bool has_ip;
    bool has_mac;
    uint8_t ip[16];
    uint8_t mac[6];
};

static size_t family_bytes(uint8_t family) { return family == HN_FAMILY_IPV6 ? 16 : 4; }

/* False: malformed.  family stays 0 for a message that is none of ours. */
static bool parse_neighbor(struct hn_bytes payload, struct neighbor_parse *parse)
{
    struct ndmsg header;
    memset(parse, 0, sizeof *parse);
    if (payload.length < sizeof header)
        return false;
    memcpy(&header, payload.data, sizeof header);
    parse->family = hn_rtnl_family(header.ndm_family);
    if (parse->family == 0)
        return true;
    parse->ifindex = (uint32_t)header.ndm_ifindex;
    parse->state = (uint8_t)header.ndm_state;
    parse->flags = header.ndm_flags;
    struct hn_attribute_walk walk = {
        .rest = {payload.data + sizeof header, payload.length - sizeof header}};
    struct hn_attribute attribute;
    while (hn_attribute_next(&walk, &attribute)) {
        if (attribute.type == NDA_DST) {
            parse->has_ip = true;
            if (!hn_attribute_copy(&attribute, parse->ip, family_bytes(parse->family)))
                return false;
        } else if (attribute.type == NDA_LLADDR) {
            /* Other lengths are those of tunnels: no address we could send to. */
            parse->has_mac = hn_attribute_copy(&attribute, parse->mac, sizeof parse->mac);
        }
    }
    return !walk.malformed && parse->has_ip;
}

bool hn_rtnl_neighbor(const struct hn_control_tables *tables, const struct hn_rtnl_message *message,
                      struct hn_control_result *result)
{
    struct neighbor_parse parse;
    if (!parse_neighbor(message->payload, &parse))
        return false;
    if (parse.family == 0 || (parse.flags & NTF_PROXY))
        return true;
    uint64_t before = hn_neighbors_generation(tables->neighbors);
    if (message->type == RTM_DELNEIGH) {
        hn_neighbor_remove(tables->neighbors, parse.ifindex, parse.family, parse.ip);
    } else {
        int error = hn_neighbor_set(tables->neighbors, parse.ifindex, parse.family, parse.ip,
                                    parse.state, parse.has_mac ? parse.mac : NULL, message->epoch);
        result->refused += error < 0;
    }
    result->neighbors_changed += hn_neighbors_generation(tables->neighbors) != before;
    return true;
}

bool hn_rtnl_neighbor_refused(const struct hn_control_tables *tables, struct hn_bytes payload,
                              struct hn_control_result *result)
{
    struct neighbor_parse parse;
    if (!parse_neighbor(payload, &parse))
        return false;
    if (parse.family == 0)
        return true;
    const struct hn_neighbor *entry =
        hn_neighbor_find(tables->neighbors, parse.ifindex, parse.family, parse.ip);
    if (!entry || entry->resolved || entry->state == HN_NUD_FAILED)
        return true;
    hn_neighbor_set(tables->neighbors, parse.ifindex, parse.family, parse.ip, HN_NUD_FAILED, NULL,
                    entry->epoch);
    result->neighbors_changed++;
    return true;
}

static size_t request_write(uint8_t *to, const struct hn_neighbor *entry, uint16_t type,
                            uint16_t flags, uint8_t neighbor_flags)
{
    size_t address = family_bytes(entry->family);
    struct nlmsghdr header = {.nlmsg_type = type, .nlmsg_flags = flags};
    struct ndmsg body = {
        .ndm_family = entry->family == HN_FAMILY_IPV6 ? AF_INET6 : AF_INET,
        .ndm_ifindex = (int)entry->ifindex,
        .ndm_flags = neighbor_flags,
    };
    struct rtattr attribute = {.rta_len = (uint16_t)(sizeof attribute + address),
                               .rta_type = NDA_DST};
    header.nlmsg_len = (uint32_t)(sizeof header + sizeof body + sizeof attribute + address);
    memcpy(to, &header, sizeof header);
    memcpy(to + sizeof header, &body, sizeof body);
    memcpy(to + sizeof header + sizeof body, &attribute, sizeof attribute);
    memcpy(to + sizeof header + sizeof body + sizeof attribute, entry->ip, address);
    return header.nlmsg_len;
}

size_t hn_control_resolve(const struct hn_control_tables *tables, uint8_t *buffer, size_t bytes,
                          uint32_t *asked)
{
    size_t used = 0;
    *asked = 0;
    while (bytes - used >= HN_CONTROL_RESOLVE_BYTES) {
        struct hn_neighbor *entry = hn_neighbor_next_wanted(tables->neighbors);
        if (!entry)
            break;
        used += request_write(buffer + used, entry, RTM_NEWNEIGH, NLM_F_REQUEST | NLM_F_CREATE,
                              NTF_USE);
        if (entry->resolved) {
            /* The kernel does not report this step, and its next STALE has to be news. */
            if (entry->state == HN_NUD_STALE)
                entry->state = HN_NUD_DELAY;
        } else {
            /* The kernel reports changes only; this asks for what it may know already. */
            used += request_write(buffer + used, entry, RTM_GETNEIGH, NLM_F_REQUEST, 0);
            entry->state = HN_NUD_INCOMPLETE;
        }
        ++*asked;
    }
    return used;
}
