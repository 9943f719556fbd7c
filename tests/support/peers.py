"""A test that sits on one host of a lab and talks to real sockets of the kernel's on the other.

    async def test_something(net: Net) -> None:
        async with net.stack(mode="native") as stack:          # on vb, leaks are failures
            channel = await stack.open_udp(("10.77.0.2", 9000))
            peer = net.peer()                                   # a kernel socket on the other host
            peer.send(b"hello", ("10.77.0.2", 9000))
            assert await channel.recvfrom() == (b"hello", peer.address)

The test's thread lives in the namespace of host ``b``.  A socket keeps the namespace in which it
was made, so the peers need no thread and no process of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import hybridnet
from hybridnet.cli.namespaces import Host, Lab, ip
from hybridnet.stack.core import MemoryStatistics

PATIENCE_S = 3.0
"""How long something that must happen may take on a loaded machine."""
TEST_S = 10.0
"""How long a test may keep a stack open: a wait that never ends is a failure with a traceback."""
QUIET_S = 0.05
"""How long to listen for something that must not happen."""

SERVER4 = ("10.77.0.2", 9000)
SERVER6 = ("fd77::2", 9000)
CLIENT4 = "10.77.0.1"
CLIENT6 = "fd77::1"

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count(1)


@contextlib.contextmanager
def inside(host: Host) -> Iterator[None]:
    """Have this thread in a host's network namespace for a while."""
    with (
        open("/proc/thread-self/ns/net", "rb") as before,
        open(host.path, "rb") as namespace,
    ):
        _enter(namespace.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class Peer:
    """A UDP socket of the kernel's, used from the test's event loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)

    @property
    def address(self) -> tuple[Any, ...]:
        """Where it is bound, as a receiver sees it."""
        return self.socket.getsockname()

    @property
    def port(self) -> int:
        return int(self.address[1])

    def send(self, data: bytes, to: tuple[Any, ...]) -> None:
        self.socket.sendto(data, to)

    async def receive(self, timeout_s: float = PATIENCE_S) -> tuple[bytes, tuple[Any, ...]]:
        """Return the next datagram and its source.  Raises: TimeoutError; what the socket says."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(BlockingIOError):
                    return self.socket.recvfrom(65536)
                readable = loop.create_future()
                loop.add_reader(self.socket.fileno(), _settle, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(self.socket.fileno())

    async def ask(self, data: bytes, to: tuple[Any, ...]) -> bytes:
        """Send a datagram and return the answer, which must come from where it was sent to."""
        self.send(data, to)
        answer, source = await self.receive()
        assert source[:2] == to[:2]
        return answer

    async def hears_nothing(self) -> bool:
        """Tell whether nothing comes for a moment."""
        try:
            await self.receive(QUIET_S)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.socket.close()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(slots=True)
class Net:
    """A lab with the test inside its host ``b``, and what the test opened."""

    lab: Lab
    hosts: list[Host]
    peers: list[Peer]

    @property
    def a(self) -> Host:
        return self.lab.a

    @property
    def b(self) -> Host:
        return self.lab.b

    def ip(self, host: Host, command: str) -> str:
        """Run ``ip`` for a host, with a command line as a person types it."""
        return ip("-n", host.namespace, *command.split())

    def batch(self, host: Host, commands: str) -> None:
        """Run many ``ip`` commands at once, one per line."""
        ip("-n", host.namespace, "-batch", "-", batch=commands)

    def peer(
        self,
        host: Host | None = None,
        local: tuple[Any, ...] = ("0.0.0.0", 0),
        *,
        options: tuple[tuple[int, int, int], ...] = (),
    ) -> Peer:
        """Return a kernel socket on a host (default: the other one), bound."""
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        with inside(host or self.a):
            sock = socket.socket(family, socket.SOCK_DGRAM)
        peer = Peer(sock)
        self.peers.append(peer)
        for option in options:
            sock.setsockopt(*option)
        sock.bind(local)
        return peer

    def add_host(self, interface: str, to: Host, to_interface: str) -> Host:
        """Add one more host, joined by a veth to another one; both ends are up, unnumbered."""
        namespace = f"{self.lab.a.namespace}-{next(_serial)}"
        host = Host(namespace=namespace, interface=interface, ipv4="", ipv6="")
        ip("netns", "add", namespace)
        self.hosts.append(host)
        ip("-n", namespace, "link", "set", "lo", "up")
        self.add_wire(host, interface, to, to_interface)
        return host

    def add_wire(self, one: Host, interface: str, other: Host, other_interface: str) -> None:
        """Join two hosts by one more veth; both ends are up."""
        index = 100 + 2 * next(_serial)
        ip(
            *["link", "add", interface, "index", str(index), "netns", one.namespace],
            *["type", "veth", "peer", "name", other_interface, "index", str(index + 1)],
            *["netns", other.namespace],
        )
        self.ip(one, f"link set {interface} up")
        self.ip(other, f"link set {other_interface} up")

    def xdp(self, interface: str = "vb") -> dict[str, Any] | None:
        """Return what ``ip link`` says of the XDP program on an interface here; None: none."""
        (link,) = json.loads(self.ip(self.b, f"-j -d link show dev {interface}"))
        return link.get("xdp")

    @contextlib.asynccontextmanager
    async def stack(
        self, *interfaces: str, leases: bool = False, **options: Any
    ) -> AsyncIterator[hybridnet.Stack]:
        """Open a stack (on vb) and see after its end that nothing of it is left behind.

        Nothing: no XDP program, no file descriptor, no task, no frame outside the pool.
        ``leases``: the test keeps frames beyond the stack's end.
        """
        options.setdefault("statistics_socket", False)
        names = interfaces or ("vb",)
        before = self._descriptors()
        tasks = asyncio.all_tasks()
        memory: list[MemoryStatistics] = []
        async with (
            asyncio.timeout(TEST_S),
            hybridnet.open_stack(*names, **options) as stack,
        ):
            core = stack.core
            close = core.close
            core.close = lambda: (memory.append(core.memory()), close())
            yield stack
        assert asyncio.all_tasks() - tasks == set()
        assert [name for name in names if self._is_here(name) and self.xdp(name)] == []
        assert [(m.frames - m.free) * (not leases) for m in memory] == [0]
        await asyncio.sleep(0)  # uvloop closes what it polled in its next turn
        assert self._descriptors() - before == Counter()

    def _is_here(self, interface: str) -> bool:
        return interface in {name for _, name in socket.if_nameindex()}

    def _descriptors(self) -> Counter[str]:
        """Return what this process has open, by kind; without peers and pipes to children."""
        peers = {peer.socket.fileno() for peer in self.peers}
        found: Counter[str] = Counter()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                if int(name) not in peers:
                    target = os.readlink(f"/proc/self/fd/{name}")
                    found[target.partition(":[")[0]] += 1
        del found["pipe"]
        return found

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        while self.hosts:
            with contextlib.suppress(hybridnet.HybridnetError):
                ip("netns", "del", self.hosts.pop().namespace)


@contextlib.contextmanager
def net_in(lab: Lab) -> Iterator[Net]:
    """Put this thread on host ``b`` of a lab."""
    net = Net(lab=lab, hosts=[], peers=[])
    try:
        with inside(lab.b):
            yield net
    finally:
        net.close()


class Recorder(asyncio.DatagramProtocol):
    """A protocol that writes down what happens to it, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.transport: asyncio.DatagramTransport | None = None
        self._changed = asyncio.Event()

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self._changed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._note("connection_made")

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._note("datagram", data, addr[:2])

    def error_received(self, exc: Exception) -> None:
        self._note("error", exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("connection_lost", exc)

    def pause_writing(self) -> None:
        self._note("pause_writing")

    def resume_writing(self) -> None:
        self._note("resume_writing")

    async def wait_for(self, kind: str, count: int = 1) -> list[tuple[Any, ...]]:
        """Wait until an event has come ``count`` times; return those events."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [event for event in self.events if event[0] == kind]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found


@contextlib.asynccontextmanager
async def echo(channel: hybridnet.UdpChannel) -> AsyncIterator[hybridnet.UdpChannel]:
    """Send back what comes to a channel, meanwhile; the channel is closed in the end."""

    async def serve() -> None:
        async for data, addr in channel:
            await channel.sendto_wait(data, addr)

    task = asyncio.create_task(serve())
    try:
        yield channel
    finally:
        channel.close()
        await task


async def eventually(condition: Any, what: str, timeout_s: float = PATIENCE_S) -> None:
    """Let the loop run until a condition holds.  Raises: TimeoutError: it never did."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(0.005)


def run(*command: str) -> str:
    """Run a command here and return what it prints; its own words are in the exception."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout
