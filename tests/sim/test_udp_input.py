"""Received datagrams, from the frame to the endpoint, over IPv4 and IPv6."""

from __future__ import annotations

import random

import pytest
from simulated import HOST4, HOST6, PEER4, PEER6, World

from support import packets as p

PATHS = {"ipv4": (PEER4, HOST4), "ipv6": (PEER6, HOST6)}
both = pytest.mark.parametrize(("peer", "host"), PATHS.values(), ids=PATHS.keys())


def frame_of(packet: bytes) -> bytes:
    return p.ethernet(packet, p.IPV4 if packet[0] >> 4 == 4 else p.IPV6)


@both
def test_bound_endpoint_receives_and_answers(world: World, peer: str, host: str) -> None:
    server = world.core.open_udp((host, 9000))
    world.receive(p.udp(b"hello", (peer, 7), (host, 9000)))
    [(data, source)] = world.take(server)
    assert data == b"hello"
    assert source[:2] == (peer, 7)
    server.send(data.upper(), source)
    [frame] = world.transmitted()
    p.assert_udp(frame, payload=b"HELLO", src=(host, 9000), dst=(peer, 7))
    assert world.drops() == {}


@both
def test_dual_stack_wildcard_echoes_both_families(world: World, peer: str, host: str) -> None:
    server = world.core.open_udp(("::", 9000))
    world.receive(p.udp(b"hello", (peer, 7), (host, 9000)))
    for data, source in world.take(server):
        server.send(data, source)
    [frame] = world.transmitted()
    p.assert_udp(frame, payload=b"hello", src=(host, 9000), dst=(peer, 7))


@both
@pytest.mark.parametrize("size", [0, 1, 2, 3, 17, 18, 64, 1000, 1400])
def test_payload_of_any_length_arrives(world: World, peer: str, host: str, size: int) -> None:
    server = world.core.open_udp((host, 9000))
    payload = bytes(range(256)) * 6
    world.receive(p.udp(payload[:size], (peer, 7), (host, 9000)))
    assert [data for data, _ in world.take(server)] == [payload[:size]]


@both
def test_connected_endpoint_takes_its_peer_only(world: World, peer: str, host: str) -> None:
    client = world.core.open_udp((host, 9000), (peer, 7))
    world.receive(
        p.udp(b"peer", (peer, 7), (host, 9000)), p.udp(b"other port", (peer, 8), (host, 9000))
    )
    assert [data for data, _ in world.take(client)] == [b"peer"]
    assert world.drops() == {"udp_no_endpoint": 1}
    client.send(b"to the peer")
    p.assert_udp(world.transmitted()[0], payload=b"to the peer", dst=(peer, 7))


@both
def test_wrong_checksum_is_dropped(world: World, peer: str, host: str) -> None:
    server = world.core.open_udp((host, 9000))
    good = p.udp(b"hello", (peer, 7), (host, 9000))
    world.receive(good[:-1] + b"O")
    assert world.take(server) == []
    assert world.drops() == {"udp_bad_checksum": 1}


def test_missing_checksum_is_fine_over_ipv4_and_forbidden_over_ipv6(world: World) -> None:
    server = world.core.open_udp(("::", 9000))
    world.receive(p.udp(b"four", (PEER4, 7), (HOST4, 9000), sum_=0))
    world.receive(p.udp(b"six", (PEER6, 7), (HOST6, 9000), sum_=0))
    assert [data for data, _ in world.take(server)] == [b"four"]
    assert world.drops() == {"udp_bad_checksum": 1}


@both
@pytest.mark.parametrize("is_virtual", [True, False], ids=["virtual", "real"])
def test_checksum_left_to_a_nic_is_accepted_from_this_machine_only(
    peer: str, host: str, is_virtual: bool
) -> None:
    world = World(is_virtual=is_virtual)
    server = world.core.open_udp((host, 9000))
    src, dst = (peer, 7), (host, 9000)
    world.receive(p.udp(b"hello", src, dst, sum_=p.partial_sum(b"hello", src, dst)))
    assert [data for data, _ in world.take(server)] == ([b"hello"] if is_virtual else [])
    assert world.drops() == ({} if is_virtual else {"udp_bad_checksum": 1})
    world.close()


