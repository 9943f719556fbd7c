"""``hybridnet stats``: the counters of a running stack, once or as rates."""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hybridnet.cli.tables import Table, quantity, render
from hybridnet.errors import HybridnetError

SUMMARY = "the counters of a running stack"
DESCRIPTION = """\
Ask a live process for the counters of its stacks: packets by path, drops by reason, devices,
channels, graph nodes, memory.  Without --pid the one that runs is taken; when several run they
are listed."""
EXAMPLES = """\
examples:
  hybridnet stats                 the only stack there is
  hybridnet stats --pid 4711
  hybridnet stats --watch         rates per second, until Ctrl-C
  hybridnet stats --json | python -m json.tool"""

TIMEOUT_S = 3.0

# Counters and structure come over a socket as JSON; the keys are those of Stack.snapshot().
Json = Mapping[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--pid", type=int, help="process id of the program with the stack")
    parser.add_argument("--json", action="store_true", help="one JSON object (a line per --watch)")
    parser.add_argument("--watch", action="store_true", help="rates per second, until Ctrl-C")
    parser.add_argument("--interval", type=float, default=1.0, help="of --watch, seconds (1)")


def run(args: argparse.Namespace) -> int:
    """Print the counters; 0 done, 1 no such stack, several, or one that does not answer."""
    if not args.interval > 0:
        raise ValueError("--interval must be more than 0 seconds")
    path = _choose(args.pid)
    if path is None:
        return 1
    if args.watch:
        return _watch(path, args.interval, as_json=args.json)
    answer = ask(path)
    print(json.dumps(answer) if args.json else render(report(answer)))
    return 0


def running() -> list[Path]:
    """Return the sockets of live processes of this user, by process id."""
    # Importing it costs asyncio, which only this command needs.
    from hybridnet.channels.statistics_socket import (
        process_is_alive,
        runtime_directory,
        socket_process,
    )

    directory = runtime_directory()
    if directory is None or not directory.is_dir():
        return []
    found: list[tuple[int, Path]] = []
    for path in directory.iterdir():
        pid = socket_process(path)
        if pid is not None and process_is_alive(pid):
            found.append((pid, path))
    return [path for _pid, path in sorted(found)]


def ask(path: Path) -> Json:
    """Ask one process for its statistics; blocks at most TIMEOUT_S.

    Raises: HybridnetError: it does not answer, or not in this protocol.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(b'{"get": "stats"}\n')
            with sock.makefile("rb") as stream:
                line = stream.readline()
    except TimeoutError as error:
        message = f"{path} does not answer within {TIMEOUT_S:g} s; is its event loop blocked?"
        raise HybridnetError(110, message) from error
    except OSError as error:
        raise HybridnetError(error.errno or 5, f"{path}: {error.strerror}") from error
    try:
        answer: object = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "stacks" not in answer:
        raise HybridnetError(71, f"{path} does not speak this protocol")
    return cast("Json", answer)


def _choose(pid: int | None) -> Path | None:
    from hybridnet.channels.statistics_socket import socket_process

    paths = running()
    if pid is not None:
        paths = [path for path in paths if socket_process(path) == pid]
    if len(paths) == 1:
        return paths[0]
    if not paths:
        whose = "no stack" if pid is None else f"process {pid} has no stack that"
        print(f"hybridnet stats: {whose} is running for this user", file=sys.stderr)
        return None
    print("hybridnet stats: several are running; choose one with --pid", file=sys.stderr)
    for path in paths:
        try:
            answer = ask(path)
        except HybridnetError as error:
            print(f"  {path.stem:>8}  {error.strerror}", file=sys.stderr)
        else:
            print(f"  {path.stem:>8}  {answer.get('command', '')}", file=sys.stderr)
    return None


def _watch(path: Path, interval_s: float, *, as_json: bool) -> int:
    before, before_s = ask(path), time.monotonic()
    while True:
        time.sleep(interval_s)
        now, now_s = ask(path), time.monotonic()
        rates = per_second(before, now, now_s - before_s)
        if as_json:
            print(json.dumps(rates), flush=True)
        else:
            clear = "\033[H\033[2J" if sys.stdout.isatty() else ""
            print(f"{clear}{render(report(rates, unit='/s'))}", flush=True)
        before, before_s = now, now_s


# What is a level or an identity, not a count that only grows.
_NOT_COUNTERS = {
    *("pid", "uptime_s", "ifindex", "queues", "zero_copy"),
    *("rx_queue", "frames", "frame_bytes", "free", "free_min"),
}


def per_second(before: Any, now: Any, seconds: float, name: str = "") -> Any:
    """Return ``now`` with every counter replaced by its growth per second since ``before``."""
    if isinstance(now, bool) or name in _NOT_COUNTERS:
        return now
    if isinstance(now, dict):
        fields = cast("dict[str, Any]", now)
        old = cast("dict[str, Any]", before) if isinstance(before, dict) else {}
        return {key: per_second(old.get(key), value, seconds, key) for key, value in fields.items()}
    if isinstance(now, list):
        items = cast("Sequence[Any]", now)
        earlier = cast("Sequence[Any]", before) if isinstance(before, list) else ()
        # A channel that opened or closed meanwhile shifts the list; then the match is lost.
        same = len(earlier) == len(items)
        return [
            per_second(earlier[i] if same else item, item, seconds, name)
            for i, item in enumerate(items)
        ]
    if isinstance(now, int | float):
        start = before if isinstance(before, int | float) else 0
        return round((now - start) / seconds, 1)
    return now


def report(answer: Json, unit: str = "") -> list[Table]:
    """Turn an answer (or rates made of two) into tables; what a stack leaves out is left out."""
    tables: list[Table] = []
    for stack in cast("list[Json]", answer["stacks"]):
        title = f"{answer.get('command', '')} (process {answer.get('pid', '?')})"
        if "error" in stack:
            tables.append(Table(title=title, columns=("error",), rows=((str(stack["error"]),),)))
            continue
        tables.append(_paths(title, stack, unit))
        reasons = tuple((str(reason),) for reason in stack.get("reasons") or ())
        if reasons:
            tables.append(Table(title="why not a better mode", columns=("",), rows=reasons))
        tables += _lists(stack, unit)
        for key in ("drops", "steering", "xsk"):
            counts = cast("dict[str, float]", stack.get(key) or {})
            counted = tuple((name, quantity(count)) for name, count in counts.items() if count)
            if counted:
                tables.append(Table(title=key, columns=("reason", f"packets{unit}"), rows=counted))
        memory: Json = stack.get("memory") or {}
        if memory:
            cells = tuple(_cell(value) for value in memory.values())
            names = tuple(name.replace("_", " ") for name in memory)
            tables.append(Table(title="memory", columns=names, rows=(cells,), left=0))
    return tables


def _paths(title: str, stack: Json, unit: str) -> Table:
    rows: list[tuple[str, ...]] = []
    keys = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
    for name in ("fast", "kernel"):
        counts: Json = stack.get(name) or {}
        rows.append((name, *(quantity(counts.get(key, 0)) for key in keys)))
    head = f"stack {stack.get('name', '')}: mode {stack.get('mode', '?')}"
    uptime = stack.get("uptime_s")
    if isinstance(uptime, int | float):
        head += f", up {uptime:,.0f} s"
    columns = ("path", *(f"{key.replace('_', ' ')}{unit}" for key in keys))
    return Table(title=f"{title}\n{head}", columns=columns, rows=tuple(rows))


def _lists(stack: Json, unit: str) -> list[Table]:
    tables: list[Table] = []
    for key in ("devices", "channels", "nodes"):
        entries = cast("list[Json]", stack.get(key) or [])
        if not entries:
            continue
        named = dict.fromkeys(field for entry in entries for field in entry)
        fields = [field for field in named if field not in ("ifindex", "reasons")]
        rows = tuple(tuple(_cell(entry.get(field)) for field in fields) for entry in entries)
        columns = tuple(field.replace("_", " ") for field in fields)
        title = f"{key} (counters{unit})" if unit else key
        left = 2 if key == "channels" else 1
        tables.append(Table(title=title, columns=columns, rows=rows, left=left))
    return tables


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return quantity(value)
    if isinstance(value, list):
        return "; ".join(str(item) for item in cast("list[object]", value)) or "-"
    return "-" if value is None else str(value)
