"""Stacks on an event loop: what :func:`hybridnet.open_stack` returns."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hybridnet.addresses import Address
from hybridnet.channels.datagram import DatagramTransport
from hybridnet.channels.driver import Driver
from hybridnet.channels.endpoint import Endpoint
from hybridnet.channels.kernel_socket import SocketOptions
from hybridnet.channels.udp import UdpChannel
from hybridnet.errors import HybridnetError, from_errno
from hybridnet.host import Host, PathStatistics, StackStatistics
from hybridnet.specs import Mode, StackSpec
from hybridnet.stack.core import Core
from hybridnet.xsk.device import XskDevice, steps
from hybridnet.xsk.interface import read_interface

if TYPE_CHECKING:
    from hybridnet.channels.statistics_socket import StatisticsSocket
    from hybridnet.control.watcher import Change, Watcher

_log = logging.getLogger("hybridnet")

_BUSY_RETRIES = 12
_BUSY_WAIT_S = 0.005
"""First wait after EBUSY, doubled each time up to 0.1 s: some 0.8 s in all."""

_UDP = socket.IPPROTO_UDP


class Stack:
    """One or several interfaces, their packets, and the channels on them.

    Made by :func:`hybridnet.open_stack`; open it with ``async with`` or ``await``.  Everything
    happens on the event loop that opened it.  Several stacks live side by side in one process,
    each with interfaces of its own.
    """

    def __init__(self, interfaces: tuple[str, ...], spec: StackSpec) -> None:
        self.spec = spec
        self.interface_names = interfaces
        self.endpoints: set[Endpoint] = set()
        self.transports: set[DatagramTransport] = set()
        self._host: Host | None = None
        self._driver: Driver | None = None
        self._watcher: Watcher | None = None
        self._statistics_socket: StatisticsSocket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # Opening and closing.

    async def open(self) -> Stack:
        """Attach to the interfaces, learn the kernel's tables, start polling.

        Cancelling undoes everything.  Raises: InterfaceNotFound, InterfaceBusy,
        PermissionMissing, Unsupported: with one sentence that says what to do.  With mode
        ``auto`` the last three lead to the kernel path instead, see :attr:`reasons`.
        """
        if self._host is not None:
            raise RuntimeError("the stack is open already")
        self._loop = asyncio.get_running_loop()
        interfaces = [read_interface(name) for name in self.interface_names]
        self._host = Host(interfaces, self.spec)
        try:
            self._driver = Driver(self._loop, self._host.core, self.spec, self._resolve_neighbors)
            if interfaces and self.spec.mode is not Mode.KERNEL:
                await self._open_fast_path()
            await self._open_statistics()
        except BaseException:
            self._close()
            raise
        return self

    async def _open_fast_path(self) -> None:
        host = self.host
        for interface in host.interfaces:
            device = await self._climb_down(interface.name)
            if device is not None:
                host.devices[interface.ifindex] = device
        if not host.devices:
            return
        # Its import takes a while, and only the fast path needs it.
        from hybridnet.control.watcher import Watcher

        self._watcher = Watcher(host.tables, on_change=self._on_change)
        await self._watcher.start()
        host.apply_links(self._watcher.links)
        host.apply_addresses(self._watcher.addresses)
        for device in host.devices.values():
            self.driver.add_device(device)

    async def _climb_down(self, name: str) -> XskDevice | None:
        """Try the rungs of the ladder; None: the kernel path is all that there is."""
        host = self.host
        if not host.interface(name).is_ethernet:
            reason = f"{name} is not an Ethernet interface; mode 'kernel' serves it"
            host.reasons.append(reason)
            if self.spec.mode is not Mode.AUTO:
                raise from_errno(errno.EOPNOTSUPP, reason)
            return None
        for step in steps(self.spec.mode):
            for attempt in range(_BUSY_RETRIES):
                try:
                    return host.open_device(name, step)
                except HybridnetError as error:
                    busy = error.errno == errno.EBUSY and "queue" in str(error)
                    if busy and attempt + 1 < _BUSY_RETRIES:
                        await asyncio.sleep(min(_BUSY_WAIT_S * 2**attempt, 0.1))
                        continue
                    host.reasons.append(f"{name}: {step.mode}: {error.strerror}")
                    if self.spec.mode is not Mode.AUTO:
                        raise
                    break
        _log.warning("%s is served by the kernel path only: %s", name, "; ".join(host.reasons))
        return None

    async def _open_statistics(self) -> None:
        if not self.spec.statistics_socket:
            return
        from hybridnet.channels.statistics_socket import StatisticsSocket

        self._statistics_socket = StatisticsSocket(self.snapshot)
        await self._statistics_socket.start()

    async def aclose(self) -> None:
        """Close all channels and transports, detach from the interfaces; idempotent.

        Protocols get ``connection_lost(None)`` before this returns.
        """
        if self._host is None:
            return
        for transport in list(self.transports):
            transport.abort()
        try:
            await asyncio.sleep(0)
        finally:
            self._close()

    def _close(self) -> None:
        # Each step happens even if one before it raises; the last one pushed is the first.
        with contextlib.ExitStack() as steps:
            if self._driver is not None:
                steps.callback(self._driver.engine.close)
            if self._host is not None:
                steps.callback(self._host.close)
            if self._driver is not None:
                steps.callback(self._driver.close)
            if self._watcher is not None:
                steps.callback(self._watcher.close)
            for endpoint in self.endpoints:
                owner = endpoint.owner
                steps.callback(owner.close if isinstance(owner, UdpChannel) else endpoint.close)
            if self._statistics_socket is not None:
                steps.callback(self._statistics_socket.close)
        self._host = self._driver = self._watcher = self._statistics_socket = None

    def __await__(self) -> Generator[Any, None, Stack]:
        return self.open().__await__()

    async def __aenter__(self) -> Stack:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # What channels use.

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that opened the stack."""
        if self._loop is None:
            raise RuntimeError("the stack is not open; use 'async with'")
        return self._loop

    @property
    def host(self) -> Host:
        """The joined layers below.  Raises: RuntimeError: not open."""
        if self._host is None:
            raise RuntimeError("the stack is not open; use 'async with'")
        return self._host

    @property
    def core(self) -> Core:
        """The sans-IO stack."""
        return self.host.core

    @property
    def driver(self) -> Driver:
        """What polls it.  Raises: RuntimeError: not open."""
        if self._driver is None:
            raise RuntimeError("the stack is not open; use 'async with'")
        return self._driver

    @property
    def has_fast_path(self) -> bool:
        """True while at least one interface is on AF_XDP."""
        return bool(self.host.devices)

    def steer(self, address: Any, present: bool) -> None:
        """Lift a ``struct hn_address *`` on every device, or no longer."""
        for device in self.host.devices.values():
            if present:
                device.add_endpoint(_UDP, address)
            else:
                device.remove_endpoint(_UDP, address)

    def learn_path_mtu(self, destination: Address, mtu: int) -> None:
        """Datagrams larger than this go by the kernel path, which fragments them."""
        self.core.learn_path_mtu(destination, mtu, time.monotonic_ns())

    # What applications use.

    @property
    def mode(self) -> Mode:
        """The granted mode: the lowest rung of all interfaces."""
        return self.host.mode

    @property
    def reasons(self) -> list[str]:
        """Why a higher rung was not granted, one sentence each."""
        return self.host.reasons

    def path_info(self) -> dict[str, object]:
        """Return the granted mode and why not a better one; ``closed`` after the end."""
        if self._host is None:
            return {"mode": "closed", "reasons": []}
        return {"mode": str(self.mode), "reasons": list(self.reasons)}

    async def open_udp(
        self,
        local: tuple[Any, ...] | None = None,
        *,
        remote: tuple[Any, ...] | None = None,
        reuse_address: bool = False,
        reuse_port: bool = False,
        broadcast: bool = False,
        v6only: bool = False,
    ) -> UdpChannel:
        """Return a UDP channel bound to ``local`` and, with ``remote``, connected.

        ``("0.0.0.0", port)`` and ``("::", port)`` are wildcards, the latter for IPv4 as well
        unless ``v6only``; port 0 picks a free one; addresses are numeric.
        Raises: AddressInUse, AddressNotAvailable, PermissionMissing, ValueError, TypeError.
        """
        options = SocketOptions(
            reuse_address=reuse_address,
            reuse_port=reuse_port,
            broadcast=broadcast,
            v6only=v6only,
        )
        _ = self.host
        return UdpChannel(self, local=local, remote=remote, options=options)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: tuple[Any, ...] | None = None,
        remote_addr: tuple[Any, ...] | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[DatagramTransport, Any]:
        """As ``loop.create_datagram_endpoint``: return ``(transport, protocol)``.

        Host names are resolved by the loop; the first result that can be bound is taken.
        Raises: ValueError: ``sock`` (a socket of the caller's cannot be moved to the fast path).
        """
        if sock is not None:
            raise ValueError("a stack opens its own sockets; use the loop's method for 'sock'")
        if local_addr is None and remote_addr is None and family == 0:
            raise ValueError("unexpected address family")
        options = SocketOptions(reuse_port=bool(reuse_port), broadcast=bool(allow_broadcast))
        pairs = await self._resolve_pairs(local_addr, remote_addr, family, proto, flags)
        errors: list[OSError] = []
        for local, remote in pairs:
            try:
                transport = DatagramTransport(
                    self,
                    protocol_factory,
                    local=local,
                    remote=remote,
                    options=options,
                )
            except OSError as error:
                errors.append(error)
                continue
            self.transports.add(transport)
            transport.start()
            return transport, transport.get_protocol()
        raise errors[0]

    async def _resolve_pairs(
        self,
        local: tuple[Any, ...] | None,
        remote: tuple[Any, ...] | None,
        family: int,
        proto: int,
        flags: int,
    ) -> list[tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]]:
        if local is None and remote is None:
            host = "::" if family == socket.AF_INET6 else "0.0.0.0"
            return [((host, 0), None)]
        found: dict[int, list[tuple[Any, ...] | None]] = {}
        for position, address in enumerate((local, remote)):
            if address is None:
                continue
            if not isinstance(address, tuple) or len(address) < 2:
                raise TypeError("2-tuple is expected")
            infos = await self.loop.getaddrinfo(
                address[0],
                address[1],
                family=family,
                type=socket.SOCK_DGRAM,
                proto=proto,
                flags=flags | (socket.AI_PASSIVE if position == 0 else 0),
            )
            if not infos:
                raise from_errno(errno.EADDRNOTAVAIL, f"{address[0]} has no address")
            for info in infos:
                pair = found.setdefault(info[0], [None, None])
                if pair[position] is None:
                    pair[position] = info[4]
        pairs = [
            (pair[0], pair[1])
            for pair in found.values()
            if not (local is not None and pair[0] is None)
            and not (remote is not None and pair[1] is None)
        ]
        if not pairs:
            raise ValueError("can not get address information")
        return pairs

    def statistics(self) -> StackStatistics:
        """Return packets by path and drops by reason, since the stack was opened."""
        host = self.host
        fast = host.fast_path()
        channels = [endpoint.statistics() for endpoint in self.endpoints]
        gone = host.closed_channels
        kernel = PathStatistics(
            rx_packets=gone["rx_kernel_datagrams"] + sum(c.rx_kernel_datagrams for c in channels),
            tx_packets=gone["tx_kernel_datagrams"] + sum(c.tx_kernel_datagrams for c in channels),
            rx_bytes=gone["rx_kernel_bytes"] + sum(c.rx_kernel_bytes for c in channels),
            tx_bytes=gone["tx_kernel_bytes"] + sum(c.tx_kernel_bytes for c in channels),
        )
        drops = host.drops()
        for reason, name in (
            ("kernel_receive_queue_full", "rx_kernel_dropped"),
            ("transport_buffer_full", "tx_dropped"),
        ):
            count = gone[name] + sum(getattr(c, name) for c in channels)
            if count:
                drops[reason] = count
        return StackStatistics(mode=host.mode, fast=fast, kernel=kernel, drops=drops)

    def snapshot(self) -> dict[str, object]:
        """Return everything that ``hybridnet stats`` shows, as plain values."""
        statistics = self.statistics()
        return {
            **self.host.snapshot(),
            "fast": statistics.fast.as_dict(),
            "kernel": statistics.kernel.as_dict(),
            "drops": statistics.drops,
            "channels": [endpoint.snapshot() for endpoint in self.endpoints],
        }

    # The kernel's news.

    def _resolve_neighbors(self) -> None:
        if self._watcher is not None:
            self._watcher.drain_wanted()

    def _on_change(self, change: Change) -> None:
        host, watcher = self._host, self._watcher
        if host is None or watcher is None:
            return
        for ifindex in host.gone_interfaces(watcher.links):
            self._lose_device(ifindex)
        host.apply_links(watcher.links)
        host.apply_addresses(watcher.addresses)
        host.core.neighbors_changed(time.monotonic_ns())
        self.driver.engine.flush()

    def _lose_device(self, ifindex: int) -> None:
        device = self.host.devices.pop(ifindex)
        name = device.interface.name
        self.driver.remove_device(device.index)
        self.host.retire(device)
        self.host.reasons.append(f"{name}: the interface was deleted")
        _log.warning("%s was deleted; its channels go on by the kernel path", name)


