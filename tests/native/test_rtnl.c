// sources: control/*.c stack/ip/*.c stack/frame.c
#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "check.h"
#include "control/control.h"

/* A buffer of messages under construction. */
static uint8_t buffer[4096];
static size_t used, message_at;

static void put(const void *data, size_t bytes)
{
    if (bytes)
        memcpy(buffer + used, data, bytes);
    memset(buffer + used + bytes, 0, 4);
    used += (bytes + 3) & ~(size_t)3;
}

static void message(uint16_t type, uint16_t flags, const void *body, size_t bytes)
{
    struct nlmsghdr header = {.nlmsg_type = type, .nlmsg_flags = flags};
    message_at = used;
    put(&header, sizeof header);
    put(body, bytes);
}

static void end(void)
{
    uint32_t length = (uint32_t)(used - message_at);
    memcpy(buffer + message_at, &length, sizeof length);
}

static size_t attribute(uint16_t type, const void *data, size_t bytes)
{
    size_t at = used;
    struct rtattr header = {.rta_len = (uint16_t)(sizeof header + bytes), .rta_type = type};
    put(&header, sizeof header);
    put(data, bytes);
    return at;
}

static void attribute_end(size_t at)
{
    uint16_t length = (uint16_t)(used - at);
    memcpy(buffer + at, &length, sizeof length);
}

static void attribute_u32(uint16_t type, uint32_t value) { attribute(type, &value, sizeof value); }

static void attribute_ip(uint16_t type, const char *text)
{
    uint8_t ip[16];
    int family = strchr(text, ':') ? AF_INET6 : AF_INET;
    CHECK_EQUAL(inet_pton(family, text, ip), 1);
    attribute(type, ip, family == AF_INET6 ? 16 : 4);
}

static void route_begin(uint16_t type, uint16_t flags, const char *prefix, uint8_t bits)
{
    struct rtmsg body = {.rtm_family = strchr(prefix, ':') ? AF_INET6 : AF_INET,
                         .rtm_dst_len = bits,
                         .rtm_table = RT_TABLE_MAIN,
                         .rtm_type = RTN_UNICAST};
    message(type, flags, &body, sizeof body);
    if (bits)
        attribute_ip(RTA_DST, prefix);
}

static struct rtmsg *route_header(void)
{
    return (struct rtmsg *)(void *)(buffer + message_at + sizeof(struct nlmsghdr));
}

static struct hn_control_tables tables;
static struct hn_control_result result;

static void setup(void)
{
    used = 0;
    tables.fib = hn_fib_create();
    tables.neighbors = hn_neighbors_create(16);
}

static void teardown(void)
{
    hn_fib_destroy(tables.fib);
    hn_neighbors_destroy(tables.neighbors);
}

/* From a copy of just the right size, so that one byte too far is seen. */
static int parse_bytes(size_t bytes, bool dump, uint32_t epoch)
{
    uint8_t *exact = malloc(bytes ? bytes : 1);
    memcpy(exact, buffer, bytes);
    int error = hn_control_parse(&tables, exact, bytes, dump, epoch, &result);
    free(exact);
    return error;
}

static void parse(bool dump, uint32_t epoch)
{
    CHECK_EQUAL(parse_bytes(used, dump, epoch), 0);
    used = 0;
}

static struct hn_fib_result look(const char *destination)
{
    uint8_t ip[16];
    bool ipv6 = strchr(destination, ':') != NULL;
    CHECK_EQUAL(inet_pton(ipv6 ? AF_INET6 : AF_INET, destination, ip), 1);
    struct hn_fib_result found;
    hn_fib_lookup(tables.fib, ipv6 ? 6 : 4, NULL, ip, 0, &found);
    return found;
}

static void full_route(uint16_t type, uint16_t flags)
{
    route_begin(type, flags, "10.1.0.0", 16);
    attribute_u32(RTA_TABLE, RT_TABLE_MAIN);
    attribute_u32(RTA_PRIORITY, 100);
    attribute_ip(RTA_PREFSRC, "10.0.0.9");
    size_t metrics = attribute(RTA_METRICS, NULL, 0);
    attribute_u32(RTAX_MTU, 1400);
    attribute_end(metrics);
    attribute_ip(RTA_GATEWAY, "10.0.0.1");
    attribute_u32(RTA_OIF, 3);
    end();
}

