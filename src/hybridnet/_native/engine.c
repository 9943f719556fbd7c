/* Engine: one C call per readable socket, one flush per loop turn. */
#include "_native/burst.h"

PyTypeObject *hn_engine_type;

/* The pending exception goes to the loop's exception handler; the stack lives on.  What is not an
   Exception (KeyboardInterrupt, SystemExit) stays pending. */
void hn_engine_report(HnEngine *engine, PyObject *owner)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value && traceback)
        PyException_SetTraceback(value, traceback);
    PyObject *result = PyObject_CallFunctionObjArgs(engine->on_exception, value ? value : Py_None,
                                                    owner ? owner : Py_None, NULL);
    if (!result)
        PyErr_WriteUnraisable(engine->on_exception);
    Py_XDECREF(result);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

void hn_engine_kernel_full(HnEngine *engine, int fd)
{
    PyObject *result = PyObject_CallFunction(engine->on_kernel_full, "i", fd);
    if (!result)
        PyErr_WriteUnraisable(engine->on_kernel_full);
    Py_XDECREF(result);
}

static void destroy_stack(HnEngine *engine)
{
    hn_kernel_io_destroy(engine->kernel);
    hn_stack_destroy(engine->stack);
    engine->kernel = NULL;
    engine->stack = NULL;
}

void hn_engine_take_back(HnEngine *engine, struct hn_frame *frame)
{
    struct hn_pool *pool = &engine->stack->pool;
    if (engine->walking) {
        frame->queue_next = engine->returned;
        engine->returned = hn_frame_index(pool, frame);
    } else {
        hn_packet_free(pool, frame, HN_OWNER_USER);
    }
}

void hn_engine_lease_ended(HnEngine *engine)
{
    engine->leases--;
    if (engine->closing) {
        if (engine->leases == 0 && engine->stack)
            destroy_stack(engine);
    } else if (!engine->walking) {
        hn_stack_refill(engine->stack);
    }
}

void hn_engine_begin_walk(HnEngine *engine) { engine->walking = true; }

void hn_engine_end_walk(HnEngine *engine)
{
    struct hn_pool *pool = &engine->stack->pool;
    engine->walking = false;
    bool any = engine->returned != HN_FRAME_NONE;
    while (engine->returned != HN_FRAME_NONE) {
        struct hn_frame *frame = &pool->frames[engine->returned];
        engine->returned = frame->queue_next;
        hn_packet_free(pool, frame, HN_OWNER_USER);
    }
    if (any)
        hn_stack_refill(engine->stack);
}

static bool flush_native(HnEngine *engine, uint64_t now_ns)
{
    bool done;
    engine->unsent_since = 0;
    hn_engine_begin_walk(engine);
    Py_BEGIN_ALLOW_THREADS
    hn_kernel_flush(engine->kernel);
    done = hn_stack_flush(engine->stack, now_ns);
    Py_END_ALLOW_THREADS
    hn_engine_end_walk(engine);
    return done;
}

/* A program that takes its time between sends (QUIC encrypts each datagram) keeps its peer waiting
   for the end of the turn, and then floods it.  So many ticks, 0.1 ms or so, are waited at most. */
#define UNSENT_TICKS_MAX 300000u

/* Something was put into the graph: inside a turn the turn flushes, else the loop is asked. */
void hn_engine_note_send(HnEngine *engine)
{
    uint64_t now = hn_ticks();
    if (engine->unsent_since == 0)
        engine->unsent_since = now;
    else if (hn_unlikely(now - engine->unsent_since > UNSENT_TICKS_MAX))
        (void)flush_native(engine, hn_monotonic_ns());
    if (engine->in_turn || engine->flush_scheduled)
        return;
    engine->flush_scheduled = true;
    PyObject *result = PyObject_CallOneArg(engine->schedule, Py_False);
    if (!result)
        PyErr_WriteUnraisable(engine->schedule);
    Py_XDECREF(result);
}

