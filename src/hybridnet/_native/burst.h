/* The hot seam: where a burst crosses between C and Python.

   Control goes through cffi; datagrams do not.  These three types use CPython's own interface, so
   that one call from the event loop receives a burst, hands every datagram to the protocol and
   flushes what it sent, and so that `transport.sendto` is one C call without a lookup of names.
   See docs/decisions/0003-hot-seam-in-cpython-api.md.

     Engine   one stack being driven: turn() per readable socket, flush() per loop turn
     Port     one UDP endpoint: send, receive, batches, the protocol's callback
     Lease    received frames lent to the application without a copy

   All of it runs on the event loop's thread with the GIL held, but for the walks themselves. */
#ifndef HN_BURST_H
#define HN_BURST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "channels/kernel.h"
#include "stack/udp.h"
#include "_native/burst_api.h"

#define HN_RECEIVE_MAX 1024u /* datagrams one batch may hold */

typedef struct {
    PyObject_HEAD
    struct hn_stack *stack; /* owned from construction on; NULL: closed */
    struct hn_kernel_io *kernel;
    PyObject *schedule;       /* called as schedule(later: bool): run flush() soon */
    PyObject *on_exception;   /* called as on_exception(exception, port_owner) */
    PyObject *on_writable;    /* called as on_writable(): senders that were held back may go on */
    PyObject *on_failure;     /* called as on_failure(port_owner, errno, address) */
    PyObject *on_kernel_full; /* called as on_kernel_full(fd) */
    PyObject *on_wanted;      /* called as on_wanted(): neighbours are to be resolved */
    uint32_t leases;          /* frames' memory stays until these are gone */
    uint32_t budget;          /* packets per turn at the program's pace, see pace() */
    uint32_t depth;           /* packets that may wait in a receive queue, likewise */
    uint64_t unsent_since;    /* hn_ticks() of the first send that no flush has followed, or 0 */
    uint32_t returned;        /* frames of leases that ended during a walk, to be freed behind it */
    bool walking;             /* the GIL is released and the stack in use */
    bool in_turn;
    bool flush_scheduled;
    bool blocked; /* a sender was told EAGAIN since the last on_writable */
    bool closing;
    struct hn_frame *scratch[HN_RECEIVE_MAX];
} HnEngine;

/* Two direct-mapped caches: address to tuple for receiving, tuple to address for sending back. */
#define HN_ADDRESS_SLOTS 1024u
struct hn_address_cache {
    struct {
        struct hn_address address;
        PyObject *tuple;
    } by_address[HN_ADDRESS_SLOTS], by_tuple[HN_ADDRESS_SLOTS];
};

typedef struct {
    PyObject_HEAD
    HnEngine *engine;
    struct hn_udp *udp;    /* NULL: closed */
    PyObject *owner;       /* the channel or transport, for callbacks */
    PyObject *on_datagram; /* bound datagram_received(data, addr), or NULL: queue and on_readable */
    PyObject *on_readable; /* called without arguments when something waits and `waiting` is set */
    PyObject *on_refused;  /* called as on_refused(errno, data, addr) when a send did not go */
    struct hn_address_cache *cache; /* allocated with the first address */
    int kernel_fd;                  /* -1: none */
    int kernel_family;              /* AF_INET or AF_INET6 */
    bool kernel_queued;             /* collect for one sendmmsg per turn (protocols) */
    bool kernel_only;               /* no fast path at all */
    bool is_ipv6;                   /* addresses are 4-tuples, IPv4 peers ::ffff:a.b.c.d */
    bool waiting;
} HnPort;

extern PyTypeObject *hn_engine_type;
extern PyTypeObject *hn_port_type;
extern PyTypeObject *hn_lease_type;

/* engine.c */
int hn_engine_deliver(HnEngine *engine);
void hn_engine_note_send(HnEngine *engine);
void hn_engine_report(HnEngine *engine, PyObject *owner);
/* A socket's send buffer is full: on_writable comes when it has room again. */
void hn_engine_kernel_full(HnEngine *engine, int fd);
/* Around every stretch that uses the stack without the GIL.  Leases may end in any thread, as the
   garbage collector likes; their frames wait until the walk is over. */
void hn_engine_begin_walk(HnEngine *engine);
void hn_engine_end_walk(HnEngine *engine);
/* Takes a leased packet back, now or behind the walk. */
void hn_engine_take_back(HnEngine *engine, struct hn_frame *frame);
void hn_engine_lease_ended(HnEngine *engine);

/* port.c */
int hn_port_deliver(HnPort *port);

/* batch.c: methods of Port */
PyObject *hn_port_receive_batch(PyObject *self, PyObject *max);
PyObject *hn_port_send_batch(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *hn_port_receive_lease(PyObject *self, PyObject *max);
/* Sends by whichever path; 0, or -errno (-EAGAIN: held back). */
int hn_port_transmit(HnPort *port, const struct hn_address *to, const uint8_t *data, size_t bytes);

/* addresses.c */
PyObject *hn_address_object(HnPort *port, const struct hn_address *address);
/* true: *out is the numeric address of `object`; false without an exception: not one. */
bool hn_address_parse(HnPort *port, PyObject *object, struct hn_address *out);
void hn_address_cache_free(struct hn_address_cache *cache);

/* One descriptor of a batch; hybridnet.DATAGRAM_DTYPE describes it to numpy. */
struct hn_datagram {
    uint32_t offset; /* of the payload in the batch's buffer */
    uint32_t length; /* bytes */
    struct hn_address peer;
    uint64_t arrival_ns;
};
_Static_assert(sizeof(struct hn_datagram) == 40, "known to Python");

#endif