static void test_route_with_everything_arrives_in_the_table(void)
{
    setup();
    full_route(RTM_NEWROUTE, NLM_F_EXCL | NLM_F_CREATE);
    parse(false, 1);
    CHECK_EQUAL(result.routes_changed, 1);
    CHECK_EQUAL(result.messages, 1);
    CHECK_EQUAL(result.malformed, 0);
    struct hn_fib_result found = look("10.1.2.3");
    CHECK_EQUAL(found.type, HN_ROUTE_UNICAST);
    CHECK_EQUAL(found.mtu, 1400);
    CHECK_EQUAL(found.nexthop.ifindex, 3);
    CHECK_EQUAL(found.nexthop.gateway_family, 4);
    CHECK(found.has_prefsrc && memcmp(found.prefsrc, (uint8_t[4]){10, 0, 0, 9}, 4) == 0);
    full_route(RTM_DELROUTE, 0);
    full_route(RTM_DELROUTE, 0);
    parse(false, 1);
    CHECK_EQUAL(result.routes_changed, 1);
    CHECK_EQUAL(result.unmatched, 1);
    CHECK_EQUAL(hn_fib_count(tables.fib, 4), 0);
    teardown();
}

static void test_all_next_hops_of_a_multipath_route_are_kept(void)
{
    setup();
    route_begin(RTM_NEWROUTE, NLM_F_CREATE, "0.0.0.0", 0);
    size_t multipath = attribute(RTA_MULTIPATH, NULL, 0);
    for (uint8_t i = 0; i < 3; i++) {
        size_t at = used;
        struct rtnexthop raw = {.rtnh_hops = i, .rtnh_ifindex = 5 + i};
        raw.rtnh_flags = i == 2 ? RTNH_F_DEAD : 0;
        put(&raw, sizeof raw);
        if (i == 0)
            attribute_ip(RTA_GATEWAY, "10.0.0.1");
        if (i == 1) {
            uint8_t via[18] = {AF_INET6, 0, 0xfe, 0x80, [17] = 1};
            attribute(RTA_VIA, via, sizeof via);
        }
        attribute_end(at);
    }
    attribute_end(multipath);
    end();
    parse(false, 1);
    CHECK_EQUAL(result.malformed, 0);
    char text[512];
    hn_fib_dump_text(tables.fib, 4, text, sizeof text);
    CHECK(strstr(text, "nexthop via 10.0.0.1 dev 5 weight 1 flags 0"));
    CHECK(strstr(text, "nexthop via fe80::1 dev 6 weight 2 flags 0"));
    CHECK(strstr(text, "nexthop dev 7 weight 3 flags 1"));
    teardown();
}

static void test_tunnelled_and_source_specific_routes_are_for_the_kernel_path(void)
{
    setup();
    route_begin(RTM_NEWROUTE, NLM_F_CREATE, "10.0.0.0", 8);
    attribute_u32(RTA_OIF, 3);
    uint16_t kind = 1;
    attribute(RTA_ENCAP_TYPE, &kind, sizeof kind);
    end();
    route_begin(RTM_NEWROUTE, NLM_F_CREATE, "2001:db8::", 32);
    route_header()->rtm_src_len = 64;
    attribute_u32(RTA_OIF, 3);
    end();
    parse(false, 1);
    CHECK_EQUAL(look("10.1.2.3").nexthop.flags, HN_NEXTHOP_ENCAP);
    CHECK_EQUAL(look("2001:db8::1").nexthop.flags, HN_NEXTHOP_ENCAP);
    teardown();
}

static void test_cached_routes_and_other_families_are_skipped(void)
{
    setup();
    route_begin(RTM_NEWROUTE, 0, "2001:db8::1", 128);
    route_header()->rtm_flags = RTM_F_CLONED;
    attribute_u32(RTA_OIF, 3);
    end();
    route_begin(RTM_NEWROUTE, 0, "10.0.0.0", 8);
    route_header()->rtm_family = 28; /* AF_MPLS */
    end();
    parse(false, 1);
    CHECK_EQUAL(result.malformed, 0);
    CHECK_EQUAL(hn_fib_count(tables.fib, 4) + hn_fib_count(tables.fib, 6), 0);
    teardown();
}

static void test_rejecting_ipv6_route_loses_its_loopback_next_hop(void)
{
    setup();
    route_begin(RTM_NEWROUTE, NLM_F_EXCL, "2001:db8::", 32);
    route_header()->rtm_type = RTN_UNREACHABLE;
    attribute_u32(RTA_OIF, 1);
    end();
    parse(false, 1);
    CHECK_EQUAL(look("2001:db8::1").type, HN_ROUTE_UNREACHABLE);
    CHECK(look("2001:db8::1").found);
    CHECK_EQUAL(look("2001:db8::1").nexthop.ifindex, 0);
    teardown();
}

