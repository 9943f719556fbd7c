"""``hybridnet demo``: real packets between two hosts, hybridnet beside kernel sockets."""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridnet.cli.namespaces import Host, Lab, start, stop, termination_as_interrupt
from hybridnet.cli.tables import Table, quantity, render
from hybridnet.errors import HybridnetError

SUMMARY = "real packets between two hosts: hybridnet beside kernel sockets"
DESCRIPTION = """\
Make two hosts (network namespaces) on a veth pair, serve UDP and QUIC echo from a hybridnet
stack in one, ask from plain kernel sockets in the other, then do the same with uvloop's kernel
sockets and compare.  Takes under a minute and leaves nothing behind, also on Ctrl-C.
Without root or AF_XDP it says so and runs what can run."""
EXAMPLES = """\
examples:
  hybridnet demo
  hybridnet demo --mode generic --seconds 2
  hybridnet demo --json > result.json"""

NOTE = """\
A client that waits for its answers limits these rates too; 'make bench' offers more than any
server can answer.  'hybridnet lab up' makes such hosts for you to play in."""

UDP_PORT, QUIC_PORT = 9000, 4433
DEEP_WINDOW = 64
PAYLOAD_BYTES = 64
START_TIMEOUT_S = 15.0
# Beyond the time that a measurement is asked to take.
PATIENCE_S = 10.0

Json = Mapping[str, Any]


@dataclass(slots=True, frozen=True, kw_only=True)
class Place:
    """Where the two sides run: in a lab, or without one both on this host's loopback."""

    lab: Lab | None
    device: str | None
    mode: str
    address: str
    udp_port: int
    quic_port: int

    def start(self, side: str, *argv: str, stderr: Any) -> subprocess.Popen[str]:
        """Start Python with ``argv`` on side ``client`` or ``server``; the caller stops it."""
        # The package may come from a checkout's path; its children have to find the same one.
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, *argv]
        if self.lab is None:
            return start(command, stderr=stderr, environment=environment)
        return self.lab.start(self._host(side), *command, stderr=stderr, environment=environment)

    def _host(self, side: str) -> Host:
        if self.lab is None:
            raise ValueError("there are no hosts on loopback")
        return self.lab.a if side == "client" else self.lab.b


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    modes = ["auto", "zerocopy", "native", "generic", "kernel"]
    parser.add_argument("--mode", choices=modes, default="auto", help="asked of the stack (auto)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="length of each of four measurements (4)"
    )
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when both servers answered and QUIC came back as sent, else 1."""
    if not 0.2 <= args.seconds <= 60:
        raise ValueError("--seconds must be 0.2 to 60")
    # Results go to stdout; what happens meanwhile goes where it does not spoil a --json.
    screen = Screen(sys.stderr if args.json else sys.stdout)
    with termination_as_interrupt(), ExitStack() as resources:
        directory = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="hn-demo-")))
        place = _choose_place(args.mode, resources, screen)
        result = Demo(place, directory, screen, args.seconds).run()
    if args.json:
        print(json.dumps(result, default=str))
    else:
        print(f"\n{render(tables(result))}\n\n{NOTE}")
    answered = [result[who]["deep"]["received"] for who in ("hybridnet", "kernel")]
    answered += [result["same_host"]["received"]] if "same_host" in result else []
    quic = result["quic"]
    return 0 if all(answered) and quic.get("correct") == quic.get("streams", -1) else 1


def _choose_place(mode: str, resources: ExitStack, screen: Screen) -> Place:
    """Make the lab, or say why there is none and fall back to loopback in kernel mode."""
    from hybridnet.xsk import probe

    missing = probe.missing_for_fast_path(probe.probe_machine())
    if missing and mode != "kernel":
        screen.say(f"no fast path here: {', '.join(f'{f.name} {f.value}' for f in missing)}")
        screen.say("('hybridnet doctor' says how to get it); running on kernel sockets only")
        mode = "kernel"
    try:
        lab = resources.enter_context(Lab.private())
    except HybridnetError as error:
        screen.say(f"no hosts of their own: {error.strerror}")
        screen.say("running both sides on this host's loopback, in kernel mode")
        return Place(
            lab=None, device=None, mode="kernel", address="127.0.0.1", udp_port=0, quic_port=0
        )
    a, b = lab.hosts
    screen.say(f"two hosts: {a.namespace} ({a.ipv4}) --veth-- {b.namespace} ({b.ipv4})")
    return Place(
        lab=lab,
        device=b.interface,
        mode=mode,
        address=b.ipv4,
        udp_port=UDP_PORT,
        quic_port=QUIC_PORT,
    )


class Screen:
    """Lines of progress; the last one is rewritten in place on a terminal."""

    __slots__ = ("_live", "_stream")

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._live = stream.isatty()

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._stream.write(f"\r\033[K{text}\n" if self._live else f"{text}\n")
        self._stream.flush()

    def show(self, text: str) -> None:
        """Write a line that the next one replaces; nothing when this is not a terminal."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\033[K{text[:width]}")
            self._stream.flush()


