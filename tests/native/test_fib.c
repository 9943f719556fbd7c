// sources: stack/ip/fib*.c stack/ip/rule.c stack/ip/address.c stack/ip/dump_text.c
// sources: stack/ip/neighbor.c
#include <arpa/inet.h>

#include "check.h"
#include "stack/ip/fib.h"

enum { MAIN = 254, LOCAL = 255 };

static const uint8_t *address(const char *text)
{
    static uint8_t ring[16][16];
    static unsigned next;
    uint8_t *ip = ring[next++ % 16];
    memset(ip, 0, 16);
    CHECK_EQUAL(inet_pton(strchr(text, ':') ? AF_INET6 : AF_INET, text, ip), 1);
    return ip;
}

static uint8_t family_of(const char *text)
{
    return strchr(text, ':') ? HN_FAMILY_IPV6 : HN_FAMILY_IPV4;
}

static struct hn_nexthop hop(const char *gateway, uint32_t ifindex)
{
    struct hn_nexthop made = {.ifindex = ifindex, .weight = 1};
    if (gateway) {
        memcpy(made.gateway, address(gateway), 16);
        made.gateway_family = family_of(gateway);
    }
    return made;
}

static struct hn_route route(const char *prefix, const struct hn_nexthop *hops, uint16_t count)
{
    char text[64];
    snprintf(text, sizeof text, "%s", prefix);
    char *slash = strchr(text, '/');
    *slash = '\0';
    struct hn_route made = {.type = HN_ROUTE_UNICAST, .nexthops = hops, .nexthop_count = count};
    made.key.family = family_of(text);
    made.key.prefix_bits = (uint8_t)atoi(slash + 1);
    made.key.table = MAIN;
    memcpy(made.key.destination, address(text), 16);
    return made;
}

static void add(struct hn_fib *fib, const char *prefix, const char *gateway, uint32_t ifindex)
{
    struct hn_nexthop one = hop(gateway, ifindex);
    struct hn_route made = route(prefix, &one, 1);
    CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_APPEND, 1), 0);
}

static struct hn_fib_result look(const struct hn_fib *fib, const char *destination, uint32_t hash)
{
    struct hn_fib_result result;
    hn_fib_lookup(fib, family_of(destination), NULL, address(destination), hash, &result);
    return result;
}

static uint32_t device_to(const struct hn_fib *fib, const char *destination)
{
    struct hn_fib_result result = look(fib, destination, 0);
    return result.type == HN_ROUTE_UNICAST ? result.nexthop.ifindex : 0;
}

static void test_empty_table_has_no_route(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_fib_result result = look(fib, "10.0.0.1", 0);
    CHECK(!result.found);
    CHECK_EQUAL(result.type, HN_ROUTE_UNREACHABLE);
    CHECK_EQUAL(look(fib, "2001:db8::1", 0).type, HN_ROUTE_UNREACHABLE);
    hn_fib_destroy(fib);
}

static void test_longest_prefix_wins_at_every_length(void)
{
    struct hn_fib *fib = hn_fib_create();
    for (unsigned bits = 0; bits <= 32; bits++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "255.255.255.255/%u", bits);
        add(fib, prefix, NULL, bits + 1);
    }
    for (unsigned bits = 0; bits <= 128; bits++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/%u", bits);
        add(fib, prefix, NULL, bits + 1);
    }
    uint8_t ip[16];
    for (unsigned family = 4; family <= 6; family += 2) {
        unsigned width = family == 4 ? 32 : 128;
        for (unsigned bits = 0; bits <= width; bits++) {
            memset(ip, 0xff, sizeof ip);
            if (bits < width) /* the first bit that differs ends the match */
                ip[bits / 8] ^= (uint8_t)(0x80 >> bits % 8);
            struct hn_fib_result result;
            hn_fib_lookup(fib, (uint8_t)family, NULL, ip, 0, &result);
            CHECK_EQUAL(result.nexthop.ifindex, bits + 1);
        }
    }
    hn_fib_destroy(fib);
}

