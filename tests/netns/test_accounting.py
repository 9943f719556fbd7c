"""What was sent is what was delivered and what was dropped by reason, to the packet."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import time

import pytest

import hybridnet
from support.netns import start_python
from support.peers import CLIENT4, SERVER4, Net, Recorder, eventually

FLOOD = """
import asyncio, json, sys
import uvloop
import hybridnet

async def main(count, size):
    payload = bytes(size)
    async with hybridnet.open_stack("va", mode="native", statistics_socket=False) as stack:
        channel = await stack.open_udp(("10.77.0.1", 0))
        for _ in range(3):  # until the neighbour is known
            channel.sendto(b"first", ("10.77.0.2", 9))
            await asyncio.sleep(0.02)
        before = channel.statistics().tx_fast_datagrams
        batch = hybridnet.DatagramBatch.of([(payload, ("10.77.0.2", 9000))] * 64)
        for _ in range(count // 64):
            await channel.send_batch_wait(batch)
        await asyncio.sleep(0.1)
        sent = channel.statistics().tx_fast_datagrams - before
        print(json.dumps({"sent": sent, "drops": stack.statistics().drops}))

uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def dropped_on_the_wire(net: Net) -> int:
    """Return what the veth pair gave up; what its AF_XDP sockets gave up is in there too."""
    (sender,) = json.loads(net.ip(net.a, "-j -s link show dev va"))
    (receiver,) = json.loads(net.ip(net.b, "-j -s link show dev vb"))
    return int(sender["stats64"]["tx"]["dropped"] + receiver["stats64"]["rx"]["dropped"])


async def note_pauses(pauses: list[float]) -> None:
    """Note how late the loop is, again and again, in seconds."""
    while True:
        start = time.monotonic()
        await asyncio.sleep(0.005)
        pauses.append(time.monotonic() - start - 0.005)


@pytest.mark.parametrize("size", [18, 1400])
async def test_flood_adds_up_and_the_loop_stays_responsive(net: Net, size: int) -> None:
    count = 128_000
    pauses: list[float] = []
    async with net.stack(mode="native", receive_frames=256) as stack:
        channel = await stack.open_udp(SERVER4)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
        ticker = asyncio.create_task(note_pauses(pauses))
        flood = start_python(net.lab, net.a, "-c", FLOOD, str(count), str(size))
        delivered = 0
        while flood.poll() is None:
            delivered += len(channel.recv_batch_nowait(64))  # slower than the flood
            await asyncio.sleep(0.001)
        assert flood.stdout is not None
        report = json.loads(flood.stdout.read())
        while batch := channel.recv_batch_nowait(1024):
            delivered += len(batch)
            await asyncio.sleep(0)
        ticker.cancel()
        await asyncio.wait([ticker])
        assert report == {"sent": count, "drops": {}}
        drops = dict(stack.statistics().drops)
        wire = dropped_on_the_wire(net)
        lost_by_the_socket = sum(n for name, n in drops.items() if name.startswith("xsk_"))
        assert drops.get("udp_queue_full", 0) + drops.get("udp_no_frames", 0) > 0
        # The socket's drops are the device's as well; whichever way, none is missing.
        accounted = delivered + sum(drops.values()) + max(0, wire - lost_by_the_socket)
        assert accounted == count, (delivered, drops, wire)
        assert max(pauses) < 0.25


async def test_every_datagram_of_a_protocol_is_counted_once(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        _, protocol = await stack.create_datagram_endpoint(Recorder, SERVER4)
        peer = net.peer()
        for number in range(100):
            peer.send(b"%d" % number, SERVER4)
            if number % 10 == 0:
                await asyncio.sleep(0)
        await protocol.wait_for("datagram", 100)
        statistics = stack.statistics()
        assert statistics.fast.rx_packets + statistics.kernel.rx_packets == 100
        assert statistics.drops == {}
        assert [event[1] for event in protocol.events[1:]] == [b"%d" % n for n in range(100)]


async def test_kernel_path_counts_what_its_socket_dropped(net: Net) -> None:
    async with net.stack(mode="kernel") as stack:
        channel = await stack.open_udp(SERVER4)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer = net.peer()
        for _ in range(200):
            peer.send(bytes(500), SERVER4)
        await asyncio.sleep(0.02)
        delivered = len(channel.recv_batch_nowait(1024))
        peer.send(b"tells the count", SERVER4)
        while (await channel.recvfrom())[0] != b"tells the count":
            delivered += 1
        drops = stack.statistics().drops
        assert drops["kernel_receive_queue_full"] > 0
        assert sum(drops.values()) == 200 - delivered, drops


async def test_counts_of_closed_channels_stay_in_the_stack(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        for _ in range(3):
            channel = await stack.open_udp(SERVER4)
            peer = net.peer()
            peer.send(b"x", SERVER4)
            await channel.recvfrom()
            channel.close()
        statistics = stack.statistics()
        assert statistics.fast.rx_packets + statistics.kernel.rx_packets == 3


async def test_datagrams_that_nobody_received_are_counted_when_the_channel_closes(
    net: Net, mode: str
) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer()
        for _ in range(10):
            peer.send(b"x", SERVER4)
        await eventually(lambda: channel.statistics().rx_queue_datagrams == 10, "the datagrams")
        channel.close()
        assert stack.statistics().drops == {"udp_closed": 10}


@pytest.mark.both_loops
async def test_many_stacks_one_after_the_other_leave_nothing(net: Net, fast_mode: str) -> None:
    for _ in range(5):
        async with net.stack(mode=fast_mode) as stack:
            channel = await stack.open_udp(SERVER4)
            peer = net.peer(local=(CLIENT4, 0))
            peer.send(b"x", SERVER4)
            channel.sendto(*await channel.recvfrom())
            await peer.receive()
    gc.collect()
    assert [o for o in gc.get_objects() if isinstance(o, hybridnet.Stack)] == [stack]


async def test_cancelled_opening_leaves_nothing(net: Net, fast_mode: str) -> None:
    for turns in range(12):
        opening = asyncio.create_task(
            hybridnet.open_stack("vb", mode=fast_mode, statistics_socket=False).open()
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await opening).aclose()
        assert net.xdp() is None
    async with net.stack(mode=fast_mode) as stack:
        assert stack.mode == fast_mode