def _mode(value: object) -> Mode:
    try:
        return Mode(value)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"mode must be one of {', '.join(Mode)}, not {value!r}") from None


def open_stack(*interfaces: str, spec: StackSpec | None = None, **options: Any) -> Stack:
    """Return a stack on one or several interfaces, to be opened with ``async with``.

    ``options`` are the fields of :class:`StackSpec`, e.g. ``mode="native"``, ``queues=2``,
    ``busy_poll=BusyPoll()``; or give a whole ``spec``.

        async with hybridnet.open_stack("eth0") as stack:
            channel = await stack.open_udp(("0.0.0.0", 9000))

    Raises: TypeError, ValueError: an option that does not exist or is out of range.
    """
    if spec is not None and options:
        raise TypeError("give either a spec or single options, not both")
    for name in interfaces:
        if not isinstance(name, str):
            raise TypeError(f"an interface is given by its name, not {name!r}")
    if len(set(interfaces)) != len(interfaces):
        raise ValueError("an interface is named twice")
    if spec is None:
        if "mode" in options:
            options["mode"] = _mode(options["mode"])
        spec = StackSpec(**options)
    if not interfaces and spec.mode not in (Mode.AUTO, Mode.KERNEL):
        raise ValueError(f"mode {spec.mode} needs an interface")
    return Stack(interfaces, spec)


__all__ = ["Stack", "open_stack"]