static int call_and_drop(PyObject *result, HnEngine *engine)
{
    if (!result) {
        hn_engine_report(engine, NULL);
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(result);
    return 0;
}

static int report_failures(HnEngine *engine)
{
    struct hn_kernel_failure failure;
    while (engine->stack && hn_kernel_next_failure(engine->kernel, &failure)) {
        HnPort *port = failure.udp->owner;
        failure.to.reserved = 0;
        PyObject *address =
            failure.to.family ? hn_address_object(port, &failure.to) : Py_NewRef(Py_None);
        if (!address)
            return -1;
        PyObject *result =
            PyObject_CallFunction(engine->on_failure, "OiN", port->owner, failure.error, address);
        if (call_and_drop(result, engine) < 0)
            return -1;
    }
    return 0;
}

static int flush(HnEngine *engine)
{
    bool done = flush_native(engine, hn_monotonic_ns());
    if (report_failures(engine) < 0)
        return -1;
    int full_fd;
    while (engine->stack && (full_fd = hn_kernel_next_full(engine->kernel)) >= 0)
        hn_engine_kernel_full(engine, full_fd);
    if (!done && !engine->flush_scheduled) {
        engine->flush_scheduled = true;
        if (call_and_drop(PyObject_CallOneArg(engine->schedule, Py_True), engine) < 0)
            return -1;
    }
    if (engine->stack && engine->stack->neighbors_wanted) {
        engine->stack->neighbors_wanted = false;
        if (call_and_drop(PyObject_CallNoArgs(engine->on_wanted), engine) < 0)
            return -1;
    }
    if (engine->blocked && engine->stack && hn_transmit_room_again(engine->stack)) {
        engine->blocked = false;
        return call_and_drop(PyObject_CallNoArgs(engine->on_writable), engine);
    }
    return 0;
}

/* Hands what was received to the protocols and wakes who waits. */
int hn_engine_deliver(HnEngine *engine)
{
    struct hn_udp *udp;
    while (engine->stack && (udp = hn_udp_next_ready(engine->stack)) != NULL) {
        HnPort *port = (HnPort *)Py_NewRef((PyObject *)udp->owner);
        int result = 0;
        if (port->on_datagram) {
            result = hn_port_deliver(port);
        } else if (port->waiting && port->on_readable) {
            port->waiting = false;
            result = call_and_drop(PyObject_CallNoArgs(port->on_readable), engine);
        }
        Py_DECREF(port);
        if (result < 0)
            return -1;
    }
    return 0;
}

static int check_open(const HnEngine *engine)
{
    if (engine->stack && !engine->closing)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "the stack is closed");
    return -1;
}

/* A program slower than its packets gets turns of a millisecond, so that its timers run, and a
   queue of some milliseconds: a longer one would not lose less, only later, and its peers' round
   trips would grow with it.  The least is of the order of what a kernel socket's default buffer
   holds (92 full-size datagrams).  All of it is there again as soon as no queue stands: bursts are
   not what this is about. */
#define TURN_NS UINT64_C(1000000)
#define QUEUE_NS UINT64_C(3000000)
#define BUDGET_MIN 16u
#define DEPTH_MIN 64u

static uint32_t clamp(uint64_t value, uint32_t least)
{
    return value < least ? least : value > 65536 ? 65536 : (uint32_t)value;
}

static void pace(HnEngine *engine, uint32_t received, uint64_t ticks)
{
    uint32_t budget = engine->budget;
    uint32_t depth = engine->depth;
    if (received >= BUDGET_MIN) {
        uint64_t each_ns = hn_graph_ticks_to_ns(engine->stack->graph, ticks) / received + 1;
        budget = clamp(TURN_NS / each_ns, BUDGET_MIN);
        depth = clamp(QUEUE_NS / each_ns, DEPTH_MIN);
    } else if (received < BUDGET_MIN / 2) {
        budget = clamp((uint64_t)budget * 2, BUDGET_MIN);
        depth = clamp((uint64_t)depth * 2, DEPTH_MIN);
    }
    if (depth != engine->depth)
        hn_stack_set_depth(engine->stack, depth);
    engine->budget = budget;
    engine->depth = depth;
}

