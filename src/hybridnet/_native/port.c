/* Port: one UDP endpoint as the event loop's thread sees it. */
#include "_native/burst.h"

#include <sys/socket.h>

PyTypeObject *hn_port_type;

static int check_open(const HnPort *port)
{
    if (port->udp)
        return 0;
    errno = EBADF;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static PyObject *payload_bytes(const HnPort *port, const struct hn_frame *frame)
{
    if (hn_likely(frame->next == HN_FRAME_NONE))
        return PyBytes_FromStringAndSize((const char *)frame->data + frame->payload_offset,
                                         frame->payload_length);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, frame->payload_length);
    if (bytes)
        hn_udp_copy_payload(&port->engine->stack->pool, frame, (uint8_t *)PyBytes_AS_STRING(bytes));
    return bytes;
}

/* One datagram to the protocol; -1: an exception that must not be swallowed. */
static int deliver_one(HnPort *port, struct hn_frame *frame)
{
    PyObject *arguments[3] = {NULL, payload_bytes(port, frame), NULL};
    arguments[2] = arguments[1] ? hn_address_object(port, &frame->peer) : NULL;
    hn_packet_free(&port->engine->stack->pool, frame, HN_OWNER_SOCKET);
    PyObject *result = NULL;
    if (arguments[2]) {
        PyObject *callback = Py_NewRef(port->on_datagram);
        result =
            PyObject_Vectorcall(callback, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        Py_DECREF(callback);
    }
    Py_XDECREF(arguments[1]);
    Py_XDECREF(arguments[2]);
    if (hn_likely(result != NULL)) {
        Py_DECREF(result);
        return 0;
    }
    hn_engine_report(port->engine, port->owner);
    return PyErr_Occurred() ? -1 : 0;
}

int hn_port_deliver(HnPort *port)
{
    struct hn_frame *frames[64];
    uint32_t count;
    /* The callback may close this port or drop its protocol: looked at again every time. */
    while (port->udp && port->on_datagram && (count = hn_udp_receive(port->udp, frames, 64))) {
        for (uint32_t i = 0; i < count; i++) {
            int result = port->udp && port->on_datagram ? deliver_one(port, frames[i]) : 1;
            if (hn_likely(result == 0))
                continue;
            struct hn_stack *stack = port->engine->stack;
            for (uint32_t left = result < 0 ? i + 1 : i; left < count; left++) {
                stack->drops[HN_DROP_UDP_CLOSED]++;
                hn_packet_free(&stack->pool, frames[left], HN_OWNER_SOCKET);
            }
            if (result < 0) {
                if (port->udp)
                    hn_udp_mark_ready(port->udp); /* what is left waits for the next turn */
                return -1;
            }
            break;
        }
    }
    return 0;
}

static int transmit_by_kernel(HnPort *port, const struct hn_address *to, const uint8_t *data,
                              size_t bytes)
{
    struct hn_kernel_io *kernel = port->engine->kernel;
    int verdict = port->kernel_queued ? hn_kernel_queue(kernel, port->udp, port->kernel_fd,
                                                        port->kernel_family, to, data, bytes)
                                      : hn_kernel_send(port->udp, port->kernel_fd,
                                                       port->kernel_family, to, data, bytes);
    if (verdict == 0 && port->kernel_queued)
        hn_engine_note_send(port->engine);
    /* As long as something is queued, the next flush finds out which socket is full. */
    if (verdict == -EAGAIN && !(port->kernel_queued && hn_kernel_has_queued(kernel)))
        hn_engine_kernel_full(port->engine, port->kernel_fd);
    return verdict;
}

int hn_port_transmit(HnPort *port, const struct hn_address *to, const uint8_t *data, size_t bytes)
{
    int verdict = HN_SEND_KERNEL;
    if (hn_likely(!port->kernel_only))
        verdict = hn_udp_send(port->udp, to, data, bytes);
    if (hn_likely(verdict == HN_SEND_QUEUED)) {
        hn_engine_note_send(port->engine);
        return 0;
    }
    if (verdict != HN_SEND_KERNEL) {
        if (verdict == -EAGAIN)
            port->engine->blocked = true;
        return verdict;
    }
    if (port->kernel_fd < 0)
        return -ENETUNREACH;
    return transmit_by_kernel(port, to, data, bytes);
}

/* What the fast way does not settle, Python does: blocked, refused, a name for an address. */
static PyObject *refused(HnPort *port, int error, PyObject *data, PyObject *address)
{
    return PyObject_CallFunction(port->on_refused, "iOO", error, data, address);
}

static PyObject *port_send(PyObject *self, PyObject *const *args, Py_ssize_t count,
                           PyObject *keyword_names)
{
    HnPort *port = (HnPort *)self;
    PyObject *data = count > 0 ? args[0] : NULL;
    PyObject *address = count > 1 ? args[1] : Py_None;
    Py_ssize_t keywords = keyword_names ? PyTuple_GET_SIZE(keyword_names) : 0;
    for (Py_ssize_t i = 0; i < keywords; i++) {
        PyObject *name = PyTuple_GET_ITEM(keyword_names, i);
        if (PyUnicode_CompareWithASCIIString(name, "addr") == 0 && count < 2) {
            address = args[count + i];
        } else if (PyUnicode_CompareWithASCIIString(name, "data") == 0 && count < 1) {
            data = args[count + i];
        } else {
            PyErr_Format(PyExc_TypeError, "sendto() got an unexpected argument %R", name);
            return NULL;
        }
    }
    if (!data || count > 2) {
        PyErr_SetString(PyExc_TypeError, "sendto(data, addr=None)");
        return NULL;
    }
    Py_buffer view = {.buf = NULL};
    const uint8_t *bytes;
    Py_ssize_t length;
    if (hn_likely(PyBytes_CheckExact(data))) {
        bytes = (const uint8_t *)PyBytes_AS_STRING(data);
        length = PyBytes_GET_SIZE(data);
    } else {
        if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) != 0) {
            PyErr_Format(PyExc_TypeError, "data argument must be a bytes-like object, not %.100s",
                         Py_TYPE(data)->tp_name);
            return NULL;
        }
        bytes = view.buf;
        length = view.len;
    }
    int error = -EBADF;
    if (hn_likely(port->udp != NULL)) {
        struct hn_address to;
        if (address == Py_None)
            error = hn_port_transmit(port, NULL, bytes, (size_t)length);
        else if (port->udp->remote.family != 0)
            error = -EISCONN; /* Python compares it with the peer */
        else if (hn_likely(hn_address_parse(port, address, &to)))
            error = hn_port_transmit(port, &to, bytes, (size_t)length);
        else
            error = -EINVAL;
    }
    if (view.obj)
        PyBuffer_Release(&view);
    if (hn_likely(error == 0))
        Py_RETURN_NONE;
    return refused(port, -error, data, address);
}