static void test_lower_metric_wins_until_it_is_dead(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop good = hop("10.0.0.1", 2), dead = hop("10.0.0.2", 3);
    struct hn_route far = route("0.0.0.0/0", &good, 1), near = route("0.0.0.0/0", &dead, 1);
    far.metric = 200;
    near.metric = 100;
    CHECK_EQUAL(hn_fib_insert(fib, &far, HN_FIB_EXCLUSIVE, 1), 0);
    CHECK_EQUAL(hn_fib_insert(fib, &near, HN_FIB_EXCLUSIVE, 1), 0);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 3);
    dead.flags = HN_NEXTHOP_DEAD;
    CHECK_EQUAL(hn_fib_insert(fib, &near, HN_FIB_REPLACE, 1), 0);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 2);
    CHECK_EQUAL(hn_fib_count(fib, 4), 2);
    hn_fib_destroy(fib);
}

static void test_dead_routes_fall_back_to_the_shorter_prefix(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop dead = hop("10.0.0.2", 3);
    dead.flags = HN_NEXTHOP_DEAD;
    struct hn_route near = route("9.9.9.0/24", &dead, 1);
    add(fib, "0.0.0.0/0", "10.0.0.1", 2);
    CHECK_EQUAL(hn_fib_insert(fib, &near, HN_FIB_APPEND, 1), 0);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 2);
    hn_fib_destroy(fib);
}

static void test_flows_spread_over_living_next_hops_by_weight(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop hops[3] = {hop("10.0.0.1", 1), hop("10.0.0.2", 2), hop("10.0.0.3", 3)};
    hops[1].flags = HN_NEXTHOP_DEAD;
    hops[2].weight = 3;
    struct hn_route made = route("0.0.0.0/0", hops, 3);
    CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_APPEND, 1), 0);
    unsigned seen[4] = {0};
    for (uint64_t i = 0; i < 4096; i++)
        seen[look(fib, "9.9.9.9", (uint32_t)(i << 20)).nexthop.ifindex]++;
    CHECK_EQUAL(seen[1], 1024);
    CHECK_EQUAL(seen[2], 0);
    CHECK_EQUAL(seen[3], 3072);
    CHECK_EQUAL(look(fib, "9.9.9.9", UINT32_MAX).nexthop.ifindex, 3);
    hn_fib_destroy(fib);
}

static void test_rejecting_types_answer_and_throw_goes_on_with_the_next_rule(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_route no = route("10.1.0.0/16", NULL, 0);
    for (uint8_t type = HN_ROUTE_BLACKHOLE; type <= HN_ROUTE_PROHIBIT; type++) {
        no.type = type;
        CHECK_EQUAL(hn_fib_insert(fib, &no, HN_FIB_REPLACE, 1), 0);
        CHECK_EQUAL(look(fib, "10.1.2.3", 0).type, type);
        CHECK(look(fib, "10.1.2.3", 0).found);
    }
    no.type = HN_ROUTE_THROW;
    no.key.table = LOCAL;
    CHECK_EQUAL(hn_fib_insert(fib, &no, HN_FIB_REPLACE, 1), 0);
    CHECK_EQUAL(look(fib, "10.1.2.3", 0).type, HN_ROUTE_PROHIBIT);
    no.type = HN_ROUTE_UNSPEC;
    CHECK_EQUAL(hn_fib_insert(fib, &no, HN_FIB_REPLACE, 1), -EINVAL);
    no.type = 11;
    CHECK_EQUAL(hn_fib_insert(fib, &no, HN_FIB_REPLACE, 1), -EINVAL);
    hn_fib_destroy(fib);
}

