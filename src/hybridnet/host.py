"""The host: joins the core, the devices and the kernel's tables.  Knows no event loop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hybridnet._native import ffi
from hybridnet.specs import Mode, StackSpec
from hybridnet.stack.core import Core, CoreConfig
from hybridnet.xsk.device import LADDER, Interface, Step, XskDevice

if TYPE_CHECKING:
    from hybridnet.control.watcher import Address as LocalAddress
    from hybridnet.control.watcher import Link

_FRAME_HEADROOM = 256
_LINK_HEADER = 14 + 8  # Ethernet and two VLAN tags


@dataclass(slots=True, frozen=True, kw_only=True)
class PathStatistics:
    """Packets and bytes of one path: frames on the fast path, datagrams on the kernel's."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(slots=True, frozen=True, kw_only=True)
class StackStatistics:
    """What a stack did: the granted mode, packets by path, drops by reason."""

    mode: Mode
    fast: PathStatistics
    kernel: PathStatistics
    drops: dict[str, int]

    def as_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "mode": str(self.mode)}


class Host:
    """A core sized for its interfaces, and the devices opened on them so far."""

    def __init__(self, interfaces: list[Interface], spec: StackSpec) -> None:
        self.spec = spec
        self.interfaces = [
            replace(i, queues=min(i.queues, spec.queues) if spec.queues else i.queues)
            for i in interfaces
        ]
        for interface in interfaces:
            if spec.queues and spec.queues > interface.queues:
                raise ValueError(
                    f"{interface.name} has {interface.queues} receive queues, not {spec.queues}"
                )
        self.devices: dict[int, XskDevice] = {}
        self.reasons: list[str] = []
        self.closed_channels: Counter[str] = Counter()
        self._retired: Counter[str] = Counter()
        self._started = time.monotonic()
        self.core = Core(self._config())
        self.tables: Any = ffi.new(
            "struct hn_control_tables *",
            {"fib": self.core.fib, "neighbors": self.core.neighbors},
        )

    def _config(self) -> CoreConfig:
        spec = self.spec
        fast = spec.mode is not Mode.KERNEL
        queue_count = sum(i.queues for i in self.interfaces) if fast else 0
        budget = spec.frames_needed(queue_count)
        frame_bytes = spec.frame_bytes or 2048
        if spec.frame_bytes is None and any(
            i.mtu + _LINK_HEADER > 2048 - _FRAME_HEADROOM for i in self.interfaces
        ):
            frame_bytes = 4096
        self._frame_bytes = frame_bytes
        return CoreConfig(
            frame_count=sum(budget.values()),
            frame_bytes=frame_bytes,
            reserve_frames=budget["transmit rings"] + 256,
            neighbors=spec.neighbors,
            flows=spec.flows,
            backlog=spec.backlog,
            kernel_path=True,
        )

    @property
    def receive_bytes(self) -> int:
        """Frame memory that all channels together may fill with what waits to be received."""
        return self.spec.receive_frames * self._frame_bytes

    def interface(self, name: str) -> Interface:
        """Return one of the interfaces, as it was when the host was made."""
        return next(i for i in self.interfaces if i.name == name)

    def open_device(self, name: str, step: Step) -> XskDevice:
        """Open one interface on one rung of the ladder; raises as :class:`XskDevice`."""
        busy_us = self.spec.busy_poll.spin_us if self.spec.busy_poll else 0
        return XskDevice(self.core, self.interface(name), step, self.spec.rings, busy_us)

    @property
    def mode(self) -> Mode:
        """The lowest rung in use; KERNEL when no interface is on AF_XDP."""
        if not self.devices:
            return Mode.KERNEL
        order = [step.mode for step in LADDER]
        return max((d.step.mode for d in self.devices.values()), key=order.index)

    # The kernel's tables.

    def gone_interfaces(self, links: Mapping[int, Link]) -> list[int]:
        """Return the indices of devices whose interface does not exist any more."""
        return [ifindex for ifindex in self.devices if ifindex not in links]

    def apply_links(self, links: Mapping[int, Link]) -> None:
        """Take over MTU, MAC address and state of the devices' links."""
        for ifindex, device in self.devices.items():
            link = links.get(ifindex)
            if link is None:
                continue
            known = device.interface
            state = (link.mtu, link.mac, link.up, link.name)
            if device.link_state == state:
                continue
            device.link_state = state
            self.core.set_device(device.index, mtu=link.mtu, mac=link.mac, up=link.up)
            device.set_link(link.mtu, link.mac)
            device.interface = replace(known, mtu=link.mtu, mac=link.mac, name=link.name)

    def apply_addresses(self, addresses: Iterable[LocalAddress]) -> None:
        """Tell the steering programs what the machine's addresses are."""
        wanted = {(a.family, a.ip) for a in addresses if not _is_loopback(a.family, a.ip)}
        for device in self.devices.values():
            for family, packed in wanted - device.local:
                device.set_local(family, packed, True)
            for family, packed in device.local - wanted:
                device.set_local(family, packed, False)
            device.local = set(wanted)

    # Counters.

    def retire(self, device: XskDevice) -> None:
        """Close a device and keep its counts."""
        self._retired.update(self._counts(device))
        device.close()

    def _counts(self, device: XskDevice) -> Counter[str]:
        statistics = self.core.device_statistics(device.index)
        xsk = device.xsk_counters()
        return Counter(
            {
                "rx_packets": statistics.rx_packets,
                "rx_bytes": statistics.rx_bytes,
                "tx_packets": statistics.tx_packets,
                "tx_bytes": statistics.tx_bytes,
                "xsk_rx_dropped": xsk.get("rx_dropped", 0),
                "xsk_rx_ring_full": xsk.get("rx_ring_full", 0),
                "xsk_rx_overlong": xsk.get("rx_overlong", 0),
                "xsk_tx_invalid": xsk.get("tx_invalid_descriptors", 0),
            }
        )

    def _total(self) -> Counter[str]:
        total = Counter(self._retired)
        for device in self.devices.values():
            total.update(self._counts(device))
        return total

    def fast_path(self) -> PathStatistics:
        """Return frames and bytes moved by AF_XDP."""
        total = self._total()
        return PathStatistics(
            rx_packets=total["rx_packets"],
            tx_packets=total["tx_packets"],
            rx_bytes=total["rx_bytes"],
            tx_bytes=total["tx_bytes"],
        )

    def drops(self) -> dict[str, int]:
        """Return drop counts that are not zero, of the stack and of the AF_XDP sockets."""
        drops = self.core.drops()
        drops.update({k: n for k, n in self._total().items() if k.startswith("xsk_") and n})
        return drops

    def snapshot(self) -> dict[str, object]:
        """Return the host's part of ``hybridnet stats``."""
        steering: Counter[str] = Counter()
        xsk: Counter[str] = Counter()
        devices: list[dict[str, object]] = []
        for device in self.devices.values():
            steering.update(device.steering_counters())
            xsk.update(device.xsk_counters())
            devices.append(
                {
                    "name": device.interface.name,
                    "ifindex": device.interface.ifindex,
                    "asked": str(self.spec.mode),
                    "granted": str(device.step.mode),
                    "reasons": [
                        r for r in self.reasons if r.startswith(f"{device.interface.name}:")
                    ],
                    "queues": device.interface.queues,
                    "zero_copy": device.is_zero_copy(),
                    "multi_buffer": device.multi_buffer,
                    "up": device.link_state[2] if device.link_state else True,
                    **asdict(self.core.device_statistics(device.index)),
                }
            )
        return {
            "name": ",".join(i.name for i in self.interfaces) or "kernel",
            "uptime_s": time.monotonic() - self._started,
            "mode": str(self.mode),
            "reasons": list(self.reasons),
            "devices": devices,
            "steering": dict(steering),
            "xsk": dict(xsk),
            "nodes": [asdict(node) for node in self.core.nodes()],
            "memory": asdict(self.core.memory()),
        }

    def close(self) -> None:
        """Close the devices; the core's memory goes with its engine."""
        for device in list(self.devices.values()):
            device.close()
        self.devices.clear()
        self.core.close()


def _is_loopback(family: int, packed: bytes) -> bool:
    return packed[0] == 127 if family == 4 else packed == bytes(15) + b"\x01"