static void test_dump_refreshes_and_tells_done_and_interrupted(void)
{
    setup();
    full_route(RTM_NEWROUTE, NLM_F_MULTI | NLM_F_DUMP_INTR);
    int32_t nothing = 0;
    message(NLMSG_DONE, NLM_F_MULTI, &nothing, sizeof nothing);
    end();
    parse(true, 7);
    CHECK(result.done && result.interrupted);
    CHECK_EQUAL(result.error, 0);
    full_route(RTM_NEWROUTE, NLM_F_MULTI);
    int32_t failed = -EAFNOSUPPORT;
    message(NLMSG_DONE, NLM_F_MULTI, &failed, sizeof failed);
    end();
    parse(true, 8);
    CHECK(result.done && !result.interrupted);
    CHECK_EQUAL(result.routes_changed, 0);
    CHECK_EQUAL(result.error, EAFNOSUPPORT);
    CHECK_EQUAL(hn_fib_sweep(tables.fib, 4, 8), 0);
    teardown();
}

static void test_parser_stops_in_front_of_what_is_for_python(void)
{
    setup();
    full_route(RTM_NEWROUTE, 0);
    size_t at = used;
    message(RTM_NEWLINK, 0, buffer, 16);
    end();
    size_t rest = used;
    full_route(RTM_DELROUTE, 0);
    CHECK_EQUAL(parse_bytes(used, false, 1), 0);
    CHECK_EQUAL(result.other_offset, at);
    CHECK_EQUAL(result.consumed, at);
    CHECK_EQUAL(hn_fib_count(tables.fib, 4), 1);
    CHECK_EQUAL(hn_control_parse(&tables, buffer + rest, used - rest, false, 1, &result), 0);
    CHECK_EQUAL(result.other_offset, UINT32_MAX);
    CHECK_EQUAL(result.consumed, used - rest);
    CHECK_EQUAL(hn_fib_count(tables.fib, 4), 0);
    teardown();
}

static void neighbor(uint16_t type, uint16_t state, const char *ip, const uint8_t *mac, size_t n)
{
    struct ndmsg body = {
        .ndm_family = strchr(ip, ':') ? AF_INET6 : AF_INET, .ndm_ifindex = 3, .ndm_state = state};
    message(type, 0, &body, sizeof body);
    attribute_ip(NDA_DST, ip);
    if (mac)
        attribute(NDA_LLADDR, mac, n);
    end();
}

static const struct hn_neighbor *find_neighbor(const char *text)
{
    uint8_t ip[16];
    bool ipv6 = strchr(text, ':') != NULL;
    CHECK_EQUAL(inet_pton(ipv6 ? AF_INET6 : AF_INET, text, ip), 1);
    return hn_neighbor_find(tables.neighbors, 3, ipv6 ? 6 : 4, ip);
}

static void test_neighbors_come_fail_and_go(void)
{
    static const uint8_t mac[20] = {2, 0, 0, 0, 0, 1};
    setup();
    neighbor(RTM_NEWNEIGH, NUD_REACHABLE, "10.0.0.1", mac, 6);
    neighbor(RTM_NEWNEIGH, NUD_STALE, "fe80::1", mac, 6);
    neighbor(RTM_NEWNEIGH, NUD_STALE, "10.0.0.2", mac, 20); /* InfiniBand */
    parse(false, 1);
    CHECK_EQUAL(result.neighbors_changed, 2);
    CHECK(find_neighbor("10.0.0.1")->resolved && find_neighbor("fe80::1")->resolved);
    CHECK(find_neighbor("10.0.0.2") == NULL);
    neighbor(RTM_NEWNEIGH, NUD_FAILED, "10.0.0.1", NULL, 0);
    neighbor(RTM_DELNEIGH, NUD_FAILED, "fe80::1", NULL, 0);
    parse(false, 1);
    CHECK_EQUAL(result.neighbors_changed, 2);
    CHECK(!find_neighbor("10.0.0.1")->resolved);
    CHECK(find_neighbor("fe80::1") == NULL);
    teardown();
}

static void test_wanted_neighbors_become_requests_and_a_refusal_fails_them(void)
{
    setup();
    uint8_t ip[16] = {10, 0, 0, 1}, request[4 * HN_CONTROL_RESOLVE_BYTES];
    struct hn_neighbor *entry = hn_neighbor_get(tables.neighbors, 3, 4, ip);
    uint32_t asked;
    CHECK_EQUAL(hn_control_resolve(&tables, request, HN_CONTROL_RESOLVE_BYTES - 1, &asked), 0);
    CHECK(entry->wanted);
    size_t bytes = hn_control_resolve(&tables, request, sizeof request, &asked);
    CHECK_EQUAL(asked, 1);
    CHECK(bytes > 0 && !entry->wanted);
    CHECK_EQUAL(entry->state, HN_NUD_INCOMPLETE);
    struct nlmsghdr header;
    memcpy(&header, request, sizeof header);
    CHECK_EQUAL(header.nlmsg_type, RTM_NEWNEIGH);
    int32_t error = -ENODEV;
    message(NLMSG_ERROR, 0, &error, sizeof error);
    put(request, header.nlmsg_len);
    end();
    parse(false, 1);
    CHECK_EQUAL(result.error, ENODEV);
    CHECK_EQUAL(result.neighbors_changed, 1);
    CHECK_EQUAL(entry->state, HN_NUD_FAILED);
    teardown();
}

