"""Which way datagrams travel: queues, interfaces, sizes, fragments, loopback, routers, groups."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

import hybridnet
from hybridnet.cli.namespaces import Host
from support.peers import CLIENT4, CLIENT6, SERVER4, SERVER6, Net, echo, run


def allow_forwarding(host: Host) -> None:
    for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        run("ip", "netns", "exec", host.namespace, "sysctl", "-qw", f"net.{name}=1")


# Several queues, interfaces, stacks.


@pytest.mark.both_loops
async def test_two_queues_are_served_by_one_channel(make_net, fast_mode: str) -> None:
    net = make_net(queues=2)
    async with net.stack(mode=fast_mode) as stack, echo(await stack.open_udp(SERVER4)):
        (device,) = stack.host.devices.values()
        assert len(device.fds()) == 2
        for _ in range(32):
            assert await net.peer().ask(b"whichever queue", SERVER4) == b"whichever queue"


async def test_one_of_two_queues_leaves_the_other_to_the_kernel(make_net, fast_mode: str) -> None:
    net = make_net(queues=2)
    async with net.stack(mode=fast_mode, queues=1) as stack:
        async with echo(await stack.open_udp(SERVER4)):
            for _ in range(32):
                assert await net.peer().ask(b"whichever queue", SERVER4) == b"whichever queue"


@pytest.mark.both_loops
async def test_two_interfaces_are_served_by_one_channel(net: Net, fast_mode: str) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    async with net.stack("vb", "ob", mode=fast_mode) as stack:
        async with echo(await stack.open_udp(("0.0.0.0", 9000))) as channel:
            for _ in range(3):
                assert await net.peer().ask(b"near", SERVER4) == b"near"
                assert await net.peer(other).ask(b"far", ("10.88.0.2", 9000)) == b"far"
            if fast_mode == "native":
                assert channel.statistics().rx_kernel_datagrams == 0
                assert channel.statistics().tx_kernel_datagrams == 0


async def test_two_stacks_live_side_by_side(net: Net, fast_mode: str) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    async with (
        net.stack("vb", mode=fast_mode) as one,
        hybridnet.open_stack("ob", mode=fast_mode, statistics_socket=False) as two,
        echo(await one.open_udp(SERVER4)) as first,
        echo(await two.open_udp(("10.88.0.2", 9000))) as second,
    ):
        assert await net.peer().ask(b"one", SERVER4) == b"one"
        assert await net.peer(other).ask(b"two", ("10.88.0.2", 9000)) == b"two"
        for channel in (first, second):
            counts = channel.statistics()
            assert counts.rx_fast_datagrams + counts.rx_kernel_datagrams == 1


async def test_interface_that_no_stack_has_is_served_by_the_kernel_path(
    net: Net, fast_mode: str
) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    async with net.stack("vb", mode=fast_mode) as stack:
        async with echo(await stack.open_udp(("0.0.0.0", 9000))) as channel:
            assert await net.peer(other).ask(b"x", ("10.88.0.2", 9000)) == b"x"
            assert await net.peer().ask(b"y", SERVER4) == b"y"
            counts = channel.statistics()
            assert counts.rx_kernel_datagrams >= 1
            assert counts.tx_kernel_datagrams == 1


# Sizes.


@pytest.mark.both_loops
@pytest.mark.parametrize("size", [1473, 3000, 4000, 8972])
async def test_jumbo_frames_travel_whole(make_net, mode: str, size: int) -> None:
    net = make_net(mtu=9000)
    payload = bytes(i & 0xFF for i in range(size))
    async with net.stack(mode=mode) as stack, echo(await stack.open_udp(SERVER4)) as channel:
        assert await net.peer().ask(payload, SERVER4) == payload
        if mode == "native":
            counts = channel.statistics()
            assert (counts.rx_fast_datagrams, counts.tx_fast_datagrams) == (1, 1)


@pytest.mark.parametrize("lease", [False, True], ids=["copy", "lease"])
async def test_jumbo_frames_travel_in_batches(make_net, mode: str, lease: bool) -> None:
    net = make_net(mtu=9000)
    payloads = [bytes([n]) * (8972 - n) for n in range(8)]
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer()
        for payload in payloads:
            peer.send(payload, SERVER4)
        heard = 0
        while heard < len(payloads):
            with await channel.recv_batch(lease=lease) as batch:
                heard += len(batch)
                await channel.send_batch_wait(batch)
        assert [(await peer.receive())[0] for _ in payloads] == payloads


@pytest.mark.both_loops
@pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("size", [1473, 4000, 65000])
async def test_fragments_come_and_go_by_the_kernel_path(
    net: Net, mode: str, server: tuple[str, int], size: int
) -> None:
    payload = bytes(i * 7 & 0xFF for i in range(size))
    async with net.stack(mode=mode) as stack, echo(await stack.open_udp(server)) as channel:
        peer = net.peer(local=(CLIENT4 if "." in server[0] else CLIENT6, 0))
        assert await peer.ask(payload, server) == payload
        assert await peer.ask(b"small again", server) == b"small again"
        counts = channel.statistics()
        assert counts.rx_kernel_datagrams >= 1
        assert counts.tx_kernel_datagrams >= 1


async def test_mtu_change_is_followed_while_running(make_net, fast_mode: str) -> None:
    net = make_net(mtu=1500)
    payload = b"x" * 3000
    async with net.stack(mode=fast_mode, frame_bytes=4096) as stack:
        async with echo(await stack.open_udp(SERVER4)) as channel:
            peer = net.peer()
            assert await peer.ask(payload, SERVER4) == payload
            before = channel.statistics()
            assert before.tx_kernel_datagrams == 1
            for host in net.lab.hosts:
                net.ip(host, f"link set {host.interface} mtu 3500")
            await asyncio.sleep(0.1)
            assert await peer.ask(payload, SERVER4) == payload
            if fast_mode == "native":
                after = channel.statistics()
                assert after.tx_fast_datagrams == before.tx_fast_datagrams + 1
                assert after.rx_fast_datagrams == before.rx_fast_datagrams + 1
            for host in net.lab.hosts:
                net.ip(host, f"link set {host.interface} mtu 1300")
            await asyncio.sleep(0.1)
            assert await peer.ask(payload, SERVER4) == payload
            assert await peer.ask(b"y" * 1400, SERVER4) == b"y" * 1400


async def test_datagrams_joined_by_segmentation_offload_stay_apart(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer(options=((socket.IPPROTO_UDP, 103, 1000),))  # UDP_SEGMENT
        peer.send(b"a" * 1000 + b"b" * 1000 + b"c" * 500, SERVER4)
        heard = [(await channel.recvfrom())[0] for _ in range(3)]
        assert heard == [b"a" * 1000, b"b" * 1000, b"c" * 500]


# From here, from afar, to many.


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("bound", "asked"),
    [
        (("0.0.0.0", 9000), ("127.0.0.1", 9000)),
        (("0.0.0.0", 9000), SERVER4),
        (SERVER4, SERVER4),
        (("127.0.0.1", 9000), ("127.0.0.1", 9000)),
        (("::", 9000), ("::1", 9000)),
        (SERVER6, SERVER6),
    ],
)
async def test_client_on_the_same_host_is_answered(
    net: Net, mode: str, bound: tuple[str, int], asked: tuple[str, int]
) -> None:
    async with net.stack(mode=mode) as stack, echo(await stack.open_udp(bound)):
        any_address = ("::", 0) if ":" in asked[0] else ("0.0.0.0", 0)
        peer = net.peer(net.b, any_address)
        assert await peer.ask(b"from next door", asked) == b"from next door"


async def test_two_channels_of_one_stack_talk_to_each_other(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        one, two = await stack.open_udp(SERVER4), await stack.open_udp(("10.77.0.2", 9001))
        one.sendto(b"ping", two.local_address)
        data, addr = await two.recvfrom()
        assert (data, addr) == (b"ping", SERVER4)
        two.sendto(b"pong", addr)
        assert await one.recvfrom() == (b"pong", two.local_address)


@pytest.mark.both_loops
async def test_client_behind_a_router_is_answered(net: Net, mode: str) -> None:
    far = net.add_host("fa", net.a, "rf")
    net.ip(net.a, "address add 10.99.0.1/24 dev rf")
    net.ip(net.a, "address add fd99::1/64 dev rf nodad")
    net.ip(far, "address add 10.99.0.2/24 dev fa")
    net.ip(far, "address add fd99::2/64 dev fa nodad")
    allow_forwarding(net.a)
    for host, way4, way6 in ((far, "10.99.0.1", "fd99::1"), (net.b, CLIENT4, CLIENT6)):
        net.ip(host, f"route add default via {way4}")
        net.ip(host, f"-6 route add default via {way6}")
    async with (
        net.stack(mode=mode) as stack,
        echo(await stack.open_udp(SERVER4)) as four,
        echo(await stack.open_udp(SERVER6)) as six,
    ):
        peer4, peer6 = net.peer(far, ("10.99.0.2", 0)), net.peer(far, ("fd99::2", 0))
        for _ in range(3):
            assert await peer4.ask(b"from afar", SERVER4) == b"from afar"
            assert await peer6.ask(b"from afar", SERVER6) == b"from afar"
        if mode == "native":
            assert four.statistics().tx_fast_datagrams == 3
            assert six.statistics().tx_fast_datagrams == 3


@pytest.mark.both_loops
async def test_multicast_group_is_heard_on_the_channel(net: Net, mode: str) -> None:
    group = "239.1.2.3"
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(("0.0.0.0", 9000))
        peer = net.peer(local=(CLIENT4, 0))
        membership = socket.inet_aton(group) + socket.inet_aton("10.77.0.2")
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        peer.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(CLIENT4))
        peer.send(b"to the group", (group, 9000))
        assert await channel.recvfrom() == (b"to the group", peer.address)
        peer.send(b"to you", SERVER4)
        assert await channel.recvfrom() == (b"to you", peer.address)
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)
        peer.send(b"to the group", (group, 9000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.recvfrom(), 0.1)


async def test_ipv6_multicast_group_is_heard_on_the_channel(net: Net, mode: str) -> None:
    group = "ff02::1234"
    here, there = socket.if_nametoindex("vb"), 2
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(("::", 9000))
        membership = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", here)
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        peer = net.peer(local=(CLIENT6, 0))
        peer.send(b"to the group", (group, 9000, 0, there))
        assert (await channel.recvfrom())[0] == b"to the group"


async def test_channel_sends_to_a_group(net: Net, mode: str) -> None:
    group = "239.1.2.3"
    membership = socket.inet_aton(group) + socket.inet_aton(CLIENT4)
    join = (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP)
    async with net.stack(mode=mode) as stack:
        peer = net.peer(local=("0.0.0.0", 7777))
        peer.socket.setsockopt(*join, membership)
        channel = await stack.open_udp(SERVER4)
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.77.0.2"))
        channel.sendto(b"to all", (group, 7777))
        assert await peer.receive() == (b"to all", SERVER4)


async def test_broadcast_is_heard_on_the_wildcard_channel(net: Net, mode: str) -> None:
    may = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(("0.0.0.0", 9000))
        peer = net.peer(local=(CLIENT4, 0), options=(may,))
        for address in ("10.77.0.255", "255.255.255.255"):
            with contextlib.suppress(OSError):
                peer.send(address.encode(), (address, 9000))
                assert await channel.recvfrom() == (address.encode(), peer.address)


async def test_tunnel_through_the_interface_is_served_by_the_kernel_path(
    net: Net, mode: str
) -> None:
    for host, device, inner, far in (
        (net.a, "va", "10.55.0.1", SERVER4[0]),
        (net.b, "vb", "10.55.0.2", CLIENT4),
    ):
        net.ip(host, f"link add tunnel type vxlan id 5 dev {device} remote {far} dstport 4789")
        net.ip(host, f"address add {inner}/24 dev tunnel")
        net.ip(host, "link set tunnel up")
    async with (
        net.stack(mode=mode) as stack,
        echo(await stack.open_udp(("0.0.0.0", 9000))) as channel,
    ):
        for _ in range(2):
            assert await net.peer().ask(b"inside", ("10.55.0.2", 9000)) == b"inside"
            assert await net.peer().ask(b"beside", SERVER4) == b"beside"
        assert channel.statistics().tx_kernel_datagrams >= 2


async def test_interface_that_is_a_bridges_port_is_served(net: Net, mode: str) -> None:
    net.ip(net.b, "link add bridge type bridge")
    net.ip(net.b, "address flush dev vb scope global")
    net.ip(net.b, "link set vb master bridge")
    net.ip(net.b, "address add 10.77.0.2/24 dev bridge")
    net.ip(net.b, "link set bridge up")
    async with net.stack(mode=mode) as stack, echo(await stack.open_udp(("0.0.0.0", 9000))):
        for _ in range(3):
            assert await net.peer().ask(b"over the bridge", SERVER4) == b"over the bridge"


@pytest.mark.both_loops
async def test_busy_polling_serves_and_then_rests(net: Net, fast_mode: str) -> None:
    options = {"busy_poll": hybridnet.BusyPoll(spin_us=20, linger_us=2000)}
    async with net.stack(mode=fast_mode, **options) as stack:
        async with echo(await stack.open_udp(SERVER4)):
            for lap in range(3):
                for _ in range(20):
                    assert await net.peer().ask(b"quick", SERVER4) == b"quick"
                await asyncio.sleep(0.02 * lap)  # longer than it lingers
            assert await net.peer().ask(b"x" * 4000, SERVER4) == b"x" * 4000


async def test_more_peers_than_the_neighbor_table_holds(net: Net, fast_mode: str) -> None:
    count = 200
    net.batch(net.a, "".join(f"address add 10.77.1.{n}/16 dev va\n" for n in range(1, count + 1)))
    net.ip(net.b, "route add 10.77.1.0/24 dev vb")
    async with net.stack(mode=fast_mode, neighbors=64, flows=64) as stack:
        async with echo(await stack.open_udp(SERVER4)):
            for _ in range(2):
                for n in range(1, count + 1):
                    peer = net.peer(local=(f"10.77.1.{n}", 0))
                    assert await peer.ask(b"%d" % n, SERVER4) == b"%d" % n
                    peer.close()
