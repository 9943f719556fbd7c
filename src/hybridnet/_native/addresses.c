/* Address tuples as sockets give them, and back, without making them anew per packet. */
#include "_native/burst.h"

#include <arpa/inet.h>

static uint32_t slot_of_address(const struct hn_address *address)
{
    uint64_t value = hn_load64(address->ip) ^ hn_load64(address->ip + 8) * 31 ^
                     ((uint64_t)address->port << 40) ^ address->scope_id;
    return (uint32_t)((value * UINT64_C(0x9e3779b97f4a7c15)) >> 54);
}

static uint32_t slot_of_pointer(const void *pointer)
{
    return (uint32_t)((((uintptr_t)pointer >> 4) * UINT64_C(0x9e3779b97f4a7c15)) >> 54);
}
_Static_assert(HN_ADDRESS_SLOTS == 1u << (64 - 54), "the shift gives as many bits");

void hn_address_cache_free(struct hn_address_cache *cache)
{
    if (!cache)
        return;
    for (uint32_t i = 0; i < HN_ADDRESS_SLOTS; i++) {
        Py_XDECREF(cache->by_address[i].tuple);
        Py_XDECREF(cache->by_tuple[i].tuple);
    }
    PyMem_Free(cache);
}

static void remember_tuple(struct hn_address_cache *cache, PyObject *tuple,
                           const struct hn_address *address)
{
    uint32_t slot = slot_of_pointer(tuple);
    PyObject *old = cache->by_tuple[slot].tuple;
    Py_INCREF(tuple); /* held, so that the pointer stands for this tuple alone */
    cache->by_tuple[slot].tuple = tuple;
    cache->by_tuple[slot].address = *address;
    Py_XDECREF(old);
}

static PyObject *make_tuple(const HnPort *port, const struct hn_address *address)
{
    char text[INET6_ADDRSTRLEN] = "";
    if (address->family == HN_FAMILY_IPV4) {
        size_t prefix = 0;
        if (port->is_ipv6) {
            memcpy(text, "::ffff:", 7);
            prefix = 7;
        }
        inet_ntop(AF_INET, address->ip, text + prefix, INET_ADDRSTRLEN);
    } else {
        /* As the socket module writes it: the scope is in the last field only. */
        inet_ntop(AF_INET6, address->ip, text, INET6_ADDRSTRLEN);
    }
    if (port->is_ipv6)
        return Py_BuildValue("(siiI)", text, (int)address->port, 0, address->scope_id);
    return Py_BuildValue("(si)", text, (int)address->port);
}

PyObject *hn_address_object(HnPort *port, const struct hn_address *address)
{
    struct hn_address_cache *cache = port->cache;
    if (!cache) {
        cache = port->cache = PyMem_Calloc(1, sizeof *cache);
        if (!cache)
            return PyErr_NoMemory();
    }
    uint32_t slot = slot_of_address(address);
    PyObject *tuple = cache->by_address[slot].tuple;
    if (tuple && memcmp(&cache->by_address[slot].address, address, sizeof *address) == 0)
        return Py_NewRef(tuple);
    PyObject *made = make_tuple(port, address);
    if (!made)
        return NULL;
    cache->by_address[slot].address = *address;
    cache->by_address[slot].tuple = Py_NewRef(made);
    Py_XDECREF(tuple);
    remember_tuple(cache, made, address);
    return made;
}

static bool parse_host(const HnPort *port, const char *host, struct hn_address *out)
{
    if (!port->is_ipv6) {
        out->family = HN_FAMILY_IPV4;
        return inet_pton(AF_INET, host, out->ip) == 1;
    }
    uint8_t ip[16];
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (inet_pton(AF_INET6, host, ip) != 1)
        return false;
    if (memcmp(ip, mapped, sizeof mapped) == 0) {
        out->family = HN_FAMILY_IPV4;
        memcpy(out->ip, ip + 12, 4);
    } else {
        out->family = HN_FAMILY_IPV6;
        memcpy(out->ip, ip, 16);
    }
    return true;
}

static bool parse_tuple(const HnPort *port, PyObject *tuple, struct hn_address *out)
{
    Py_ssize_t items = PyTuple_GET_SIZE(tuple);
    if (items < 2 || (!port->is_ipv6 && items != 2) || items > 4)
        return false;
    PyObject *host = PyTuple_GET_ITEM(tuple, 0);
    PyObject *number = PyTuple_GET_ITEM(tuple, 1);
    if (!PyUnicode_Check(host) || !PyLong_Check(number))
        return false;
    const char *text = PyUnicode_AsUTF8(host);
    long value = text ? PyLong_AsLong(number) : -1;
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    if (value < 1 || value > 65535)
        return false;
    memset(out, 0, sizeof *out);
    out->port = (uint16_t)value;
    if (!parse_host(port, text, out))
        return false;
    /* A scope means something for link-local addresses alone (RFC 4007 6). */
    if (items == 4 && out->family == HN_FAMILY_IPV6 && out->ip[0] == 0xfe &&
        (out->ip[1] & 0xc0) == 0x80) {
        unsigned long scope = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(tuple, 3));
        if (PyErr_Occurred()) {
            PyErr_Clear();
            return false;
        }
        out->scope_id = (uint32_t)scope;
    }
    return true;
}

bool hn_address_parse(HnPort *port, PyObject *object, struct hn_address *out)
{
    struct hn_address_cache *cache = port->cache;
    if (!PyTuple_CheckExact(object))
        return false;
    if (cache) {
        uint32_t slot = slot_of_pointer(object);
        if (cache->by_tuple[slot].tuple == object) {
            *out = cache->by_tuple[slot].address;
            return true;
        }
    } else {
        cache = port->cache = PyMem_Calloc(1, sizeof *cache);
    }
    if (!parse_tuple(port, object, out))
        return false;
    if (cache)
        remember_tuple(cache, object, out);
    return true;
}
