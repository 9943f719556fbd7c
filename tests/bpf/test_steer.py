"""The steering program: which frames leave the kernel, and under which name the others stay.

Every frame runs through the program in the kernel (BPF_PROG_TEST_RUN), without an interface.
"""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from steer_support import (
    GENERIC,
    ICMP,
    ICMPV6,
    NATIVE,
    OBJECT,
    PASS,
    REDIRECT,
    TCP,
    UDP,
    Steer,
    ethernet,
    icmp,
    ipv4,
    ipv6,
    pseudo_sum,
    tcp,
    udp,
    xdp_socket,
)

HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION = 0, 43, 44, 59, 60
PAD = b"\0\1\4\0\0\0\0"  # one extension of 8 bytes, its next-header byte left out
LONG_PAD = b"\2" + b"\1\x14" + b"\0" * 20
ROUTED = b"\0\4\0\0\0\0\0"  # no segments left
ROUTE_ON = b"\0\4\1\0\0\0\0"
FRAGMENT_FIRST = b"\0\0\1\0\0\0\7"
ATOMIC = b"\0\0\0\0\0\0\7"
CTAG, STAG = 0x8100, 0x88A8


def load(mode: int, path: Path = OBJECT) -> Steer:
    steer = Steer(mode=mode, path=path)
    for ip in ("10.0.0.2", "fd00::2"):
        assert steer.add(ip, 9000) == 0
        assert steer.add(ip, 8000, TCP) == 0
        assert steer.set_local(ip) == 0
    for ip in ("0.0.0.0", "::"):
        assert steer.add(ip, 7000) == 0
    for ip in ("10.0.0.3", "fd00::3"):
        assert steer.set_local(ip) == 0
    return steer


@pytest.fixture(params=[NATIVE, GENERIC], ids=["native", "generic"])
def steer(request: pytest.FixtureRequest) -> Iterator[Steer]:
    with load(request.param) as loaded, xdp_socket() as fd:
        assert loaded.set_socket(0, fd) == 0
        yield loaded


def extended(*extensions: tuple[int, bytes]) -> bytes:
    return ethernet(ipv6(udp(), extensions=extensions))


def about(quoted: bytes, kind: int = 3, **options: str) -> bytes:
    return ethernet(ipv4(icmp(kind, quoted), ICMP, **options))


def about6(quoted: bytes, kind: int = 1, **options: str) -> bytes:
    return ethernet(ipv6(icmp(kind, quoted), ICMPV6, **options))


# What an endpoint of ours sent, as routers quote it.
SENT4 = ipv4(udp(source_port=9000, port=5000), source="10.0.0.2", destination="10.0.0.1")
SENT6 = ipv6(udp(source_port=9000, port=5000), source="fd00::2", destination="fd00::1")

