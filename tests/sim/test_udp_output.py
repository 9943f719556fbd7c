"""Sent datagrams, from the endpoint to the frame: routes, sources, neighbours, back-pressure."""

from __future__ import annotations

import errno
import random

import pytest
from simulated import (
    BLACKHOLE,
    FAILED,
    HOST4,
    HOST6,
    PEER4,
    PEER6,
    PROHIBIT,
    REACHABLE,
    STALE,
    UNREACHABLE,
    World,
)

from hybridnet.errors import (
    HybridnetError,
    MessageTooLarge,
    NetworkUnreachable,
    PermissionMissing,
    WouldBlock,
)
from hybridnet.stack.core import SEND_KERNEL, SEND_QUEUED, Udp
from support import packets as p

PATHS = {"ipv4": (PEER4, HOST4), "ipv6": (PEER6, HOST6)}
both = pytest.mark.parametrize(("peer", "host"), PATHS.values(), ids=PATHS.keys())
ROUTER_MAC = b"\x02\x00\x00\x00\x00\xfe"


def send_or_block(client: Udp, payload: bytes) -> bool:
    """Send to the peer; False when the stack holds the sender back."""
    try:
        return client.send(payload, (PEER4, 9)) == SEND_QUEUED
    except WouldBlock:
        return False


@both
@pytest.mark.parametrize("size", [0, 1, 2, 3, 63, 64, 65, 1000, 1401, 1452])
def test_datagram_of_any_length_is_a_right_packet(
    world: World, peer: str, host: str, size: int
) -> None:
    payload = random.Random(size).randbytes(size)
    client = world.core.open_udp((host, 5000))
    assert client.send(payload, (peer, 9)) == SEND_QUEUED
    [frame] = world.transmitted()
    p.assert_udp(frame, payload=payload, src=(host, 5000), dst=(peer, 9))


@both
def test_checksum_that_comes_out_as_zero_is_sent_as_ones(
    world: World, peer: str, host: str
) -> None:
    client = world.core.open_udp((host, 5000))
    probe = p.udp_datagram(b"\0\0", (host, 5000), (peer, 9))
    wanted = probe[6:8]  # as payload it makes the sum all ones, and its complement zero
    client.send(wanted, (peer, 9))
    [frame] = world.transmitted()
    assert p.assert_udp(frame, payload=wanted)
    assert frame[-4:-2] == b"\xff\xff"


@both
def test_ttl_and_tos_are_those_of_the_endpoint(world: World, peer: str, host: str) -> None:
    client = world.core.open_udp((host, 5000))
    client.send(b"before", (peer, 9))
    client.set_header(ttl=3, tos=0xB9)
    client.send(b"after", (peer, 9))
    before, after = world.transmitted()
    p.assert_udp(before, payload=b"before", ttl=64, tos=0)
    p.assert_udp(after, payload=b"after", ttl=3, tos=0xB9)


def test_unbound_source_is_the_routes_preferred_one(world: World) -> None:
    world.set_addresses([(HOST4, 24), ("10.0.0.44", 24), (HOST6, 64), ("fd00::44", 64)])
    world.route("10.0.0.0/24", source="10.0.0.44")
    world.route("fd00::/64", source="fd00::44")
    client = world.core.open_udp(("::", 5000))
    client.send(b"x", (PEER4, 9))
    client.send(b"x", (PEER6, 9))
    four, six = world.transmitted()
    p.assert_udp(four, src=("10.0.0.44", 5000))
    p.assert_udp(six, src=("fd00::44", 5000))


def test_unbound_source_without_preference_is_of_the_gateways_subnet(world: World) -> None:
    world.set_addresses([(HOST4, 24), ("192.168.9.1", 24)])
    world.route("0.0.0.0/0", via="192.168.9.254")
    world.neighbor("192.168.9.254", REACHABLE, ROUTER_MAC)
    client = world.core.open_udp(("0.0.0.0", 5000))
    client.send(b"x", ("8.8.8.8", 53))
    [frame] = world.transmitted()
    p.assert_udp(frame, src=("192.168.9.1", 5000), dst=("8.8.8.8", 53), dst_mac=ROUTER_MAC)


