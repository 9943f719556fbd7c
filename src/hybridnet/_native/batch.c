/* Bursts for programs that take them whole: copied batches, and leases of the frames themselves. */
#include "_native/burst.h"

PyTypeObject *hn_lease_type;

/* A lease's datagram: its frame, or a copy when it did not lie in one piece. */
struct leased {
    struct hn_frame *frame; /* NULL: sent on, nothing left to give back */
    PyObject *copy;         /* bytes, or NULL */
    bool viewed;            /* a writable view was given out: the payload may have changed */
};

typedef struct {
    PyObject_VAR_HEAD
    HnEngine *engine;
    uint32_t count;
    uint32_t exporting; /* index that the next buffer request is for */
    Py_ssize_t exports; /* memoryviews alive */
    bool released;
    struct leased items[];
} HnLease;

static uint32_t wanted_count(PyObject *max_object)
{
    unsigned long max = PyLong_AsUnsignedLong(max_object);
    if (PyErr_Occurred())
        return 0;
    if (max == 0)
        PyErr_SetString(PyExc_ValueError, "a batch holds at least one datagram");
    return max < HN_RECEIVE_MAX ? (uint32_t)max : HN_RECEIVE_MAX;
}

static void describe(struct hn_datagram *datagram, const struct hn_frame *frame, uint32_t offset)
{
    datagram->offset = offset;
    datagram->length = frame->payload_length;
    datagram->peer = frame->peer;
    datagram->arrival_ns = frame->arrival_ns;
}

static uint32_t receive(HnPort *port, PyObject *max_object)
{
    uint32_t max = wanted_count(max_object);
    if (max == 0)
        return 0;
    if (!port->udp) {
        errno = EBADF;
        PyErr_SetFromErrno(PyExc_OSError);
        return 0;
    }
    return hn_udp_receive(port->udp, port->engine->scratch, max);
}

PyObject *hn_port_receive_batch(PyObject *self, PyObject *max_object)
{
    HnPort *port = (HnPort *)self;
    uint32_t count = receive(port, max_object);
    if (count == 0)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    struct hn_pool *pool = &port->engine->stack->pool;
    struct hn_frame **frames = port->engine->scratch;
    size_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += frames[i]->payload_length;
    PyObject *payloads = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    PyObject *descriptors =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(struct hn_datagram)));
    if (payloads && descriptors) {
        uint8_t *to = (uint8_t *)PyBytes_AS_STRING(payloads);
        struct hn_datagram *datagrams = (void *)PyBytes_AS_STRING(descriptors);
        uint32_t offset = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (i + 4 < count)
                __builtin_prefetch(frames[i + 4]->data + frames[i + 4]->payload_offset);
            struct hn_datagram datagram;
            describe(&datagram, frames[i], offset);
            memcpy(&datagrams[i], &datagram, sizeof datagram);
            hn_udp_copy_payload(pool, frames[i], to + offset);
            offset += frames[i]->payload_length;
        }
    }
    for (uint32_t i = 0; i < count; i++)
        hn_packet_free(pool, frames[i], HN_OWNER_SOCKET);
    if (!payloads || !descriptors) {
        Py_XDECREF(payloads);
        Py_XDECREF(descriptors);
        return NULL;
    }
    return Py_BuildValue("(NN)", payloads, descriptors);
}

/* A connected endpoint sends to its peer alone, as sendto() insists. */
static int check_peer(const HnPort *port, const struct hn_address *to)
{
    const struct hn_address *remote = &port->udp->remote;
    if (to->family == 0)
        return remote->family ? 0 : -EDESTADDRREQ;
    if (remote->family && (to->family != remote->family || to->port != remote->port ||
                           memcmp(to->ip, remote->ip, sizeof to->ip) != 0))
        return -EISCONN;
    return 0;
}

/* Sends descriptors start.. until one is held back or refused; the caller decides what then. */
static PyObject *send_copies(HnPort *port, const Py_buffer *payloads, const Py_buffer *descriptors,
                             Py_ssize_t start)
{
    Py_ssize_t count = descriptors->len / (Py_ssize_t)sizeof(struct hn_datagram);
    const uint8_t *table = descriptors->buf;
    Py_ssize_t at = start;
    int error = 0;
    for (; at < count; at++) {
        struct hn_datagram datagram;
        memcpy(&datagram, table + (size_t)at * sizeof datagram, sizeof datagram);
        if ((uint64_t)datagram.offset + datagram.length > (uint64_t)payloads->len) {
            PyErr_Format(PyExc_ValueError, "descriptor %zd points beyond its payloads", at);
            return NULL;
        }
        error = check_peer(port, &datagram.peer);
        if (hn_likely(error == 0))
            error =
                hn_port_transmit(port, datagram.peer.family ? &datagram.peer : NULL,
                                 (const uint8_t *)payloads->buf + datagram.offset, datagram.length);
        if (hn_unlikely(error != 0))
            break;
    }
    return Py_BuildValue("(ni)", at - start, -error);
}