FRAMES: list[tuple[str, bytes, str]] = [
    # Lifted.
    ("udp", ethernet(ipv4(udp())), "redirected"),
    ("udp6", ethernet(ipv6(udp())), "redirected"),
    ("tcp", ethernet(ipv4(tcp(), TCP)), "redirected"),
    ("tcp6", ethernet(ipv6(tcp(b"data"), TCP)), "redirected"),
    ("tcp with options", ethernet(ipv4(tcp(b"\1" * 40, words=15), TCP)), "redirected"),
    ("udp without payload", ethernet(ipv4(udp(b""))), "redirected"),
    ("udp with Ethernet padding", ethernet(ipv4(udp(b"x")) + b"\0" * 17), "redirected"),
    ("udp shorter than its IP packet", ethernet(ipv4(udp(length=10))), "redirected"),
    ("udp with a wrong checksum", ethernet(ipv4(udp(check=0xBEEF))), "redirected"),
    ("ipv4 options", ethernet(ipv4(udp(), options=b"\1" * 40)), "redirected"),
    ("ipv4 may not be fragmented", ethernet(ipv4(udp(), fragment=0x4000)), "redirected"),
    ("wildcard", ethernet(ipv4(udp(port=7000), destination="10.0.0.3")), "redirected"),
    ("wildcard6", ethernet(ipv6(udp(port=7000), destination="fd00::3")), "redirected"),
    ("largest datagram of the MTU", ethernet(ipv4(udp(b"x" * 1472))), "redirected"),
    ("tcp longer than the MTU", ethernet(ipv4(tcp(b"x" * 3000), TCP)), "redirected"),
    # Other endpoints.
    ("udp other port", ethernet(ipv4(udp(port=9001))), "not_ours"),
    ("udp our source port", ethernet(ipv4(udp(port=1, source_port=9000))), "not_ours"),
    ("udp to our tcp port", ethernet(ipv4(udp(port=8000))), "not_ours"),
    ("tcp to our udp port", ethernet(ipv4(tcp(port=9000), TCP)), "not_ours"),
    ("other address", ethernet(ipv4(udp(), destination="10.0.0.3")), "not_ours"),
    ("wildcard, not local", ethernet(ipv4(udp(port=7000), destination="10.0.0.9")), "not_ours"),
    ("wildcard is per protocol", ethernet(ipv4(tcp(port=7000), TCP)), "not_ours"),
    ("port 0", ethernet(ipv4(udp(port=0))), "not_ours"),
    ("sctp", ethernet(ipv4(b"\0" * 20, 132)), "not_ours"),
    ("icmp echo", ethernet(ipv4(icmp(8, b"x" * 40), ICMP)), "not_ours"),
    ("icmp redirect", about(SENT4, 5), "not_ours"),
    ("icmpv6 neighbour solicitation", about6(b"\0" * 24, 135), "not_ours"),
    ("no next header", ethernet(ipv6(b"", NO_NEXT)), "not_ours"),
    ("esp", ethernet(ipv6(b"\0" * 40, 50)), "not_ours"),
    ("ah", ethernet(ipv6(b"\0" * 40, 51)), "not_ours"),
    ("icmp in ipv6", ethernet(ipv6(icmp(3, SENT4), ICMP)), "not_ours"),
    # Link layer.
    ("arp", ethernet(b"\0" * 28, 0x0806), "not_ip"),
    ("llc", ethernet(b"\0" * 46, 46), "not_ip"),
    ("priority tag", ethernet(ipv4(udp()), tags=((CTAG, 0xE000),)), "redirected"),
    ("priority tags", ethernet(ipv4(udp()), tags=((STAG, 0), (CTAG, 0x6000))), "redirected"),
    ("priority tag before arp", ethernet(b"\0" * 28, 0x0806, tags=((CTAG, 0),)), "not_ip"),
    ("vlan 1", ethernet(ipv4(udp()), tags=((CTAG, 1),)), "vlan"),
    ("vlan 4095", ethernet(ipv4(udp()), tags=((CTAG, 0xFFFF),)), "vlan"),
    ("vlan behind a priority tag", ethernet(ipv4(udp()), tags=((STAG, 0), (CTAG, 5))), "vlan"),
    ("three tags", ethernet(ipv4(udp()), tags=((STAG, 0), (CTAG, 0), (CTAG, 0))), "odd"),
    ("Ethernet broadcast", ethernet(ipv4(udp()), destination="ff" * 6), "multicast"),
    ("Ethernet multicast", ethernet(ipv6(udp()), destination="333300000002"), "multicast"),
    # IPv4.
    ("first fragment", ethernet(ipv4(udp(), fragment=0x2000)), "fragment"),
    ("last fragment", ethernet(ipv4(udp(), fragment=185)), "fragment"),
    ("fragment of icmp", ethernet(ipv4(icmp(3, SENT4), ICMP, fragment=0x2000)), "fragment"),
    ("multicast", ethernet(ipv4(udp(), destination="224.0.0.1")), "multicast"),
    ("multicast, last", ethernet(ipv4(udp(), destination="239.255.255.255")), "multicast"),
    ("broadcast", ethernet(ipv4(udp(), destination="255.255.255.255")), "multicast"),
    ("to loopback", ethernet(ipv4(udp(), destination="127.0.0.1")), "martian"),
    ("from loopback", ethernet(ipv4(udp(), source="127.1.2.3")), "martian"),
    ("to unspecified", ethernet(ipv4(udp(port=7000), destination="0.0.0.0")), "martian"),
    ("from unspecified", ethernet(ipv4(udp(), source="0.0.0.0")), "martian"),
    ("from multicast", ethernet(ipv4(udp(), source="224.0.0.5")), "martian"),
    ("from broadcast", ethernet(ipv4(udp(), source="255.255.255.255")), "martian"),
    ("ipv4 version 5", ethernet(ipv4(udp(), version=5), 0x0800), "odd"),
    ("ipv4 in an IPv6 frame", ethernet(ipv4(udp()), 0x86DD), "odd"),
    ("ihl 4", ethernet(ipv4(udp(), ihl=4)), "odd"),
    ("ihl beyond total", ethernet(ipv4(udp(b""), ihl=15)), "odd"),
    ("total beyond frame", ethernet(ipv4(udp(), total=49)), "odd"),
    ("total 0", ethernet(ipv4(udp(), total=0)), "odd"),
    ("total without a port", ethernet(ipv4(udp(), total=22)), "odd"),
    # IPv6.
    ("hop-by-hop", extended((HOP, PAD)), "redirected"),
    ("destination options", extended((DESTINATION, LONG_PAD)), "redirected"),
    ("routing, arrived", extended((ROUTING, ROUTED)), "redirected"),
    ("eight headers", extended((HOP, PAD), *[(DESTINATION, PAD)] * 7), "redirected"),
    ("nine headers", extended((HOP, PAD), *[(DESTINATION, PAD)] * 8), "odd"),
    ("routing, segments left", extended((ROUTING, ROUTE_ON)), "odd"),
    ("late hop-by-hop", extended((DESTINATION, PAD), (HOP, PAD)), "odd"),
    ("header beyond packet", extended((HOP, b"\x0a" + PAD[1:])), "odd"),
    ("fragment6", extended((FRAGMENT, FRAGMENT_FIRST)), "fragment"),
    ("atomic fragment", extended((FRAGMENT, ATOMIC)), "fragment"),
    ("fragment behind options", extended((HOP, PAD), (FRAGMENT, FRAGMENT_FIRST)), "fragment"),
    ("multicast6", ethernet(ipv6(udp(), destination="ff02::1")), "multicast"),
    ("to loopback6", ethernet(ipv6(udp(), destination="::1")), "martian"),
    ("from loopback6", ethernet(ipv6(udp(), source="::1")), "martian"),
    ("to unspecified6", ethernet(ipv6(udp(port=7000), destination="::")), "martian"),
    ("from unspecified6", ethernet(ipv6(udp(), source="::")), "martian"),
    ("from multicast6", ethernet(ipv6(udp(), source="ff02::1")), "martian"),
    ("from a mapped address", ethernet(ipv6(udp(), source="::ffff:10.0.0.1")), "martian"),
    ("ipv6 version 4", ethernet(ipv6(udp(), version=4), 0x86DD), "odd"),
    ("payload beyond frame", ethernet(ipv6(udp(), length=29)), "odd"),
    ("payload 0", ethernet(ipv6(udp(), length=0)), "odd"),
    # UDP and TCP that do not add up.
    ("udp length 7", ethernet(ipv4(udp(length=7))), "odd"),
    ("udp length 0", ethernet(ipv6(udp(length=0))), "odd"),
    ("udp beyond packet", ethernet(ipv4(udp(length=29))), "odd"),
    ("udp odd, but not ours", ethernet(ipv4(udp(port=1, length=0))), "not_ours"),
    ("tcp offset 4", ethernet(ipv4(tcp(words=4), TCP)), "odd"),
    ("tcp offset beyond packet", ethernet(ipv4(tcp(words=6), TCP)), "odd"),
    # ICMP about packets of ours.
    ("unreachable", about(SENT4), "icmp_error"),
    ("time exceeded", about(SENT4, 11), "icmp_error"),
    ("parameter problem", about(SENT4, 12), "icmp_error"),
    ("from a router", about(SENT4, source="192.0.2.1"), "icmp_error"),
    ("quoted to 8 bytes", about(SENT4[:28]), "icmp_error"),
    ("quoted to the ports", about(SENT4[:24]), "icmp_error"),
    ("quoted short of the ports", about(SENT4[:23]), "not_ours"),
    ("quoted options", about(ipv4(SENT4[20:], source="10.0.0.2", options=b"\1" * 8)), "icmp_error"),
    (
        "quoted tcp",
        about(ipv4(struct.pack("!HHI", 8000, 9, 0), TCP, source="10.0.0.2")),
        "icmp_error",
    ),
    ("quoted wildcard", about(ipv4(udp(source_port=7000), source="10.0.0.3")), "icmp_error"),
    (
        "quoted wildcard, not local",
        about(ipv4(udp(source_port=7000), source="10.0.0.9")),
        "not_ours",
    ),
    ("quoted other port", about(ipv4(udp(source_port=9001), source="10.0.0.2")), "not_ours"),
    ("quoted other protocol", about(ipv4(icmp(8, b""), ICMP, source="10.0.0.2")), "not_ours"),
    ("quoted later fragment", about(ipv4(SENT4[20:], source="10.0.0.2", fragment=9)), "not_ours"),
    ("quoted rubbish", about(b"\x95" * 40), "not_ours"),
    ("icmp without a quote", about(b""), "not_ours"),
    ("icmp cut", ethernet(ipv4(b"\3\0\0", ICMP)), "odd"),
    *[(f"icmpv6 {kind}", about6(SENT6, kind), "icmp_error") for kind in (1, 2, 3, 4)],
    ("icmpv6 quoted wildcard", about6(ipv6(udp(source_port=7000), source="fd00::3")), "icmp_error"),
    (
        "icmpv6 quoted options",
        about6(ipv6(udp(source_port=9000), source="fd00::2", extensions=((HOP, PAD),))),
        "icmp_error",
    ),
    ("icmpv6 quoted other port", about6(ipv6(udp(source_port=1), source="fd00::2")), "not_ours"),
    ("icmpv6 quoted ipv4", about6(SENT4), "not_ours"),
]


