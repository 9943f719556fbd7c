// sources:
/* Parsers of single headers.  Every input ends flush against an unmapped page, so that reading one
   byte too many ends the test. */
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "stack/wire/ethernet.h"
#include "stack/wire/ipv4.h"
#include "stack/wire/ipv6.h"
#include "stack/wire/udp.h"

static uint8_t *guard; /* first byte that must not be touched */

/* A copy whose end is the guard page. */
static uint8_t *flush_against_guard(const uint8_t *data, size_t length)
{
    return length ? memcpy(guard - length, data, length) : guard;
}

static void make_guard(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *memory =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    guard = memory + page;
    CHECK_EQUAL(mprotect(guard, page, PROT_NONE), 0);
}

static const uint8_t V4_SOURCE[16] = {10, 0, 0, 2}, V4_DESTINATION[16] = {10, 0, 0, 1};
static const uint8_t V6_SOURCE[16] = {0xfd, [15] = 2}, V6_DESTINATION[16] = {0xfd, [15] = 1};

static void seal(uint8_t *header, uint32_t header_bytes)
{
    memset(header + 10, 0, 2);
    uint16_t sum = (uint16_t)~hn_checksum_fold(hn_checksum_add(0, header, header_bytes));
    memcpy(header + 10, &sum, sizeof sum);
}

/* An IPv4 packet with `options` bytes of options and `payload` bytes of zeros. */
static uint32_t make_ipv4(uint8_t *packet, uint32_t options, uint32_t payload)
{
    uint32_t header = HN_IPV4_BYTES + options;
    memset(packet, 0, header + payload);
    hn_ipv4_emit(packet, V4_SOURCE, V4_DESTINATION, HN_PROTOCOL_UDP, 0, 64,
                 (uint16_t)(header + payload));
    packet[0] = (uint8_t)(0x40 | header / 4);
    memset(packet + HN_IPV4_BYTES, 1, options); /* no operation */
    seal(packet, header);
    return header + payload;
}

static enum hn_ipv4_fault parse_ipv4(const uint8_t *packet, uint32_t length, struct hn_ipv4 *ip)
{
    return hn_ipv4_parse(flush_against_guard(packet, length), length, length, ip);
}

static void test_ethernet_is_cut_short_at_every_length(void)
{
    uint8_t frame[22] = {[12] = 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd};
    uint16_t type = 0;
    for (uint32_t length = 0; length < sizeof frame; length++)
        CHECK_EQUAL(hn_ethernet_parse(flush_against_guard(frame, length), length, &type), 0);
    CHECK_EQUAL(hn_ethernet_parse(flush_against_guard(frame, 22), 22, &type), 22);
    CHECK_EQUAL(type, HN_ETHERTYPE_IPV6);
}

static void test_ethernet_takes_none_one_and_two_tags_and_no_third(void)
{
    uint8_t frame[26] = {[12] = 0x08, 0};
    uint16_t type = 0;
    CHECK_EQUAL(hn_ethernet_parse(frame, sizeof frame, &type), 14);
    memcpy(frame + 12, (uint8_t[]){0x81, 0, 0, 7, 0x08, 0}, 6);
    CHECK_EQUAL(hn_ethernet_parse(frame, sizeof frame, &type), 18);
    CHECK_EQUAL(type, HN_ETHERTYPE_IPV4);
    memcpy(frame + 12, (uint8_t[]){0x81, 0, 0, 7, 0x81, 0, 0, 8, 0x81, 0, 0, 9, 8, 0}, 14);
    CHECK_EQUAL(hn_ethernet_parse(frame, sizeof frame, &type), 0);
}

static void test_ipv4_is_cut_short_at_every_length_with_any_options(void)
{
    uint8_t packet[128];
    struct hn_ipv4 ip;
    for (uint32_t options = 0; options <= 40; options += 4) {
        uint32_t length = make_ipv4(packet, options, 16);
        for (uint32_t cut = 0; cut < length; cut++) {
            enum hn_ipv4_fault fault = parse_ipv4(packet, cut, &ip);
            CHECK_EQUAL(fault, cut < 20 + options ? HN_IPV4_TRUNCATED : HN_IPV4_BAD_LENGTH);
        }
        CHECK_EQUAL(parse_ipv4(packet, length, &ip), HN_IPV4_OK);
        CHECK_EQUAL(ip.header_bytes, 20 + options);
        CHECK_EQUAL(ip.total_bytes, length);
        CHECK_EQUAL(ip.protocol, HN_PROTOCOL_UDP);
        CHECK(memcmp(ip.source, V4_SOURCE, 4) == 0);
        CHECK(memcmp(ip.destination, V4_DESTINATION, 4) == 0);
    }
}

