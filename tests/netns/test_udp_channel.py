"""UDP channels against kernel sockets on the other host: every mode, both loops."""

from __future__ import annotations

import asyncio
import socket

import pytest

import hybridnet
from support.peers import CLIENT4, CLIENT6, SERVER4, SERVER6, Net, echo

pytestmark = pytest.mark.both_loops

IP_RECVTTL = 12


@pytest.mark.parametrize("size", [0, 1, 64, 1472])
async def test_ipv4_datagram_comes_and_goes_back(net: Net, mode: str, size: int) -> None:
    payload = bytes(range(256)) * 6
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer(local=(CLIENT4, 0))
        peer.send(payload[:size], SERVER4)
        data, addr = await channel.recvfrom()
        assert (data, addr) == (payload[:size], peer.address)
        channel.sendto(data[::-1], addr)
        assert await peer.receive() == (payload[:size][::-1], SERVER4)
        assert stack.mode == mode
        counts = channel.statistics()
        fast = (counts.rx_fast_datagrams, counts.tx_fast_datagrams)
        kernel = (counts.rx_kernel_datagrams, counts.tx_kernel_datagrams)
        assert {"native": fast, "kernel": kernel}.get(mode, (1, 1)) == (1, 1)


async def test_ipv6_datagram_comes_and_goes_back(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER6)
        peer = net.peer(local=(CLIENT6, 0))
        peer.send(b"hello", SERVER6)
        assert await channel.recvfrom() == (b"hello", peer.address)
        channel.sendto(b"world", peer.address)
        assert (await peer.receive())[0] == b"world"
        if mode == "native":
            assert channel.statistics().rx_fast_datagrams == 1
            assert channel.statistics().tx_fast_datagrams == 1


async def test_link_local_peer_is_named_with_its_scope(net: Net, mode: str) -> None:
    net.ip(net.b, "address add fe80::b/64 dev vb nodad")
    net.ip(net.a, "address add fe80::a/64 dev va nodad")
    here, there = socket.if_nametoindex("vb"), 2
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(("fe80::b%vb", 9000))
        assert channel.local_address == ("fe80::b", 9000, 0, here)
        peer = net.peer(local=("fe80::a", 0, 0, there))
        peer.send(b"hello", ("fe80::b", 9000, 0, there))
        data, addr = await channel.recvfrom()
        assert (data, addr) == (b"hello", ("fe80::a", peer.port, 0, here))
        channel.sendto(b"world", addr)
        assert (await peer.receive())[0] == b"world"
        channel.sendto(b"by name", ("fe80::a%vb", peer.port))
        assert (await peer.receive())[0] == b"by name"


async def test_channel_on_one_of_several_addresses_hears_only_that(net: Net, mode: str) -> None:
    net.ip(net.b, "address add 10.77.0.3/24 dev vb")
    async with net.stack(mode=mode) as stack:
        second = await stack.open_udp(("10.77.0.3", 9000))
        first = await stack.open_udp(SERVER4)
        peer = net.peer()
        peer.send(b"to the third", ("10.77.0.3", 9000))
        peer.send(b"to the second", SERVER4)
        assert (await second.recvfrom())[0] == b"to the third"
        assert (await first.recvfrom())[0] == b"to the second"
        second.sendto(b"from the third", (CLIENT4, peer.port))
        assert await peer.receive() == (b"from the third", ("10.77.0.3", 9000))


async def test_ipv4_wildcard_hears_every_address(net: Net, mode: str) -> None:
    net.ip(net.b, "address add 10.77.0.3/24 dev vb")
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(("0.0.0.0", 9000))
        peer = net.peer()
        for address in ("10.77.0.2", "10.77.0.3"):
            peer.send(address.encode(), (address, 9000))
            assert await channel.recvfrom() == (address.encode(), (CLIENT4, peer.port))