@pytest.mark.parametrize(("frame", "reason"), [f[1:] for f in FRAMES], ids=[f[0] for f in FRAMES])
def test_frame_is_counted_under_its_reason(steer: Steer, frame: bytes, reason: str) -> None:
    assert steer.reason(frame) == (REDIRECT if reason == "redirected" else PASS, reason)


# ---- What changes while it runs ----


def test_queue_without_socket_passes(steer: Steer) -> None:
    frame = ethernet(ipv4(udp()))
    assert steer.clear_socket(0) == 0
    assert steer.reason(frame) == (PASS, "no_socket")
    with xdp_socket() as fd:
        assert steer.set_socket(0, fd) == 0
        assert steer.reason(frame) == (REDIRECT, "redirected")


def test_closed_socket_leaves_its_queue(steer: Steer) -> None:
    with xdp_socket() as fd:
        assert steer.set_socket(0, fd) == 0
    assert steer.reason(ethernet(ipv4(udp()))) == (PASS, "no_socket")


def test_queue_beyond_the_stated_number_is_refused(steer: Steer) -> None:
    with xdp_socket() as fd:
        assert steer.set_socket(1, fd) == -errno.EINVAL
    assert steer.clear_socket(1) == -errno.EINVAL


def test_removed_endpoint_passes(steer: Steer) -> None:
    assert steer.remove("10.0.0.2", 9000) == 0
    assert steer.reason(ethernet(ipv4(udp()))) == (PASS, "not_ours")
    assert steer.reason(ethernet(ipv6(udp()))) == (REDIRECT, "redirected")
    assert steer.remove("10.0.0.2", 9000) == -errno.ENOENT


