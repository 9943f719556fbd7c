"""The netlink watcher against the real kernel.

Each test runs in a fresh network namespace: the fixture moves the test's own thread into it
(setns), so the watcher's sockets and every ``ip`` command started from here belong to it, and
moves it back afterwards.  The oracle is what ``ip`` reads from the kernel at the same moment.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import itertools
import json
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hybridnet._native import ffi, lib
from hybridnet.control.watcher import Change, ChangeKind, Watcher
from hybridnet.errors import ChannelClosed
from support.kernel_routes import (
    Operations,
    background,
    batch,
    build_links,
    by_prefix,
    ip,
    kernel_answer,
    kernel_routes,
)

# More or other seeds for a long run: HN_SEEDS=100-140.
_FIRST, _LAST = (int(n) for n in os.environ.get("HN_SEEDS", "0-7").split("-"))

LOOP_FACTORIES = {"selector": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def _set_namespace(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


def setting(path: str, value: int) -> None:
    Path("/proc/sys/net", path).write_text(str(value))


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"hn{os.getpid()}w{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    home = f"/proc/{os.getpid()}/task/{ctypes.CDLL(None).gettid()}/ns/net"
    home_fd = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(f"/run/netns/{name}")
        setting("ipv6/conf/default/accept_dad", 0)
        setting("ipv6/conf/all/forwarding", 1)
        yield name
    finally:
        _libc.setns(home_fd, _CLONE_NEWNET)
        os.close(home_fd)
        subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def peer(namespace: str) -> Iterator[str]:
    """A second namespace, on the other end of ``va``: 10.9.0.2/24 and 2001:db8:9::2/64."""
    name = f"{namespace}p"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        ip(f"link add name va type veth peer name vb netns {name}")
        ip("link set va up")
        ip("addr add 10.9.0.1/24 dev va")
        ip("addr add 2001:db8:9::1/64 dev va nodad")
        ip(f"-n {name} link set vb up")
        ip(f"-n {name} addr add 10.9.0.2/24 dev vb")
        ip(f"-n {name} addr add 2001:db8:9::2/64 dev vb nodad")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


class Subject:
    """A watcher with tables of its own."""

    def __init__(self, **options: int) -> None:
        self.tables: Any = ffi.new("struct hn_control_tables *")
        self.tables.fib = lib.hn_fib_create()
        self.tables.neighbors = lib.hn_neighbors_create(256)
        self.changes: list[Change] = []
        self.watcher = Watcher(self.tables, on_change=self.changes.append, **options)

    def destroy(self) -> None:
        self.watcher.close()
        lib.hn_fib_destroy(self.tables.fib)
        lib.hn_neighbors_destroy(self.tables.neighbors)

    def text(self, function: Any, *arguments: Any) -> str:
        needed = function(*arguments, ffi.NULL, 0)
        buffer = ffi.new("char[]", needed + 1)
        function(*arguments, buffer, needed + 1)
        found = ffi.string(buffer)
        assert isinstance(found, bytes)
        return found.decode()

    def routes(self, family: int) -> list[str]:
        return self.text(lib.hn_fib_dump_text, self.tables.fib, family).splitlines()

    def neighbors(self) -> list[str]:
        return self.text(lib.hn_neighbors_dump_text, self.tables.neighbors).splitlines()

    def neighbor(self, address: str) -> str:
        found = [line for line in self.neighbors() if f" {address} " in line]
        return found[0] if found else ""

    def want(self, ifindex: int, address: str) -> Any:
        packed = ipaddress.ip_address(address)
        entry = lib.hn_neighbor_get(self.tables.neighbors, ifindex, packed.version, packed.packed)
        assert entry != ffi.NULL
        return entry

    def lookup(self, destination: str, source: str | None = None, flow: int = 0) -> Any:
        to = ipaddress.ip_address(destination)
        result = ffi.new("struct hn_fib_result *")
        packed = ipaddress.ip_address(source).packed if source else ffi.NULL
        lib.hn_fib_lookup(self.tables.fib, to.version, packed, to.packed, flow, result)
        return result

    def device(self, destination: str, source: str | None = None) -> str:
        result = self.lookup(destination, source)
        if result.type != lib.HN_ROUTE_UNICAST:
            return f"type {result.type}"
        return self.watcher.links[result.nexthop.ifindex].name


@asynccontextmanager
async def watching(**options: int) -> AsyncIterator[Subject]:
    subject = Subject(**options)
    try:
        await subject.watcher.start()
        yield subject
    finally:
        subject.destroy()


async def eventually(holds: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something is true; an exception in it, or its value, tells what was not."""
    deadline = time.monotonic() + seconds
    while True:
        if holds():
            return
        assert time.monotonic() < deadline, f"still not: {holds!r}"
        await asyncio.sleep(0.01)


