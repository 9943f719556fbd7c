"""Inert blueprints: what to open, with units, bounds and why each default."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Mode(enum.StrEnum):
    """How packets reach the stack; ``AUTO`` takes the first that the machine grants."""

    AUTO = "auto"
    ZEROCOPY = "zerocopy"
    NATIVE = "native"
    GENERIC = "generic"
    KERNEL = "kernel"


def _check_type(name: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def _check_ring(name: str, entries: int) -> None:
    _check_type(name, entries, int)
    if entries < 64 or entries > 65536 or entries & (entries - 1):
        raise ValueError(f"{name} must be a power of two from 64 to 65536, not {entries}")


@dataclass(slots=True, frozen=True, kw_only=True)
class RingSpec:
    """Entries of the four rings of one queue; each a power of two, 64 to 65536."""

    rx: int = 1024
    """Received packets not yet looked at: a millisecond at a million a second."""
    tx: int = 1024
    """Packets handed to the kernel and not yet sent."""
    fill: int = 1024
    """Empty frames lent to the kernel; as many as ``rx`` can report.  More absorb longer pauses of
    the loop, but each is used in turn, so their memory has to fit the cache: 1400-byte echo was a
    fifth slower with 2048 of them."""
    completion: int = 2048
    """Sent frames not yet taken back; twice ``tx`` so that it never holds the kernel up."""

    def __post_init__(self) -> None:
        for name in ("rx", "tx", "fill", "completion"):
            _check_ring(f"rings.{name}", getattr(self, name))


@dataclass(slots=True, frozen=True, kw_only=True)
class BusyPoll:
    """Spin for packets instead of sleeping: lower latency for a busy core."""

    spin_us: int = 50
    """Microseconds of spinning per loop turn; other tasks run in between."""
    linger_us: int = 2000
    """After so long without a packet the loop sleeps again until one comes."""

    def __post_init__(self) -> None:
        _check_type("spin_us", self.spin_us, int)
        _check_type("linger_us", self.linger_us, int)
        if not 1 <= self.spin_us <= 10_000:
            raise ValueError(f"spin_us must be from 1 to 10000, not {self.spin_us}")
        if not 0 <= self.linger_us <= 10_000_000:
            raise ValueError(f"linger_us must be from 0 to 10000000, not {self.linger_us}")


@dataclass(slots=True, frozen=True, kw_only=True)
class StackSpec:
    """Everything that :func:`hybridnet.open_stack` can be told; see there."""

    mode: Mode = Mode.AUTO
    queues: int | None = None
    """Receive queues to serve; None: all that the interface has."""
    rings: RingSpec = field(default_factory=RingSpec)
    frame_bytes: int | None = None
    """2048 or 4096; None: the smaller one that holds a packet of the interface's MTU."""
    receive_frames: int = 4096
    """Frames that all channels together may keep waiting to be received."""
    backlog: int = 2048
    """Packets per transmit queue that wait for room in its ring; a power of two."""
    neighbors: int = 4096
    """Neighbour entries at most, of all interfaces."""
    flows: int = 4096
    """Destinations whose headers are kept ready; a power of two."""
    burst: int = 256
    """Packets taken from a queue in one turn of the loop, at most: a quarter of a millisecond."""
    busy_poll: BusyPoll | None = None
    """None: sleep until packets come."""
    statistics_socket: bool = True
    """Offer counters to ``hybridnet stats``."""

    def __post_init__(self) -> None:
        _check_type("mode", self.mode, Mode)
        _check_type("rings", self.rings, RingSpec)
        _check_type("busy_poll", self.busy_poll, BusyPoll, type(None))
        _check_type("queues", self.queues, int, type(None))
        _check_type("frame_bytes", self.frame_bytes, int, type(None))
        for name in ("receive_frames", "neighbors", "burst"):
            _check_type(name, getattr(self, name), int)
        if self.queues is not None and not 1 <= self.queues <= 64:
            raise ValueError(f"queues must be from 1 to 64, not {self.queues}")
        if self.frame_bytes not in (None, 2048, 4096):
            raise ValueError(f"frame_bytes must be 2048 or 4096, not {self.frame_bytes}")
        _check_ring("backlog", self.backlog)
        _check_ring("flows", self.flows)
        if not 64 <= self.receive_frames <= 1 << 20:
            raise ValueError(f"receive_frames must be 64 to 1048576, not {self.receive_frames}")
        if not 64 <= self.neighbors <= 1 << 20:
            raise ValueError(f"neighbors must be 64 to 1048576, not {self.neighbors}")
        if not 1 <= self.burst <= 65536:
            raise ValueError(f"burst must be from 1 to 65536, not {self.burst}")

    def frames_needed(self, queue_count: int) -> dict[str, int]:
        """The memory budget in frames, by who may hold them; the stack allocates the sum."""
        return {
            "fill rings": queue_count * self.rings.fill,
            "transmit rings": queue_count * self.rings.tx,
            "transmit backlog": queue_count * self.backlog // 2,
            "waiting to be received": self.receive_frames,
            "burst in the graph": 1024,
        }


PROFILES: dict[str, BusyPoll | None] = {"default": None, "busy": BusyPoll()}
"""Named busy-poll profiles, as the examples' ``--profile`` takes them."""