class Demo:
    """One run: two servers after each other, the same questions to both."""

    __slots__ = ("_directory", "_place", "_screen", "_seconds", "_server_core", "_stderr_number")

    def __init__(self, place: Place, directory: Path, screen: Screen, seconds: float) -> None:
        self._place = place
        self._directory = directory
        self._screen = screen
        self._seconds = seconds
        self._stderr_number = 0
        cores = sorted(os.sched_getaffinity(0))
        # The server has a core of its own where there are two; the clients get the first.
        self._server_core = cores[-1] if len(cores) > 1 else None

    def run(self) -> dict[str, Any]:
        """Return the result: both servers' measurements, the QUIC check, the stack's counters."""
        from hybridnet.cli.demo_quic import make_certificate

        certificate, key = make_certificate(self._directory)
        place = self._place
        quic = ["--quic", f"{place.address}:{place.quic_port}", "--cert", str(certificate)]
        quic += ["--key", str(key), "--mode", place.mode]
        quic += [] if place.device is None else ["--dev", place.device]
        result: dict[str, Any] = {"asked": place.mode, "address": place.address}

        server, ready = self._start_server("hybridnet", *quic)
        try:
            result["mode"] = ready["mode"]
            self._screen.say(f"hybridnet serves UDP and QUIC echo, mode {ready['mode']}")
            if place.lab is not None:
                result["ping"] = self._ping(place.lab)
            result["hybridnet"] = self._measure("hybridnet", ready["udp"])
            result["quic"] = self._check_quic(ready["quic"], certificate)
            if place.lab is not None:
                result["same_host"] = self._measure_same_host(ready["udp"])
        finally:
            rest = stop(server)
        result["stack"] = _last_object(rest)

        server, ready = self._start_server("kernel")
        try:
            result["kernel"] = self._measure("uvloop", ready["udp"])
        finally:
            stop(server)
        return result

    def _module(self, side: str, module: str, *argv: str) -> tuple[subprocess.Popen[str], Path]:
        """Start one of the package's modules; return it and the file with its stderr."""
        self._stderr_number += 1
        path = self._directory / f"stderr-{self._stderr_number}"
        with path.open("w", encoding="utf-8") as stderr:
            child = self._place.start(side, "-m", f"hybridnet.cli.{module}", *argv, stderr=stderr)
        return child, path

    def _start_server(self, on: str, *argv: str) -> tuple[subprocess.Popen[str], Json]:
        """Start a server and wait until it serves.  Raises: HybridnetError: it does not."""
        listen = f"{self._place.address}:{self._place.udp_port}"
        core = [] if self._server_core is None else ["--core", str(self._server_core)]
        child, stderr = self._module(
            "server", "demo_server", "--on", on, "--listen", listen, *core, *argv
        )
        try:
            for answer in _objects(child, START_TIMEOUT_S):
                return child, answer
        except BaseException:
            stop(child)
            raise
        stop(child)
        said = stderr.read_text(encoding="utf-8", errors="replace").strip()
        message = f"the {on} server did not start: {said or 'no reason given'}"
        raise HybridnetError(5, message)

    def _ping(self, lab: Lab) -> str:
        """Ask the kernel for ICMP echo on the interface that the stack is attached to."""
        if shutil.which("ping") is None:
            return "not tried (ping is not installed)"
        done = lab.run(
            lab.a, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", lab.b.ipv4, check=False
        )
        found = re.search(r"(\d+) received", done.stdout)
        text = f"{found[1] if found else 0} of 3 answered by the kernel"
        self._screen.say(f"ping {lab.b.ipv4} while the stack is attached: {text}")
        return text

    def _echo(self, name: str, side: str, server: list[Any], window: int, seconds: float) -> Json:
        """Run one measurement with live progress; return the client's last word."""
        core = [] if self._server_core is None else ["--core", str(min(os.sched_getaffinity(0)))]
        client, stderr = self._module(
            *(side, "echo_client", f"{server[0]}:{server[1]}", "--json", "--progress"),
            *("--window", str(window), "--size", str(PAYLOAD_BYTES), "--seconds", str(seconds)),
            *core,
        )
        last: Json = {}
        line = ""
        try:
            for answer in _objects(client, seconds + PATIENCE_S):
                last = answer
                line = f"{name:<10} {window:>3} in flight  {_in_words(answer)}"
                self._screen.show(line)
        finally:
            stop(client)
        if not last:
            said = stderr.read_text(encoding="utf-8", errors="replace").strip()
            raise HybridnetError(5, f"the echo client failed: {said or 'no reason given'}")
        self._screen.say(line)
        return last

    def _measure(self, name: str, server: list[Any]) -> dict[str, Json]:
        return {
            "single": self._echo(name, "client", server, 1, self._seconds),
            "deep": self._echo(name, "client", server, DEEP_WINDOW, self._seconds),
        }

    def _measure_same_host(self, server: list[Any]) -> Json:
        """Ask from the server's own host: loopback, so the kernel path of the same endpoint."""
        return self._echo("same host", "server", server, 1, min(0.5, self._seconds))

    def _check_quic(self, server: list[Any], certificate: Path) -> Json:
        argv = (f"{server[0]}:{server[1]}", "--ca", str(certificate))
        client, stderr = self._module("client", "demo_quic", *argv)
        last: Json = {}
        try:
            for answer in _objects(client, 2 * PATIENCE_S):
                last = answer
        finally:
            stop(client)
        if not last:
            said = stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = {"error": said[-1] if said else "the client failed"}
        self._screen.say(f"QUIC       {_quic_in_words(last)}")
        return last