def test_bound_source_stays_whatever_the_route_prefers(world: World) -> None:
    world.set_addresses([(HOST4, 24), ("10.0.0.44", 24)])
    world.route("10.0.0.0/24", source="10.0.0.44")
    client = world.core.open_udp((HOST4, 5000))
    client.send(b"x", (PEER4, 9))
    p.assert_udp(world.transmitted()[0], src=(HOST4, 5000))


@both
def test_far_destination_goes_to_the_gateway(world: World, peer: str, host: str) -> None:
    far, gateway = ("2001:db8::1", "fd00::fe") if ":" in peer else ("8.8.8.8", "10.0.0.254")
    world.neighbor(gateway, REACHABLE, ROUTER_MAC)
    client = world.core.open_udp((host, 5000))
    client.send(b"x", (far, 9))
    client.send(b"y", (peer, 9))
    by_gateway, direct = world.transmitted()
    p.assert_udp(by_gateway, payload=b"x", dst=(far, 9), dst_mac=ROUTER_MAC)
    p.assert_udp(direct, payload=b"y", dst=(peer, 9))


ROUTES = [
    (BLACKHOLE, HybridnetError, errno.EINVAL),
    (UNREACHABLE, NetworkUnreachable, errno.EHOSTUNREACH),
    (PROHIBIT, PermissionMissing, errno.EACCES),
]


@pytest.mark.parametrize(("kind", "exception", "number"), ROUTES)
def test_refusing_route_refuses_the_sender(
    world: World, kind: int, exception: type[HybridnetError], number: int
) -> None:
    client = world.core.open_udp((HOST4, 5000))
    world.route("203.0.113.0/24", kind=kind)
    with pytest.raises(exception) as caught:
        client.send(b"x", ("203.0.113.1", 9))
    assert caught.value.errno == number
    world.route("203.0.113.0/24", kind=kind, delete=True)
    assert client.send(b"x", ("203.0.113.1", 9)) == SEND_QUEUED


def test_no_route_at_all_is_an_error_or_the_kernels_business() -> None:
    for kernel_path in (False, True):
        world = World(kernel_path=kernel_path)
        world.route("0.0.0.0/0", via="10.0.0.254", delete=True)
        client = world.core.open_udp((HOST4, 5000))
        if kernel_path:
            assert client.send(b"x", ("8.8.8.8", 9)) == SEND_KERNEL
        else:
            with pytest.raises(NetworkUnreachable):
                client.send(b"x", ("8.8.8.8", 9))
        world.close()


def test_route_over_another_interface_is_the_kernels_business() -> None:
    world = World(kernel_path=True)
    client = world.core.open_udp((HOST4, 5000))
    world.route("10.7.0.0/16", ifindex=99)
    assert client.send(b"x", ("10.7.0.1", 9)) == SEND_KERNEL
    assert client.send(b"x", ("127.0.0.1", 9)) == SEND_KERNEL
    assert client.send(b"x", ("224.0.0.251", 9)) == SEND_KERNEL
    assert world.transmitted() == []
    world.close()


@both
def test_datagram_above_the_mtu_is_refused_or_the_kernels_business(peer: str, host: str) -> None:
    header = 48 if ":" in peer else 28
    for kernel_path in (False, True):
        world = World(kernel_path=kernel_path, mtu=1400)
        client = world.core.open_udp((host, 5000))
        assert client.send(bytes(1400 - header), (peer, 9)) == SEND_QUEUED
        if kernel_path:
            assert client.send(bytes(1401 - header), (peer, 9)) == SEND_KERNEL
        else:
            with pytest.raises(MessageTooLarge):
                client.send(bytes(1401 - header), (peer, 9))
        assert len(world.transmitted()) == 1
        world.close()


