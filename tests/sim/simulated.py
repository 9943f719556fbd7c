"""The world of the simulated tests: one host, one wire, a virtual clock.

this host   10.0.0.1/24   fd00::1/64   fe80::1   02:00:00:00:00:01   interface 7
the peer    10.0.0.2      fd00::2      fe80::2   02:00:00:00:00:02
default     by 10.0.0.254 and fd00::fe, whose link-layer address is not known
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

from hybridnet._native import ffi, lib
from hybridnet.addresses import Address
from hybridnet.devices.wire import Wire
from hybridnet.stack.core import Core, CoreConfig, Udp
from support.packets import HOST_MAC, PEER_MAC

IFINDEX = 7
HOST4, PEER4 = "10.0.0.1", "10.0.0.2"
HOST6, PEER6 = "fd00::1", "fd00::2"
REACHABLE, STALE, FAILED = 0x02, 0x04, 0x20
UNICAST, BLACKHOLE, UNREACHABLE, PROHIBIT = 1, 6, 7, 8
_MAIN = 254


def _family(ip: str) -> int:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


class World:
    """A stack, its device and its tables, filled as the kernel would: by netlink messages."""

    def __init__(self, *, is_virtual: bool = False, mtu: int = 1500, **config: Any) -> None:
        self.core = Core(CoreConfig(**({"frame_count": 1024, "reserve_frames": 64} | config)))
        self.wire = Wire(self.core, ifindex=IFINDEX, mtu=mtu, mac=HOST_MAC, is_virtual=is_virtual)
        self._tables = ffi.new("struct hn_control_tables *")
        self._tables.fib, self._tables.neighbors = self.core.fib, self.core.neighbors
        self.now_ns = 1_000_000
        self.delivered = 0
        self.set_addresses([(HOST4, 24), (HOST6, 64), ("fe80::1", 64)])
        self.route("10.0.0.0/24")
        self.route("fd00::/64")
        self.route("0.0.0.0/0", via="10.0.0.254")
        self.route("::/0", via="fd00::fe")
        for ip in (PEER4, PEER6, "fe80::2"):
            self.neighbor(ip, REACHABLE, PEER_MAC)
        self.frames_free = self.core.memory().free

    # The tables.

    def set_addresses(self, addresses: list[tuple[str, int]]) -> None:
        """Replace this host's addresses: (ip, prefix length)."""
        native = ffi.new("struct hn_local_address[]", len(addresses))
        for entry, (ip, bits) in zip(native, addresses, strict=True):
            packed = ipaddress.ip_address(ip).packed
            ffi.memmove(entry.ip, packed, len(packed))
            entry.family = 6 if ":" in ip else 4
            entry.ifindex = IFINDEX
            entry.prefix_bits = bits
            entry.scope = 253 if ip.startswith("fe80") else 0
        assert lib.hn_fib_set_addresses(self.core.fib, native, len(addresses)) == 0

    def _apply(self, message: bytes) -> None:
        result = ffi.new("struct hn_control_result *")
        code = lib.hn_control_parse(self._tables, message, len(message), False, 1, result)
        assert code == 0
        assert (result.malformed, result.refused, result.unmatched) == (0, 0, 0)

    def route(
        self,
        prefix: str,
        *,
        via: str | None = None,
        kind: int = UNICAST,
        ifindex: int = IFINDEX,
        source: str | None = None,
        delete: bool = False,
    ) -> None:
        """Add, replace or delete a route of the main table."""
        network = ipaddress.ip_network(prefix)
        body = struct.pack(
            "=BBBBBBBBI", _family(prefix), network.prefixlen, 0, 0, _MAIN, 4, 0, kind, 0
        )
        if network.prefixlen:
            body += _attribute(1, network.network_address.packed)
        if via:
            body += _attribute(5, ipaddress.ip_address(via).packed)
        if source:
            body += _attribute(7, ipaddress.ip_address(source).packed)
        if kind == UNICAST:
            body += _attribute(4, struct.pack("=I", ifindex))
        body += _attribute(6, struct.pack("=I", 100))
        self._apply(_message(25 if delete else 24, 0 if delete else 0x100, body))

    def neighbor(self, ip: str, state: int, mac: bytes | None = None) -> None:
        """Tell the stack what the kernel knows of a neighbour."""
        body = struct.pack("=BBHiHBB", _family(ip), 0, 0, IFINDEX, state, 0, 0)
        body += _attribute(1, ipaddress.ip_address(ip).packed)
        if mac:
            body += _attribute(2, mac)
        self._apply(_message(28, 0, body))
        self.core.neighbors_changed(self.tick())

    # The clock and the wire.

    def tick(self, seconds: float = 1e-6) -> int:
        """Let time pass; return it in nanoseconds."""
        self.now_ns += int(seconds * 1e9)
        return self.now_ns

    def receive(self, *frames: bytes) -> None:
        """Put frames on the wire and let the stack take all of them."""
        for frame in frames:
            self.wire.push(frame)
        self.core.poll(self.tick(), self.wire.index, budget=4096)

    def transmitted(self) -> list[bytes]:
        """Flush, and take everything off the wire."""
        self.core.flush(self.tick())
        frames = []
        while (frame := self.wire.pull()) is not None:
            frames.append(frame)
        return frames

    # The endpoints.

    def take(self, udp: Udp, maximum: int = 4096) -> list[tuple[bytes, Address]]:
        """Take datagrams out of an endpoint, oldest first."""
        taken: list[tuple[bytes, Address]] = []
        while len(taken) < maximum and (datagram := udp.receive()) is not None:
            taken.append(datagram)
        self.delivered += len(taken)
        return taken

    def drops(self) -> dict[str, int]:
        return self.core.drops()

    def close(self) -> None:
        """End the world; every frame must have come back to the pool."""
        for endpoint in list(self.core.endpoints):
            endpoint.close()
        self.core.remove_device(self.wire.index)
        assert self.core.memory().free == self.frames_free, "frames have leaked"
        self.core.close()