@both
def test_frame_cut_short_at_any_length_is_dropped(world: World, peer: str, host: str) -> None:
    server = world.core.open_udp((host, 9000))
    frame = p.udp(b"hello", (peer, 7), (host, 9000))
    for length in range(1, len(frame)):
        world.receive(frame[:length])
    assert world.take(server) == []
    ip = "ip6" if ":" in peer else "ip4"
    header = 40 if ":" in peer else 20
    assert world.drops() == {
        "ethernet_truncated": 13,
        f"{ip}_truncated": header,
        f"{ip}_bad_length": len(frame) - 14 - header,
    }


@both
def test_udp_header_cut_short_inside_a_whole_packet_is_dropped(
    world: World, peer: str, host: str
) -> None:
    server = world.core.open_udp((host, 9000))
    datagram = p.udp_datagram(b"", (peer, 7), (host, 9000))
    make = p.ipv6 if ":" in peer else p.ipv4
    for length in range(8):
        world.receive(frame_of(make(datagram[:length], peer, host)))
    assert world.take(server) == []
    assert world.drops() == {"udp_truncated": 8}


@both
def test_udp_length_that_does_not_fit_is_dropped(world: World, peer: str, host: str) -> None:
    server = world.core.open_udp((host, 9000))
    for length in (0, 1, 7, 14, 65535):
        world.receive(p.udp(b"hello", (peer, 7), (host, 9000), length=length))
    assert world.take(server) == []
    assert world.drops() == {"udp_bad_length": 5}


@both
def test_udp_length_below_the_packets_ends_the_payload(world: World, peer: str, host: str) -> None:
    server = world.core.open_udp((host, 9000))
    datagram = p.udp_datagram(b"hello", (peer, 7), (host, 9000)) + b"more"
    make = p.ipv6 if ":" in peer else p.ipv4
    world.receive(frame_of(make(datagram, peer, host)))
    assert [data for data, _ in world.take(server)] == [b"hello"]


@both
@pytest.mark.parametrize("padding", [1, 17, 46, 1000])
def test_padding_is_not_payload(world: World, peer: str, host: str, padding: int) -> None:
    server = world.core.open_udp((host, 9000))
    world.receive(p.udp(b"hello", (peer, 7), (host, 9000), padding=padding))
    assert [data for data, _ in world.take(server)] == [b"hello"]


@both
def test_port_zero_is_dropped(world: World, peer: str, host: str) -> None:
    world.core.open_udp((host, 9000))
    world.receive(p.udp(b"", (peer, 0), (host, 9000)), p.udp(b"", (peer, 7), (host, 0)))
    assert world.drops() == {"udp_bad_port": 2}


@both
def test_nobody_on_the_port_is_dropped(world: World, peer: str, host: str) -> None:
    world.core.open_udp((host, 9000))
    world.receive(p.udp(b"x", (peer, 7), (host, 9001)))
    assert world.drops() == {"udp_no_endpoint": 1}


@both
def test_vlan_tags_are_looked_through_up_to_two(world: World, peer: str, host: str) -> None:
    server = world.core.open_udp((host, 9000))
    for vlans in ((5,), (5, 6), (5, 6, 7)):
        world.receive(p.udp(bytes(vlans), (peer, 7), (host, 9000), vlans=vlans))
    assert [data for data, _ in world.take(server)] == [b"\5", b"\5\6"]
    assert world.drops() == {"ethernet_truncated": 1}


def test_other_ethertypes_are_dropped(world: World) -> None:
    world.receive(p.ethernet(b"\0" * 46, p.ARP), p.ethernet(b"\0" * 46, 0x88CC))
    assert world.drops() == {"ethernet_unknown_type": 2}


@both
def test_other_protocols_are_dropped(world: World, peer: str, host: str) -> None:
    for protocol in (p.ICMP, p.TCP, 58, 132, 255):
        if ":" in peer:
            packet = p.ipv6(b"\0" * 20, peer, host, next_header=protocol)
        else:
            packet = p.ipv4(b"\0" * 20, peer, host, protocol=protocol)
        world.receive(frame_of(packet))
    assert world.drops() == {"ip_unknown_protocol": 5}


@pytest.mark.parametrize("host", ["10.0.0.9", "0.0.0.0", "255.255.255.255", "224.0.0.1", "8.8.8.8"])
def test_ipv4_destination_that_is_not_ours_is_dropped(world: World, host: str) -> None:
    server = world.core.open_udp(("0.0.0.0", 9000))
    world.receive(p.udp(b"x", (PEER4, 7), (host, 9000)))
    world.receive(p.udp(b"mine", (PEER4, 7), (HOST4, 9000)), p.udp(b"x", (PEER4, 7), (host, 9000)))
    assert [data for data, _ in world.take(server)] == [b"mine"]
    assert world.drops() == {"ip4_not_local": 2}