static void test_unknown_nexthop_object_is_left_to_the_kernel(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_route made = route("0.0.0.0/0", NULL, 0);
    made.nexthop_id = 7;
    CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_APPEND, 1), 0);
    CHECK_EQUAL(look(fib, "9.9.9.9", 0).type, HN_ROUTE_UNSPEC);
    CHECK(hn_fib_nexthop_used(fib, 7));
    CHECK_EQUAL(hn_fib_purge_nexthop(fib, 8), 0);
    CHECK_EQUAL(hn_fib_purge_nexthop(fib, 7), 1);
    CHECK(!hn_fib_nexthop_used(fib, 7));
    CHECK(!look(fib, "9.9.9.9", 0).found);
    hn_fib_destroy(fib);
}

static void test_route_with_a_tos_is_passed_over(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop one = hop("10.0.0.1", 1);
    struct hn_route marked = route("0.0.0.0/0", &one, 1);
    marked.tos = 0x10;
    CHECK_EQUAL(hn_fib_insert(fib, &marked, HN_FIB_EXCLUSIVE, 1), 0);
    CHECK(!look(fib, "9.9.9.9", 0).found);
    add(fib, "0.0.0.0/0", "10.0.0.2", 2);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 2);
    CHECK_EQUAL(hn_fib_count(fib, 4), 2);
    CHECK_EQUAL(hn_fib_remove(fib, &marked), 0);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 2);
    hn_fib_destroy(fib);
}

static void test_ipv4_peers_keep_the_order_of_append_prepend_and_replace(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop a = hop("10.0.0.1", 1), b = hop("10.0.0.2", 2), c = hop("10.0.0.3", 3);
    struct hn_route ra = route("0.0.0.0/0", &a, 1), rb = route("0.0.0.0/0", &b, 1);
    struct hn_route rc = route("0.0.0.0/0", &c, 1);
    hn_fib_insert(fib, &ra, HN_FIB_EXCLUSIVE, 1);
    hn_fib_insert(fib, &rb, HN_FIB_APPEND, 1);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 1);
    hn_fib_insert(fib, &rc, HN_FIB_PREPEND, 1);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 3);
    CHECK_EQUAL(hn_fib_count(fib, 4), 3);
    CHECK_EQUAL(hn_fib_remove(fib, &rc), 0);
    CHECK_EQUAL(hn_fib_remove(fib, &rc), -ENOENT);
    hn_fib_insert(fib, &rc, HN_FIB_REPLACE, 1); /* the kernel replaces the first: a */
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 3);
    CHECK_EQUAL(hn_fib_count(fib, 4), 2);
    CHECK_EQUAL(hn_fib_remove(fib, &rc), 0);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 2);
    hn_fib_insert(fib, &ra, HN_FIB_EXCLUSIVE, 1);
    CHECK_EQUAL(hn_fib_count(fib, 4), 1);
    hn_fib_destroy(fib);
}

static void test_dump_restores_the_kernels_order(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop a = hop("10.0.0.1", 1), b = hop("10.0.0.2", 2);
    struct hn_route ra = route("0.0.0.0/0", &a, 1), rb = route("0.0.0.0/0", &b, 1);
    hn_fib_insert(fib, &ra, HN_FIB_APPEND, 1);
    hn_fib_insert(fib, &rb, HN_FIB_REFRESH, 2); /* news of a prepend was lost */
    hn_fib_insert(fib, &ra, HN_FIB_REFRESH, 2);
    CHECK_EQUAL(hn_fib_sweep(fib, 4, 2), 0);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 2);
    hn_fib_insert(fib, &ra, HN_FIB_REFRESH, 3);
    CHECK_EQUAL(hn_fib_sweep(fib, 4, 3), 1);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 1);
    hn_fib_destroy(fib);
}

