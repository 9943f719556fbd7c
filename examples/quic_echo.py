"""A QUIC echo server: aioquic's own protocol classes, unchanged, on hybridnet.

    python examples/quic_echo.py --dev eth0 --listen 0.0.0.0:4433 --cert cert.pem --key key.pem

Every stream is sent back as it comes (ALPN "echo").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal

import uvloop
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived

import hybridnet


class Echo(QuicConnectionProtocol):
    """Sends every stream's data back, and its end."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)


async def serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(arguments.cert, arguments.key)
    async with hybridnet.open_stack(*arguments.dev, mode=arguments.mode) as stack:
        transport, server = await stack.create_datagram_endpoint(
            lambda: QuicServer(configuration=configuration, create_protocol=Echo),
            local_addr=arguments.listen,
        )
        local = transport.get_extra_info("sockname")
        print(f"ready {hybridnet.format_address(local)} {stack.mode}", flush=True)
        await stop.wait()
        server.close()
        statistics = stack.statistics()
    print(json.dumps(statistics.as_dict()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="append", required=True, help="interface; may be repeated")
    parser.add_argument(
        "--listen", type=hybridnet.host_and_port, required=True, metavar="HOST:PORT"
    )
    parser.add_argument("--cert", required=True, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--key", required=True, metavar="FILE", help="its private key, PEM")
    parser.add_argument("--mode", choices=list(hybridnet.Mode), default="auto")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    arguments = parser.parse_args()
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(arguments))
    except hybridnet.HybridnetError as error:
        parser.exit(1, f"quic_echo: {error.strerror}\n")


if __name__ == "__main__":
    main()