def test_path_mtu_is_kept_for_ten_minutes(world: World) -> None:
    client = world.core.open_udp((HOST4, 5000))
    world.core.learn_path_mtu((PEER4, 0), 1200, world.now_ns)
    with pytest.raises(MessageTooLarge):
        client.send(bytes(1173), (PEER4, 9))
    assert client.send(bytes(1172), (PEER4, 9)) == SEND_QUEUED
    world.tick(601)
    world.transmitted()
    assert client.send(bytes(1472), (PEER4, 9)) == SEND_QUEUED
    assert len(world.transmitted()) == 1


@both
def test_unresolved_neighbor_holds_packets_in_order_until_it_answers(
    world: World, peer: str, host: str
) -> None:
    stranger = "fd00::33" if ":" in peer else "10.0.0.33"
    client = world.core.open_udp((host, 5000))
    for number in range(5):
        client.send(b"%d" % number, (stranger, 9))
    assert world.transmitted() == []
    world.neighbor(stranger, REACHABLE, ROUTER_MAC)
    frames = world.transmitted()
    assert [p.assert_udp(f, dst_mac=ROUTER_MAC).payload for f in frames] == [
        b"%d" % number for number in range(5)
    ]
    assert world.drops() == {}


def test_unresolved_neighbor_holds_64_packets_and_drops_the_rest_by_reason(world: World) -> None:
    client = world.core.open_udp((HOST4, 5000))
    for number in range(70):
        client.send(b"%d" % number, ("10.0.0.33", 9))
    assert world.transmitted() == []
    assert world.drops() == {"neighbor_queue_full": 6}
    world.neighbor("10.0.0.33", REACHABLE, ROUTER_MAC)
    assert len(world.transmitted()) == 64


def test_neighbor_that_fails_takes_its_packets_along_and_may_come_back(world: World) -> None:
    client = world.core.open_udp((HOST4, 5000))
    client.send(b"lost", ("10.0.0.33", 9))
    world.transmitted()
    world.neighbor("10.0.0.33", FAILED)
    assert world.drops() == {"neighbor_unreachable": 1}
    client.send(b"found", ("10.0.0.33", 9))
    assert world.transmitted() == []
    world.neighbor("10.0.0.33", REACHABLE, ROUTER_MAC)
    [frame] = world.transmitted()
    p.assert_udp(frame, payload=b"found", dst_mac=ROUTER_MAC)


def test_neighbor_that_moves_is_followed_at_once(world: World) -> None:
    client = world.core.open_udp((HOST4, 5000))
    client.send(b"old", (PEER4, 9))
    first = world.transmitted()
    client.send(b"sent before, leaves after", (PEER4, 9))
    world.neighbor(PEER4, STALE, ROUTER_MAC)
    client.send(b"new", (PEER4, 9))
    second, third = world.transmitted()
    p.assert_udp(first[0], payload=b"old")
    p.assert_udp(second, dst_mac=ROUTER_MAC)
    p.assert_udp(third, payload=b"new", dst_mac=ROUTER_MAC)


def test_full_device_holds_the_sender_back_and_loses_nothing(world: World) -> None:
    client = world.core.open_udp((HOST4, 5000))
    world.wire.set_room(8)
    sent = 0
    while send_or_block(client, b"%d" % sent):
        sent += 1
        if sent % 16 == 0:
            world.core.flush(world.tick())
    assert world.core.device_statistics(0).backlog > 0
    frames: list[bytes] = []
    while len(frames) < sent:
        got = world.transmitted()
        assert got, f"{len(frames)} of {sent} came"
        frames += got
    assert [p.parse_udp(f).payload for f in frames] == [b"%d" % n for n in range(sent)]
    assert world.drops() == {}
    assert client.send(b"again", (PEER4, 9)) == SEND_QUEUED
    assert client.statistics()["tx_fast_datagrams"] == sent + 1