static int check_lease(const HnLease *lease)
{
    if (!lease->released)
        return 0;
    errno = EFAULT; /* Python turns it into LeaseReleased */
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static int check_not_viewed(const HnLease *lease)
{
    if (lease->exports == 0)
        return 0;
    PyErr_Format(PyExc_BufferError,
                 "%zd views of leased payloads are still alive; release them first",
                 lease->exports);
    return -1;
}

static PyObject *send_leased(HnPort *port, HnLease *lease, Py_ssize_t start)
{
    if (check_lease(lease) < 0 || check_not_viewed(lease) < 0)
        return NULL;
    if (lease->engine != port->engine) {
        PyErr_SetString(PyExc_ValueError, "the lease belongs to another stack");
        return NULL;
    }
    Py_ssize_t at = start;
    int error = 0;
    for (; at < (Py_ssize_t)lease->count; at++) {
        struct leased *item = &lease->items[at];
        if (!item->frame)
            continue; /* sent before */
        struct hn_address to = item->frame->peer;
        int verdict = port->kernel_only || item->copy
                          ? HN_SEND_KERNEL
                          : hn_udp_send_frame(port->udp, &to, item->frame, item->viewed);
        if (hn_likely(verdict == HN_SEND_QUEUED)) {
            item->frame = NULL;
            continue;
        }
        if (verdict == -EAGAIN)
            port->engine->blocked = true;
        if (verdict == HN_SEND_KERNEL || verdict == -EINVAL) {
            const uint8_t *data = item->copy ? (const uint8_t *)PyBytes_AS_STRING(item->copy)
                                             : item->frame->data + item->frame->payload_offset;
            verdict = hn_port_transmit(port, &to, data, item->frame->payload_length);
        }
        if (verdict != 0) {
            error = verdict;
            break;
        }
    }
    if (at != start)
        hn_engine_note_send(port->engine);
    return Py_BuildValue("(ni)", at - start, -error);
}

PyObject *hn_port_send_batch(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    HnPort *port = (HnPort *)self;
    Py_ssize_t start = count == 3 ? PyLong_AsSsize_t(args[2]) : -1;
    if (start < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "send_batch(payloads, descriptors, start)");
        return NULL;
    }
    if (!port->udp) {
        errno = EBADF;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (Py_IS_TYPE(args[0], hn_lease_type))
        return send_leased(port, (HnLease *)args[0], start);
    Py_buffer payloads, descriptors;
    if (PyObject_GetBuffer(args[0], &payloads, PyBUF_SIMPLE) != 0)
        return NULL;
    if (PyObject_GetBuffer(args[1], &descriptors, PyBUF_SIMPLE) != 0) {
        PyBuffer_Release(&payloads);
        return NULL;
    }
    PyObject *result = send_copies(port, &payloads, &descriptors, start);
    PyBuffer_Release(&payloads);
    PyBuffer_Release(&descriptors);
    return result;
}

/* Leases. */

PyObject *hn_port_receive_lease(PyObject *self, PyObject *max_object)
{
    HnPort *port = (HnPort *)self;
    uint32_t count = receive(port, max_object);
    if (count == 0)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    struct hn_pool *pool = &port->engine->stack->pool;
    struct hn_frame **frames = port->engine->scratch;
    HnLease *lease = (HnLease *)hn_lease_type->tp_alloc(hn_lease_type, (Py_ssize_t)count);
    if (!lease) {
        for (uint32_t i = 0; i < count; i++)
            hn_packet_free(pool, frames[i], HN_OWNER_SOCKET);
        return NULL;
    }
    lease->engine = (HnEngine *)Py_NewRef((PyObject *)port->engine);
    lease->engine->leases++;
    lease->count = count;
    bool failed = false;
    for (uint32_t i = 0; i < count; i++) {
        struct hn_frame *frame = frames[i];
        if (frame->next != HN_FRAME_NONE) {
            lease->items[i].copy = PyBytes_FromStringAndSize(NULL, frame->payload_length);
            if (lease->items[i].copy)
                hn_udp_copy_payload(pool, frame,
                                    (uint8_t *)PyBytes_AS_STRING(lease->items[i].copy));
        }
        for (struct hn_frame *piece = frame;; piece = &pool->frames[piece->next]) {
            hn_frame_set_owner(piece, HN_OWNER_SOCKET, HN_OWNER_USER);
            if (piece->next == HN_FRAME_NONE)
                break;
        }
        lease->items[i].frame = frame;
        if (frame->next != HN_FRAME_NONE && !lease->items[i].copy)
            failed = true;
    }
    if (failed) {
        Py_DECREF(lease);
        return NULL;
    }
    return (PyObject *)lease;
}

static void lease_give_back(HnLease *lease)
{
    if (lease->released)
        return;
    lease->released = true;
    for (uint32_t i = 0; i < lease->count; i++) {
        if (lease->items[i].frame)
            hn_engine_take_back(lease->engine, lease->items[i].frame);
        lease->items[i].frame = NULL;
        Py_CLEAR(lease->items[i].copy);
    }
    hn_engine_lease_ended(lease->engine);
}

static PyObject *lease_release(PyObject *self, PyObject *ignored)
{
    HnLease *lease = (HnLease *)self;
    (void)ignored;
    if (!lease->released && check_not_viewed(lease) < 0)
        return NULL;
    lease_give_back(lease);
    Py_RETURN_NONE;
}

static struct leased *lease_item(HnLease *lease, PyObject *index_object)
{
    Py_ssize_t index = PyLong_AsSsize_t(index_object);
    if (PyErr_Occurred() || check_lease(lease) < 0)
        return NULL;
    if (index < 0 || index >= (Py_ssize_t)lease->count) {
        PyErr_SetString(PyExc_IndexError, "no such datagram in this batch");
        return NULL;
    }
    struct leased *item = &lease->items[index];
    if (!item->frame) {
        errno = EFAULT; /* sent on: the frame is the device's now */
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    lease->exporting = (uint32_t)index;
    return item;
}

static PyObject *lease_view(PyObject *self, PyObject *index)
{
    struct leased *item = lease_item((HnLease *)self, index);
    if (!item)
        return NULL;
    if (item->copy)
        return PyMemoryView_FromObject(item->copy);
    return PyMemoryView_FromObject(self);
}

static PyObject *lease_descriptors(PyObject *self, PyObject *ignored)
{
    HnLease *lease = (HnLease *)self;
    (void)ignored;
    if (check_lease(lease) < 0)
        return NULL;
    PyObject *bytes =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(lease->count * sizeof(struct hn_datagram)));
    if (!bytes)
        return NULL;
    uint8_t *table = (uint8_t *)PyBytes_AS_STRING(bytes);
    for (uint32_t i = 0; i < lease->count; i++) {
        struct hn_datagram datagram = {0};
        if (lease->items[i].frame)
            describe(&datagram, lease->items[i].frame, 0);
        memcpy(table + i * sizeof datagram, &datagram, sizeof datagram);
    }
    return bytes;
}

static int lease_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    HnLease *lease = (HnLease *)self;
    if (lease->released || lease->exporting >= lease->count ||
        !lease->items[lease->exporting].frame) {
        PyErr_SetString(PyExc_BufferError, "the lease was released");
        return -1;
    }
    struct hn_frame *frame = lease->items[lease->exporting].frame;
    if (PyBuffer_FillInfo(view, self, frame->data + frame->payload_offset, frame->payload_length, 0,
                          flags) != 0)
        return -1;
    lease->items[lease->exporting].viewed = true;
    lease->exports++;
    return 0;
}

