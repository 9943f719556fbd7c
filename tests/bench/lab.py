"""Two hosts on a veth pair, and the processes that run there.

Everything is created in namespaces whose names carry this process's id, and goes with them.
Children die with this process (PR_SET_PDEATHSIG), and are only ever killed by their own id.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

SERVER_DEV = "sv"
CLIENT_DEV = "cv"
SERVER_HOST = "10.78.0.1"
CLIENT_HOST = "10.78.0.2"
PORT = 9000

Side = Literal["server", "client"]


class LabError(RuntimeError):
    """Something could not be set up or did not answer; the message is for the user."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Usage:
    """What a process has used since it started; the difference of two is a measurement."""

    at_ns: int  # monotonic
    cpu_ns: int  # on a processor, all threads, system time included
    waited_ns: int  # ready to run while something else had the core
    voluntary: int  # context switches because it waited
    involuntary: int  # because something else had the core

    def cpu_share(self, earlier: Usage) -> float:
        """Share of one core used since ``earlier``, 0 to 1 per thread."""
        return (self.cpu_ns - earlier.cpu_ns) / max(1, self.at_ns - earlier.at_ns)

    def wait_share(self, earlier: Usage) -> float:
        """Share of the time since ``earlier`` that it waited for its core."""
        return (self.waited_ns - earlier.waited_ns) / max(1, self.at_ns - earlier.at_ns)


class Child:
    """A process in one of the namespaces, on one core, spoken to by lines."""

    __slots__ = ("_lines", "_reader", "_stderr", "name", "process", "report")

    def __init__(self, name: str, command: list[str], stderr: IO[bytes]) -> None:
        self.name = name
        self._stderr = stderr
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process first, which then stops them
        )
        self.report: dict[str, Any] = {}  # its last JSON line, once it was stopped
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def errors(self) -> str:
        """Return the last line it wrote on standard error."""
        self._stderr.flush()
        text = Path(self._stderr.name).read_text(encoding="utf-8", errors="replace")
        return (text.strip().splitlines() or ["it said nothing"])[-1]

    def line(self, timeout: float) -> str:
        """Return the next line of its output.  Raises: LabError: none in time, or it ended."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise LabError(f"{self.name}: no answer in {timeout:.0f} s: {self.errors()}") from None
        if line is None:
            raise LabError(f"{self.name} ended: {self.errors()}")
        return line

    def line_with(self, prefix: str, timeout: float) -> str:
        """Return the next line that starts with ``prefix``, passing over others."""
        deadline = time.monotonic() + timeout
        while True:
            line = self.line(max(0.01, deadline - time.monotonic()))
            if line.startswith(prefix):
                return line

    def ask(self, text: str, timeout: float) -> dict[str, Any]:
        """Write a line and return the JSON line that answers it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise LabError(f"{self.name} ended: {self.errors()}") from None
        return dict(json.loads(self.line_with("{", timeout)))

    def stop(self, timeout: float = 5.0) -> None:
        """End it by SIGTERM, in the end by SIGKILL, and keep its last JSON line."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout=1)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None and line.startswith("{"):
                self.report = dict(json.loads(line))

    def usage(self) -> Usage:
        """Read the counters of all its threads.  Raises: LabError: it has ended."""
        cpu_ns = waited_ns = voluntary = involuntary = 0
        try:
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                on_core, in_queue, _ = (task / "schedstat").read_text().split()
                cpu_ns += int(on_core)
                waited_ns += int(in_queue)
                for line in (task / "status").read_text().splitlines():
                    if line.startswith("voluntary_ctxt_switches"):
                        voluntary += int(line.split()[1])
                    elif line.startswith("nonvoluntary_ctxt_switches"):
                        involuntary += int(line.split()[1])
        except FileNotFoundError:
            raise LabError(f"{self.name} ended: {self.errors()}") from None
        return Usage(
            at_ns=time.monotonic_ns(),
            cpu_ns=cpu_ns,
            waited_ns=waited_ns,
            voluntary=voluntary,
            involuntary=involuntary,
        )

    def resident_bytes(self) -> int:
        """Return its resident set (VmRSS)."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:
            text = ""
        for line in text.splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise LabError(f"{self.name} ended: {self.errors()}")


class Lab:
    """The namespaces, the link between them, and the children; a context manager."""

    def __init__(self, server_core: int, client_core: int) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="hnbench-")
        self.namespaces: dict[Side, str] = {
            "server": f"hnb{os.getpid()}s",
            "client": f"hnb{os.getpid()}c",
        }
        self.cores: dict[Side, int] = {"server": server_core, "client": client_core}
        self.server_mac = ""
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        try:
            self._create()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def listen(self) -> str:
        """Where every server listens, HOST:PORT."""
        return f"{SERVER_HOST}:{PORT}"

    def path(self, name: str) -> Path:
        """Return a path in a directory that goes with the lab."""
        return Path(self.directory.name) / name

    def _create(self) -> None:
        _remove_abandoned()
        for name in self.namespaces.values():
            _ip("netns", "add", name)
        server, client = self.namespaces["server"], self.namespaces["client"]
        queues = ["numtxqueues", "1", "numrxqueues", "1"]
        _ip("-n", server, "link", "add", "name", SERVER_DEV, *queues, "type", "veth", "peer",
            "name", CLIENT_DEV, "netns", client, *queues)  # fmt: skip
        macs: dict[Side, str] = {}
        sides: list[tuple[Side, str, str]] = [
            ("server", SERVER_DEV, SERVER_HOST),
            ("client", CLIENT_DEV, CLIENT_HOST),
        ]
        for side, device, host in sides:
            name = self.namespaces[side]
            # No link-local address: nothing but what is measured shall be on the wire.
            _ip("-n", name, "link", "set", device, "addrgenmode", "none")
            _ip("-n", name, "addr", "add", f"{host}/24", "dev", device)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", device, "up")
            macs[side] = json.loads(_ip("-n", name, "-json", "link", "show", device))[0]["address"]
        _ip("-n", server, "neigh", "replace", CLIENT_HOST, "lladdr", macs["client"], "dev",
            SERVER_DEV)  # fmt: skip
        _ip("-n", client, "neigh", "replace", SERVER_HOST, "lladdr", macs["server"], "dev",
            CLIENT_DEV)  # fmt: skip
        self.server_mac = macs["server"]

    def spawn(self, side: Side, name: str, command: list[str]) -> Child:
        """Start ``command`` in a namespace, on that side's core, without waiting for it."""
        stderr = tempfile.NamedTemporaryFile(dir=self.directory.name, delete=False)  # noqa: SIM115
        # Each of these replaces itself, so the process id is the command's own in the end.
        prefix = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(self.cores[side])]
        prefix += ["ip", "netns", "exec", self.namespaces[side]]
        child = Child(name, prefix + command, stderr)
        self._children.append(child)
        return child

    def stop(self, child: Child) -> None:
        """Stop one child."""
        child.stop()
        self._children.remove(child)

    def close(self) -> None:
        """Stop the children, delete the namespaces and the temporary directory."""
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for child in reversed(self._children):
                child.stop(timeout=2)
            self._children.clear()
            for name in self.namespaces.values():
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            self.directory.cleanup()
        finally:
            signal.signal(signal.SIGINT, previous)


def _remove_abandoned() -> None:
    """Delete what a run left behind that was killed outright: its process is no more."""
    folder = Path("/run/netns")
    for path in folder.iterdir() if folder.is_dir() else ():
        found = re.fullmatch(r"hnb(\d+)[sc]", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
