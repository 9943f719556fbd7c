/* The machine's own addresses: which are local, and which one an unbound socket sends from.

   Source: RFC 6724 5; RFC 1122 3.3.4.3. */
#include "stack/ip/fib_internal.h"

enum { SCOPE_UNIVERSE = 0, SCOPE_LINK = 253, SCOPE_HOST = 254 };         /* RT_SCOPE_* */
enum { FLAG_SECONDARY = 1, FLAG_TEMPORARY = 1, FLAG_DEPRECATED = 0x20 }; /* IFA_F_* */

static uint32_t address_hash(uint8_t family, const uint8_t *ip)
{
    return hn_fib_prefix_hash(hn_fib_prefix_load(family, ip)) ^ family;
}

static size_t family_bytes(uint8_t family) { return family == HN_FAMILY_IPV6 ? 16 : 4; }

static bool address_is(const struct hn_local_address *address, uint8_t family, const uint8_t *ip)
{
    return address->family == family && memcmp(address->ip, ip, family_bytes(family)) == 0;
}

int hn_fib_set_addresses(struct hn_fib *fib, const struct hn_local_address *list, size_t count)
{
    if (count > (1u << 24))
        return -ENOMEM;
    uint32_t slot_count = 4;
    while (slot_count < count * 2)
        slot_count *= 2;
    struct hn_local_address *addresses = calloc(count ? count : 1, sizeof *addresses);
    uint32_t *slots = calloc(slot_count, sizeof *slots);
    if (!addresses || !slots) {
        free(addresses);
        free(slots);
        return -ENOMEM;
    }
    uint32_t mask = slot_count - 1, taken = 0;
    for (size_t n = 0; n < count; n++) {
        if (!hn_family_valid(list[n].family))
            continue;
        uint32_t i = address_hash(list[n].family, list[n].ip) & mask;
        while (slots[i])
            i = (i + 1) & mask;
        addresses[taken] = list[n];
        slots[i] = ++taken;
    }
    free(fib->addresses);
    free(fib->address_slots);
    fib->addresses = addresses;
    fib->address_count = taken;
    fib->address_slots = slots;
    fib->address_mask = mask;
    fib->generation++;
    return 0;
}

bool hn_fib_is_local(const struct hn_fib *fib, uint8_t family, const uint8_t *ip)
{
    if (!fib->address_slots)
        return false;
    uint32_t i = address_hash(family, ip) & fib->address_mask;
    for (; fib->address_slots[i]; i = (i + 1) & fib->address_mask)
        if (address_is(&fib->addresses[fib->address_slots[i] - 1], family, ip))
            return true;
    return false;
}

static unsigned common_bits(uint8_t family, const uint8_t *a, const uint8_t *b)
{
    struct hn_fib_prefix x = hn_fib_prefix_load(family, a), y = hn_fib_prefix_load(family, b);
    uint64_t high = x.word[0] ^ y.word[0], low = x.word[1] ^ y.word[1];
    if (high)
        return (unsigned)__builtin_clzll(high);
    return low ? 64u + (unsigned)__builtin_clzll(low) : hn_family_bits(family);
}

/* 0: no candidate; higher is better. */
static unsigned rank_ipv4(const struct hn_local_address *address, uint32_t ifindex,
                          const uint8_t *destination)
{
    if (address->flags & FLAG_SECONDARY)
        return 0;
    bool here = address->ifindex == ifindex;
    bool wide = address->scope < SCOPE_LINK;
    if (here && common_bits(HN_FAMILY_IPV4, address->ip, destination) >= address->prefix_bits)
        return 5; /* whatever its scope */
    if (address->scope >= SCOPE_HOST)
        return here ? 1 : 0;
    if (here)
        return wide ? 4 : 3;
    return wide ? 2 : 0;
}

static bool source_ipv4(const struct hn_fib *fib, uint32_t ifindex, const uint8_t *destination,
                        uint8_t *source)
{
    unsigned best = 0;
    for (size_t i = 0; i < fib->address_count; i++) {
        if (fib->addresses[i].family != HN_FAMILY_IPV4)
            continue;
        unsigned rank = rank_ipv4(&fib->addresses[i], ifindex, destination);
        if (rank > best) {
            best = rank;
            memset(source, 0, 16);
            memcpy(source, fib->addresses[i].ip, 4);
        }
    }
    return best > 0;
}

/* The scopes of RFC 4007; unicast ones in the numbers that multicast uses. */
enum { IPV6_INTERFACE = 1, IPV6_LINK = 2, IPV6_SITE = 5, IPV6_GLOBAL = 14 };

static unsigned ipv6_scope(const uint8_t *ip)
{
    static const uint8_t loopback[16] = {[15] = 1};
    if (ip[0] == 0xff)
        return ip[1] & 0x0f;
    if (ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80)
        return IPV6_LINK;
    if (ip[0] == 0xfe && (ip[1] & 0xc0) == 0xc0)
        return IPV6_SITE;
    return memcmp(ip, loopback, sizeof loopback) == 0 ? IPV6_LINK : IPV6_GLOBAL;
}

/* One number per candidate, the rules from the highest bits down; 0: no candidate.
   Rule 2 prefers the smallest scope that reaches the destination, then the largest below it. */
static uint32_t rank_ipv6(const struct hn_local_address *address, uint32_t ifindex,
                          const uint8_t *destination)
{
    unsigned scope = ipv6_scope(address->ip), wanted = ipv6_scope(destination);
    bool here = address->ifindex == ifindex;
    if (!here && (wanted == IPV6_LINK || wanted == IPV6_INTERFACE || scope == IPV6_LINK ||
                  address->scope == SCOPE_HOST))
        return 0;
    uint32_t rank = memcmp(address->ip, destination, 16) == 0;            /* rule 1 */
    rank = rank << 5 | (scope >= wanted ? 31 - (scope - wanted) : scope); /* rule 2 */
    rank = rank << 1 | !(address->flags & FLAG_DEPRECATED);               /* rule 3 */
    rank = rank << 1 | here;                                              /* rule 5 */
    rank = rank << 1 | !(address->flags & FLAG_TEMPORARY); /* rule 7, Linux's default */
    unsigned bits = common_bits(HN_FAMILY_IPV6, address->ip, destination);
    if (bits > address->prefix_bits)
        bits = address->prefix_bits;
    return (rank << 8 | bits) + 1; /* rule 8 */
}

static bool source_ipv6(const struct hn_fib *fib, uint32_t ifindex, const uint8_t *destination,
                        uint8_t *source)
{
    uint32_t best = 0;
    for (size_t i = 0; i < fib->address_count; i++) {
        if (fib->addresses[i].family != HN_FAMILY_IPV6)
            continue;
        uint32_t rank = rank_ipv6(&fib->addresses[i], ifindex, destination);
        if (rank > best) {
            best = rank;
            memcpy(source, fib->addresses[i].ip, 16);
        }
    }
    return best > 0;
}

bool hn_fib_source(const struct hn_fib *fib, uint8_t family, uint32_t ifindex,
                   const uint8_t *destination, uint8_t *source)
{
    if (family == HN_FAMILY_IPV4)
        return source_ipv4(fib, ifindex, destination, source);
    return source_ipv6(fib, ifindex, destination, source);
}