static PyObject *port_receive(PyObject *self, PyObject *ignored)
{
    HnPort *port = (HnPort *)self;
    struct hn_frame *frame;
    (void)ignored;
    if (check_open(port) < 0)
        return NULL;
    if (hn_udp_receive(port->udp, &frame, 1) == 0)
        Py_RETURN_NONE;
    PyObject *data = payload_bytes(port, frame);
    PyObject *address = data ? hn_address_object(port, &frame->peer) : NULL;
    hn_packet_free(&port->engine->stack->pool, frame, HN_OWNER_SOCKET);
    if (!address) {
        Py_XDECREF(data);
        return NULL;
    }
    return Py_BuildValue("(NN)", data, address);
}

/* Receives from the kernel socket and hands over: a turn of its own. */
static PyObject *port_kernel_turn(PyObject *self, PyObject *max_object)
{
    HnPort *port = (HnPort *)self;
    unsigned long max = PyLong_AsUnsignedLong(max_object);
    if (PyErr_Occurred() || check_open(port) < 0)
        return NULL;
    int received;
    struct hn_kernel_io *io = port->engine->kernel;
    hn_engine_begin_walk(port->engine);
    Py_BEGIN_ALLOW_THREADS
    received = hn_kernel_receive(io, port->udp, port->kernel_fd, (uint32_t)max);
    Py_END_ALLOW_THREADS
    hn_engine_end_walk(port->engine);
    PyObject *result = PyObject_CallMethod((PyObject *)port->engine, "deliver", NULL);
    if (!result)
        return NULL;
    Py_DECREF(result);
    return PyLong_FromLong(received);
}

static PyObject *port_close(PyObject *self, PyObject *ignored)
{
    HnPort *port = (HnPort *)self;
    (void)ignored;
    if (port->udp && port->engine->stack) {
        hn_kernel_forget(port->engine->kernel, port->udp);
        hn_udp_close(port->udp);
        hn_engine_note_send(port->engine); /* others' datagrams may have waited behind ours */
    }
    port->udp = NULL;
    port->kernel_fd = -1;
    Py_RETURN_NONE;
}

static int port_init(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"engine",      "udp",           "owner",
                            "on_refused",  "kernel_fd",     "kernel_family",
                            "kernel_only", "kernel_queued", NULL};
    HnPort *port = (HnPort *)self;
    PyObject *engine, *owner, *on_refused;
    unsigned long long udp;
    int kernel_fd, kernel_family, kernel_only, kernel_queued;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!KOOiipp", names, hn_engine_type, &engine,
                                     &udp, &owner, &on_refused, &kernel_fd, &kernel_family,
                                     &kernel_only, &kernel_queued))
        return -1;
    port->engine = (HnEngine *)Py_NewRef(engine);
    port->udp = (struct hn_udp *)(uintptr_t)udp;
    port->udp->owner = port;
    port->owner = Py_NewRef(owner);
    port->on_refused = Py_NewRef(on_refused);
    port->kernel_fd = kernel_fd;
    port->kernel_family = kernel_family;
    port->kernel_only = kernel_only;
    port->kernel_queued = kernel_queued;
    port->is_ipv6 = kernel_family == AF_INET6;
    return 0;
}

