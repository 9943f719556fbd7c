/* The one interface between the stack and whatever moves its frames.

   AF_XDP (xsk/) and the in-memory wire (devices/) implement it.  A device knows frames and
   nothing of what is in them. */
#ifndef HN_DEVICE_H
#define HN_DEVICE_H

#include "stack/frame.h"

#define HN_DEVICE_QUEUES_MAX 64u
#define HN_DEVICES_MAX 32u

enum hn_device_flags {
    /* Frames may come from this machine with the checksum left to a NIC that is not there: the
       checksum field then holds the folded pseudo-header sum (CHECKSUM_PARTIAL). */
    HN_DEVICE_VIRTUAL = 1,
    HN_DEVICE_DOWN = 2 /* transmits are refused; routes over it lead to the kernel path */
};

struct hn_device;

struct hn_device_ops {
    /* Gives up to `max` received packets, first frames only, owner STACK.  Never blocks. */
    uint32_t (*rx_burst)(struct hn_device *device, uint32_t queue, struct hn_frame **frames,
                         uint32_t max);
    /* Takes the first n' <= n packets (owner STACK) and returns n'; the caller keeps the rest. */
    uint32_t (*tx_burst)(struct hn_device *device, uint32_t queue, struct hn_frame **frames,
                         uint32_t n);
    /* Tells the other side that there is something to send; at most one system call or so.
       Returns true when everything handed over has been accepted, false when the caller should
       come again soon. */
    bool (*flush)(struct hn_device *device, uint32_t queue);
    /* Lets at most so many received packets wait in the device; NULL: it cannot tell. */
    void (*set_depth)(struct hn_device *device, uint32_t queue, uint32_t frames);
    /* Gives back every frame that the device holds; called once, before its memory goes. */
    void (*close)(struct hn_device *device);
};

struct hn_device_counters {
    uint64_t rx_packets;
    uint64_t rx_bytes;
    uint64_t tx_packets;
    uint64_t tx_bytes;
};

struct hn_device {
    const struct hn_device_ops *ops;
    struct hn_pool *pool;
    uint32_t ifindex;
    uint32_t mtu; /* bytes of the largest IP packet */
    uint32_t queue_count;
    uint32_t flags;
    uint8_t mac[6];
    uint8_t index; /* in the stack */
    struct hn_device_counters counters[HN_DEVICE_QUEUES_MAX];
};

#endif
