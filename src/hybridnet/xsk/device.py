"""One interface on AF_XDP: the ladder of modes, the steering program, the queues."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridnet._native import ffi, lib
from hybridnet.addresses import native_ip
from hybridnet.errors import HybridnetError, from_errno
from hybridnet.specs import Mode, RingSpec
from hybridnet.stack.core import Core

OBJECT = Path(__file__).with_name("steer.bpf.o")

_VIRTUAL_KINDS = frozenset({"veth", "tun", "tap", "bridge", "dummy", "macvlan", "ifb", "vxlan"})


@dataclass(slots=True, frozen=True, kw_only=True)
class Step:
    """One rung of the ladder."""

    mode: Mode
    native: bool
    zero_copy: bool


LADDER = (
    Step(mode=Mode.ZEROCOPY, native=True, zero_copy=True),
    Step(mode=Mode.NATIVE, native=True, zero_copy=False),
    Step(mode=Mode.GENERIC, native=False, zero_copy=False),
)


def steps(mode: Mode) -> tuple[Step, ...]:
    """Return the rungs to try for a mode: all for AUTO, none for KERNEL, else just that one."""
    if mode is Mode.AUTO:
        return LADDER
    return tuple(step for step in LADDER if step.mode is mode)


@dataclass(slots=True, frozen=True, kw_only=True)
class Interface:
    """What the device needs to know of a link."""

    name: str
    ifindex: int
    mtu: int
    mac: bytes
    kind: str
    queues: int
    is_ethernet: bool = True
    """False: loopback, tunnels and the like, which the fast path has no frames for."""


class XskDevice:
    """An interface with its program attached and its queues open.

    Construction undoes everything when it fails.  Raises: HybridnetError with the errno and one
    sentence.  After EBUSY the same step may succeed a little later: the queue of a socket that
    was closed just now stays busy for a while.
    """

    def __init__(
        self, core: Core, interface: Interface, step: Step, rings: RingSpec, busy_us: int
    ) -> None:
        self.interface = interface
        self.step = step
        self.multi_buffer = True
        self.link_state: tuple[int, bytes, bool, str] | None = None
        self.local: set[tuple[int, bytes]] = set()
        self._core = core
        self._program: Any = None
        self._endpoints: dict[bytes, int] = {}
        native = lib.hn_xsk_device_create(
            core.native,
            interface.ifindex,
            interface.queues,
            interface.mtu,
            interface.mac,
            interface.kind in _VIRTUAL_KINDS,
        )
        if native == ffi.NULL:
            raise MemoryError("no memory for a device")
        self._native = native
        self.index = core.add_device(native)
        try:
            self._attach()
            for queue in range(interface.queues):
                self._open_queue(queue, rings, busy_us)
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        error = ffi.new("int *")
        message = ffi.new("char[]", 512)
        program = lib.hn_program_open(
            str(OBJECT).encode(),
            self.interface.ifindex,
            lib.HN_XDP_NATIVE if self.step.native else lib.HN_XDP_GENERIC,
            self.interface.mtu,
            self.interface.queues,
            error,
            message,
            len(message),
        )
        if program == ffi.NULL:
            raise from_errno(error[0], ffi.string(message).decode(errors="replace"))
        self._program = program
        self.set_link(self.interface.mtu, self.interface.mac)

    def _open_queue(self, queue: int, rings: RingSpec, busy_us: int) -> None:
        options = ffi.new(
            "struct hn_xsk_options *",
            {
                "rx_size": rings.rx,
                "tx_size": rings.tx,
                "fill_size": rings.fill,
                "completion_size": rings.completion,
                "busy_poll_us": busy_us,
                "busy_poll_budget": 64,
                "zero_copy": self.step.zero_copy,
                "multi_buffer": self.multi_buffer,
            },
        )
        result = lib.hn_xsk_open_queue(self._native, queue, options)
        if result in (-errno.EOPNOTSUPP, -errno.EINVAL) and self.multi_buffer:
            # Before 6.6, and drivers whose zero-copy takes one buffer per packet.
            self.multi_buffer = options.multi_buffer = False
            result = lib.hn_xsk_open_queue(self._native, queue, options)
        if result < 0:
            raise _queue_error(-result, self.interface.name, queue, self.step)
        result = lib.hn_program_set_socket(self._program, queue, lib.hn_xsk_fd(self._native, queue))
        if result < 0:
            raise from_errno(result, f"queue {queue} of {self.interface.name} cannot be steered")

    def fds(self) -> list[int]:
        """Return the AF_XDP sockets, one per queue, for polling."""
        return [lib.hn_xsk_fd(self._native, q) for q in range(self.interface.queues)]

    def is_zero_copy(self) -> bool:
        """True when the kernel granted zero-copy on every queue."""
        return all(lib.hn_xsk_is_zero_copy(self._native, q) for q in range(self.interface.queues))

    def add_endpoint(self, protocol: int, local: Any) -> None:
        """Lift packets for a ``struct hn_address *`` from here on; may be added repeatedly."""
        key = bytes(ffi.buffer(local)) + bytes([protocol])
        self._endpoints[key] = self._endpoints.get(key, 0) + 1
        if self._endpoints[key] > 1:
            return
        result = lib.hn_program_add_endpoint(self._program, protocol, local)
        if result < 0:
            del self._endpoints[key]
            raise from_errno(
                result, f"the steering table of {self.interface.name} refused the endpoint"
            )

    def remove_endpoint(self, protocol: int, local: Any) -> None:
        """Undo one :meth:`add_endpoint`; the last one leaves the packets to the kernel."""
        key = bytes(ffi.buffer(local)) + bytes([protocol])
        count = self._endpoints.get(key, 0)
        if count > 1:
            self._endpoints[key] = count - 1
        elif count == 1:
            del self._endpoints[key]
            lib.hn_program_remove_endpoint(self._program, protocol, local)

    def set_local(self, family: int, packed: bytes, present: bool) -> None:
        """Tell the program that an address is, or is no longer, this machine's."""
        lib.hn_program_set_local(self._program, native_ip(family, packed), present)

    def set_link(self, mtu: int, mac: bytes) -> None:
        """Tell the program what the interface's MTU and MAC address are."""
        lib.hn_program_set_link(self._program, mtu, mac)

    def steering_counters(self) -> dict[str, int]:
        """Return the program's packet counts that are not zero, by reason."""
        count = lib.hn_program_reason_count()
        packets = ffi.new("uint64_t[]", count)
        if lib.hn_program_counters(self._program, packets, count) < 0:
            return {}
        names = (ffi.string(lib.hn_program_reason_name(i)).decode() for i in range(count))
        return {name: n for name, n in zip(names, packets, strict=True) if n}

    def xsk_counters(self) -> dict[str, int]:
        """Return the AF_XDP sockets' counters summed over the queues."""
        native = ffi.new("struct hn_xsk_statistics *")
        total: dict[str, int] = {}
        for queue in range(self.interface.queues):
            if lib.hn_xsk_read_statistics(self._native, queue, native) < 0:
                continue
            for name, _ in ffi.typeof(native[0]).fields:
                total[name] = total.get(name, 0) + getattr(native, name)
        return total

    def close(self) -> None:
        """Detach the program, close the sockets, take the frames back; idempotent."""
        if self._program is not None:
            # First the program: what arrives while the sockets close goes to the kernel.
            lib.hn_program_close(self._program)
            self._program = None
        if self._native is not None:
            self._core.remove_device(self.index)
            self._native = None


def _queue_error(number: int, name: str, queue: int, step: Step) -> HybridnetError:
    if number == errno.EOPNOTSUPP and step.zero_copy:
        text = f"the driver of {name} has no zero-copy AF_XDP; choose mode 'auto' or 'native'"
    elif number == errno.EBUSY:
        text = f"queue {queue} of {name} belongs to another AF_XDP socket; stop its program"
    elif number in (errno.EPERM, errno.EACCES):
        text = "AF_XDP needs CAP_NET_RAW: run as root or grant the capability"
    elif number in (errno.ENOBUFS, errno.ENOMEM):
        text = "the locked-memory limit is too low: raise 'ulimit -l' or grant CAP_IPC_LOCK"
    elif number == errno.EAFNOSUPPORT:
        text = "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"
        number = errno.EOPNOTSUPP
    elif number == errno.EINVAL:
        text = f"queue {queue} of {name} cannot be bound (no such queue, or the MTU is too large)"
    else:
        text = f"queue {queue} of {name} cannot be opened for AF_XDP"
    return from_errno(number, text)