static int port_traverse(PyObject *self, visitproc visit, void *arg)
{
    HnPort *port = (HnPort *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(port->engine);
    Py_VISIT(port->owner);
    Py_VISIT(port->on_datagram);
    Py_VISIT(port->on_readable);
    Py_VISIT(port->on_refused);
    return 0;
}

static int port_clear(PyObject *self)
{
    HnPort *port = (HnPort *)self;
    Py_CLEAR(port->owner);
    Py_CLEAR(port->on_datagram);
    Py_CLEAR(port->on_readable);
    Py_CLEAR(port->on_refused);
    return 0;
}

static void port_dealloc(PyObject *self)
{
    HnPort *port = (HnPort *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (port->engine)
        Py_XDECREF(port_close(self, NULL));
    port_clear(self);
    Py_CLEAR(port->engine);
    hn_address_cache_free(port->cache);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *get_waiting(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((HnPort *)self)->waiting);
}

static int set_waiting(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    int truth = value ? PyObject_IsTrue(value) : 0;
    if (truth < 0)
        return -1;
    ((HnPort *)self)->waiting = truth;
    return 0;
}

static PyObject *get_pending(PyObject *self, void *closure)
{
    const HnPort *port = (HnPort *)self;
    (void)closure;
    return PyLong_FromUnsignedLong(port->udp ? port->udp->queue_count : 0);
}

static PyObject *get_unsent(PyObject *self, void *closure)
{
    const HnPort *port = (HnPort *)self;
    (void)closure;
    bool open = port->udp && port->engine->kernel;
    return PyLong_FromUnsignedLong(open ? hn_kernel_queued_count(port->engine->kernel, port->udp)
                                        : 0);
}

static int set_callback(PyObject **slot, PyObject *value)
{
    PyObject *callback = value == Py_None ? NULL : Py_XNewRef(value);
    PyObject *old = *slot;
    *slot = callback;
    Py_XDECREF(old);
    return 0;
}

static int set_on_datagram(PyObject *self, PyObject *value, void *closure)
{
    HnPort *port = (HnPort *)self;
    (void)closure;
    set_callback(&port->on_datagram, value);
    if (port->udp && port->on_datagram)
        hn_udp_mark_ready(port->udp);
    return 0;
}

static int set_on_readable(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    return set_callback(&((HnPort *)self)->on_readable, value);
}

static int set_kernel_only(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    ((HnPort *)self)->kernel_only = value && PyObject_IsTrue(value) > 0;
    return 0;
}

static PyGetSetDef port_getset[] = {
    {"waiting", get_waiting, set_waiting, "Call on_readable once when something waits.", NULL},
    {"pending", get_pending, NULL, "Datagrams waiting to be received.", NULL},
    {"unsent", get_unsent, NULL, "Datagrams that wait for room in the kernel socket.", NULL},
    {"on_datagram", NULL, set_on_datagram, "The protocol's datagram_received.", NULL},
    {"on_readable", NULL, set_on_readable, "See waiting.", NULL},
    {"kernel_only", NULL, set_kernel_only, "Send everything by the kernel path.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyMethodDef port_methods[] = {
    {"send", (PyCFunction)(void (*)(void))port_send, METH_FASTCALL | METH_KEYWORDS,
     "send(data, addr=None)\n\nSend one datagram, copied; addr None: to the connected peer."},
    {"receive", port_receive, METH_NOARGS, "receive() -> (data, addr) or None"},
    {"receive_batch", hn_port_receive_batch, METH_O,
     "receive_batch(max) -> (payloads, descriptors) as bytes, or None"},
    {"receive_lease", hn_port_receive_lease, METH_O, "receive_lease(max) -> Lease or None"},
    {"send_batch", (PyCFunction)(void (*)(void))hn_port_send_batch, METH_FASTCALL,
     "send_batch(payloads, descriptors, start) -> (sent, errno)"},
    {"kernel_turn", port_kernel_turn, METH_O,
     "kernel_turn(max) -> int\n\nReceive from the kernel socket and deliver; -errno on error."},
    {"close", port_close, METH_NOARGS, "close()"},
    {NULL, NULL, 0, NULL}};

static PyType_Slot port_slots[] = {{Py_tp_init, port_init},         {Py_tp_dealloc, port_dealloc},
                                   {Py_tp_traverse, port_traverse}, {Py_tp_clear, port_clear},
                                   {Py_tp_methods, port_methods},   {Py_tp_getset, port_getset},
                                   {Py_tp_new, PyType_GenericNew},  {0, NULL}};
PyType_Spec hn_port_spec = {.name = "hybridnet._native.Port",
                            .basicsize = sizeof(HnPort),
                            .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                            .slots = port_slots};