static void test_same_news_twice_changes_nothing(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop hops[2] = {hop("fe80::1", 1), hop("fe80::2", 1)};
    struct hn_route made = route("::/0", hops, 2);
    made.metric = 1024;
    CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_REFRESH, 1), 0);
    uint64_t generation = hn_fib_generation(fib);
    for (int mode = HN_FIB_REFRESH; mode <= HN_FIB_EXCLUSIVE; mode++)
        CHECK_EQUAL(hn_fib_insert(fib, &made, (enum hn_fib_insert_mode)mode, 2), 0);
    CHECK_EQUAL(hn_fib_generation(fib), generation);
    made.mtu = 1400;
    CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_REPLACE, 2), 0);
    CHECK(hn_fib_generation(fib) > generation);
    CHECK_EQUAL(look(fib, "2001:db8::1", 0).mtu, 1400);
    CHECK_EQUAL(hn_fib_count(fib, 6), 1);
    hn_fib_destroy(fib);
}

static void test_ipv6_group_grows_and_loses_single_next_hops(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop hops[3] = {hop("fe80::1", 1), hop("fe80::2", 2), hop("fe80::3", 3)};
    struct hn_route made = route("2001:db8::/32", hops, 1);
    for (uint16_t count = 1; count <= 3; count++) {
        made.nexthop_count = count;
        CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_APPEND, 1), 0);
        CHECK_EQUAL(hn_fib_count(fib, 6), 1);
    }
    struct hn_route one = made;
    one.nexthop_count = 1;
    CHECK_EQUAL(hn_fib_remove(fib, &one), 0);
    CHECK_EQUAL(hn_fib_count(fib, 6), 1);
    CHECK_EQUAL(device_to(fib, "2001:db8::9"), 2);
    CHECK_EQUAL(hn_fib_remove(fib, &one), -ENOENT);
    one.nexthops = &hops[1];
    one.nexthop_count = 2;
    CHECK_EQUAL(hn_fib_remove(fib, &one), 0);
    CHECK_EQUAL(hn_fib_count(fib, 6), 0);
    hn_fib_destroy(fib);
}

static void test_ipv6_device_routes_of_one_metric_live_side_by_side(void)
{
    struct hn_fib *fib = hn_fib_create();
    for (uint32_t device = 1; device <= 3; device++)
        add(fib, "fe80::/64", NULL, device);
    CHECK_EQUAL(hn_fib_count(fib, 6), 3);
    struct hn_nexthop two = hop(NULL, 2), four = hop(NULL, 4);
    struct hn_route gone = route("fe80::/64", &two, 1), other = route("fe80::/64", &four, 1);
    CHECK_EQUAL(hn_fib_remove(fib, &gone), 0);
    CHECK_EQUAL(hn_fib_remove(fib, &other), -ENOENT);
    CHECK_EQUAL(hn_fib_count(fib, 6), 2);
    CHECK_EQUAL(device_to(fib, "fe80::9"), 1);
    hn_fib_destroy(fib);
}

static void test_ipv6_replace_takes_the_whole_group_but_no_device_route(void)
{
    struct hn_fib *fib = hn_fib_create();
    add(fib, "2001:db8::/32", NULL, 9);
    struct hn_nexthop hops[2] = {hop("fe80::1", 1), hop("fe80::2", 2)};
    struct hn_nexthop next = hop("fe80::3", 3);
    struct hn_route group = route("2001:db8::/32", hops, 2);
    struct hn_route single = route("2001:db8::/32", &next, 1);
    hn_fib_insert(fib, &group, HN_FIB_APPEND, 1);
    CHECK_EQUAL(hn_fib_insert(fib, &single, HN_FIB_REPLACE, 1), 0);
    CHECK_EQUAL(hn_fib_count(fib, 6), 2);
    CHECK_EQUAL(hn_fib_remove(fib, &single), 0);
    CHECK_EQUAL(device_to(fib, "2001:db8::1"), 9);
    hn_fib_destroy(fib);
}

