"""Raw routing netlink sockets and the requests sent over them.

Source: linux/netlink.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_GETROUTE = 26
RTM_GETNEIGH = 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWNEXTHOP, RTM_DELNEXTHOP = 104, 105

NLM_F_REQUEST = 0x01
NLM_F_DUMP = 0x300

# RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE,
# NEXTHOP: group numbers, not the older bit mask, which ends at 32.
GROUPS = (1, 3, 5, 7, 8, 9, 11, 19, 32)

MESSAGE_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
# Header length by message type: ifinfomsg, ifaddrmsg, rtmsg, ndmsg, fib_rule_hdr.
_BODY_BYTES = {
    RTM_GETLINK: 16,
    RTM_GETADDR: 8,
    RTM_GETROUTE: 12,
    RTM_GETNEIGH: 12,
    RTM_GETRULE: 12,
}


def open_socket(receive_buffer_bytes: int, groups: tuple[int, ...] = ()) -> socket.socket:
    """Open a non-blocking routing socket in the calling thread's network namespace.

    ``receive_buffer_bytes``: asked from the kernel; without CAP_NET_ADMIN it grants at most
    ``net.core.rmem_max``.

    Raises: OSError: no netlink, or no file descriptor left.
    """
    sock = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        socket.NETLINK_ROUTE,
    )
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer_bytes)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.bind((0, 0))
        for group in groups:
            # An old kernel lacks the newest group; what it cannot tell does not happen there.
            with contextlib.suppress(OSError):
                sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock


def dump_request(message_type: int, family: int, sequence: int) -> bytes:
    """Return the request for everything of a kind; ``family`` is AF_*."""
    body = bytes([family]) + bytes(_BODY_BYTES[message_type] - 1)
    length = MESSAGE_HEADER.size + len(body)
    return MESSAGE_HEADER.pack(length, message_type, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body