def test_empty_pool_holds_the_sender_back() -> None:
    world = World(frame_count=128, reserve_frames=0)
    client = world.core.open_udp((HOST4, 5000))
    server = world.core.open_udp((HOST4, 9000))
    server.set_receive_limit(1 << 30)
    world.receive(*(p.udp(b"x", (PEER4, 7), (HOST4, 9000)) for _ in range(100)))
    with pytest.raises(WouldBlock):
        client.send(b"x", (PEER4, 9))
    assert len(world.take(server)) == 100
    assert client.send(b"x", (PEER4, 9)) == SEND_QUEUED
    world.close()


def test_device_that_is_down_is_not_sent_to(world: World) -> None:
    client = world.core.open_udp((HOST4, 5000))
    client.send(b"caught by it", (PEER4, 9))
    world.core.set_device(0, mtu=1500, mac=p.HOST_MAC, up=False)
    assert world.transmitted() == []
    assert world.drops() == {"device_down": 1}
    with pytest.raises(NetworkUnreachable):
        client.send(b"x", (PEER4, 9))
    world.core.set_device(0, mtu=1500, mac=ROUTER_MAC, up=True)
    client.send(b"x", (PEER4, 9))
    p.assert_udp(world.transmitted()[0], src_mac=ROUTER_MAC)


def test_mixed_traffic_keeps_every_packet_to_its_destination(generator: random.Random) -> None:
    """More destinations than flows are kept for, routes and neighbours changing under way."""
    world = World(flows=64, neighbors=512)
    client = world.core.open_udp(("::", 5000))
    macs: dict[str, bytes] = {}
    for number in range(2, 200):
        for ip in (f"10.0.0.{number}", f"fd00::{number:x}"):
            macs[ip] = b"\x02\x00\x00\x01" + bytes([number, 6 if ":" in ip else 4])
            world.neighbor(ip, REACHABLE, macs[ip])
    expected: list[tuple[str, bytes]] = []
    seen: list[tuple[str, bytes]] = []
    for _ in range(100):
        for _ in range(generator.randrange(60)):
            ip, payload = generator.choice(list(macs)), generator.randbytes(20)
            client.send(payload, (ip, 9))
            expected.append((ip, payload))
            if generator.random() < 0.02:
                world.route("198.51.100.0/24", via=generator.choice(["10.0.0.254", PEER4]))
        for frame in world.transmitted():
            found = p.parse_udp(frame)
            assert found.dst_mac == macs[found.dst[0]]
            seen.append((found.dst[0], found.payload))
    assert sorted(seen) == sorted(expected)
    assert world.drops() == {}
    world.close()


def test_echo_under_any_load_adds_up_to_the_packet(generator: random.Random) -> None:
    world = World(frame_count=512, reserve_frames=64, backlog=64)
    server = world.core.open_udp(("::", 9000))
    world.wire.set_room(20)
    pushed = answered = transmitted = blocked = 0
    for _ in range(200):
        for _ in range(generator.randrange(60)):
            peer, host = generator.choice(list(PATHS.values()))
            try:
                world.wire.push(p.udp(b"x", (peer, 7), (host, 9000)))
                pushed += 1
            except HybridnetError:
                break
        world.core.poll(world.tick(), budget=generator.randrange(1, 100))
        for data, source in world.take(server, generator.randrange(80)):
            try:
                server.send(data, source)
                answered += 1
            except WouldBlock:
                blocked += 1
        if generator.random() < 0.7:
            transmitted += len(world.transmitted())
    for _ in range(200):
        world.core.poll(world.tick(), budget=4096)
        blocked += len(world.take(server))
        transmitted += len(world.transmitted())
    drops = world.drops()
    down = drops.pop("device_queue_full", 0)
    assert pushed == world.core.device_statistics(0).rx_packets
    assert pushed == answered + blocked + sum(drops.values())
    assert answered == transmitted + down
    world.close()