static void test_ipv4_version_and_header_length_are_checked(void)
{
    uint8_t packet[64];
    struct hn_ipv4 ip;
    uint32_t length = make_ipv4(packet, 0, 8);
    for (uint32_t version = 0; version < 16; version++)
        for (uint32_t words = 0; words < 5; words++) {
            packet[0] = (uint8_t)(version << 4 | words);
            CHECK_EQUAL(parse_ipv4(packet, length, &ip), HN_IPV4_BAD_HEADER);
        }
    packet[0] = 0x65;
    CHECK_EQUAL(parse_ipv4(packet, length, &ip), HN_IPV4_BAD_HEADER);
    packet[0] = 0x4f; /* 60 bytes of header in 28 */
    CHECK_EQUAL(parse_ipv4(packet, length, &ip), HN_IPV4_TRUNCATED);
}

static void test_ipv4_total_length_lies_between_header_and_packet(void)
{
    uint8_t packet[64];
    struct hn_ipv4 ip;
    uint32_t length = make_ipv4(packet, 4, 8);
    for (uint32_t total = 0; total < 64; total++) {
        hn_store16_be(packet + 2, (uint16_t)total);
        seal(packet, 24);
        CHECK_EQUAL(parse_ipv4(packet, length, &ip),
                    total < 24 || total > length ? HN_IPV4_BAD_LENGTH : HN_IPV4_OK);
    }
}

