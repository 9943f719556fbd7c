"""A UDP echo server on hybridnet, in the three styles of the API.

python examples/udp_echo.py --dev eth0 --listen 0.0.0.0:9000 --api batch
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal

import uvloop

import hybridnet


class Echo(asyncio.DatagramProtocol):
    """Sends every datagram back: the asyncio way, unchanged."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.sendto = transport.sendto

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.sendto(data, addr)


async def echo_by_channel(channel: hybridnet.UdpChannel) -> None:
    """One datagram at a time."""
    async for data, addr in channel:
        await channel.sendto_wait(data, addr)


async def echo_by_batch(channel: hybridnet.UdpChannel) -> None:
    """A burst at a time, in the frames it came in: nothing is copied."""
    while True:
        with await channel.recv_batch(1024, lease=True) as batch:
            await channel.send_batch_wait(batch)


async def serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    busy_poll = hybridnet.PROFILES[arguments.profile]
    async with hybridnet.open_stack(
        *arguments.dev, mode=arguments.mode, busy_poll=busy_poll
    ) as stack:
        if arguments.api == "protocol":
            transport, _ = await stack.create_datagram_endpoint(Echo, arguments.listen)
            local = transport.get_extra_info("sockname")
        else:
            channel = await stack.open_udp(arguments.listen)
            local = channel.local_address
            style = echo_by_channel if arguments.api == "channel" else echo_by_batch
            server = asyncio.create_task(style(channel))
            server.add_done_callback(lambda _: stop.set())
        print(f"ready {hybridnet.format_address(local)} {stack.mode}", flush=True)
        await stop.wait()
        statistics = stack.statistics()
        if arguments.api != "protocol":
            channel.close()
            with contextlib.suppress(hybridnet.ChannelClosed):
                await server
    print(json.dumps(statistics.as_dict()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="append", required=True, help="interface; may be repeated")
    parser.add_argument(
        "--listen", type=hybridnet.host_and_port, required=True, metavar="HOST:PORT"
    )
    parser.add_argument("--mode", choices=list(hybridnet.Mode), default="auto")
    parser.add_argument("--api", choices=["protocol", "channel", "batch"], default="protocol")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--profile", choices=list(hybridnet.PROFILES), default="default")
    arguments = parser.parse_args()
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(arguments))
    except hybridnet.HybridnetError as error:
        parser.exit(1, f"udp_echo: {error.strerror}\n")


if __name__ == "__main__":
    main()