static void lease_releasebuffer(PyObject *self, Py_buffer *view)
{
    (void)view;
    ((HnLease *)self)->exports--;
}

static Py_ssize_t lease_length(PyObject *self) { return (Py_ssize_t)((HnLease *)self)->count; }

static void lease_dealloc(PyObject *self)
{
    HnLease *lease = (HnLease *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (lease->engine)
        lease_give_back(lease);
    Py_CLEAR(lease->engine);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *get_released(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((HnLease *)self)->released);
}

static PyGetSetDef lease_getset[] = {
    {"released", get_released, NULL, "True when the frames were given back.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyMethodDef lease_methods[] = {
    {"view", lease_view, METH_O, "view(i) -> memoryview of the i-th payload, writable"},
    {"descriptors", lease_descriptors, METH_NOARGS, "descriptors() -> bytes"},
    {"release", lease_release, METH_NOARGS, "release()\n\nGive the frames back."},
    {NULL, NULL, 0, NULL}};
static PyType_Slot lease_slots[] = {{Py_tp_dealloc, lease_dealloc},
                                    {Py_tp_methods, lease_methods},
                                    {Py_tp_getset, lease_getset},
                                    {Py_sq_length, lease_length},
                                    {Py_bf_getbuffer, lease_getbuffer},
                                    {Py_bf_releasebuffer, lease_releasebuffer},
                                    {0, NULL}};
PyType_Spec hn_lease_spec = {.name = "hybridnet._native.Lease",
                             .basicsize = sizeof(HnLease),
                             .itemsize = sizeof(struct leased),
                             .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                             .slots = lease_slots};