def _objects(child: subprocess.Popen[str], timeout_s: float) -> Iterator[Json]:
    """Yield the JSON lines of a child until it closes its output or the time is over."""
    if child.stdout is None:
        return
    # Read unbuffered: a line must not hide in a buffer that select() does not see.
    descriptor = child.stdout.fileno()
    deadline = time.monotonic() + timeout_s
    pending = b""
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left_s)[0]:
            return
        data = os.read(descriptor, 65536)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _last_object(text: str) -> Json:
    """Return the last JSON line of a child's output; empty when there is none."""
    try:
        found: Json = json.loads(text.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return found


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} µs"


def _in_words(answer: Json) -> str:
    return (
        f"{answer['rate']:>9,.0f} answers/s   round trip p50 {_us(answer['p50_us'])}"
        f"  p99 {_us(answer['p99_us'])}   lost {answer['lost']:,}"
    )


def _quic_in_words(quic: Json) -> str:
    if "error" in quic:
        return f"failed: {quic['error']}"
    return (
        f"{quic['correct']} of {quic['streams']} streams of {quic['stream_bytes']:,} bytes came "
        f"back as sent, handshake {quic['handshake_ms']} ms, {quic['seconds']} s in all"
    )


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f} ×" if ours and theirs else "-"


def tables(result: Json) -> list[Table]:
    """Turn a result into the tables that the demo ends with."""
    ours, theirs = result["hybridnet"], result["kernel"]
    rows: list[tuple[str, ...]] = []

    def compare(what: str, window: str, key: str) -> None:
        a, b = ours[window][key], theirs[window][key]
        show = quantity if key in ("rate", "lost") else _us
        rows.append((what, show(a), show(b), "" if key == "lost" else _ratio(a, b)))

    compare(f"answers per second, {DEEP_WINDOW} in flight", "deep", "rate")
    compare(f"round trip p50, {DEEP_WINDOW} in flight", "deep", "p50_us")
    compare(f"round trip p99, {DEEP_WINDOW} in flight", "deep", "p99_us")
    compare("round trip p50, 1 in flight", "single", "p50_us")
    compare("round trip p99, 1 in flight", "single", "p99_us")
    compare("datagrams lost", "deep", "lost")
    columns = ("", "hybridnet", "uvloop kernel sockets", "ratio")
    title = f"UDP echo, {PAYLOAD_BYTES} bytes, Python protocol class"
    return [
        Table(title=title, columns=columns, rows=tuple(rows)),
        _facts(result),
        *_counters(result["stack"]),
    ]


def _facts(result: Json) -> Table:
    granted = f"asked {result['asked']}, granted {result['mode']}"
    rows = [("mode", granted)]
    rows += [("", str(reason)) for reason in result["stack"].get("reasons", ())]
    rows.append(("QUIC echo", _quic_in_words(result["quic"])))
    if "ping" in result:
        rows.append(("ping", result["ping"]))
    if "same_host" in result:
        rows.append(("same host (loopback)", f"{result['same_host']['rate']:,.0f} answers/s"))
    return Table(title="the stack", columns=("", ""), rows=tuple(rows), left=2)


def _counters(stack: Json) -> list[Table]:
    keys = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
    paths = tuple(
        (path, *(quantity(stack.get(path, {}).get(key, 0)) for key in keys))
        for path in ("fast", "kernel")
    )
    columns = ("path", *(key.replace("_", " ") for key in keys))
    counted = ((reason, n) for reason, n in stack.get("drops", {}).items() if n)
    drops = tuple((reason, quantity(n)) for reason, n in counted)
    return [
        Table(title="packets by path", columns=columns, rows=paths),
        Table(
            title="drops by reason", columns=("reason", "packets"), rows=drops or (("none", "0"),)
        ),
    ]
