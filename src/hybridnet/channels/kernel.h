/* The kernel path: datagrams through an ordinary socket, in batches.

   What arrives is put into the same receive queue as the fast path's, marked HN_FRAME_KERNEL;
   what is sent goes out at once or collects for one sendmmsg per turn.  Sockets are non-blocking
   and belong to Python. */
#ifndef HN_KERNEL_H
#define HN_KERNEL_H

#include "stack/udp.h"
#include "channels/kernel_api.h"

/* A failed send, told later because it was queued. */
struct hn_kernel_failure {
    struct hn_udp *udp;
    struct hn_address to;
    int error;
};

/* Receives at most max datagrams into the endpoint's queue.  Returns how many, or -errno:
   -EAGAIN nothing there;  others: the socket's pending error, now cleared. */
int hn_kernel_receive(struct hn_kernel_io *io, struct hn_udp *udp, int fd, uint32_t max);

/* One datagram at once.  `to` NULL: the connected peer.  0 or -errno. */
int hn_kernel_send(struct hn_udp *udp, int fd, int socket_family, const struct hn_address *to,
                   const uint8_t *data, size_t bytes);

/* Queues a datagram for hn_kernel_flush, copied; what is too large for a frame goes at once, behind
   what is queued.  0 or -errno (-EAGAIN: the queue is full, or with nothing queued the socket). */
int hn_kernel_queue(struct hn_kernel_io *io, struct hn_udp *udp, int fd, int socket_family,
                    const struct hn_address *to, const uint8_t *data, size_t bytes);

/* Sends what is queued; what finds its socket's send buffer full stays. */
void hn_kernel_flush(struct hn_kernel_io *io);
/* Gives a socket that was full at the last flush (come again when it is writable), -1: no more. */
int hn_kernel_next_full(struct hn_kernel_io *io);
/* True while datagrams of any socket wait for hn_kernel_flush. */
bool hn_kernel_has_queued(const struct hn_kernel_io *io);
/* Returns how many of them are an endpoint's. */
uint32_t hn_kernel_queued_count(const struct hn_kernel_io *io, const struct hn_udp *udp);
/* Drops what an endpoint still has queued; before it is closed. */
void hn_kernel_forget(struct hn_kernel_io *io, struct hn_udp *udp);
/* Gives the oldest failure; false: none. */
bool hn_kernel_next_failure(struct hn_kernel_io *io, struct hn_kernel_failure *failure);

#endif