static void test_purge_takes_next_hops_of_the_interface_but_no_ipv4_local_route(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop hops[2] = {hop("10.0.0.1", 1), hop("10.0.1.1", 2)};
    struct hn_route multi = route("0.0.0.0/0", hops, 2), own = route("10.0.0.9/32", hops, 1);
    own.type = HN_ROUTE_LOCAL;
    own.scope = 254;
    own.key.table = LOCAL;
    hn_fib_insert(fib, &multi, HN_FIB_APPEND, 1);
    hn_fib_insert(fib, &own, HN_FIB_APPEND, 1);
    add(fib, "10.0.0.0/24", NULL, 1);
    CHECK_EQUAL(hn_fib_purge_interface(fib, 4, 1), 2);
    CHECK_EQUAL(hn_fib_count(fib, 4), 2);
    for (uint32_t hash = 0; hash < 16; hash++)
        CHECK_EQUAL(look(fib, "9.9.9.9", hash << 28).nexthop.ifindex, 2);
    CHECK_EQUAL(look(fib, "10.0.0.9", 0).type, HN_ROUTE_LOCAL);
    CHECK_EQUAL(hn_fib_purge_interface(fib, 4, 2), 1);
    CHECK(!look(fib, "9.9.9.9", 0).found);
    hn_fib_destroy(fib);
}

static void test_rules_choose_the_table_by_source_and_destination(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_nexthop one = hop("10.0.0.1", 100);
    struct hn_route made = route("0.0.0.0/0", &one, 1);
    made.key.table = 100;
    add(fib, "0.0.0.0/0", "10.0.0.2", 1);
    struct hn_rule rules[3] = {
        {.priority = 30, .table = MAIN, .family = 4, .action = 1},
        {.priority = 10, .table = 100, .family = 4, .action = 1, .source_bits = 8},
        {.priority = 20, .family = 4, .action = 7, .destination_bits = 16},
    };
    memcpy(rules[1].source, address("172.0.0.0"), 16);
    memcpy(rules[2].destination, address("5.5.0.0"), 16);
    CHECK_EQUAL(hn_fib_set_rules(fib, 4, rules, 3), 0);
    CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_APPEND, 1), 0); /* the table comes later */
    struct hn_fib_result result;
    hn_fib_lookup(fib, 4, address("172.1.2.3"), address("9.9.9.9"), 0, &result);
    CHECK_EQUAL(result.nexthop.ifindex, 100);
    hn_fib_lookup(fib, 4, address("173.1.2.3"), address("9.9.9.9"), 0, &result);
    CHECK_EQUAL(result.nexthop.ifindex, 1);
    CHECK_EQUAL(device_to(fib, "9.9.9.9"), 1);
    CHECK_EQUAL(look(fib, "5.5.9.9", 0).type, HN_ROUTE_UNREACHABLE);
    CHECK(look(fib, "5.5.9.9", 0).found);
    rules[2].opaque = true;
    rules[2].action = 2;
    CHECK_EQUAL(hn_fib_set_rules(fib, 4, rules, 3), 0);
    CHECK_EQUAL(look(fib, "5.5.9.9", 0).type, HN_ROUTE_UNSPEC);
    rules[2].opaque = false;
    CHECK_EQUAL(hn_fib_set_rules(fib, 4, rules, 3), -EINVAL);
    rules[2].action = 3;
    CHECK_EQUAL(hn_fib_set_rules(fib, 4, rules, 3), 0);
    CHECK_EQUAL(device_to(fib, "5.5.9.9"), 1);
    CHECK_EQUAL(hn_fib_set_rules(fib, 4, NULL, 0), 0);
    CHECK(!look(fib, "9.9.9.9", 0).found);
    hn_fib_destroy(fib);
}

static struct hn_local_address own(const char *ip, uint32_t ifindex, uint8_t bits, uint8_t scope,
                                   uint32_t flags)
{
    struct hn_local_address made = {.ifindex = ifindex, .flags = flags, .prefix_bits = bits};
    made.family = family_of(ip);
    made.scope = scope;
    memcpy(made.ip, address(ip), 16);
    return made;
}

