"""Blocking netlink and ethtool questions about interfaces; nothing is ever changed.

Answers are those of the network namespace of the calling thread, which a mounted /sys need not
be.  Needs no privileges.  Attributes are read with every length checked; what does not add up is
left out.

Source: linux/netlink.h, rtnetlink.h, if_link.h, genetlink.h, netdev.h, ethtool.h.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NETLINK_GENERIC = 16
_NETLINK_EXT_ACK = 11
_RTM_GETLINK = 18
_RTM_NEWLINK = 16

_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_LINKINFO = 18
_IFLA_XDP = 43
_IFLA_INFO_KIND = 1
_IFLA_XDP_ATTACHED = 2
_IFLA_XDP_PROG_ID = 4
_IFLA_XDP_DRV_PROG_ID = 5
_IFLA_XDP_SKB_PROG_ID = 6
_IFLA_XDP_HW_PROG_ID = 7
_XDP_ATTACHED_NAMES = {1: "native", 2: "generic", 3: "offloaded", 4: "several modes"}
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_RUNNING = 0x40

_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2
_NETDEV_CMD_DEV_GET = 1
_NETDEV_A_DEV_IFINDEX = 1
_NETDEV_A_DEV_XDP_FEATURES = 3
_NETDEV_A_DEV_XDP_ZC_MAX_SEGS = 4

_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x03
_ETHTOOL_GCHANNELS = 0x3C


@dataclass(slots=True, frozen=True, kw_only=True)
class Link:
    """An interface as rtnetlink describes it."""

    ifindex: int
    name: str
    flags: int
    mtu: int
    kind: str
    """``veth``, ``vlan``, ``bond`` …; empty for hardware."""
    lower_ifindex: int
    """The interface that a VLAN and its like stand on; 0: none."""
    xdp_mode: str
    """``native``, ``generic``, ``offloaded``, ``several modes``; empty: no program."""
    xdp_program_ids: tuple[int, ...]


@dataclass(slots=True, frozen=True, kw_only=True)
class XdpFeatures:
    """The ``netdev`` family's answer: what the driver says it can do with XDP."""

    bits: int
    zero_copy_segments_max: int
    """Descriptors of one packet in zero-copy mode; 1: no multi-buffer there; 0: not said."""


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk a run of netlink attributes: (type without flags, payload)."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _unsigned(data: bytes | None) -> int:
    return int.from_bytes(data[:8], "little" if struct.pack("=H", 1)[0] else "big") if data else 0


def _request(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Ask one question; yield (message type, body) until the answer is complete.

    Raises: OSError: what the kernel answered, or no answer within a second.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
        sock.settimeout(1.0)
        sock.bind((0, 0))
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | _NLM_F_REQUEST, 1, 0)
        sock.sendto(header + body, (0, 0))
        while True:
            data = sock.recv(1 << 18)
            offset = 0
            while offset + 16 <= len(data):
                length, message = struct.unpack_from("=IH", data, offset)
                if length < 16 or offset + length > len(data):
                    break
                payload = data[offset + 16 : offset + length]
                if message == _NLMSG_DONE:
                    return
                if message == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 5
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield message, payload
                offset += (length + 3) & ~3


def _link(body: bytes) -> Link | None:
    if len(body) < 16:
        return None
    _family, _type, ifindex, flags, _change = struct.unpack_from("=BxHiII", body)
    found = dict(attributes(body[16:]))
    info = dict(attributes(found.get(_IFLA_LINKINFO, b"")))
    xdp = dict(attributes(found.get(_IFLA_XDP, b"")))
    ids = (_IFLA_XDP_PROG_ID, _IFLA_XDP_DRV_PROG_ID, _IFLA_XDP_SKB_PROG_ID, _IFLA_XDP_HW_PROG_ID)
    programs = sorted({_unsigned(xdp.get(kind)) for kind in ids} - {0})
    return Link(
        ifindex=ifindex,
        name=found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        flags=flags,
        mtu=_unsigned(found.get(_IFLA_MTU)),
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
        lower_ifindex=_unsigned(found.get(_IFLA_LINK)),
        xdp_mode=_XDP_ATTACHED_NAMES.get(_unsigned(xdp.get(_IFLA_XDP_ATTACHED)), ""),
        xdp_program_ids=tuple(programs),
    )


def links() -> list[Link]:
    """Return every interface of this network namespace.

    Raises: OSError.
    """
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    answers = _request(socket.NETLINK_ROUTE, _RTM_GETLINK, _NLM_F_DUMP, body)
    parsed = [_link(payload) for kind, payload in answers if kind == _RTM_NEWLINK]
    return [link for link in parsed if link is not None and link.name]


def xdp_features(ifindex: int) -> XdpFeatures:
    """Return the XDP features of a driver.

    Raises: OSError: ENOENT: the kernel has no ``netdev`` family (before 6.3).
    """
    name = _attribute(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
    body = struct.pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + name
    family = 0
    for _kind, payload in _request(_NETLINK_GENERIC, _GENL_ID_CTRL, _NLM_F_ACK, body):
        family = _unsigned(dict(attributes(payload[4:])).get(_CTRL_ATTR_FAMILY_ID)) or family
    body = struct.pack("=BBH", _NETDEV_CMD_DEV_GET, 1, 0)
    body += _attribute(_NETDEV_A_DEV_IFINDEX, struct.pack("=I", ifindex))
    found: dict[int, bytes] = {}
    for _kind, payload in _request(_NETLINK_GENERIC, family, _NLM_F_ACK, body):
        found.update(attributes(payload[4:]))
    return XdpFeatures(
        bits=_unsigned(found.get(_NETDEV_A_DEV_XDP_FEATURES)),
        zero_copy_segments_max=_unsigned(found.get(_NETDEV_A_DEV_XDP_ZC_MAX_SEGS)),
    )


def _ethtool(name: str, command: bytes) -> bytes:
    """Run one ethtool command; its buffer comes back changed.

    Raises: OSError: EOPNOTSUPP when the driver does not answer it.
    """
    buffer = array.array("B", command)
    request = struct.pack("@16sP16x", name.encode()[:15], buffer.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return buffer.tobytes()


def ethtool_driver(name: str) -> str:
    """Return the driver's name.  Raises: OSError."""
    answer = _ethtool(name, struct.pack("=I", _ETHTOOL_GDRVINFO) + bytes(192))
    return answer[4:36].split(b"\0")[0].decode(errors="replace")


def ethtool_channels(name: str) -> tuple[int, int]:
    """Return how many queues are in use: (receive, transmit).  Raises: OSError."""
    answer = _ethtool(name, struct.pack("=I", _ETHTOOL_GCHANNELS) + bytes(32))
    fields = struct.unpack("=9I", answer)
    rx, tx, _other, combined = fields[5:9]
    return rx + combined, tx + combined


def ethtool_flag(name: str, command: int) -> int:
    """Return the value of a one-word command (ETHTOOL_GRXCSUM, GFLAGS …).  Raises: OSError."""
    answer = _ethtool(name, struct.pack("=II", command, 0))
    return int(struct.unpack_from("=I", answer, 4)[0])