static PyObject *finish_turn(HnEngine *engine, uint32_t received, uint64_t start)
{
    int result = hn_engine_deliver(engine);
    /* From here on a callback's sends ask for a flush of their own. */
    engine->in_turn = false;
    /* A KeyboardInterrupt goes on to the loop; what was sent before it still goes out. */
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (engine->stack && flush(engine) < 0)
        result = -1;
    if (type)
        PyErr_Restore(type, value, traceback);
    if (engine->stack && start)
        pace(engine, received, hn_ticks() - start);
    return result < 0 ? NULL : PyLong_FromUnsignedLong(received);
}

static PyObject *engine_turn(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    HnEngine *engine = (HnEngine *)self;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "turn(device, queue, budget)");
        return NULL;
    }
    uint32_t device = (uint32_t)PyLong_AsUnsignedLong(args[0]);
    uint32_t queue = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    uint32_t budget = (uint32_t)PyLong_AsUnsignedLong(args[2]);
    if (PyErr_Occurred() || check_open(engine) < 0)
        return NULL;
    if (engine->in_turn) /* called back from a protocol: the outer turn goes on */
        return PyLong_FromLong(0);
    engine->in_turn = true;
    if (budget > engine->budget)
        budget = engine->budget;
    uint64_t start = hn_ticks();
    uint32_t received;
    hn_engine_begin_walk(engine);
    Py_BEGIN_ALLOW_THREADS
    received = hn_stack_poll(engine->stack, device, queue, budget, hn_monotonic_ns());
    Py_END_ALLOW_THREADS
    hn_engine_end_walk(engine);
    return finish_turn(engine, received, start);
}

static uint32_t poll_all(struct hn_stack *stack, uint32_t budget, uint64_t now_ns)
{
    uint32_t received = 0;
    for (uint32_t i = 0; i < HN_DEVICES_MAX; i++) {
        if (!stack->devices[i])
            continue;
        for (uint32_t queue = 0; queue < stack->devices[i]->queue_count; queue++)
            received += hn_stack_poll(stack, i, queue, budget, now_ns);
    }
    return received;
}

/* What the program sent since the last turn must not wait for the end of the spinning. */
static bool has_unsent(const HnEngine *engine)
{
    return engine->flush_scheduled || engine->stack->graph->busy;
}

static PyObject *engine_spin(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    HnEngine *engine = (HnEngine *)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "spin(budget, nanoseconds)");
        return NULL;
    }
    uint32_t budget = (uint32_t)PyLong_AsUnsignedLong(args[0]);
    uint64_t spin_ns = PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred() || check_open(engine) < 0)
        return NULL;
    if (engine->in_turn)
        return PyLong_FromLong(0);
    if (has_unsent(engine) && (flush(engine) < 0 || check_open(engine) < 0))
        return NULL;
    engine->in_turn = true;
    if (budget > engine->budget)
        budget = engine->budget;
    uint64_t last;
    uint32_t received;
    hn_engine_begin_walk(engine);
    Py_BEGIN_ALLOW_THREADS
    uint64_t now = hn_monotonic_ns();
    uint64_t end = now + spin_ns;
    last = hn_ticks();
    while ((received = poll_all(engine->stack, budget, now)) == 0 && now < end) {
        last = hn_ticks();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        now = hn_monotonic_ns();
    }
    Py_END_ALLOW_THREADS
    hn_engine_end_walk(engine);
    return finish_turn(engine, received, last);
}

