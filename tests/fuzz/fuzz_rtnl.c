// sources: control/*.c stack/ip/*.c stack/frame.c
/* Feeds arbitrary bytes to the netlink parser and then uses what came of them.

   The first byte chooses dump or notification; the rest is one buffer as from the socket.
   clang -fsanitize=fuzzer,address,undefined -DHN_DEBUG=1 -Isrc/hybridnet tests/fuzz/fuzz_rtnl.c
   and the sources above; run with tests/fuzz/corpus/rtnl. */
#include "control/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* As control/watcher.py does: step over what is not for C. */
static void parse_all(const struct hn_control_tables *tables, const uint8_t *data, size_t bytes,
                      bool dump, uint32_t epoch)
{
    struct hn_control_result result;
    size_t at = 0;
    while (at < bytes) {
        if (hn_control_parse(tables, data + at, bytes - at, dump, epoch, &result) < 0)
            return;
        if (result.consumed > bytes - at)
            abort();
        at += result.consumed;
        if (result.other_offset == UINT32_MAX)
            return;
        if (result.other_offset != result.consumed || bytes - at < 16)
            abort();
        size_t length = hn_load32(data + at);
        if (length < 16 || length > bytes - at)
            abort();
        at += (length + 3) & ~(size_t)3;
    }
}

static bool look_up(const struct hn_route *route, void *context)
{
    struct hn_fib_result result;
    uint8_t source[16];
    hn_fib_lookup(context, route->key.family, NULL, route->key.destination, route->metric, &result);
    hn_fib_source(context, route->key.family, result.nexthop.ifindex, route->key.destination,
                  source);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    bool dump = data[0] & 1;
    struct hn_control_tables tables = {hn_fib_create(), hn_neighbors_create(16)};
    if (!tables.fib || !tables.neighbors)
        abort();
    parse_all(&tables, data + 1, bytes - 1, dump, 1);
    hn_fib_visit(tables.fib, HN_FAMILY_IPV4, look_up, tables.fib);
    hn_fib_visit(tables.fib, HN_FAMILY_IPV6, look_up, tables.fib);

    if (dump) {
        parse_all(&tables, data + 1, bytes - 1, true, 2);
        hn_fib_sweep(tables.fib, HN_FAMILY_IPV4, 2);
        hn_fib_sweep(tables.fib, HN_FAMILY_IPV6, 2);
    }
    uint8_t request[HN_CONTROL_RESOLVE_BYTES * 2];
    uint32_t asked;
    uint8_t ip[16] = {10, 0, 0, 1};
    hn_neighbor_get(tables.neighbors, 1, HN_FAMILY_IPV4, ip);
    while (hn_control_resolve(&tables, request, sizeof request, &asked) > 0)
        continue;
    char text[256];
    hn_fib_dump_text(tables.fib, HN_FAMILY_IPV6, text, sizeof text);
    hn_neighbors_dump_text(tables.neighbors, text, sizeof text);
    hn_fib_purge_interface(tables.fib, HN_FAMILY_IPV4, 1);
    hn_fib_purge_interface(tables.fib, HN_FAMILY_IPV6, 1);
    hn_neighbors_sweep(tables.neighbors, HN_FAMILY_IPV4, 3);
    hn_fib_destroy(tables.fib);
    hn_neighbors_destroy(tables.neighbors);
    return 0;
}
