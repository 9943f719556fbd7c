/* Plain declarations, read by cffi and (through wire.h) by the C compiler. */

struct hn_device;
struct hn_stack;

/* An in-memory device of one queue: what tests push in, the stack receives; what the stack
   sends, tests pull out.  Owned by the caller until hn_stack_add_device.  NULL: no memory. */
struct hn_device *hn_wire_create(struct hn_stack *stack, uint32_t ifindex, uint32_t mtu,
                                 const uint8_t *mac, bool is_virtual);
/* Copies one frame in, as a chain when it is larger than a pool frame.
   -ENOBUFS  the queue or the pool is full;  -EINVAL  no bytes, or more than 65,550 */
int hn_wire_push(struct hn_device *device, const uint8_t *data, size_t bytes);
/* Copies the oldest transmitted frame out and frees it.  Returns its length, 0: none,
   -EMSGSIZE: `room` is too small (the frame stays). */
int32_t hn_wire_pull(struct hn_device *device, uint8_t *to, size_t room);
/* How many frames the device takes before its transmit ring is full; for tests of back-pressure.
   At most 1024, the default. */
void hn_wire_set_room(struct hn_device *device, uint32_t frames);
