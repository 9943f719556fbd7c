"""The kernel's tables change under a running stack, and the next packet knows."""

from __future__ import annotations

import asyncio
import socket

import pytest

from support.peers import Net


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