async def test_ipv6_wildcard_hears_both_families(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack, echo(await stack.open_udp(("::", 9000))):
        assert await net.peer(local=(CLIENT6, 0)).ask(b"six", SERVER6) == b"six"
        assert await net.peer(local=(CLIENT4, 0)).ask(b"four", SERVER4) == b"four"


async def test_ipv4_peer_of_an_ipv6_channel_looks_as_on_a_kernel_socket(
    net: Net, mode: str
) -> None:
    dual_stack = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    reference = net.peer(net.b, ("::", 9001), options=(dual_stack,))
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(("::", 9000))
        peer = net.peer()
        peer.send(b"to the reference", ("10.77.0.2", 9001))
        peer.send(b"to the channel", SERVER4)
        assert (await channel.recvfrom())[1] == (await reference.receive())[1]


async def test_ipv6_only_wildcard_leaves_ipv4_to_others(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        six = await stack.open_udp(("::", 9000), v6only=True)
        four = await stack.open_udp(("0.0.0.0", 9000))
        peer4, peer6 = net.peer(), net.peer(local=(CLIENT6, 0))
        peer4.send(b"four", SERVER4)
        peer6.send(b"six", SERVER6)
        assert (await four.recvfrom())[0] == b"four"
        assert (await six.recvfrom())[0] == b"six"


async def test_port_zero_gives_a_free_port_that_is_reachable(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        one = await stack.open_udp(("10.77.0.2", 0))
        other = await stack.open_udp(("10.77.0.2", 0))
        assert 0 != one.local_address[1] != other.local_address[1] != 0
        async with echo(one):
            assert await net.peer().ask(b"x", one.local_address) == b"x"


async def test_connected_channel_talks_to_its_peer_only(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        peer = net.peer(local=(CLIENT4, 0))
        channel = await stack.open_udp(remote=peer.address)
        assert channel.remote_address == peer.address
        assert channel.local_address[0] == "10.77.0.2"
        channel.sendto(b"to the peer")
        data, source = await peer.receive()
        assert (data, source) == (b"to the peer", channel.local_address)
        net.peer().send(b"from a stranger", source)
        peer.send(b"from the peer", source)
        assert await channel.recvfrom() == (b"from the peer", peer.address)
        channel.sendto(b"spelt out", peer.address)
        assert (await peer.receive())[0] == b"spelt out"
        with pytest.raises(ValueError, match="connected"):
            channel.sendto(b"elsewhere", (CLIENT4, 1))


async def test_connected_channel_takes_its_peer_from_the_wildcard_channel(
    net: Net, mode: str
) -> None:
    async with net.stack(mode=mode) as stack:
        everybody = await stack.open_udp(SERVER4, reuse_address=True)
        friend, stranger = net.peer(local=(CLIENT4, 0)), net.peer()
        connected = await stack.open_udp(SERVER4, remote=friend.address, reuse_address=True)
        friend.send(b"friend", SERVER4)
        stranger.send(b"stranger", SERVER4)
        assert (await connected.recvfrom())[0] == b"friend"
        assert (await everybody.recvfrom())[0] == b"stranger"


async def test_async_for_ends_when_the_channel_closes(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer()
        for number in range(5):
            peer.send(b"%d" % number, SERVER4)
        heard = []
        async for data, _ in channel:
            heard.append(data)
            if len(heard) == 5:
                asyncio.get_running_loop().call_soon(channel.close)
        assert heard == [b"0", b"1", b"2", b"3", b"4"]


async def test_closing_wakes_the_receiver(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        receiver = asyncio.create_task(channel.recvfrom())
        await asyncio.sleep(0)
        channel.close()
        channel.close()
        with pytest.raises(hybridnet.ChannelClosed):
            await receiver
        with pytest.raises(hybridnet.ChannelClosed):
            await channel.recvfrom()
        with pytest.raises(hybridnet.ChannelClosed):
            channel.sendto(b"", SERVER4)


async def test_closing_the_stack_wakes_the_receiver(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        receiver = asyncio.create_task((await stack.open_udp(SERVER4)).recvfrom())
        await asyncio.sleep(0)
        await stack.aclose()
        with pytest.raises(hybridnet.ChannelClosed):
            await receiver


async def test_second_receiver_is_told_that_the_channel_is_busy(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        first = asyncio.create_task(channel.recvfrom())
        await asyncio.sleep(0)
        with pytest.raises(hybridnet.ChannelBusy):
            await channel.recvfrom()
        with pytest.raises(hybridnet.ChannelBusy):
            await channel.recv_batch()
        net.peer().send(b"for the first", SERVER4)
        assert (await first)[0] == b"for the first"


async def test_cancelled_receive_loses_nothing(net: Net, mode: str) -> None:
    count = 300
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer()
        heard: list[bytes] = []
        cancelled = 0
        for number in range(count):
            receiver = asyncio.create_task(channel.recvfrom())
            await asyncio.sleep(0)
            peer.send(b"%d" % number, SERVER4)
            for _ in range(number % 4):  # let the datagram come to different points
                await asyncio.sleep(0)
            receiver.cancel()
            try:
                heard.append((await receiver)[0])
            except asyncio.CancelledError:
                cancelled += 1
        assert cancelled > 0
        async with asyncio.timeout(3):
            while len(heard) < count:
                heard.append((await channel.recvfrom())[0])
        assert heard == [b"%d" % number for number in range(count)]


async def test_options_of_the_channel_are_on_its_packets(net: Net, mode: str) -> None:
    want = ((socket.IPPROTO_IP, socket.IP_RECVTOS, 1), (socket.IPPROTO_IP, IP_RECVTTL, 1))
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
        assert channel.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7
        peer = net.peer(local=(CLIENT4, 0), options=want)
        channel.sendto(b"x", peer.address)
        peer.socket.settimeout(3)
        _, ancillary, _, _ = await asyncio.to_thread(peer.socket.recvmsg, 10, 200)
        values = {kind: int.from_bytes(data, "little") for _, kind, data in ancillary}
        assert values == {socket.IP_TTL: 7, socket.IP_TOS: 0xB8}