static PyObject *engine_flush(PyObject *self, PyObject *ignored)
{
    HnEngine *engine = (HnEngine *)self;
    (void)ignored;
    engine->flush_scheduled = false;
    if (!engine->stack || engine->closing || engine->in_turn)
        Py_RETURN_NONE;
    /* What a callback sends now goes out with this very flush's successor. */
    if (flush(engine) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *engine_deliver(PyObject *self, PyObject *ignored)
{
    HnEngine *engine = (HnEngine *)self;
    (void)ignored;
    if (check_open(engine) < 0)
        return NULL;
    if (engine->in_turn)
        return PyLong_FromLong(0);
    engine->in_turn = true;
    return finish_turn(engine, 0, 0);
}

static PyObject *engine_close(PyObject *self, PyObject *ignored)
{
    HnEngine *engine = (HnEngine *)self;
    (void)ignored;
    if (engine->in_turn) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the stack cannot be closed from within a protocol's callback");
        return NULL;
    }
    engine->closing = true;
    if (engine->stack && engine->leases == 0)
        destroy_stack(engine);
    Py_RETURN_NONE;
}

static int engine_init(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"stack",      "schedule",       "on_exception", "on_writable",
                            "on_failure", "on_kernel_full", "on_wanted",    NULL};
    HnEngine *engine = (HnEngine *)self;
    unsigned long long stack;
    PyObject *schedule, *on_exception, *on_writable, *on_failure, *on_kernel_full, *on_wanted;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KOOOOOO", names, &stack, &schedule,
                                     &on_exception, &on_writable, &on_failure, &on_kernel_full,
                                     &on_wanted))
        return -1;
    engine->kernel = hn_kernel_io_create((struct hn_stack *)(uintptr_t)stack);
    if (!engine->kernel) {
        PyErr_NoMemory();
        return -1;
    }
    engine->stack = (struct hn_stack *)(uintptr_t)stack;
    engine->returned = HN_FRAME_NONE;
    engine->budget = engine->depth = UINT16_MAX;
    engine->schedule = Py_NewRef(schedule);
    engine->on_exception = Py_NewRef(on_exception);
    engine->on_writable = Py_NewRef(on_writable);
    engine->on_failure = Py_NewRef(on_failure);
    engine->on_kernel_full = Py_NewRef(on_kernel_full);
    engine->on_wanted = Py_NewRef(on_wanted);
    return 0;
}

static int engine_traverse(PyObject *self, visitproc visit, void *arg)
{
    HnEngine *engine = (HnEngine *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(engine->schedule);
    Py_VISIT(engine->on_exception);
    Py_VISIT(engine->on_writable);
    Py_VISIT(engine->on_failure);
    Py_VISIT(engine->on_kernel_full);
    Py_VISIT(engine->on_wanted);
    return 0;
}

static int engine_clear(PyObject *self)
{
    HnEngine *engine = (HnEngine *)self;
    Py_CLEAR(engine->schedule);
    Py_CLEAR(engine->on_exception);
    Py_CLEAR(engine->on_writable);
    Py_CLEAR(engine->on_failure);
    Py_CLEAR(engine->on_kernel_full);
    Py_CLEAR(engine->on_wanted);
    return 0;
}

static void engine_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    engine_clear(self);
    if (((HnEngine *)self)->stack)
        destroy_stack((HnEngine *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *get_blocked(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((HnEngine *)self)->blocked);
}

static PyGetSetDef engine_getset[] = {
    {"blocked", get_blocked, NULL, "A sender was held back and not yet told to go on.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyMethodDef engine_methods[] = {
    {"turn", (PyCFunction)(void (*)(void))engine_turn, METH_FASTCALL,
     "turn(device, queue, budget) -> int\n\nReceive, deliver, flush. Returns packets received."},
    {"spin", (PyCFunction)(void (*)(void))engine_spin, METH_FASTCALL,
     "spin(budget, nanoseconds) -> int\n\nAs turn() over all queues, busy until something comes."},
    {"flush", engine_flush, METH_NOARGS, "flush()\n\nSend what was put into the graph."},
    {"deliver", engine_deliver, METH_NOARGS,
     "deliver() -> int\n\nHand over what is queued, then flush."},
    {"close", engine_close, METH_NOARGS,
     "close()\n\nFree the stack, at once or with the last lease."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot engine_slots[] = {
    {Py_tp_init, engine_init},         {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse}, {Py_tp_clear, engine_clear},
    {Py_tp_methods, engine_methods},   {Py_tp_getset, engine_getset},
    {Py_tp_new, PyType_GenericNew},    {0, NULL}};
PyType_Spec hn_engine_spec = {.name = "hybridnet._native.Engine",
                              .basicsize = sizeof(HnEngine),
                              .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                              .slots = engine_slots};
