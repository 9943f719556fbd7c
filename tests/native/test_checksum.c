// sources:
#include "check.h"
#include "stack/wire/checksum.h"

/* As RFC 1071 1 defines it, byte by byte, big endian, the last odd byte padded with zero. */
static uint16_t reference(const uint8_t *data, size_t length)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum += i & 1 ? data[i] : (uint32_t)data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static uint16_t folded_be(uint64_t sum) { return __builtin_bswap16(hn_checksum_fold(sum)); }

static void fill(uint8_t *data, size_t length, uint64_t *seed)
{
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)check_random(seed);
}

static void test_example_of_rfc_1071_section_3(void)
{
    static const uint8_t data[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    CHECK_EQUAL(folded_be(hn_checksum_add(0, data, sizeof data)), 0xddf2);
}

static void test_header_with_its_checksum_sums_to_ones(void)
{
    uint8_t header[20] = {0x45, 0, 0,    0x73, 0, 0, 0x40, 0,    0x40, 0x11,
                          0,    0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,    0xc7};
    uint16_t sum = (uint16_t)~hn_checksum_fold(hn_checksum_add(0, header, sizeof header));
    memcpy(header + 10, &sum, sizeof sum);
    CHECK(header[10] == 0xb8 && header[11] == 0x61);
    CHECK_EQUAL(hn_checksum_fold(hn_checksum_add(0, header, sizeof header)), 0xffff);
}

static void test_sum_is_the_definitions_at_every_length_and_alignment(void)
{
    uint64_t seed = 4711;
    uint8_t data[600];
    printf("seed %llu\n", (unsigned long long)seed);
    fill(data, sizeof data, &seed);
    for (size_t start = 0; start < 8; start++)
        for (size_t length = 0; length < 500; length++)
            CHECK_EQUAL(folded_be(hn_checksum_add(0, data + start, length)),
                        reference(data + start, length));
}

static void test_all_ones_and_all_zeros_of_64_kib(void)
{
    static uint8_t data[65535];
    CHECK_EQUAL(hn_checksum_fold(hn_checksum_add(0, data, sizeof data)), 0);
    memset(data, 0xff, sizeof data);
    CHECK_EQUAL(folded_be(hn_checksum_add(0, data, sizeof data)), reference(data, sizeof data));
    CHECK_EQUAL(hn_checksum_fold(UINT64_MAX), 0xffff);
}

static void test_copy_sums_as_without_and_copies_no_more_than_it_should(void)
{
    uint64_t seed = 17;
    uint8_t from[260], to[260];
    printf("seed %llu\n", (unsigned long long)seed);
    fill(from, sizeof from, &seed);
    for (size_t length = 0; length < 256; length++) {
        memset(to, 0xee, sizeof to);
        uint64_t sum = hn_checksum_copy(99, to + 1, from + 3, length);
        CHECK_EQUAL(hn_checksum_fold(sum), hn_checksum_fold(hn_checksum_add(99, from + 3, length)));
        CHECK(memcmp(to + 1, from + 3, length) == 0);
        CHECK(to[0] == 0xee && to[length + 1] == 0xee);
    }
}

static void test_pieces_of_any_length_sum_as_the_whole(void)
{
    uint64_t seed = 23;
    uint8_t data[512];
    printf("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 2000; round++) {
        size_t length = check_random(&seed) % sizeof data;
        fill(data, length, &seed);
        uint64_t sum = 0;
        for (size_t done = 0; done < length;) {
            size_t piece = check_random(&seed) % 40 + 1;
            if (piece > length - done)
                piece = length - done;
            sum = done & 1 ? hn_checksum_add_odd(sum, data + done, piece)
                           : hn_checksum_add(sum, data + done, piece);
            done += piece;
        }
        CHECK_EQUAL(folded_be(sum), reference(data, length));
    }
}

static void test_pseudo_header_is_that_of_rfc_768_and_rfc_8200(void)
{
    uint8_t v4[12] = {10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0x12, 0x34};
    CHECK_EQUAL(folded_be(hn_checksum_pseudo(v4, v4 + 4, 4, 17, 0x1234)), reference(v4, 12));
    uint8_t v6[40] = {
        [0] = 0xfd, [15] = 1, [16] = 0xfd, [31] = 2, [33] = 1, [34] = 0x12, [35] = 0x34, [39] = 17};
    CHECK_EQUAL(folded_be(hn_checksum_pseudo(v6, v6 + 16, 16, 17, 0x11234)), reference(v6, 40));
}

int main(void)
{
    RUN(test_example_of_rfc_1071_section_3);
    RUN(test_header_with_its_checksum_sums_to_ones);
    RUN(test_sum_is_the_definitions_at_every_length_and_alignment);
    RUN(test_all_ones_and_all_zeros_of_64_kib);
    RUN(test_copy_sums_as_without_and_copies_no_more_than_it_should);
    RUN(test_pieces_of_any_length_sum_as_the_whole);
    RUN(test_pseudo_header_is_that_of_rfc_768_and_rfc_8200);
    return 0;
}
