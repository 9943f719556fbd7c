"""Measure an echo server from a kernel socket: round trips and rate.

Runs as a process of its own (``python -m hybridnet.cli.echo_client HOST:PORT``), so that it can
sit in another network namespace and on another core than the server.  The loop that takes the
times is C (``echo_client.c``); Python only slices the measurement for progress reports.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SLICE_S = 0.25


@dataclass(slots=True, frozen=True, kw_only=True)
class EchoResult:
    """What the client saw since it opened.  ``sent`` = received + lost + those in flight."""

    sent: int
    received: int
    lost: int
    late: int
    corrupt: int
    refused: int
    seconds: float
    rate: float
    """Answers per second over the whole measurement."""
    min_us: float | None
    mean_us: float | None
    p50_us: float | None
    """Round trip in microseconds, within 1.6 %; None without any answer."""
    p99_us: float | None
    max_us: float | None


def quantile(buckets: Sequence[int], middle_ns: Callable[[int], int], share: float) -> float | None:
    """Return the value in microseconds below which ``share`` of the histogram lies."""
    total = sum(buckets)
    if total == 0:
        return None
    rank = max(1, round(share * total))
    seen = 0
    for bucket, count in enumerate(buckets):
        seen += count
        if seen >= rank:
            return middle_ns(bucket) / 1000
    return None


def parse_endpoint(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises: ValueError: not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT or [IPV6]:PORT, not {text!r}")
    return host.strip("[]"), int(port)


class EchoClient:
    """A window of datagrams kept in flight towards one server; not thread-safe.

    Raises: ValueError: window, size or address out of range; OSError: socket trouble.
    """

    __slots__ = ("_client", "_ffi", "_lib")

    def __init__(
        self, host: str, port: int, *, window: int, size: int, loss_timeout_s: float = 0.2
    ) -> None:
        from hybridnet._native import ffi, lib

        self._ffi: Any = ffi
        self._lib: Any = lib
        self._client: Any = None
        name, _, zone = host.partition("%")
        address = ipaddress.ip_address(name)
        server = ffi.new("struct hn_address *")
        ffi.buffer(server.ip)[0 : len(address.packed)] = address.packed
        server.family = address.version
        server.port = port
        server.scope_id = socket.if_nametoindex(zone) if zone else 0
        error = ffi.new("int *")
        client = lib.hn_echo_open(server, window, size, int(loss_timeout_s * 1e9), error)
        if client == ffi.NULL:
            if error[0] == 22:
                raise ValueError(
                    f"window must be 1 to {lib.HN_ECHO_WINDOW_MAX} and size "
                    f"{lib.HN_ECHO_PAYLOAD_MIN} to {lib.HN_ECHO_PAYLOAD_MAX} bytes"
                )
            raise OSError(error[0], f"{os.strerror(error[0])}: {host}:{port}")
        self._client = client

    def step(self, seconds: float) -> None:
        """Measure for ``seconds``; blocks with the GIL released."""
        status = self._lib.hn_echo_step(self._client, int(seconds * 1e9))
        if status < 0:
            raise OSError(-status, os.strerror(-status))

    def result(self) -> EchoResult:
        """Return the sums since the client was opened."""
        raw = self._lib.hn_echo_result(self._client)
        buckets: list[int] = list(raw.buckets)
        middle_ns: Callable[[int], int] = self._lib.hn_echo_bucket_ns
        received = int(raw.received)
        seconds = raw.elapsed_ns / 1e9
        return EchoResult(
            sent=int(raw.sent),
            received=received,
            lost=int(raw.lost),
            late=int(raw.late),
            corrupt=int(raw.corrupt),
            refused=int(raw.refused),
            seconds=round(seconds, 6),
            rate=round(received / seconds, 1) if seconds else 0.0,
            min_us=raw.rtt_min_ns / 1000 if received else None,
            mean_us=round(raw.rtt_sum_ns / received / 1000, 3) if received else None,
            p50_us=quantile(buckets, middle_ns, 0.50),
            p99_us=quantile(buckets, middle_ns, 0.99),
            max_us=raw.rtt_max_ns / 1000 if received else None,
        )

    def close(self) -> None:
        """Close the socket; harmless when done already."""
        if self._client is not None:
            self._lib.hn_echo_close(self._client)
            self._client = None

    def __enter__(self) -> EchoClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hybridnet.cli.echo_client",
        description="Measure a UDP echo server from a kernel socket.",
        epilog="example: python -m hybridnet.cli.echo_client 10.77.0.2:9000 --window 64",
    )
    parser.add_argument("server", metavar="HOST:PORT", help="numeric address; [IPV6]:PORT")
    parser.add_argument("--window", type=int, default=1, help="datagrams in flight (1)")
    parser.add_argument("--size", type=int, default=64, help="payload bytes (64)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long (2)")
    parser.add_argument("--core", type=int, help="run on this processor only")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    parser.add_argument("--progress", action="store_true", help="a JSON line per quarter second")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one measurement; 0 with answers, 1 without any, 2 for wrong arguments."""
    parser = _parser()
    args = parser.parse_args(argv)
    # A step does not return to Python before it is over; the default ends it at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if args.core is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {args.core})
    try:
        host, port = parse_endpoint(args.server)
        client = EchoClient(host, port, window=args.window, size=args.size)
    except ValueError as error:
        parser.error(str(error))
    with client:
        left_s = args.seconds
        while left_s > 0:
            client.step(min(SLICE_S, left_s))
            left_s -= SLICE_S
            if args.progress and left_s > 0:
                print(json.dumps(asdict(client.result())), flush=True)
        result = client.result()
    if args.json:
        print(json.dumps(asdict(result)), flush=True)
    elif result.received:
        print(
            f"{result.rate:,.0f} answers/s, round trip p50 {result.p50_us:.1f} µs, "
            f"p99 {result.p99_us:.1f} µs, {result.lost} lost of {result.sent}"
        )
    else:
        print(f"no answer from {args.server} to {result.sent} datagrams", file=sys.stderr)
    return 0 if result.received else 1


if __name__ == "__main__":
    sys.exit(main())
