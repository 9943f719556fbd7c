"""The demo's echo servers, in a process of their own: UDP and QUIC on one event loop.

``--on hybridnet`` serves from a hybridnet stack, ``--on kernel`` the same protocol classes from
uvloop's kernel sockets: the only difference is whose ``create_datagram_endpoint`` is called.
Prints one JSON line when it serves and one with its counters when SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

import hybridnet
from hybridnet.cli.echo_client import parse_endpoint


class Echo(asyncio.DatagramProtocol):
    """Answer every datagram with itself."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.transport.sendto(data, addr)


def _quic_server(certificate: Path, key: Path) -> asyncio.DatagramProtocol:
    """Return aioquic's own server protocol, echoing every stream."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.asyncio.server import QuicServer
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import QuicEvent, StreamDataReceived

    class EchoStreams(QuicConnectionProtocol):
        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, StreamDataReceived):
                self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
                self.transmit()

    configuration: Any = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(str(certificate), str(key))
    return QuicServer(configuration=configuration, create_protocol=EchoStreams)


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    async with contextlib.AsyncExitStack() as resources:
        create: Any = loop.create_datagram_endpoint
        stack: Any = None
        if args.on == "hybridnet":
            devices = [] if args.dev is None else [args.dev]
            opened = hybridnet.open_stack(*devices, mode=args.mode)
            stack = await resources.enter_async_context(opened)
            create = stack.create_datagram_endpoint

        ready: dict[str, object] = {"mode": "kernel" if stack is None else stack.statistics().mode}
        transport, _ = await create(Echo, local_addr=parse_endpoint(args.listen))
        resources.callback(transport.close)
        ready["udp"] = transport.get_extra_info("sockname")[:2]
        if args.quic is not None:
            transport, _ = await create(
                lambda: _quic_server(args.cert, args.key), local_addr=parse_endpoint(args.quic)
            )
            resources.callback(transport.close)
            ready["quic"] = transport.get_extra_info("sockname")[:2]
        print(json.dumps(ready), flush=True)

        await stopped.wait()
        counters: dict[str, object] = {} if stack is None else stack.snapshot()
        print(json.dumps(counters, default=str), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until stopped; 1 when it cannot serve."""
    parser = argparse.ArgumentParser(prog="python -m hybridnet.cli.demo_server")
    parser.add_argument("--on", choices=["hybridnet", "kernel"], default="hybridnet")
    parser.add_argument("--dev", help="interface of the stack; none: kernel path only")
    parser.add_argument("--mode", default="auto", help="asked of the stack (auto)")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="UDP echo")
    parser.add_argument("--quic", metavar="HOST:PORT", help="QUIC echo; needs --cert and --key")
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--core", type=int, help="run on this processor only")
    args = parser.parse_args(argv)
    if args.quic is not None and (args.cert is None or args.key is None):
        parser.error("--quic needs --cert and --key")
    if args.core is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {args.core})
    try:
        uvloop.run(serve(args))
    except OSError as error:
        print(f"the server cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
