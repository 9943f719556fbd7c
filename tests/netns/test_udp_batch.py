"""Bursts, leases and back-pressure against kernel sockets on the other host."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import numpy
import pytest

import hybridnet
from support.peers import CLIENT4, SERVER4, Net, run

BIG_RECEIVE_BUFFER = (socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE


async def collect(channel: hybridnet.UdpChannel, count: int) -> list[bytes]:
    """Receive batches until ``count`` payloads are there."""
    found: list[bytes] = []
    async with asyncio.timeout(3):
        while len(found) < count:
            batch = await channel.recv_batch()
            found += [bytes(payload) for payload, _ in batch]
    return found


@pytest.mark.both_loops
async def test_batch_holds_payloads_and_senders_in_order(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peers = [net.peer(local=(CLIENT4, 0)) for _ in range(3)]
        sent = []
        for number in range(30):
            peers[number % 3].send(b"x" * number, SERVER4)
            sent.append((b"x" * number, peers[number % 3].address))
        heard: list[tuple[bytes, object]] = []
        async with asyncio.timeout(3):
            while len(heard) < 30:
                batch = await channel.recv_batch(7)
                assert 1 <= len(batch) <= 7
                assert not batch.is_leased
                heard += [(bytes(payload), address) for payload, address in batch]
        assert heard == sent


async def test_descriptors_are_a_numpy_table(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer()
        for number in range(4):
            peer.send(b"%d" % number * (number + 1), SERVER4)
        await asyncio.sleep(0.05)
        batch = await channel.recv_batch()
        table = numpy.frombuffer(batch.descriptors, numpy.dtype(hybridnet.DATAGRAM_FIELDS))
        assert table["length"].tolist() == [1, 2, 3, 4]
        assert table["offset"].tolist() == [0, 1, 3, 6]
        assert table["port"].tolist() == [peer.port] * 4
        assert table["family"].tolist() == [4] * 4
        assert table["ip"][0][:4].tolist() == [10, 77, 0, 1]
        assert bytes(batch.payloads) == b"0112223333"


@pytest.mark.both_loops
@pytest.mark.parametrize("lease", [False, True], ids=["copy", "lease"])
async def test_batch_goes_back_to_its_senders(net: Net, mode: str, lease: bool) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peers = [net.peer() for _ in range(4)]
        for number in range(40):
            peers[number % 4].send(b"%d" % number, SERVER4)
        returned = 0
        async with asyncio.timeout(3):
            while returned < 40:
                with await channel.recv_batch(lease=lease) as batch:
                    await channel.send_batch_wait(batch)
                    returned += len(batch) if not lease else 0
                if lease:
                    counts = channel.statistics()
                    returned = counts.tx_fast_datagrams + counts.tx_kernel_datagrams
        for number in range(40):
            assert (await peers[number % 4].receive())[0] == b"%d" % number


async def test_lease_is_a_view_of_the_frame_until_its_release(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer()
        peer.send(b"hello", SERVER4)
        batch = await channel.recv_batch(lease=True)
        assert batch.is_leased
        view = batch.payload(0)
        view[:1] = b"J"
        assert bytes(batch.payload(0)) == b"Jello"
        with pytest.raises(BufferError):
            batch.release()
        view.release()
        batch.release()
        batch.release()
        with pytest.raises(hybridnet.LeaseReleased):
            batch.payload(0)
        with pytest.raises(hybridnet.LeaseReleased):
            channel.send_batch(batch)
        peer.send(b"again", SERVER4)
        assert (await channel.recvfrom())[0] == b"again"


async def test_lease_outlives_its_stack(net: Net, mode: str) -> None:
    async with net.stack(mode=mode, leases=True) as stack:
        channel = await stack.open_udp(SERVER4)
        net.peer().send(b"kept", SERVER4)
        batch = await channel.recv_batch(lease=True)
    assert bytes(batch.payload(0)) == b"kept"
    batch.release()


async def test_batch_of_ones_own_goes_to_many(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peers = [net.peer(local=(CLIENT4, 0)) for _ in range(5)]
        parts = [(b"to %d" % number, peer.address) for number, peer in enumerate(peers)]
        await channel.send_batch_wait(parts)
        for number, peer in enumerate(peers):
            assert await peer.receive() == (b"to %d" % number, SERVER4)


@pytest.mark.both_loops
async def test_long_run_of_sends_through_small_rings_loses_nothing(
    net: Net, fast_mode: str
) -> None:
    rings = hybridnet.RingSpec(rx=64, tx=64, fill=64, completion=128)
    async with net.stack(mode=fast_mode, rings=rings, backlog=64) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer(local=(CLIENT4, 0), options=(BIG_RECEIVE_BUFFER,))
        peer.send(b"makes the neighbour known", SERVER4)
        await channel.recvfrom()
        for number in range(2000):
            await channel.sendto_wait(b"%d" % number, peer.address)
        for number in range(2000):
            assert (await peer.receive())[0] == b"%d" % number
        assert channel.statistics().tx_fast_datagrams == 2000
        assert stack.statistics().drops == {}


@pytest.mark.both_loops
@pytest.mark.parametrize("api", ["sendto", "send_batch"])
async def test_sender_waits_for_a_slow_wire_and_loses_nothing(net: Net, api: str) -> None:
    run(
        "tc",
        *[
            "qdisc",
            "add",
            "dev",
            "vb",
            "root",
            "tbf",
            "rate",
            "80mbit",
            "burst",
            "4kb",
            "limit",
            "10mb",
        ],
    )
    datagrams = [(b"%d" % number).ljust(1000) for number in range(500)]
    async with net.stack(mode="kernel") as stack:
        channel = await stack.open_udp(SERVER4)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        peer = net.peer(local=(CLIENT4, 0), options=(BIG_RECEIVE_BUFFER,))
        with pytest.raises(hybridnet.WouldBlock):
            for _ in datagrams:
                channel.sendto(b"fills the buffer".ljust(1000), peer.address)
        async with asyncio.timeout(3):
            if api == "send_batch":
                await channel.send_batch_wait([(data, peer.address) for data in datagrams])
            else:
                for data in datagrams:
                    await channel.sendto_wait(data, peer.address)
        heard = []
        while len(heard) < len(datagrams):
            data, _ = await peer.receive()
            if not data.startswith(b"fills"):
                heard.append(data)
        assert heard == datagrams


async def test_sender_to_an_unresolved_neighbor_is_counted_not_held(
    net: Net, fast_mode: str
) -> None:
    async with net.stack(mode=fast_mode) as stack:
        channel = await stack.open_udp(SERVER4)
        for _ in range(500):
            channel.sendto(b"nobody", ("10.77.0.99", 9))
        net.ip(net.b, "neigh replace 10.77.0.99 dev vb nud failed")
        peer = net.peer(local=(CLIENT4, 0))
        channel.sendto(b"somebody", peer.address)
        assert (await peer.receive())[0] == b"somebody"
        drops = stack.statistics().drops
        assert drops.get("neighbor_queue_full", 0) > 0


async def test_cancelled_batch_receive_loses_nothing(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer()
        heard: list[bytes] = []
        for number in range(100):
            receiver = asyncio.create_task(channel.recv_batch())
            await asyncio.sleep(0)
            peer.send(b"%d" % number, SERVER4)
            await asyncio.sleep(0)
            receiver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                heard += [bytes(payload) for payload, _ in await receiver]
        heard += await collect(channel, 100 - len(heard)) if len(heard) < 100 else []
        assert heard == [b"%d" % number for number in range(100)]


async def test_nowait_receive_says_that_nothing_is_there(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        with pytest.raises(hybridnet.WouldBlock):
            channel.recvfrom_nowait()
        assert len(channel.recv_batch_nowait()) == 0
        with pytest.raises(ValueError, match="at least one"):
            channel.recv_batch_nowait(0)