static void expect_source(const struct hn_fib *fib, uint32_t ifindex, const char *destination,
                          const char *expected)
{
    uint8_t source[16];
    bool found = hn_fib_source(fib, family_of(destination), ifindex, address(destination), source);
    CHECK_EQUAL(found, expected != NULL);
    if (expected)
        CHECK(memcmp(source, address(expected), family_of(expected) == 4 ? 4 : 16) == 0);
}

static void test_addresses_are_local_on_any_interface(void)
{
    struct hn_fib *fib = hn_fib_create();
    CHECK(!hn_fib_is_local(fib, 4, address("10.0.0.1")));
    struct hn_local_address list[] = {own("10.0.0.1", 1, 24, 0, 0), own("10.0.0.1", 2, 24, 0, 0),
                                      own("fe80::1", 1, 64, 253, 0)};
    CHECK_EQUAL(hn_fib_set_addresses(fib, list, 3), 0);
    CHECK(hn_fib_is_local(fib, 4, address("10.0.0.1")));
    CHECK(hn_fib_is_local(fib, 6, address("fe80::1")));
    CHECK(!hn_fib_is_local(fib, 4, address("10.0.0.2")));
    CHECK(!hn_fib_is_local(fib, 6, address("fe80::2")));
    CHECK_EQUAL(hn_fib_set_addresses(fib, NULL, 0), 0);
    CHECK(!hn_fib_is_local(fib, 4, address("10.0.0.1")));
    hn_fib_destroy(fib);
}

static void test_ipv4_source_is_primary_and_covers_the_next_hop(void)
{
    struct hn_fib *fib = hn_fib_create();
    expect_source(fib, 1, "10.0.0.9", NULL);
    struct hn_local_address list[] = {
        own("127.0.0.1", 1, 8, 254, 0),    own("192.0.2.1", 2, 24, 0, 0),
        own("10.0.0.1", 2, 24, 0, 0),      own("10.0.0.2", 2, 24, 0, 1),
        own("169.254.0.1", 3, 16, 253, 0),
    };
    CHECK_EQUAL(hn_fib_set_addresses(fib, list, 5), 0);
    expect_source(fib, 2, "10.0.0.9", "10.0.0.1");
    expect_source(fib, 2, "8.8.8.8", "192.0.2.1");
    expect_source(fib, 1, "127.5.5.5", "127.0.0.1");
    expect_source(fib, 3, "8.8.8.8", "169.254.0.1");
    expect_source(fib, 4, "8.8.8.8", "192.0.2.1"); /* an interface without an address */
    hn_fib_destroy(fib);
}

static void test_ipv6_source_follows_rfc_6724(void)
{
    struct hn_fib *fib = hn_fib_create();
    struct hn_local_address list[] = {
        own("fe80::2", 2, 64, 253, 0),     own("fe80::3", 3, 64, 253, 0),
        own("2001:db8:1::2", 2, 64, 0, 0), own("2001:db8:2::2", 2, 64, 0, 0x20),
        own("2001:db8:3::3", 3, 64, 0, 0), own("2001:db8:1::7", 2, 64, 0, 1),
        own("::1", 1, 128, 254, 0),
    };
    CHECK_EQUAL(hn_fib_set_addresses(fib, list, 7), 0);
    expect_source(fib, 2, "fe80::99", "fe80::2");
    expect_source(fib, 3, "fe80::99", "fe80::3");
    expect_source(fib, 3, "ff02::1", "fe80::3");
    expect_source(fib, 2, "2001:db8:2::99", "2001:db8:1::2"); /* the near one is deprecated */
    expect_source(fib, 2, "2001:db8:3::99", "2001:db8:1::2"); /* the outgoing interface first */
    expect_source(fib, 2, "2001:db8:3::3", "2001:db8:3::3");  /* oneself */
    expect_source(fib, 4, "2001:db8:3::99", "2001:db8:3::3");
    expect_source(fib, 4, "fe80::99", NULL);
    hn_fib_destroy(fib);
}

