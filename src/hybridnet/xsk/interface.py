"""What the kernel says of an interface, by ioctl: right in any network namespace, unlike sysfs."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct

from hybridnet.errors import InterfaceNotFound
from hybridnet.xsk.device import Interface

_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x00000003
_ETHTOOL_GCHANNELS = 0x0000003C
_ARPHRD_ETHER = 1


def _ifreq(sock: socket.socket, request: int, name: str, payload: bytes = b"") -> bytes:
    packed = struct.pack("16s24s", name.encode(), payload)
    answer: bytes = fcntl.ioctl(sock.fileno(), request, packed)
    return answer[16:]


def _ethtool(sock: socket.socket, name: str, command: int, length: int) -> bytes | None:
    buffer = array.array("B", struct.pack("=I", command) + bytes(length - 4))
    try:
        _ifreq(sock, _SIOCETHTOOL, name, struct.pack("@P", buffer.buffer_info()[0]))
    except OSError:
        return None
    return buffer.tobytes()


def _queues(sock: socket.socket, name: str) -> int:
    channels = _ethtool(sock, name, _ETHTOOL_GCHANNELS, 36)
    if channels is None:
        return 1
    counts: tuple[int, ...] = struct.unpack("=9I", channels)
    rx, combined = counts[5], counts[8]
    return max(1, rx + combined)


def read_interface(name: str) -> Interface:
    """Return the interface of that name in the calling thread's network namespace.

    Raises: InterfaceNotFound.
    """
    if not isinstance(name, str):
        raise TypeError(f"an interface is given by its name, not {name!r}")
    try:
        ifindex = socket.if_nametoindex(name)
    except (OSError, ValueError):
        known = ", ".join(n for _, n in socket.if_nameindex()) or "none"
        raise InterfaceNotFound(
            errno.ENODEV, f"there is no interface {name!r} in this network namespace ({known})"
        ) from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        (mtu,) = struct.unpack_from("=i", _ifreq(sock, _SIOCGIFMTU, name))
        kind, mac = struct.unpack_from("=H6s", _ifreq(sock, _SIOCGIFHWADDR, name))
        info = _ethtool(sock, name, _ETHTOOL_GDRVINFO, 196)
        driver = info[4:36].split(b"\0")[0].decode() if info else ""
        return Interface(
            name=name,
            ifindex=ifindex,
            mtu=mtu,
            mac=mac,
            kind=driver,
            queues=_queues(sock, name),
            is_ethernet=kind == _ARPHRD_ETHER,
        )
