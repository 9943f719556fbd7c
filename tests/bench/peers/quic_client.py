"""A QUIC bulk client on a kernel socket: per line on standard input, that many bytes are sent on
a new stream and taken back; one JSON line tells how long it took.

Prints ``ready`` when the connection stands; ends at end of input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time

import uvloop
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration

CHUNK_BYTES = 64 * 1024
# Payload under way at most: enough to keep both sides busy, little enough not to queue forever.
WINDOW_BYTES = 512 * 1024


async def exchange(client: QuicConnectionProtocol, total: int) -> dict[str, float]:
    reader, writer = await client.create_stream()
    chunk = bytes(CHUNK_BYTES)
    sent = received = 0
    start = time.perf_counter()
    while received < total:
        while sent < total and sent - received < WINDOW_BYTES:
            part = chunk[: total - sent]
            writer.write(part)
            sent += len(part)
        if sent == total and not writer.is_closing():
            writer.write_eof()
        got = await reader.read(WINDOW_BYTES)
        if not got:
            raise ConnectionError(f"the stream ended after {received} of {total} bytes")
        received += len(got)
    return {"bytes": received, "seconds": time.perf_counter() - start}


async def run(host: str, port: int) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"])
    configuration.verify_mode = ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    async with connect(host, port, configuration=configuration) as client:
        await exchange(client, 256 * 1024)
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await exchange(client, int(line))), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    arguments = parser.parse_args()
    host, _, port = arguments.server.rpartition(":")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(host, int(port)))


if __name__ == "__main__":
    main()
