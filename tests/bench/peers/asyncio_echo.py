"""The peer: the same UDP echo on a kernel socket, by stdlib asyncio or uvloop.

Prints ``ready HOST:PORT kernel`` when it serves and one JSON line when it is told to stop, as
``examples/udp_echo.py`` does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from typing import Any, cast

import uvloop


class Echo(asyncio.DatagramProtocol):
    """Sends every datagram back to where it came from."""

    __slots__ = ("_send", "packets")

    def __init__(self) -> None:
        self.packets = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._send = cast(asyncio.DatagramTransport, transport).sendto

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.packets += 1
        self._send(data, addr)


async def serve(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    transport, protocol = await loop.create_datagram_endpoint(Echo, local_addr=(host, port))
    print(f"ready {host}:{port} kernel", flush=True)
    await stopped.wait()
    transport.close()
    print(json.dumps({"mode": "kernel", "kernel": {"rx_packets": protocol.packets}}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(host, int(port)))


if __name__ == "__main__":
    main()