# --- ours against the kernel's


def difference(subject: Subject, family: int) -> str:
    ours = by_prefix(subject.routes(family), family)
    kernels = by_prefix(kernel_routes(family), family)
    lines = []
    for key in sorted(ours.keys() | kernels.keys()):
        if ours.get(key) != kernels.get(key):
            lines += [f"- {line}" for line in kernels.get(key, [])]
            lines += [f"+ {line}" for line in ours.get(key, [])]
    return "\n".join(lines)


async def expect_equal(subject: Subject, context: str = "", seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        await asyncio.sleep(0.02)
        different = difference(subject, 4) + difference(subject, 6)
        if not different:
            return
        assert time.monotonic() < deadline, (
            f"{context}\n- kernel, + ours:\n{different}\n{subject.watcher.statistics()}"
        )


def our_answers(subject: Subject, destination: str) -> set[tuple[int, str, str]]:
    """The same for many flows."""
    answers = set()
    for flow in range(0, 1 << 32, 1 << 25):
        result = subject.lookup(destination, flow=flow)
        if not result.found:
            answers.add((0, "", ""))
        elif result.type != 1:
            answers.add((int(result.type), "", ""))
        else:
            hop = result.nexthop
            width = 4 if hop.gateway_family == 4 else 16
            packed = bytes(hop.gateway)[:width]
            gateway = str(ipaddress.ip_address(packed)) if hop.gateway_family else ""
            answers.add((1, subject.watcher.links[hop.ifindex].name, gateway))
    return answers


# --- the tests


@pytest.mark.parametrize("seed", range(_FIRST, _LAST + 1))
async def test_random_changes_leave_the_tables_as_the_kernels(namespace: str, seed: int) -> None:
    print(f"seed {seed}")
    build_links()
    operations = Operations(seed)
    batch(operations.burst(40))
    destinations = ["10.100.0.1", "10.100.16.1", "10.100.80.1", "9.9.9.9", "10.0.0.1", "10.1.0.255"]
    destinations += ["2001:db8:100::1", "2001:db8:100:3::1", "2001:db8:1::9", "2001:db8::1"]
    async with watching() as subject:
        await expect_equal(subject, f"seed {seed}, after start")
        for step in range(12):
            commands = operations.burst(operations.random.choice([1, 5, 40]))
            batch(commands)
            await expect_equal(subject, f"seed {seed} step {step}: " + "\n".join(commands))
            for destination in destinations:
                kernels, ours = kernel_answer(destination), our_answers(subject, destination)
                assert kernels in ours, f"seed {seed} step {step}: {destination}"
        assert subject.watcher.statistics().malformed == 0


@pytest.mark.parametrize("seed", range(_FIRST, _LAST + 1))
async def test_random_changes_beside_running_dumps_settle(namespace: str, seed: int) -> None:
    print(f"seed {seed}")
    build_links()
    operations = Operations(seed)
    flaps = [f"link set va{i % 3} {'down' if i % 2 else 'up'}" for i in range(20)]
    commands: list[str] = []
    for flap in flaps:
        commands += [*operations.burst(operations.random.randrange(30)), flap]
    async with watching(
        receive_buffer_bytes=operations.random.choice([1 << 14, 1 << 24])
    ) as subject:
        with background(commands) as process:
            await eventually(lambda: process.poll() is not None, 60)
        await expect_equal(subject, f"seed {seed}")
        print(subject.watcher.statistics())


async def test_news_during_the_first_dump_is_not_lost(namespace: str) -> None:
    build_links()
    batch([f"route add 10.200.{i}.0/24 via 10.0.0.2" for i in range(250)])
    adding = [f"route add 10.201.{i}.0/24 via 10.1.0.2" for i in range(250)]
    deleting = [f"route del 10.200.{i}.0/24" for i in range(0, 250, 2)]
    with background([*adding, *deleting]) as process:
        async with watching() as subject:
            await eventually(lambda: process.poll() is not None, 60)
            await expect_equal(subject)
            assert subject.watcher.statistics().overruns == 0


async def test_start_reports_everything_and_is_quick(namespace: str) -> None:
    build_links()
    began = time.perf_counter()
    async with watching() as subject:
        print(f"started in {(time.perf_counter() - began) * 1000:.1f} ms")
        assert not difference(subject, 4) + difference(subject, 6)
        kinds = ChangeKind.NOTHING
        for change in subject.changes:
            kinds |= change.kinds
        assert ChangeKind.LINKS | ChangeKind.ADDRESSES | ChangeKind.ROUTES in kinds
        names = {link.name for link in subject.watcher.links.values()}
        assert names == {"lo", *(f"v{end}{i}" for end in "ab" for i in range(3))}
        link = next(link for link in subject.watcher.links.values() if link.name == "va0")
        assert (link.kind, link.up, link.mtu, len(link.mac)) == ("veth", True, 1500, 6)
        packed = ipaddress.ip_address("10.0.0.1").packed
        assert packed in {address.ip for address in subject.watcher.addresses}
        assert lib.hn_fib_is_local(subject.tables.fib, 4, packed)


async def test_link_changes_are_told_with_before_and_after(namespace: str) -> None:
    build_links()
    async with watching() as subject:
        subject.changes.clear()
        ip("link set va0 mtu 1400")
        ip("link set vb0 down")
        ip("link set va1 down")
        ip("link set va1 name renamed")
        ip("link del va2")
        await eventually(lambda: len(subject.watcher.links) == 5)
        changes = [link for change in subject.changes for link in change.links]
        assert any(c.old and c.new and (c.old.mtu, c.new.mtu) == (1500, 1400) for c in changes)
        assert any(c.old and c.new and c.new.name == "va0" and not c.new.up for c in changes)
        assert any(c.new and c.new.name == "renamed" and not c.new.enabled for c in changes)
        assert any(c.old and c.old.name == "va2" and c.new is None for c in changes)
        await expect_equal(subject)


async def test_silently_removed_routes_go_on_link_down_and_come_back_with_dead_ones(
    namespace: str,
) -> None:
    build_links()
    ip("route add 10.100.0.0/16 nexthop via 10.0.0.2 nexthop via 10.1.0.2")
    ip("-6 route add 2001:db8:100::/48 nexthop via 2001:db8:0::2 nexthop via 2001:db8:1::2")
    ip("route add 10.101.0.0/16 via 10.0.0.2")
    async with watching() as subject:
        ip("link set va0 down")
        await eventually(lambda: subject.device("10.101.0.1") == "type 7")
        assert our_answers(subject, "10.100.0.1") == {(1, "va1", "10.1.0.2")}
        await expect_equal(subject)
        ip("link set va0 up")
        await expect_equal(subject)
        assert {dev for _, dev, _ in our_answers(subject, "10.100.0.1")} == {"va0", "va1"}


async def test_deleting_a_nexthop_object_removes_its_routes(namespace: str) -> None:
    build_links()
    ip("nexthop add id 1 via 10.0.0.2 dev va0")
    ip("nexthop add id 2 via 10.1.0.2 dev va1")
    ip("nexthop add id 3 group 1/2")
    ip("route add 10.100.0.0/16 nhid 1")
    ip("route add 10.101.0.0/16 nhid 3")
    async with watching() as subject:
        assert len(our_answers(subject, "10.101.0.1")) == 2
        ip("nexthop del id 1")
        await eventually(lambda: subject.device("10.100.0.1") == "type 7")
        await expect_equal(subject)
        assert our_answers(subject, "10.101.0.1") == {(1, "va1", "10.1.0.2")}
        ip("nexthop replace id 2 via 10.1.0.9 dev va1")
        await expect_equal(subject)
        assert our_answers(subject, "10.101.0.1") == {(1, "va1", "10.1.0.9")}


async def test_routes_preferring_a_removed_address_go(namespace: str) -> None:
    build_links()
    ip("addr add 10.7.0.1/32 dev lo")
    ip("route add 10.100.0.0/16 via 10.0.0.2 src 10.7.0.1")
    async with watching() as subject:
        ip("addr del 10.7.0.1/32 dev lo")
        await eventually(lambda: subject.device("10.100.0.1") == "type 7")
        await expect_equal(subject)
        assert not lib.hn_fib_is_local(
            subject.tables.fib, 4, ipaddress.ip_address("10.7.0.1").packed
        )


async def test_tentative_addresses_are_listed_but_not_local(namespace: str) -> None:
    ip("link add name va type veth peer name vb")
    ip("link set va up")  # no carrier: duplicate detection cannot start
    setting("ipv6/conf/va/accept_dad", 1)
    ip("addr add 2001:db8::1/64 dev va")
    packed = ipaddress.ip_address("2001:db8::1").packed
    async with watching() as subject:
        assert packed in {address.ip for address in subject.watcher.addresses}
        assert not lib.hn_fib_is_local(subject.tables.fib, 6, packed)
        ip("addr del 2001:db8::1/64 dev va")
        ip("addr add 2001:db8::1/64 dev va nodad")
        await eventually(lambda: lib.hn_fib_is_local(subject.tables.fib, 6, packed))


async def test_rules_select_tables_and_strange_ones_are_left_to_the_kernel(
    namespace: str,
) -> None:
    build_links()
    ip("route add default via 10.0.0.2")
    ip("route add default via 10.1.0.2 table 100")
    ip("-6 route add default via 2001:db8:2::2 table 100")
    async with watching() as subject:
        assert subject.device("9.9.9.9", "10.1.0.1") == "va0"
        ip("rule add from 10.1.0.0/24 table 100 priority 50")
        await eventually(lambda: subject.device("9.9.9.9", "10.1.0.1") == "va1")
        assert subject.device("9.9.9.9", "10.0.0.1") == "va0"
        ip("-6 rule add to 2001:db8:77::/48 table 100")
        await eventually(lambda: subject.device("2001:db8:77::1") == "va2")
        ip("rule add to 9.9.9.8/32 prohibit priority 40")
        await eventually(lambda: subject.device("9.9.9.8") == "type 8")
        ip("rule add fwmark 7 table 100 priority 60")
        await eventually(lambda: subject.device("9.9.9.9") == "type 0")
        assert subject.device("9.9.9.9", "10.1.0.1") == "va1"  # decided before it
        ip("rule del priority 60")
        ip("rule del priority 50")
        await eventually(lambda: subject.device("9.9.9.9", "10.1.0.1") == "va0")


async def test_wanted_neighbors_are_resolved_by_the_kernel(namespace: str, peer: str) -> None:
    ip("neigh flush all", check=False)
    (theirs,) = json.loads(ip(f"-n {peer} -j link show vb"))
    async with watching() as subject:
        index = socket.if_nametoindex("va")
        for address in ("10.9.0.2", "2001:db8:9::2"):
            subject.want(index, address)
        assert subject.watcher.drain_wanted() == 2
        assert subject.watcher.drain_wanted() == 0
        for address in ("10.9.0.2", "2001:db8:9::2"):
            await eventually(lambda address=address: "resolved 1" in subject.neighbor(address))  # type: ignore[misc]
            assert f"mac {theirs['address']} " in subject.neighbor(address)
        kinds = [change.kinds for change in subject.changes]
        assert any(ChangeKind.NEIGHBORS in kind for kind in kinds)


async def test_silent_neighbor_fails_without_a_mac_and_recovers(namespace: str, peer: str) -> None:
    setting("ipv4/neigh/va/retrans_time_ms", 50)
    ip(f"-n {peer} link set vb down")
    ip(f"-n {peer} link set vb up")
    ip(f"-n {peer} addr flush dev vb")
    ip("neigh flush all", check=False)
    async with watching() as subject:
        index = socket.if_nametoindex("va")
        subject.want(index, "10.9.0.2")
        subject.watcher.drain_wanted()
        await eventually(lambda: "state 32 resolved 0" in subject.neighbor("10.9.0.2"))
        assert "mac 00:00:00:00:00:00" in subject.neighbor("10.9.0.2")
        ip(f"-n {peer} addr add 10.9.0.2/24 dev vb")
        subject.want(index, "10.9.0.2")
        subject.watcher.drain_wanted()
        await eventually(lambda: "resolved 1" in subject.neighbor("10.9.0.2"))
        ip("neigh del 10.9.0.2 dev va")
        await eventually(lambda: not subject.neighbor("10.9.0.2"))


async def test_request_that_the_kernel_refuses_fails_the_neighbor(namespace: str) -> None:
    async with watching() as subject:
        subject.want(4711, "10.9.0.2")
        assert subject.watcher.drain_wanted() == 1
        await eventually(lambda: "state 32" in subject.neighbor("10.9.0.2"))
        assert subject.watcher.statistics().errors > 0


async def test_used_neighbor_is_probed_when_it_goes_stale(namespace: str, peer: str) -> None:
    setting("ipv4/neigh/va/base_reachable_time_ms", 200)
    setting("ipv4/neigh/va/delay_first_probe_time", 0)
    setting("ipv4/neigh/va/retrans_time_ms", 50)
    async with watching() as subject:
        entry = subject.want(socket.if_nametoindex("va"), "10.9.0.2")
        subject.watcher.drain_wanted()
        await eventually(lambda: "resolved 1" in subject.neighbor("10.9.0.2"))
        for _ in range(3):
            asked = subject.watcher.statistics().asked
            lib.hn_neighbor_use(subject.tables.neighbors, entry)
            subject.watcher.drain_wanted()
            await eventually(
                lambda asked=asked: subject.watcher.statistics().asked > asked  # type: ignore[misc]
            )
        assert "resolved 1" in subject.neighbor("10.9.0.2")
        # Unused it goes stale and stays so.
        await eventually(lambda: "state 4 " in subject.neighbor("10.9.0.2"))
        asked = subject.watcher.statistics().asked
        await asyncio.sleep(0.6)
        assert subject.watcher.statistics().asked <= asked + 1


async def test_overrun_synchronises_everything_again(namespace: str) -> None:
    build_links()
    async with watching(receive_buffer_bytes=2048) as subject:
        for round_number in range(3):
            # The loop stands still meanwhile, so the socket overflows.
            batch([f"route add 10.{60 + round_number}.{i}.0/24 via 10.0.0.2" for i in range(250)])
            batch([f"route del 10.{60 + round_number}.{i}.0/24" for i in range(0, 250, 2)])
            ip(f"link set va{round_number} mtu 1400")
            ip(f"addr add 10.99.{round_number}.1/32 dev lo")
            await expect_equal(subject)
        statistics = subject.watcher.statistics()
        print(statistics)
        assert statistics.overruns >= 3
        assert {link.mtu for link in subject.watcher.links.values() if "va" in link.name} == {1400}
        packed = ipaddress.ip_address("10.99.2.1").packed
        assert lib.hn_fib_is_local(subject.tables.fib, 4, packed)


async def test_loop_stays_responsive_while_many_routes_arrive(namespace: str) -> None:
    build_links()
    batch([f"route add 10.{60 + i // 250}.{i % 250}.0/24 via 10.0.0.2" for i in range(20000)])
    gaps: list[float] = []

    async def heartbeat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async with watching() as subject:
        beat = asyncio.create_task(heartbeat())
        await asyncio.sleep(0)
        gaps.clear()
        ip("link set va1 down")  # routes are dumped again
        await eventually(lambda: subject.watcher.statistics().synchronisations >= 2)
        await asyncio.sleep(0.3)
        beat.cancel()
        longest = sorted(gaps)[-5:]
        print(f"longest turns {[f'{gap * 1000:.1f} ms' for gap in longest]}")
        assert longest[0] < 0.05, "only a scheduling hiccup may take longer"
        await expect_equal(subject)


async def test_exception_in_on_change_goes_to_the_handler_and_the_watcher_goes_on(
    namespace: str,
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: reported.append(context)
    )
    build_links()
    subject = Subject()
    subject.watcher.close()
    failing = Watcher(subject.tables, on_change=lambda change: 1 / 0)
    try:
        await failing.start()
        ip("route add 10.100.0.0/16 via 10.0.0.2")
        subject.watcher = failing
        await expect_equal(subject)
        assert reported
        assert all(isinstance(context["exception"], ZeroDivisionError) for context in reported)
    finally:
        failing.close()
        subject.destroy()


async def test_close_leaves_no_descriptor_at_any_moment(namespace: str) -> None:
    build_links()
    async with watching():
        pass  # whatever the loop opens once is open now
    before = len(os.listdir("/proc/self/fd"))
    for turns in (0, 1, 2, 3, 5, 8, 1000):
        subject = Subject()
        starting = asyncio.create_task(subject.watcher.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        subject.watcher.close()
        subject.watcher.close()
        with suppress(ChannelClosed, RuntimeError):
            await starting
        subject.destroy()
        assert len(os.listdir("/proc/self/fd")) == before
    subject = Subject()
    starting = asyncio.create_task(subject.watcher.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(RuntimeError):
        await subject.watcher.start()
    subject.destroy()


async def test_idle_watcher_does_nothing(namespace: str) -> None:
    build_links()
    async with watching() as subject:
        await expect_equal(subject)
        await asyncio.sleep(0.2)
        before = subject.watcher.statistics()
        switches = Counter(_context_switches())
        await asyncio.sleep(0.5)
        assert subject.watcher.statistics() == before
        switches = Counter(_context_switches()) - switches
        # The sleep's own timer wakes the loop once.
        assert switches["voluntary"] <= 3


def _context_switches() -> dict[str, int]:
    status = Path("/proc/thread-self/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
    assert found
    return {"voluntary": int(found[1])}