static void test_used_stale_neighbor_is_probed_and_its_next_stale_is_news(void)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    setup();
    uint8_t ip[16] = {10, 0, 0, 1}, request[HN_CONTROL_RESOLVE_BYTES];
    uint32_t asked;
    for (int round = 0; round < 3; round++) {
        neighbor(RTM_NEWNEIGH, NUD_STALE, "10.0.0.1", mac, 6);
        parse(false, 1);
        struct hn_neighbor *entry = hn_neighbor_find(tables.neighbors, 3, 4, ip);
        hn_neighbor_use(tables.neighbors, entry);
        CHECK(hn_control_resolve(&tables, request, sizeof request, &asked) > 0);
        CHECK(entry->resolved);
    }
    teardown();
}

/* Every message of this test file, cut at every length and with every byte turned over. */
static void fill_corpus(void)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    full_route(RTM_NEWROUTE, NLM_F_CREATE);
    route_begin(RTM_NEWROUTE, NLM_F_CREATE, "2001:db8::", 32);
    size_t multipath = attribute(RTA_MULTIPATH, NULL, 0);
    struct rtnexthop raw = {.rtnh_ifindex = 5};
    size_t at = used;
    put(&raw, sizeof raw);
    attribute_ip(RTA_GATEWAY, "fe80::1");
    attribute_end(at);
    attribute_end(multipath);
    end();
    neighbor(RTM_NEWNEIGH, NUD_REACHABLE, "10.0.0.1", mac, 6);
    full_route(RTM_DELROUTE, 0);
    int32_t error = -ENOENT;
    message(NLMSG_ERROR, 0, &error, sizeof error);
    put(buffer, 64);
    end();
}

static void test_truncated_and_mangled_messages_are_counted_and_never_read_too_far(void)
{
    setup();
    fill_corpus();
    size_t whole = used;
    for (size_t bytes = 0; bytes < whole; bytes++) {
        int error = parse_bytes(bytes, false, 1);
        CHECK(error == 0 || error == -EINVAL);
        CHECK(error == 0 || bytes < 200);
        CHECK(error || result.consumed <= bytes);
    }
    for (size_t i = 0; i < whole; i++) {
        static const uint8_t masks[] = {0xff, 0x80, 0x01, 0x7f};
        for (unsigned m = 0; m < sizeof masks; m++) {
            buffer[i] ^= masks[m];
            (void)parse_bytes(whole, m & 1, 1);
            buffer[i] ^= masks[m];
        }
    }
    teardown();
}

static void test_message_that_is_none_at_all_is_refused(void)
{
    setup();
    memset(buffer, 0, 64);
    CHECK_EQUAL(parse_bytes(64, false, 1), -EINVAL);
    CHECK_EQUAL(parse_bytes(3, false, 1), -EINVAL);
    memset(buffer, 0xff, 64);
    CHECK_EQUAL(parse_bytes(64, false, 1), -EINVAL);
    teardown();
}

static void test_route_without_memory_is_counted_as_refused(void)
{
    for (uint64_t n = 1;; n++) {
        setup();
        full_route(RTM_NEWROUTE, NLM_F_CREATE);
        check_fail_allocation(n);
        CHECK_EQUAL(hn_control_parse(&tables, buffer, used, false, 1, &result), 0);
        bool failed = check_allocation_failed();
        check_fail_allocation(0);
        CHECK_EQUAL(result.refused, failed);
        CHECK_EQUAL(hn_fib_count(tables.fib, 4), !failed);
        teardown();
        if (!failed)
            break;
    }
}

int main(void)
{
    RUN(test_route_with_everything_arrives_in_the_table);
    RUN(test_all_next_hops_of_a_multipath_route_are_kept);
    RUN(test_tunnelled_and_source_specific_routes_are_for_the_kernel_path);
    RUN(test_cached_routes_and_other_families_are_skipped);
    RUN(test_rejecting_ipv6_route_loses_its_loopback_next_hop);
    RUN(test_dump_refreshes_and_tells_done_and_interrupted);
    RUN(test_parser_stops_in_front_of_what_is_for_python);
    RUN(test_neighbors_come_fail_and_go);
    RUN(test_wanted_neighbors_become_requests_and_a_refusal_fails_them);
    RUN(test_used_stale_neighbor_is_probed_and_its_next_stale_is_news);
    RUN(test_truncated_and_mangled_messages_are_counted_and_never_read_too_far);
    RUN(test_message_that_is_none_at_all_is_refused);
    RUN(test_route_without_memory_is_counted_as_refused);
    return 0;
}
