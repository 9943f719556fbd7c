"""The measuring client against servers on loopback that answer well, badly or not at all."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hybridnet.cli.echo_client import EchoClient, main, parse_endpoint, quantile

Answer = Callable[[socket.socket, bytes, object], None]


def echo(sock: socket.socket, data: bytes, peer: object) -> None:
    sock.sendto(data, peer)  # type: ignore[arg-type]


@contextmanager
def server(answer: Answer, host: str = "127.0.0.1") -> Iterator[int]:
    """Answer every datagram in a thread; gives the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    stopped = threading.Event()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(0.05)

        def serve() -> None:
            while not stopped.is_set():
                try:
                    data, peer = sock.recvfrom(65536)
                except TimeoutError:
                    continue
                answer(sock, data, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            stopped.set()
            thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(("window", "size"), [(1, 16), (64, 64), (8, 8000)])
def test_every_answer_is_counted_and_timed(host: str, window: int, size: int) -> None:
    with server(echo, host) as port, EchoClient(host, port, window=window, size=size) as client:
        client.step(0.1)
        first = client.result()
        client.step(0.1)
        result = client.result()
    assert result.received > first.received > 0
    assert result.sent - window <= result.received + result.lost <= result.sent
    assert result.late == result.corrupt == result.refused == 0
    assert result.min_us is not None
    assert result.p50_us is not None
    assert result.p99_us is not None
    assert result.max_us is not None
    assert result.min_us * 0.98 <= result.p50_us <= result.p99_us <= result.max_us * 1.02
    assert result.seconds == pytest.approx(0.2, abs=0.1)
    assert result.rate == pytest.approx(result.received / result.seconds, rel=0.01)


def test_lost_datagrams_are_given_up_and_the_window_moves_on() -> None:
    count = 0

    def answer_each_second(sock: socket.socket, data: bytes, peer: object) -> None:
        nonlocal count
        count += 1
        if count % 2:
            echo(sock, data, peer)

    with (
        server(answer_each_second) as port,
        EchoClient("127.0.0.1", port, window=4, size=64, loss_timeout_s=0.02) as client,
    ):
        client.step(0.4)
        result = client.result()
    assert result.lost > 4
    assert result.received > 4
    assert result.sent - 4 <= result.received + result.lost <= result.sent


def test_answer_after_it_was_given_up_is_late_not_received() -> None:
    def answer_slowly(sock: socket.socket, data: bytes, peer: object) -> None:
        time.sleep(0.06)
        echo(sock, data, peer)

    with (
        server(answer_slowly) as port,
        EchoClient("127.0.0.1", port, window=1, size=64, loss_timeout_s=0.02) as client,
    ):
        client.step(0.4)
        result = client.result()
    assert result.late > 0
    assert result.received == 0
    assert result.p50_us is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:],
        lambda data: data[:12] + bytes(4) + data[16:],
    ],
)
def test_answer_that_is_not_what_was_sent_is_corrupt(spoil: Callable[[bytes], bytes]) -> None:
    def answer(sock: socket.socket, data: bytes, peer: object) -> None:
        echo(sock, spoil(data), peer)

    with (
        server(answer) as port,
        EchoClient("127.0.0.1", port, window=2, size=64, loss_timeout_s=0.02) as client,
    ):
        client.step(0.1)
        result = client.result()
    assert result.corrupt > 0
    assert result.received == 0


def test_port_where_nobody_listens_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with EchoClient("127.0.0.1", port, window=1, size=64, loss_timeout_s=0.02) as client:
        client.step(0.1)
        result = client.result()
    assert result.refused > 0
    assert result.received == 0


@pytest.mark.parametrize(("window", "size"), [(0, 64), (4097, 64), (1, 15), (1, 65508)])
def test_window_or_size_out_of_range_is_refused(window: int, size: int) -> None:
    with pytest.raises(ValueError, match="window must be 1 to 4096 and size 16 to 65507"):
        EchoClient("127.0.0.1", 9, window=window, size=size)


def test_quantiles_of_a_histogram() -> None:
    def middle_ns(bucket: int) -> int:
        return bucket * 1000

    assert quantile([0, 0, 0], middle_ns, 0.5) is None
    assert quantile([0, 1, 0, 0, 0, 99], middle_ns, 0.5) == 5
    assert quantile([98, 1, 1], middle_ns, 0.99) == 1
    assert quantile([98, 1, 1], middle_ns, 1.0) == 2


def test_bucket_middles_grow_and_stay_within_their_promise() -> None:
    from hybridnet._native import lib

    middles = [lib.hn_echo_bucket_ns(i) for i in range(lib.HN_ECHO_BUCKETS)]
    assert middles == sorted(set(middles))
    # Half of the way to the neighbours is what a value can be off.
    for left, right in itertools.pairwise(middles[64:]):
        assert (right - left) / 2 <= 0.016 * left


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("10.0.0.1:9", ("10.0.0.1", 9)), ("[fd77::2]:80", ("fd77::2", 80)), (":::1", ("::", 1))],
)
def test_endpoint_is_split_at_the_last_colon(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["", "10.0.0.1", ":9", "h:", "h:x", "h:65536", "h:-1"])
def test_what_is_not_an_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        parse_endpoint(text)


def test_command_reports_in_words_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    with server(echo) as port:
        assert main([f"127.0.0.1:{port}", "--seconds", "0.1"]) == 0
    assert "answers/s" in capsys.readouterr().out
    assert main([f"127.0.0.1:{port}", "--seconds", "0.05"]) == 1
    assert "no answer" in capsys.readouterr().err
