"""The peer: an aioquic echo server on a kernel socket, by stdlib asyncio or uvloop.

The protocol class does what that of ``examples/quic_echo.py`` does, with aioquic's own
``serve``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal

import uvloop
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived


class Echo(QuicConnectionProtocol):
    """Sends back what every stream brings."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)


async def run(host: str, port: int, certificate: str, key: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = await serve(host, port, configuration=configuration, create_protocol=Echo)
    print(f"ready {host}:{port} kernel", flush=True)
    await stopped.wait()
    server.close()
    print(json.dumps({"mode": "kernel"}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(host, int(port), arguments.cert, arguments.key))


if __name__ == "__main__":
    main()