static void test_text_is_cut_to_the_buffer(void)
{
    struct hn_fib *fib = hn_fib_create();
    add(fib, "10.0.0.0/8", "10.0.0.1", 1);
    add(fib, "2001:db8::/32", "fe80::1", 1);
    char whole[512], part[512];
    size_t needed = hn_fib_dump_text(fib, 4, whole, sizeof whole);
    CHECK_EQUAL(strlen(whole), needed);
    CHECK(strstr(whole, "table 254 10.0.0.0/8 type 1") == whole);
    for (size_t bytes = 0; bytes <= needed + 1; bytes++) {
        memset(part, 0x55, sizeof part);
        CHECK_EQUAL(hn_fib_dump_text(fib, 4, part, bytes), needed);
        CHECK_EQUAL(part[bytes], 0x55);
        if (bytes)
            CHECK(strncmp(part, whole, bytes - 1) == 0 && part[bytes - 1] == '\0');
    }
    CHECK_EQUAL(hn_fib_dump_text(fib, 4, NULL, 0), needed);
    hn_fib_destroy(fib);
}

/* Against a table so simple that it cannot be wrong. */
#define MODEL_MAX 600
struct model {
    uint8_t ip[16];
    uint8_t bits;
    bool present;
    uint32_t device;
};

static bool covers(const struct model *entry, const uint8_t *ip)
{
    for (unsigned i = 0; i < entry->bits; i++)
        if ((entry->ip[i / 8] ^ ip[i / 8]) & (0x80 >> i % 8))
            return false;
    return true;
}

static void model_round(uint64_t seed, uint8_t family)
{
    static struct model model[MODEL_MAX];
    uint64_t state = seed;
    unsigned width = family == 4 ? 32 : 128;
    memset(model, 0, sizeof model);
    struct hn_fib *fib = hn_fib_create();
    for (unsigned step = 0; step < 6000; step++) {
        struct model *entry = &model[check_random(&state) % MODEL_MAX];
        struct hn_nexthop one = {.weight = 1};
        struct hn_route made = {.type = HN_ROUTE_UNICAST, .nexthops = &one, .nexthop_count = 1};
        made.key.family = family;
        made.key.table = MAIN;
        if (entry->present) {
            memcpy(made.key.destination, entry->ip, 16);
            made.key.prefix_bits = entry->bits;
            one.ifindex = entry->device;
            CHECK_EQUAL(hn_fib_remove(fib, &made), 0);
            entry->present = false;
        } else {
            entry->bits = (uint8_t)(check_random(&state) % (width + 1));
            for (unsigned i = 0; i < width / 8; i++) /* few values, so that prefixes nest */
                entry->ip[i] = (uint8_t)(check_random(&state) % 3);
            bool taken = false;
            for (unsigned i = 0; i < MODEL_MAX; i++)
                taken |=
                    model[i].present && model[i].bits == entry->bits && covers(entry, model[i].ip);
            if (taken)
                continue;
            entry->device = step + 1;
            entry->present = true;
            memcpy(made.key.destination, entry->ip, 16);
            made.key.prefix_bits = entry->bits;
            one.ifindex = entry->device;
            CHECK_EQUAL(hn_fib_insert(fib, &made, HN_FIB_EXCLUSIVE, step), 0);
        }
        uint8_t ip[16] = {0};
        for (unsigned i = 0; i < width / 8; i++)
            ip[i] = (uint8_t)(check_random(&state) % 3);
        const struct model *best = NULL;
        for (unsigned i = 0; i < MODEL_MAX; i++)
            if (model[i].present && covers(&model[i], ip) && (!best || model[i].bits > best->bits))
                best = &model[i];
        struct hn_fib_result result;
        hn_fib_lookup(fib, family, NULL, ip, 0, &result);
        CHECK_EQUAL(result.found, best != NULL);
        CHECK_EQUAL(result.nexthop.ifindex, best ? best->device : 0);
    }
    size_t kept = 0;
    for (unsigned i = 0; i < MODEL_MAX; i++)
        kept += model[i].present;
    CHECK_EQUAL(hn_fib_count(fib, family), kept);
    CHECK_EQUAL(hn_fib_sweep(fib, family, UINT32_MAX), kept);
    CHECK_EQUAL(hn_fib_count(fib, family), 0);
    hn_fib_destroy(fib);
}

