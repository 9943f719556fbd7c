"""The stack without input or output: the typed face of the C core.

No file descriptor, no clock, no event loop: the caller passes ``now_ns`` and moves packets
through devices.  :class:`Core` is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hybridnet._native import ffi, lib
from hybridnet.addresses import Address, check, from_native, to_native
from hybridnet.errors import from_errno


@dataclass(slots=True, frozen=True, kw_only=True)
class CoreConfig:
    """Sizes of everything a stack allocates, once, when it is made."""

    frame_count: int = 4096
    frame_bytes: int = 2048
    reserve_frames: int = 256
    """Frames that endpoints must leave for receiving and sending."""
    neighbors: int = 4096
    flows: int = 4096
    backlog: int = 1024
    kernel_path: bool = False
    """True: destinations that are not ours are answered with :data:`SEND_KERNEL`."""


@dataclass(slots=True, frozen=True, kw_only=True)
class DeviceStatistics:
    """Packets and bytes (Ethernet header included) of one device."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    backlog: int


@dataclass(slots=True, frozen=True, kw_only=True)
class NodeStatistics:
    """Work of one graph node: calls (one per vector), packets, nanoseconds in all."""

    name: str
    calls: int
    packets: int
    ns: int


@dataclass(slots=True, frozen=True, kw_only=True)
class MemoryStatistics:
    """Frames of the pool; ``bytes_total`` is all that the stack has allocated."""

    frames: int
    frame_bytes: int
    free: int
    free_min: int
    bytes_total: int


_DATAGRAM_BYTES_MAX = 65_536

SEND_QUEUED: int = lib.HN_SEND_QUEUED
SEND_KERNEL: int = lib.HN_SEND_KERNEL


def drop_reasons() -> list[str]:
    """Return the names of all drop counters, in the stack's order."""
    return [ffi.string(lib.hn_drop_name(i)).decode() for i in range(lib.hn_drop_count())]


_DROP_NAMES = drop_reasons()


class Udp:
    """One UDP endpoint of a :class:`Core`, for programs that drive the stack by hand."""

    __slots__ = ("_core", "native")

    def __init__(self, core: Core, native: Any) -> None:
        self._core = core
        self.native = native

    def send(self, data: bytes, to: Address | None = None) -> int:
        """Send a datagram with the next flush; returns :data:`SEND_QUEUED` or SEND_KERNEL.

        Raises: WouldBlock: the transmit queue is full.  NetworkUnreachable: no route (without a
        kernel path).  MessageTooLarge: larger than the path's MTU.
        """
        native_to = ffi.NULL if to is None else to_native(to)
        return check(lib.hn_udp_send(self.native, native_to, data, len(data)))

    def receive(self) -> tuple[bytes, Address] | None:
        """Return the oldest datagram that waits, copied, and its source; None: nothing waits."""
        peer = ffi.new("struct hn_address *")
        length = lib.hn_udp_take(self.native, self._core.scratch, _DATAGRAM_BYTES_MAX, peer)
        if length < 0:
            return None
        return bytes(ffi.buffer(self._core.scratch, length)), from_native(peer)

    def set_header(self, *, ttl: int, tos: int) -> None:
        """Set TTL (hop limit) and TOS (traffic class) of what is sent from now on."""
        lib.hn_udp_set_header(self.native, ttl, tos, ttl, tos)

    def set_receive_limit(self, frame_bytes: int) -> None:
        """Bound the frame memory of waiting datagrams; what is beyond is dropped by reason."""
        lib.hn_udp_set_receive_limit(self.native, frame_bytes)

    def statistics(self) -> dict[str, int]:
        """Return the endpoint's counters by name."""
        native = ffi.new("struct hn_udp_statistics *")
        lib.hn_udp_read_statistics(self.native, native)
        return {name: getattr(native, name) for name, _ in ffi.typeof(native[0]).fields}

    def forget(self) -> None:
        """The native endpoint was freed by its Port."""
        self._core.endpoints.discard(self)
        self.native = None

    def close(self) -> None:
        """Drop what is queued and free the endpoint; idempotent."""
        if self.native is not None:
            lib.hn_udp_close(self.native)
            self.forget()