@pytest.mark.parametrize("host", ["fd00::9", "::", "::1", "ff02::1", "2001:db8::1"])
def test_ipv6_destination_that_is_not_ours_is_dropped(world: World, host: str) -> None:
    server = world.core.open_udp(("::", 9000))
    world.receive(p.udp(b"x", (PEER6, 7), (host, 9000)))
    assert world.take(server) == []
    assert world.drops() == {"ip6_not_local": 1}


@pytest.mark.parametrize("peer", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1"])
def test_ipv4_source_that_cannot_be_one_is_dropped(world: World, peer: str) -> None:
    world.core.open_udp((HOST4, 9000))
    world.receive(p.udp(b"x", (peer, 7), (HOST4, 9000)))
    assert world.drops() == {"ip4_bad_source": 1}


@pytest.mark.parametrize("peer", ["::", "::1", "ff02::1"])
def test_ipv6_source_that_cannot_be_one_is_dropped(world: World, peer: str) -> None:
    world.core.open_udp((HOST6, 9000))
    world.receive(p.udp(b"x", (peer, 7), (HOST6, 9000)))
    assert world.drops() == {"ip6_bad_source": 1}


def test_link_local_peer_comes_with_its_link(world: World) -> None:
    server = world.core.open_udp(("::", 9000))
    world.receive(p.udp(b"x", ("fe80::2", 7), ("fe80::1", 9000)))
    [(_, source)] = world.take(server)
    assert source == ("fe80::2", 7, 0, 7)
    server.send(b"back", source)
    p.assert_udp(world.transmitted()[0], src=("fe80::1", 9000), dst=("fe80::2", 7))


@pytest.mark.parametrize("words", range(11))
def test_ipv4_options_are_skipped(world: World, words: int) -> None:
    server = world.core.open_udp((HOST4, 9000))
    datagram = p.udp_datagram(b"hello", (PEER4, 7), (HOST4, 9000))
    world.receive(frame_of(p.ipv4(datagram, PEER4, HOST4, options=b"\x01" * 4 * words)))
    assert [data for data, _ in world.take(server)] == [b"hello"]


def test_ipv4_header_faults_have_reasons_of_their_own(world: World) -> None:
    world.core.open_udp((HOST4, 9000))
    datagram = p.udp_datagram(b"hello", (PEER4, 7), (HOST4, 9000))

    def receive(**wrong: int) -> None:
        world.receive(p.ethernet(p.ipv4(datagram, PEER4, HOST4, **wrong), p.IPV4))

    receive(sum_=0x1234)
    receive(version=6)
    receive(header_words=4)
    receive(header_words=15)  # the options are the datagram: it is too short
    receive(total=19)
    receive(total=20 + len(datagram) + 1)
    assert world.drops() == {
        "ip4_bad_checksum": 1,
        "ip4_bad_header": 2,
        "ip4_truncated": 1,
        "ip4_bad_length": 2,
    }


def test_ipv6_header_faults_have_reasons_of_their_own(world: World) -> None:
    world.core.open_udp((HOST6, 9000))
    datagram = p.udp_datagram(b"hello", (PEER6, 7), (HOST6, 9000))
    world.receive(p.ethernet(p.ipv6(datagram, PEER6, HOST6, version=4), p.IPV6))
    world.receive(p.ethernet(p.ipv6(datagram, PEER6, HOST6, length=14), p.IPV6))
    world.receive(p.ethernet(p.ipv6(datagram, PEER6, HOST6, length=5), p.IPV6))
    assert world.drops() == {"ip6_bad_version": 1, "ip6_bad_length": 1, "udp_truncated": 1}


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x2001, 0x1FFF])
def test_ipv4_fragments_are_left_to_the_kernel(world: World, fragment: int) -> None:
    datagram = p.udp_datagram(b"hello", (PEER4, 7), (HOST4, 9000))
    world.receive(frame_of(p.ipv4(datagram, PEER4, HOST4, fragment=fragment)))
    assert world.drops() == {"ip4_fragment": 1}


H, R, F, D = p.HOP_BY_HOP, p.ROUTING, p.FRAGMENT, p.DESTINATION_OPTIONS
CHAINS = [
    ((H,), None),
    ((D,), None),
    ((R,), None),
    ((H, D, R, D), None),
    ((D,) * 8, None),
    ((D,) * 9, "ip6_bad_extension"),
    ((D, H), "ip6_bad_extension"),
    ((F,), "ip6_fragment"),
    ((H, F), "ip6_fragment"),
    ((p.NO_NEXT_HEADER,), "ip_unknown_protocol"),
    ((D, 51), "ip_unknown_protocol"),  # authentication header
]


