/* The AF_XDP user interface: the system's header, and what newer kernels added to it.

   Required reading: Documentation/networking/af_xdp.rst. */
#ifndef HN_IF_XDP_ABI_H
#define HN_IF_XDP_ABI_H

#include <linux/if_xdp.h>
#include <sys/socket.h>

#include "stack/base.h"

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4) /* Linux 6.6: packets of several descriptors */
#endif
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0) /* the packet goes on in the next descriptor */
#endif
#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9 /* Linux 6.17: descriptors per transmit call in copy mode */
#endif
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#endif
#ifndef SO_BUSY_POLL_BUDGET
#define SO_BUSY_POLL_BUDGET 70
#endif

_Static_assert(sizeof(struct xdp_desc) == 16, "kernel ABI");
_Static_assert(sizeof(struct xdp_mmap_offsets) == 128, "kernel ABI since 5.4 (with flags)");

#endif