static void test_ipv4_header_with_any_bit_turned_is_not_taken_as_it_was(void)
{
    uint8_t packet[64];
    struct hn_ipv4 ip;
    uint32_t length = make_ipv4(packet, 8, 8);
    for (uint32_t bit = 0; bit < 28 * 8; bit++) {
        packet[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(parse_ipv4(packet, length, &ip) != HN_IPV4_OK);
        packet[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_EQUAL(parse_ipv4(packet, length, &ip), HN_IPV4_OK);
}

static void test_ipv4_fragments_are_known_and_dont_fragment_is_none(void)
{
    static const struct {
        uint16_t field;
        bool fragment;
    } cases[] = {{0, false},     {0x4000, false}, {0x8000, false}, {0x2000, true},
                 {0x0001, true}, {0x1fff, true},  {0x6000, true}};
    uint8_t packet[64];
    struct hn_ipv4 ip;
    uint32_t length = make_ipv4(packet, 0, 8);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hn_store16_be(packet + 6, cases[i].field);
        seal(packet, 20);
        CHECK_EQUAL(parse_ipv4(packet, length, &ip), HN_IPV4_OK);
        CHECK_EQUAL(ip.fragment, cases[i].fragment);
    }
}

/* IPv6 with the given next-header field and payload. */
static uint32_t make_ipv6(uint8_t *packet, uint8_t next, const uint8_t *payload, uint32_t bytes)
{
    hn_ipv6_emit(packet, V6_SOURCE, V6_DESTINATION, next, 0, 64, (uint16_t)bytes);
    memcpy(packet + HN_IPV6_BYTES, payload, bytes);
    return HN_IPV6_BYTES + bytes;
}

static enum hn_ipv6_fault parse_ipv6(const uint8_t *packet, uint32_t length, struct hn_ipv6 *ip)
{
    return hn_ipv6_parse(flush_against_guard(packet, length), length, length, ip);
}

static enum hn_ipv6_fault parse_chain(uint8_t next, const uint8_t *payload, uint32_t bytes,
                                      struct hn_ipv6 *ip)
{
    uint8_t packet[1024];
    return parse_ipv6(packet, make_ipv6(packet, next, payload, bytes), ip);
}

static void test_ipv6_is_cut_short_at_every_length(void)
{
    uint8_t packet[64];
    struct hn_ipv6 ip;
    uint32_t length = make_ipv6(packet, 17, (uint8_t[8]){0}, 8);
    for (uint32_t cut = 0; cut < length; cut++)
        CHECK_EQUAL(parse_ipv6(packet, cut, &ip),
                    cut < 40 ? HN_IPV6_TRUNCATED : HN_IPV6_BAD_LENGTH);
    CHECK_EQUAL(parse_ipv6(packet, length, &ip), HN_IPV6_OK);
    CHECK(ip.header_bytes == 40 && ip.total_bytes == 48 && ip.protocol == 17);
    packet[0] = 0x45;
    CHECK_EQUAL(parse_ipv6(packet, length, &ip), HN_IPV6_BAD_VERSION);
}

static void test_ipv6_padding_behind_the_payload_is_not_part_of_it(void)
{
    uint8_t packet[80] = {0};
    struct hn_ipv6 ip;
    make_ipv6(packet, 60, (uint8_t[8]){17, 1}, 8); /* claims 16 bytes, of which 8 are padding */
    CHECK_EQUAL(parse_ipv6(packet, sizeof packet, &ip), HN_IPV6_BAD_EXTENSION);
}

static void test_ipv6_extension_chain_is_cut_short_at_every_length(void)
{
    /* Hop-by-hop with PadN, destination options of 16 bytes, used-up routing, then UDP. */
    static const uint8_t chain[40] = {60, 0, 1, 4, 0, 0, 0, 0, 43, 1, 1, 12, [24] = 17, [26] = 2};
    uint8_t packet[128];
    struct hn_ipv6 ip;
    uint32_t length = make_ipv6(packet, 0, chain, sizeof chain);
    for (uint32_t bytes = 0; bytes < 32; bytes++) {
        hn_store16_be(packet + 4, (uint16_t)bytes);
        CHECK_EQUAL(parse_ipv6(packet, HN_IPV6_BYTES + bytes, &ip), HN_IPV6_BAD_EXTENSION);
    }
    hn_store16_be(packet + 4, sizeof chain);
    CHECK_EQUAL(parse_ipv6(packet, length, &ip), HN_IPV6_OK);
    CHECK_EQUAL(ip.header_bytes, HN_IPV6_BYTES + 32);
    CHECK_EQUAL(ip.protocol, 17);
}

static void test_ipv6_takes_eight_extension_headers_and_not_nine(void)
{
    uint8_t chain[10 * 8] = {0};
    struct hn_ipv6 ip;
    for (uint32_t i = 0; i < 10; i++)
        memcpy(chain + 8 * i, (uint8_t[]){60, 0, 1, 4, 0, 0, 0, 0}, 8);
    chain[7 * 8] = 17;
    CHECK_EQUAL(parse_chain(60, chain, sizeof chain, &ip), HN_IPV6_OK);
    CHECK_EQUAL(ip.header_bytes, 40 + 64);
    chain[7 * 8] = 60;
    chain[8 * 8] = 17;
    CHECK_EQUAL(parse_chain(60, chain, sizeof chain, &ip), HN_IPV6_BAD_EXTENSION);
}

static void test_ipv6_hop_by_hop_options_come_first_or_not_at_all(void)
{
    static const uint8_t chain[24] = {0, 0, 1, 4, [8] = 17, 0, 1, 4};
    struct hn_ipv6 ip;
    CHECK_EQUAL(parse_chain(60, chain, sizeof chain, &ip), HN_IPV6_BAD_EXTENSION);
    CHECK_EQUAL(parse_chain(0, chain, sizeof chain, &ip), HN_IPV6_BAD_EXTENSION);
}

static void test_ipv6_routing_header_with_segments_left_does_not_pass(void)
{
    uint8_t chain[16] = {17, 0, 0, 1};
    struct hn_ipv6 ip;
    CHECK_EQUAL(parse_chain(43, chain, sizeof chain, &ip), HN_IPV6_BAD_EXTENSION);
    chain[3] = 0;
    CHECK_EQUAL(parse_chain(43, chain, sizeof chain, &ip), HN_IPV6_OK);
}

static void test_ipv6_fragment_header_is_told_wherever_it_stands(void)
{
    static const uint8_t chain[24] = {44, 0, 1, 4, [8] = 17};
    struct hn_ipv6 ip;
    CHECK_EQUAL(parse_chain(44, chain, sizeof chain, &ip), HN_IPV6_FRAGMENT);
    CHECK_EQUAL(parse_chain(60, chain, sizeof chain, &ip), HN_IPV6_FRAGMENT);
}

static void test_ipv6_unknown_option_passes_only_when_its_type_allows(void)
{
    static const struct {
        uint8_t bytes[6];
        bool passes;
    } cases[] = {
        {{0, 0, 0, 0, 0, 0}, true},     /* Pad1 alone */
        {{1, 4, 0, 0, 0, 0}, true},     /* PadN */
        {{5, 2, 0, 0, 0, 0}, true},     /* router alert, Pad1 */
        {{0x1e, 4, 1, 2, 3, 4}, true},  /* unknown: skip */
        {{0x5e, 4, 1, 2, 3, 4}, false}, /* unknown: discard */
        {{0x9e, 4, 1, 2, 3, 4}, false}, /* unknown: discard, tell */
        {{0xc2, 4, 0, 1, 0, 0}, false}, /* jumbo payload */
        {{1, 5, 0, 0, 0, 0}, false},    /* longer than the header */
        {{1, 255, 0, 0, 0, 0}, false},
        {{1, 3, 0, 0, 0, 1}, false}, /* length of the last one is missing */
        {{0, 0, 0, 0, 0, 1}, false},
    };
    struct hn_ipv6 ip;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t chain[16] = {17, 0};
        memcpy(chain + 2, cases[i].bytes, 6);
        enum hn_ipv6_fault wanted = cases[i].passes ? HN_IPV6_OK : HN_IPV6_BAD_EXTENSION;
        CHECK_EQUAL(parse_chain(0, chain, sizeof chain, &ip), wanted);
        CHECK_EQUAL(parse_chain(60, chain, sizeof chain, &ip), wanted);
    }
}

static void test_udp_header_is_cut_short_at_every_length(void)
{
    uint8_t datagram[12];
    struct hn_udp_header udp;
    hn_udp_emit(datagram, 1234, 53, 12, 0xbeef);
    for (uint32_t cut = 0; cut < 12; cut++)
        CHECK(!hn_udp_parse(flush_against_guard(datagram, cut), cut, cut, &udp));
    CHECK(hn_udp_parse(flush_against_guard(datagram, 12), 12, 12, &udp));
    CHECK(udp.source_port == 1234 && udp.destination_port == 53);
    CHECK(udp.length == 12 && udp.checksum == 0xbeef);
    CHECK(hn_udp_parse(datagram, 8, 12, &udp)); /* the rest lies in another frame */
    for (uint16_t length = 0; length < 20; length++) {
        hn_udp_emit(datagram, 1, 2, length, 0);
        CHECK_EQUAL(hn_udp_parse(datagram, 12, 12, &udp), length >= 8 && length <= 12);
    }
}

static void test_random_bytes_never_lead_beyond_their_end(void)
{
    uint64_t seed = 0x1badb002;
    printf("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[160];
        uint32_t length = (uint32_t)(check_random(&seed) % sizeof bytes);
        for (uint32_t i = 0; i < length; i++)
            bytes[i] = (uint8_t)check_random(&seed);
        struct hn_ipv4 v4;
        struct hn_ipv6 v6;
        uint16_t type;
        if (length > 6) {
            bytes[0] = round & 1 ? 0x60 : 0x45;
            if (round & 2)
                hn_store16_be(bytes + 4, (uint16_t)(length > 40 ? length - 40 : 0));
            if (round & 4)
                bytes[6] = 60;
        }
        uint8_t *at = flush_against_guard(bytes, length);
        if (hn_ipv4_parse(at, length, length, &v4) == HN_IPV4_OK)
            CHECK(v4.header_bytes <= v4.total_bytes && v4.total_bytes <= length);
        if (hn_ipv6_parse(at, length, length, &v6) == HN_IPV6_OK)
            CHECK(v6.header_bytes <= v6.total_bytes && v6.total_bytes <= length);
        CHECK(hn_ethernet_parse(at, length, &type) <= length);
    }
}

int main(void)
{
    make_guard();
    RUN(test_ethernet_is_cut_short_at_every_length);
    RUN(test_ethernet_takes_none_one_and_two_tags_and_no_third);
    RUN(test_ipv4_is_cut_short_at_every_length_with_any_options);
    RUN(test_ipv4_version_and_header_length_are_checked);
    RUN(test_ipv4_total_length_lies_between_header_and_packet);
    RUN(test_ipv4_header_with_any_bit_turned_is_not_taken_as_it_was);
    RUN(test_ipv4_fragments_are_known_and_dont_fragment_is_none);
    RUN(test_ipv6_is_cut_short_at_every_length);
    RUN(test_ipv6_padding_behind_the_payload_is_not_part_of_it);
    RUN(test_ipv6_extension_chain_is_cut_short_at_every_length);
    RUN(test_ipv6_takes_eight_extension_headers_and_not_nine);
    RUN(test_ipv6_hop_by_hop_options_come_first_or_not_at_all);
    RUN(test_ipv6_routing_header_with_segments_left_does_not_pass);
    RUN(test_ipv6_fragment_header_is_told_wherever_it_stands);
    RUN(test_ipv6_unknown_option_passes_only_when_its_type_allows);
    RUN(test_udp_header_is_cut_short_at_every_length);
    RUN(test_random_bytes_never_lead_beyond_their_end);
    return 0;
}