@pytest.mark.parametrize(("kinds", "reason"), CHAINS)
def test_ipv6_extension_chain(world: World, kinds: tuple[int, ...], reason: str | None) -> None:
    server = world.core.open_udp((HOST6, 9000))
    datagram = p.udp_datagram(b"hello", (PEER6, 7), (HOST6, 9000))
    following, payload = p.extensions(kinds, datagram)
    world.receive(frame_of(p.ipv6(payload, PEER6, HOST6, next_header=following)))
    assert [data for data, _ in world.take(server)] == ([] if reason else [b"hello"])
    assert world.drops() == ({reason: 1} if reason else {})


def test_ipv6_extension_chain_cut_short_at_any_length_is_dropped(world: World) -> None:
    server = world.core.open_udp((HOST6, 9000))
    datagram = p.udp_datagram(b"hello", (PEER6, 7), (HOST6, 9000))
    following, payload = p.extensions((H, D, R), datagram)
    for length in range(len(payload)):
        world.receive(frame_of(p.ipv6(payload[:length], PEER6, HOST6, next_header=following)))
    assert world.take(server) == []
    assert world.drops() == {"ip6_bad_extension": 24, "udp_truncated": 8, "udp_bad_length": 5}


@both
def test_jumbo_datagram_is_received_through_a_chain(peer: str, host: str) -> None:
    world = World(mtu=9000)
    server = world.core.open_udp((host, 9000))
    payload = random.Random(1).randbytes(8952)
    world.receive(p.udp(payload, (peer, 7), (host, 9000), padding=3))
    [(data, source)] = world.take(server)
    assert data == payload
    server.send(data, source)
    [frame] = world.transmitted()
    p.assert_udp(frame, payload=payload, dst=(peer, 7))
    world.close()


@both
def test_full_receive_queue_drops_the_newest_and_says_so(
    world: World, peer: str, host: str
) -> None:
    server = world.core.open_udp((host, 9000))
    server.set_receive_limit(10 * 2048)
    world.receive(*(p.udp(b"%d" % i, (peer, 7), (host, 9000)) for i in range(25)))
    assert [data for data, _ in world.take(server)] == [b"%d" % i for i in range(10)]
    assert world.drops() == {"udp_queue_full": 15}
    assert server.statistics()["rx_queue_full"] == 15


def test_damaged_frames_are_never_delivered_damaged(world: World, generator: random.Random) -> None:
    """One or two turned bits cannot slip through the Internet checksum unless both hide."""
    server = world.core.open_udp(("::", 9000))
    sent = 0
    for _ in range(4000):
        peer, host = generator.choice(list(PATHS.values()))
        frame = bytearray(p.udp(b"0123456789", (peer, 7), (host, 9000)))
        bit = generator.randrange(12 * 8, len(frame) * 8)  # the MAC addresses are not covered
        frame[bit // 8] ^= 1 << bit % 8
        world.receive(bytes(frame))
        sent += 1
    for data, source in world.take(server):
        # Traffic class, flow label, hop limit: covered by nothing, and they do no harm.
        assert data == b"0123456789"
        assert source[0] == PEER6
    assert world.delivered + sum(world.drops().values()) == sent


def test_accounts_add_up_to_the_packet(world: World, generator: random.Random) -> None:
    server = world.core.open_udp(("::", 9000))
    server.set_receive_limit(40 * 2048)
    sent = 0
    for _ in range(3000):
        peer, host = generator.choice([*PATHS.values(), ("8.8.8.8", HOST4), (PEER4, "10.0.0.77")])
        port = generator.choice([9000, 9000, 9000, 0, 1])
        payload = generator.randbytes(generator.choice([0, 10, 1400]))
        frame = bytearray(p.udp(payload, (peer, 7), (host, port)))
        for _ in range(generator.choice([0, 0, 1, 3])):
            frame[generator.randrange(len(frame))] = generator.randrange(256)
        world.receive(
            bytes(frame[: generator.choice([len(frame), generator.randint(1, len(frame))])])
        )
        sent += 1
        if generator.random() < 0.02:
            world.take(server)
    world.take(server)
    statistics = world.core.device_statistics(world.wire.index)
    assert statistics.rx_packets == sent
    assert world.delivered == server.statistics()["rx_fast_datagrams"]
    assert world.delivered + sum(world.drops().values()) == sent
