"""The kernel's tables change under a running stack, and the next packet knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

import hybridnet
from support.peers import CLIENT4, SERVER4, Net, Peer, echo, eventually, run


@pytest.mark.both_loops
async def test_route_changes_are_followed_after_news_was_lost(net: Net, fast_mode: str) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    target = "10.99.0.1"
    for host in (net.a, other):
        net.ip(host, f"address add {target}/32 dev lo")
    async with net.stack("vb", "ob", mode=fast_mode) as stack:
        channel = await stack.open_udp(("0.0.0.0", 9000))
        near, far = net.peer(net.a, (target, 7777)), net.peer(other, (target, 7777))
        watcher = stack._watcher
        assert watcher is not None
        monitor = watcher._monitor
        assert monitor is not None
        monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for lap in range(2):
            lines = "".join(
                f"route replace 10.{100 + lap}.{n}.0/24 via 10.77.0.1\n" for n in range(200)
            )
            net.batch(net.b, lines)  # the loop does not turn meanwhile
            async with asyncio.timeout(3):
                while watcher.statistics().overruns <= lap:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        for via, peer in (("10.77.0.1", near), ("10.88.0.1", far), ("10.77.0.1", near)):
            net.ip(net.b, f"route replace {target} via {via}")
            async with asyncio.timeout(3):
                while True:
                    channel.sendto(b"where?", (target, 7777))
                    try:
                        await peer.receive(0.1)
                        break
                    except TimeoutError:
                        continue


async def arrives(channel: hybridnet.UdpChannel, peer: Peer, target: tuple[str, int]) -> None:
    """Send until one arrives: for changes that the kernel announces a moment later."""
    async with asyncio.timeout(3):
        while True:
            with contextlib.suppress(OSError):
                channel.sendto(b"there?", target)
            try:
                await peer.receive(0.05)
                return
            except TimeoutError:
                continue


@pytest.mark.both_loops
async def test_changed_route_takes_the_very_next_packet(net: Net, fast_mode: str) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    target = ("10.99.0.1", 7777)
    for host in (net.a, other):
        net.ip(host, "address add 10.99.0.1/32 dev lo")
        net.ip(host, "route add default via " + ("10.77.0.2" if host is net.a else "10.88.0.2"))
    near, far = net.peer(net.a, target), net.peer(other, target)
    async with net.stack("vb", "ob", mode=fast_mode) as stack:
        channel = await stack.open_udp(("0.0.0.0", 9000))
        for _ in range(5):
            for via, peer in (("10.77.0.1", near), ("10.88.0.1", far)):
                net.ip(net.b, f"route replace 10.99.0.0/24 via {via}")
                await asyncio.sleep(0.02)  # the news is in the loop's hands
                channel.sendto(via.encode(), target)
                assert (await peer.receive())[0] == via.encode()
        net.ip(net.b, "route del 10.99.0.0/24")
        await asyncio.sleep(0.02)
        with pytest.raises(hybridnet.NetworkUnreachable):
            channel.sendto(b"nowhere", target)


@pytest.mark.both_loops
async def test_neighbor_that_fails_and_comes_back_is_reached_again(
    net: Net, fast_mode: str
) -> None:
    async with net.stack(mode=fast_mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer(local=(CLIENT4, 0))
        await arrives(channel, peer, peer.address)
        net.ip(net.b, "neigh flush dev vb")
        await arrives(channel, peer, peer.address)
        net.ip(net.a, "link set va down")
        await asyncio.sleep(0.05)
        for _ in range(3):
            with contextlib.suppress(OSError):
                channel.sendto(b"lost", peer.address)
        net.ip(net.b, "neigh flush dev vb")
        net.ip(net.a, "link set va up")
        await arrives(channel, peer, peer.address)


async def test_neighbor_with_a_new_hardware_address_is_reached(net: Net, fast_mode: str) -> None:
    async with net.stack(mode=fast_mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer(local=(CLIENT4, 0))
        await arrives(channel, peer, peer.address)
        net.ip(net.a, "link set va address 02:00:00:00:00:99")
        peer.send(b"it is me", SERVER4)
        net.ip(net.b, "neigh replace 10.77.0.1 dev vb lladdr 02:00:00:00:00:99")
        await asyncio.sleep(0.05)
        channel.sendto(b"and me", peer.address)
        assert (await peer.receive())[0] == b"and me"


async def test_own_hardware_address_change_is_followed(net: Net, fast_mode: str) -> None:
    async with net.stack(mode=fast_mode) as stack:
        channel = await stack.open_udp(SERVER4)
        net.ip(net.b, "link set vb address 02:00:00:00:00:77")
        await asyncio.sleep(0.05)
        peer = net.peer(local=(CLIENT4, 0))
        await arrives(channel, peer, peer.address)
        net.ip(net.a, "neigh flush dev va")
        peer.send(b"still here?", SERVER4)
        assert (await channel.recvfrom())[0] == b"still here?"


@pytest.mark.both_loops
async def test_address_removed_and_added_while_running(net: Net, fast_mode: str) -> None:
    net.ip(net.b, "address add 10.77.0.3/24 dev vb")
    async with net.stack(mode=fast_mode) as stack:
        async with echo(await stack.open_udp(("0.0.0.0", 9000))) as channel:
            peer = net.peer()
            third = ("10.77.0.3", 9000)
            peer.send(b"there?", third)
            await peer.receive()
            net.ip(net.b, "address del 10.77.0.3/24 dev vb")
            await asyncio.sleep(0.05)
            net.ip(net.a, "neigh replace 10.77.0.3 dev va lladdr " + mac_of("vb"))
            before = channel.statistics()
            peer.send(b"not there", third)
            assert await peer.hears_nothing()
            after = channel.statistics()
            assert after.rx_fast_datagrams == before.rx_fast_datagrams
            net.ip(net.b, "address add 10.77.0.3/24 dev vb")
            await asyncio.sleep(0.05)
            peer.send(b"there again", third)
            assert (await peer.receive())[0] == b"there again"


def mac_of(interface: str) -> str:
    (link,) = json.loads(run("ip", "-j", "link", "show", "dev", interface))
    return str(link["address"])


@pytest.mark.both_loops
async def test_link_down_and_up_again(net: Net, fast_mode: str) -> None:
    async with net.stack(mode=fast_mode) as stack:
        async with echo(await stack.open_udp(SERVER4)) as channel:
            peer = net.peer(local=(CLIENT4, 0))
            assert await peer.ask(b"before", SERVER4) == b"before"
            net.ip(net.b, "link set vb down")
            await asyncio.sleep(0.05)
            with pytest.raises(hybridnet.NetworkUnreachable):
                channel.sendto(b"down", peer.address)
            net.ip(net.b, "link set vb up")
            await arrives(channel, peer, peer.address)
            await asyncio.sleep(0.05)
            while not await peer.hears_nothing():
                pass
            assert await peer.ask(b"after", SERVER4) == b"after"
            counts = channel.statistics()
            assert counts.rx_fast_datagrams + counts.rx_kernel_datagrams == 2


@pytest.mark.both_loops
async def test_channels_outlive_their_interface(
    net: Net, fast_mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    here = ("10.88.0.2", 9000)
    async with net.stack("ob", mode=fast_mode) as stack:
        wildcard = await stack.open_udp(("0.0.0.0", 9000))
        peer = net.peer(other)
        peer.send(b"before", here)
        assert (await wildcard.recvfrom())[0] == b"before"
        waiting = asyncio.create_task(wildcard.recvfrom())
        net.ip(net.b, "link del ob")
        await eventually(lambda: stack.mode == "kernel", "the loss of the interface")
        assert any("ob: the interface was deleted" in reason for reason in stack.reasons)
        assert "ob was deleted" in caplog.text
        net.peer().send(b"after", SERVER4)
        assert (await waiting)[0] == b"after"
        client = net.peer(local=(CLIENT4, 0))
        wildcard.sendto(b"by the kernel", client.address)
        assert (await client.receive())[0] == b"by the kernel"
        assert stack.statistics().fast.rx_packets >= (fast_mode == "native")
        with pytest.raises(hybridnet.NetworkUnreachable):
            wildcard.sendto(b"gone", ("10.88.0.1", 9))
        later = await stack.open_udp(("10.77.0.2", 9001))
        later.sendto(b"opened later", client.address)
        assert (await client.receive())[0] == b"opened later"


async def test_one_of_two_interfaces_is_deleted(net: Net, fast_mode: str) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    async with net.stack("vb", "ob", mode=fast_mode) as stack:
        async with echo(await stack.open_udp(("0.0.0.0", 9000))):
            net.ip(other, "link del oa")
            await eventually(lambda: len(stack.host.devices) == 1, "the loss of the interface")
            assert stack.mode == fast_mode
            assert await net.peer().ask(b"unharmed", SERVER4) == b"unharmed"


async def test_interface_renamed_while_running(net: Net, fast_mode: str) -> None:
    async with net.stack(mode=fast_mode) as stack:
        async with echo(await stack.open_udp(SERVER4)):
            net.ip(net.b, "link set vb name renamed")
            await asyncio.sleep(0.05)
            assert await net.peer().ask(b"same wire", SERVER4) == b"same wire"
            names = [d["name"] for d in stack.snapshot()["devices"]]
            assert names == ["renamed"]
        net.ip(net.b, "link set renamed name vb")


async def test_link_that_is_down_at_the_start_comes_up(net: Net, fast_mode: str) -> None:
    net.ip(net.b, "link set vb down")
    async with net.stack(mode=fast_mode) as stack:
        async with echo(await stack.open_udp(SERVER4)):
            net.ip(net.b, "link set vb up")
            await asyncio.sleep(0.05)
            assert await net.peer().ask(b"up", SERVER4) == b"up"


async def test_mtu_grows_beyond_the_frames_while_running(net: Net, fast_mode: str) -> None:
    async with net.stack(mode=fast_mode) as stack:
        async with echo(await stack.open_udp(SERVER4)):
            for host in net.lab.hosts:
                net.ip(host, f"link set {host.interface} mtu 9000")
            await asyncio.sleep(0.05)
            for size in (100, 1900, 4000, 8972):
                assert await net.peer().ask(b"x" * size, SERVER4) == b"x" * size


async def test_rules_choose_the_table(net: Net, fast_mode: str) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    target = ("10.99.0.1", 7777)
    for host in (net.a, other):
        net.ip(host, "address add 10.99.0.1/32 dev lo")
    near, far = net.peer(net.a, target), net.peer(other, target)
    net.ip(net.b, "route add 10.99.0.0/24 via 10.77.0.1")
    net.ip(net.b, "route add 10.99.0.0/24 via 10.88.0.1 table 100")
    async with net.stack("vb", "ob", mode=fast_mode) as stack:
        channel = await stack.open_udp(SERVER4)
        await arrives(channel, near, target)
        net.ip(net.b, "rule add from 10.77.0.2 to 10.99.0.0/24 lookup 100")
        await asyncio.sleep(0.05)
        await arrives(channel, far, target)
        assert await near.hears_nothing()
        net.ip(net.b, "rule del from 10.77.0.2 to 10.99.0.0/24 lookup 100")
        await asyncio.sleep(0.05)
        await arrives(channel, near, target)


async def test_lease_outlives_the_interface(net: Net, fast_mode: str) -> None:
    other = net.add_host("oa", net.b, "ob")
    net.ip(net.b, "address add 10.88.0.2/24 dev ob")
    net.ip(other, "address add 10.88.0.1/24 dev oa")
    async with net.stack("ob", mode=fast_mode) as stack:
        channel = await stack.open_udp(("10.88.0.2", 9000))
        net.peer(other).send(b"kept", ("10.88.0.2", 9000))
        batch = await channel.recv_batch(lease=True)
        net.ip(net.b, "link del ob")
        await eventually(lambda: stack.mode == "kernel", "the loss of the interface")
        assert bytes(batch.payload(0)) == b"kept"
        with pytest.raises(hybridnet.NetworkUnreachable):
            channel.send_batch(batch)
        batch.release()