def test_removed_local_address_takes_its_wildcards_along(steer: Steer) -> None:
    frame = ethernet(ipv4(udp(port=7000)))
    assert steer.reason(frame) == (REDIRECT, "redirected")
    assert steer.set_local("10.0.0.2", False) == 0
    assert steer.set_local("10.0.0.2", False) == 0, "absent already: nothing to do"
    assert steer.reason(frame) == (PASS, "not_ours")
    assert steer.reason(ethernet(ipv4(udp()))) == (REDIRECT, "redirected"), "exact ones stay"


@pytest.mark.parametrize(("protocol", "port"), [(UDP, 0), (1, 9), (132, 9), (0, 9)])
def test_endpoint_that_cannot_be_is_refused(steer: Steer, protocol: int, port: int) -> None:
    assert steer.add("10.0.0.2", port, protocol) == -errno.EINVAL


def test_adding_twice_is_one_endpoint(steer: Steer) -> None:
    assert steer.add("10.0.0.2", 9000) == 0
    assert steer.remove("10.0.0.2", 9000) == 0
    assert steer.reason(ethernet(ipv4(udp()))) == (PASS, "not_ours")


def test_full_endpoint_map_is_an_error_and_not_a_loss() -> None:
    with Steer() as steer:
        for port in range(1, 65536):
            assert steer.add("10.0.0.2", port) == 0
        assert steer.add("10.0.0.3", 1) == 0
        assert steer.add("10.0.0.3", 2) == -errno.E2BIG
        assert steer.reason(ethernet(ipv4(udp(port=65535)))) == (PASS, "no_socket")


# ---- Modes ----


@pytest.mark.parametrize("wrap", [ipv4, ipv6])
def test_generic_mode_leaves_datagrams_beyond_the_mtu_to_the_kernel(wrap) -> None:
    header = 20 if wrap is ipv4 else 40
    at_mtu = ethernet(wrap(udp(b"x" * (1500 - 8 - header))))
    beyond = ethernet(wrap(udp(b"x" * (1501 - 8 - header))))
    with load(GENERIC) as steer:
        assert steer.reason(at_mtu) == (PASS, "no_socket")
        assert steer.reason(beyond) == (PASS, "oversize")
        assert steer.set_mtu(1501) == 0
        assert steer.reason(beyond) == (PASS, "no_socket")
    with load(NATIVE) as steer:
        assert steer.reason(beyond) == (PASS, "no_socket")


