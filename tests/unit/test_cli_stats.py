"""The statistics socket and its client, on both event loops; no network needed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hybridnet.channels.statistics_socket import CLIENTS_MAX, StatisticsSocket
from hybridnet.cli import main, stats, tables

Main = Callable[[], Coroutine[Any, Any, None]]
COUNTS = {"rx_packets": 10, "rx_bytes": 640, "tx_packets": 9, "tx_bytes": 576}


def snapshot(name: str = "vb") -> dict[str, object]:
    device = {"name": name, "ifindex": 3, "granted": "native", "reasons": ["vb: zerocopy: refused"]}
    return {
        "name": name,
        "uptime_s": 2.0,
        "mode": "native",
        "reasons": ["vb: zerocopy: refused"],
        "devices": [device],
        "fast": COUNTS,
        "kernel": dict.fromkeys(COUNTS, 0),
        "drops": {"udp_checksum": 3, "never": 0},
        "nodes": [{"name": "udp_input", "calls": 5, "packets": 10, "ns": 1000}],
        "channels": [{"local": "10.0.0.1:9", "remote": None, "rx_datagrams": 10}],
        "memory": {"frames": 8192, "frame_bytes": 4096},
    }


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runtime"
    monkeypatch.setenv("HYBRIDNET_RUNTIME_DIR", str(directory))
    return directory


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    if request.param == "asyncio":
        return lambda main: asyncio.run(main())
    return lambda main: uvloop.run(main())


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def ask(path: Path) -> Any:
    return await asyncio.to_thread(stats.ask, path)


def test_one_stack_answers_and_leaves_no_socket(
    run: Callable[[Main], None], runtime_directory: Path
) -> None:
    async def main() -> None:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        await shown.start()  # a second time changes nothing
        assert shown.path == runtime_directory / f"{os.getpid()}.sock"
        assert permissions(shown.path) == 0o600
        assert permissions(runtime_directory) == 0o700
        answer = await ask(shown.path)
        assert answer["pid"] == os.getpid()
        assert answer["stacks"] == [snapshot()]
        shown.close()
        shown.close()
        assert shown.path is None

    run(main)
    assert list(runtime_directory.iterdir()) == []


def test_stacks_of_one_loop_share_a_socket_until_the_last_closes(
    run: Callable[[Main], None],
) -> None:
    async def main() -> None:
        first, second = StatisticsSocket(lambda: snapshot("a")), StatisticsSocket(snapshot)
        await asyncio.gather(first.start(), second.start())
        assert first.path is not None
        assert first.path == second.path
        path = first.path
        assert [stack["name"] for stack in (await ask(path))["stacks"]] == ["a", "vb"]
        first.close()
        assert [stack["name"] for stack in (await ask(path))["stacks"]] == ["vb"]
        second.close()
        assert not path.exists()

    run(main)


def test_stack_in_a_second_loop_has_a_socket_of_its_own(runtime_directory: Path) -> None:
    paths: list[Path | None] = []
    opened = threading.Barrier(2, timeout=10)

    async def main() -> None:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        paths.append(shown.path)
        await asyncio.to_thread(opened.wait)
        shown.close()

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    pid = os.getpid()
    assert sorted(path.name for path in paths if path) == [f"{pid}-2.sock", f"{pid}.sock"]


def test_snapshot_that_raises_is_an_answer_not_a_fault(run: Callable[[Main], None]) -> None:
    def broken() -> dict[str, object]:
        raise ZeroDivisionError("no counters")

    async def main() -> None:
        shown = StatisticsSocket(broken)
        await shown.start()
        assert shown.path is not None
        answer = await ask(shown.path)
        assert answer["stacks"] == [{"error": "ZeroDivisionError: no counters"}]
        assert "no counters" in tables.plain(stats.report(answer)[0])
        shown.close()

    run(main)


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"stats\n",
        b"[1]\n",
        b'{"get": "stats", "x": 1}\n',
        b"\xff\xfe\n",
        b"[" * 3000 + b"\n",
    ],
)
def test_wrong_request_gets_an_error_and_the_next_one_an_answer(
    run: Callable[[Main], None], request_line: bytes
) -> None:
    async def main() -> None:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        reader, writer = await asyncio.open_unix_connection(str(shown.path))
        writer.write(request_line)
        assert "error" in json.loads(await reader.readline())
        writer.write(b'{"get": "stats"}\n')
        assert "stacks" in json.loads(await reader.readline())
        writer.close()
        shown.close()

    run(main)


def test_endless_line_and_too_many_clients_are_cut_off(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        path = shown.path
        assert path is not None
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"x" * 100_000)
        assert await asyncio.wait_for(ended(reader), 5)
        writer.close()
        clients = [await asyncio.open_unix_connection(str(path)) for _ in range(CLIENTS_MAX)]
        for _reader, client in clients:
            client.write(b'{"get": "stats"}\n')
        for client_reader, _client in clients:
            assert await client_reader.readline()
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert await asyncio.wait_for(ended(reader), 5)
        writer.close()
        shown.close()
        for client_reader, client in clients:
            assert await asyncio.wait_for(ended(client_reader), 5)
            client.close()

    run(main)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


def test_sockets_of_dead_processes_are_removed_and_others_kept(runtime_directory: Path) -> None:
    runtime_directory.mkdir(mode=0o700)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    stale = runtime_directory / f"{int(gone.stdout)}.sock"
    alive = runtime_directory / f"{os.getppid()}.sock"
    other = runtime_directory / "notes.txt"
    for path in (stale, alive):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
            left.bind(str(path))
    other.write_text("mine")

    async def main() -> None:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        assert shown.path is not None
        shown.close()

    asyncio.run(main())
    assert sorted(runtime_directory.iterdir()) == sorted([alive, other])


def test_unusable_directory_disables_it_with_a_warning(
    run: Callable[[Main], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYBRIDNET_RUNTIME_DIR", str(tmp_path / "file" / "below"))

    async def main() -> None:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        assert shown.path is None
        shown.close()

    run(main)
    assert "no statistics socket" in caplog.text


def test_directory_behind_a_symbolic_link_is_refused(
    tmp_path: Path, runtime_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    runtime_directory.symlink_to(tmp_path / "elsewhere")

    async def main() -> None:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        assert shown.path is None

    asyncio.run(main())
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert "not a directory of this user" in caplog.text


def test_command_shows_the_only_stack_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve(argv: list[str]) -> int:
        shown = StatisticsSocket(snapshot)
        await shown.start()
        status = await asyncio.to_thread(main, ["stats", *argv])
        shown.close()
        return status

    assert asyncio.run(serve([])) == 0
    text = capsys.readouterr().out
    for word in ("fast", "udp_checksum", "zerocopy: refused", "udp_input", "10.0.0.1:9", "8,192"):
        assert word in text
    assert "never" not in text
    assert asyncio.run(serve(["--json", "--pid", str(os.getpid())])) == 0
    assert json.loads(capsys.readouterr().out)["stacks"] == [snapshot()]
    assert asyncio.run(serve(["--pid", "1"])) == 1


def test_command_without_any_stack_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats"]) == 1
    assert "no stack is running" in capsys.readouterr().err


def test_rates_are_growth_per_second_and_levels_stay() -> None:
    before = {"stacks": [{"fast": {"rx_packets": 100}, "memory": {"free": 7}, "uptime_s": 1.0}]}
    now = {"stacks": [{"fast": {"rx_packets": 300}, "memory": {"free": 5}, "uptime_s": 3.0}]}
    rates = stats.per_second(before, now, 2.0)
    expected = {"fast": {"rx_packets": 100.0}, "memory": {"free": 5}, "uptime_s": 3.0}
    assert rates == {"stacks": [expected]}


def test_plain_table_aligns_names_left_and_numbers_right() -> None:
    table = tables.Table(title="t", columns=("a", "number"), rows=(("x", "1"), ("long", "20")))
    assert tables.plain(table).splitlines() == [
        "t",
        "  a     number",
        "  ----  ------",
        "  x          1",
        "  long      20",
    ]