class Core:
    """A stack: devices, tables, endpoints, counters.

    Raises on construction: ValueError: a size out of range.  MemoryError.
    """

    def __init__(self, config: CoreConfig) -> None:
        native = ffi.new(
            "struct hn_stack_config *",
            {
                "frame_count": config.frame_count,
                "frame_bytes": config.frame_bytes,
                "reserve_frames": config.reserve_frames,
                "neighbors_max": config.neighbors,
                "flows_max": config.flows,
                "backlog_max": config.backlog,
                "kernel_path": config.kernel_path,
            },
        )
        error = ffi.new("int *")
        self.native: Any = lib.hn_stack_create(native, error)
        if self.native == ffi.NULL:
            if error[0] == 12:
                raise MemoryError(f"no memory for {config.frame_count} frames")
            raise ValueError(f"a size in {config} is out of range")
        self.endpoints: set[Udp] = set()
        self.scratch: Any = ffi.new("uint8_t[]", _DATAGRAM_BYTES_MAX)
        self._owned = True

    @property
    def fib(self) -> Any:
        """The forwarding table, for ``control/``."""
        return lib.hn_stack_fib(self.native)

    @property
    def neighbors(self) -> Any:
        """The neighbour table, for ``control/``."""
        return lib.hn_stack_neighbors(self.native)

    def disown(self) -> int:
        """Hand the native stack to an Engine, which will free it; returns its address."""
        self._owned = False
        return int(ffi.cast("uintptr_t", self.native))

    def close(self) -> None:
        """Close endpoints and devices, free all memory; idempotent."""
        for endpoint in list(self.endpoints):
            endpoint.close()
        if self._owned and self.native is not None:
            lib.hn_stack_destroy(self.native)
        self.native = None

    def add_device(self, device: Any) -> int:
        """Take a native device; return its index."""
        return check(lib.hn_stack_add_device(self.native, device))

    def remove_device(self, index: int) -> None:
        """Close a device; what waits for it is dropped by reason."""
        lib.hn_stack_remove_device(self.native, index)

    def set_device(self, index: int, *, mtu: int, mac: bytes, up: bool) -> None:
        """Apply what the kernel says about the device's link."""
        lib.hn_stack_set_device(self.native, index, mtu, mac, up)

    def poll(self, now_ns: int, device: int = 0, queue: int = 0, budget: int = 256) -> int:
        """Receive at most ``budget`` packets and take them through the graph."""
        return int(lib.hn_stack_poll(self.native, device, queue, budget, now_ns))

    def flush(self, now_ns: int) -> bool:
        """Send what endpoints queued; True when the devices have taken all of it."""
        return bool(lib.hn_stack_flush(self.native, now_ns))

    def neighbors_changed(self, now_ns: int) -> None:
        """Send, or drop by reason, what waited for neighbours."""
        lib.hn_stack_neighbors_changed(self.native, now_ns)

    def learn_path_mtu(self, destination: Address, mtu: int, now_ns: int) -> None:
        """Remember a path MTU (RFC 1191, RFC 8201) for ten minutes."""
        lib.hn_stack_learn_path_mtu(self.native, to_native(destination), mtu, now_ns)

    def open_udp(
        self,
        local: Address,
        remote: Address | None = None,
        *,
        v6only: bool = False,
        reuse: bool = False,
    ) -> Udp:
        """Bind a UDP endpoint.

        Raises: AddressInUse: another endpoint has it.  ValueError: port 0.
        """
        flags = (lib.HN_UDP_V6ONLY if v6only else 0) | (lib.HN_UDP_REUSE if reuse else 0)
        error = ffi.new("int *")
        native = lib.hn_udp_open(
            self.native,
            to_native(local),
            ffi.NULL if remote is None else to_native(remote),
            flags,
            error,
        )
        if native == ffi.NULL:
            if error[0] == 22:
                raise ValueError(f"an endpoint needs a port, not {local[1]}")
            raise from_errno(
                error[0], f"{local[0]} port {local[1]} is taken by another channel of this stack"
            )
        endpoint = Udp(self, native)
        self.endpoints.add(endpoint)
        return endpoint

    def drops(self) -> dict[str, int]:
        """Return the drop counters that are not zero, by reason."""
        counts = ((n, lib.hn_stack_drops(self.native, i)) for i, n in enumerate(_DROP_NAMES))
        return {name: count for name, count in counts if count}

    def device_statistics(self, index: int) -> DeviceStatistics:
        """Return the counters of one device."""
        native = ffi.new("struct hn_device_statistics *")
        check(lib.hn_stack_device_statistics(self.native, index, native))
        return DeviceStatistics(
            rx_packets=native.rx_packets,
            rx_bytes=native.rx_bytes,
            tx_packets=native.tx_packets,
            tx_bytes=native.tx_bytes,
            backlog=native.backlog,
        )

    def nodes(self) -> Iterator[NodeStatistics]:
        """Yield the graph's nodes in walk order."""
        native = ffi.new("struct hn_node_statistics *")
        for index in range(lib.hn_stack_node_count(self.native)):
            lib.hn_stack_node_statistics(self.native, index, native)
            yield NodeStatistics(
                name=ffi.string(native.name).decode(),
                calls=native.calls,
                packets=native.packets,
                ns=native.ns,
            )

    def memory(self) -> MemoryStatistics:
        """Return the frame pool's state."""
        native = ffi.new("struct hn_memory_statistics *")
        lib.hn_stack_memory(self.native, native)
        return MemoryStatistics(
            frames=native.frames,
            frame_bytes=native.frame_bytes,
            free=native.free,
            free_min=native.free_min,
            bytes_total=native.bytes_total,
        )


__all__ = [
    "SEND_KERNEL",
    "SEND_QUEUED",
    "Core",
    "CoreConfig",
    "DeviceStatistics",
    "MemoryStatistics",
    "NodeStatistics",
    "Udp",
    "drop_reasons",
]