static void test_random_changes_agree_with_a_linear_table(void)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        printf("seed %llu\n", (unsigned long long)seed);
        model_round(seed, HN_FAMILY_IPV4);
        model_round(seed, HN_FAMILY_IPV6);
    }
}

/* One story that allocates everywhere; true when it ran to its end. */
static bool story(void)
{
    struct hn_fib *fib = hn_fib_create();
    if (!fib)
        return false;
    bool good = true;
    struct hn_nexthop one = hop("10.0.0.1", 1);
    struct hn_rule rule = {.priority = 1, .table = 7, .family = 4, .action = 1};
    struct hn_local_address mine = own("10.0.0.1", 1, 24, 0, 0);
    for (unsigned i = 0; i < 12 && good; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "10.%u.0.0/16", i);
        struct hn_route made = route(prefix, &one, 1);
        made.key.table = 7 + i % 2;
        size_t before = hn_fib_count(fib, 4);
        good = hn_fib_insert(fib, &made, HN_FIB_EXCLUSIVE, 1) == 0;
        CHECK_EQUAL(hn_fib_count(fib, 4), before + good);
    }
    good = good && hn_fib_set_rules(fib, 4, &rule, 1) == 0;
    good = good && hn_fib_set_addresses(fib, &mine, 1) == 0;
    struct hn_fib_result result;
    hn_fib_lookup(fib, 4, NULL, address("10.0.1.1"), 0, &result);
    CHECK(!good || result.found);
    hn_fib_destroy(fib);
    return good;
}

static void test_every_failing_allocation_is_reported_and_leaks_nothing(void)
{
    for (uint64_t n = 1;; n++) {
        check_fail_allocation(n);
        bool good = story();
        bool failed = check_allocation_failed();
        check_fail_allocation(0);
        CHECK_EQUAL(good, !failed);
        if (!failed)
            break;
    }
}

int main(void)
{
    RUN(test_empty_table_has_no_route);
    RUN(test_longest_prefix_wins_at_every_length);
    RUN(test_lower_metric_wins_until_it_is_dead);
    RUN(test_dead_routes_fall_back_to_the_shorter_prefix);
    RUN(test_flows_spread_over_living_next_hops_by_weight);
    RUN(test_rejecting_types_answer_and_throw_goes_on_with_the_next_rule);
    RUN(test_unknown_nexthop_object_is_left_to_the_kernel);
    RUN(test_route_with_a_tos_is_passed_over);
    RUN(test_ipv4_peers_keep_the_order_of_append_prepend_and_replace);
    RUN(test_dump_restores_the_kernels_order);
    RUN(test_same_news_twice_changes_nothing);
    RUN(test_ipv6_group_grows_and_loses_single_next_hops);
    RUN(test_ipv6_device_routes_of_one_metric_live_side_by_side);
    RUN(test_ipv6_replace_takes_the_whole_group_but_no_device_route);
    RUN(test_purge_takes_next_hops_of_the_interface_but_no_ipv4_local_route);
    RUN(test_rules_choose_the_table_by_source_and_destination);
    RUN(test_addresses_are_local_on_any_interface);
    RUN(test_ipv4_source_is_primary_and_covers_the_next_hop);
    RUN(test_ipv6_source_follows_rfc_6724);
    RUN(test_text_is_cut_to_the_buffer);
    RUN(test_random_changes_agree_with_a_linear_table);
    RUN(test_every_failing_allocation_is_reported_and_leaks_nothing);
    return 0;
}