def test_multi_buffer_packet_counts_with_all_its_bytes() -> None:
    """Longer than a page, so only the first part of it is linear."""
    frame = ethernet(ipv4(udp(b"x" * 8900)))
    for mode, reason in ((NATIVE, "no_socket"), (GENERIC, "oversize")):
        with load(mode) as steer:
            assert steer.reason(frame) == (PASS, reason)
            assert steer.reason(frame[:-1]) == (PASS, "odd")


def without_variants(directory: Path, *names: str) -> Path:
    """The object as an older kernel sees it: these variants do not load."""
    data = OBJECT.read_bytes()
    for name in names:
        old = b"\0" + name.encode() + b"\0"
        assert old in data
        data = data.replace(old, old.replace(b"hn_", b"xx_"))
    path = directory / "older.bpf.o"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("names", [["hn_steer_skb"], ["hn_steer_skb", "hn_steer_skb_sum"]])
def test_without_sight_of_gso_deferred_checksums_stay_with_the_kernel(
    tmp_path: Path, names: list[str]
) -> None:
    path = without_variants(tmp_path, *names)
    frames = []
    for wrap, a, b in ((ipv4, "10.0.0.1", "10.0.0.2"), (ipv6, "fd00:abcd:ffff::1", "fd00::2")):
        for size in (0, 1, 500):
            datagram = udp(b"x" * size, check=pseudo_sum(a, b, 8 + size))
            other = udp(b"x" * size, check=pseudo_sum(a, b, 8 + size) ^ 1)
            frames.append((ethernet(wrap(datagram, source=a, destination=b)), "gso"))
            frames.append((ethernet(wrap(other, source=a, destination=b)), "no_socket"))
    with load(GENERIC, path) as steer:
        for frame, reason in frames:
            assert steer.reason(frame) == (PASS, reason)
    with load(GENERIC) as steer:
        for frame, _ in frames:
            assert steer.reason(frame) == (PASS, "no_socket")


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        (NATIVE, ["hn_steer_drv"]),
        (GENERIC, ["hn_steer_skb"]),
        (GENERIC, ["hn_steer_skb", "hn_steer_skb_sum"]),
    ],
)
def test_fallback_variants_agree_on_every_frame(
    tmp_path: Path, mode: int, names: list[str]
) -> None:
    with load(mode, without_variants(tmp_path, *names)) as steer, xdp_socket() as fd:
        assert steer.set_socket(0, fd) == 0
        for name, frame, reason in FRAMES:
            verdict = REDIRECT if reason == "redirected" else PASS
            assert steer.reason(frame) == (verdict, reason), name


# ---- Any bytes ----


def mutated(rng: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.randint(1, 6)):
        kind = rng.randrange(4)
        at = rng.randrange(len(data))
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        elif len(data) > 40:
            del data[at : at + rng.randint(1, 16)]
    return bytes(data)


def test_truncated_at_every_length_is_counted_once(steer: Steer) -> None:
    runs = 0
    for _, frame, _ in FRAMES:
        for length in range(14, min(len(frame), 200)):
            verdict = steer.run(frame[:length])
            runs += 1
            assert verdict in (PASS, REDIRECT)
    assert sum(steer.counters().values()) == runs


def test_truncated_packet_is_never_lifted(steer: Steer) -> None:
    """Each of these fills its frame, so a byte less cannot be whole."""
    for name, frame, reason in FRAMES:
        if reason == "redirected" and "padding" not in name:
            for length in range(14, len(frame)):
                assert steer.run(frame[:length]) == PASS, f"{name}, {length} bytes"


def test_random_and_mutated_frames_are_counted_once(steer: Steer) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    runs = 20_000
    redirected = 0
    for _ in range(runs):
        if rng.random() < 0.1:
            frame = rng.randbytes(rng.randint(14, 200))
        else:
            frame = mutated(rng, rng.choice(FRAMES)[1]).ljust(14, b"\0")
        verdict = steer.run(frame)
        assert verdict in (PASS, REDIRECT), frame.hex()
        redirected += verdict == REDIRECT
    counted = steer.counters()
    assert sum(counted.values()) == runs
    assert counted["redirected"] == redirected


@pytest.mark.parametrize("wrap", [ipv4, ipv6])
def test_frames_for_another_mac_address_stay_with_the_kernel(wrap, steer: Steer) -> None:
    ours = ethernet(wrap(udp()))
    theirs = ethernet(wrap(udp()), destination="020000000099")
    assert steer.reason(theirs) == (REDIRECT, "redirected")  # as long as our own is not known
    assert steer.set_mac(bytes.fromhex("020000000002")) == 0
    assert steer.reason(ours) == (REDIRECT, "redirected")
    assert steer.reason(theirs) == (PASS, "other_host")
