"""The echo servers that are compared, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.build import ROOT, Tools
from bench.lab import CLIENT_DEV, CLIENT_HOST, SERVER_DEV, Child, Lab, LabError

PEERS = Path(__file__).resolve().parent / "peers"
EXAMPLES = ROOT / "examples"

READY_TIMEOUT_S = 15.0


@dataclass(slots=True, frozen=True, kw_only=True)
class Subject:
    """One echo server: a name for the table and the options of its program."""

    name: str
    label: str
    program: str  # "peer", "example" or "bare"
    options: tuple[str, ...] = ()

    def command(self, lab: Lab, tools: Tools, extra: tuple[str, ...] = ()) -> list[str]:
        """Return the command line; raises LabError when its program is not there."""
        if self.program == "bare":
            command = [str(tools.bare_echo), "--dev", SERVER_DEV, "--listen", lab.listen]
            return [*command, "--object", str(tools.bare_echo_object), *self.options, *extra]
        if self.program == "peer":
            script = PEERS / "asyncio_echo.py"
            return [sys.executable, str(script), "--listen", lab.listen, *self.options, *extra]
        script = EXAMPLES / "udp_echo.py"
        if not script.exists():
            raise LabError(f"{script.relative_to(ROOT)} is not there")
        command = [sys.executable, str(script), "--dev", SERVER_DEV, "--listen", lab.listen]
        return [*command, *self.options, *extra]


def _hybridnet(api: str, loop: str = "uvloop", *options: str) -> Subject:
    suffix = "" if loop == "uvloop" else f"-{loop}"
    return Subject(
        name=f"{api}{suffix}",
        label=f"hybridnet {api}" + (f", {loop} loop" if suffix else ""),
        program="example",
        options=("--api", api, "--loop", loop, *options),
    )


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            name="asyncio",
            label="asyncio, kernel socket",
            program="peer",
            options=("--loop", "asyncio"),
        ),
        Subject(
            name="uvloop",
            label="uvloop, kernel socket",
            program="peer",
            options=("--loop", "uvloop"),
        ),
        _hybridnet("protocol"),
        _hybridnet("batch"),
        _hybridnet("channel"),
        _hybridnet("protocol", "asyncio"),
        _hybridnet("batch", "asyncio"),
        Subject(
            name="bare-poll",
            label="bare C loop, poll(2)",
            program="bare",
            options=("--wait", "poll"),
        ),
        Subject(
            name="bare-spin",
            label="bare C loop, spinning",
            program="bare",
            options=("--wait", "spin"),
        ),
    )
}
PEER = "uvloop"
BARE = ("bare-poll", "bare-spin")
DEFAULT = ("asyncio", "uvloop", "protocol", "batch", *BARE)


@dataclass(slots=True, frozen=True, kw_only=True)
class Server:
    """A running server and the mode it was granted, in its own words."""

    child: Child
    mode: str


@contextmanager
def serving(lab: Lab, name: str, command: list[str]) -> Iterator[Server]:
    """Run a server until the block ends.  Raises: LabError: it did not become ready."""
    child = lab.spawn("server", name, command)
    try:
        words = child.line_with("ready ", READY_TIMEOUT_S).split()
        yield Server(child=child, mode=words[2] if len(words) > 2 else "?")
    finally:
        lab.stop(child)


@contextmanager
def generating(lab: Lab, tools: Tools) -> Iterator[Child]:
    """Run the load generator on the client's side until the block ends."""
    command = [str(tools.loadgen), "--dev", CLIENT_DEV, "--object", str(tools.loadgen_object)]
    command += ["--source", CLIENT_HOST, "--target", lab.listen, "--target-mac", lab.server_mac]
    child = lab.spawn("client", "loadgen", command)
    try:
        child.line_with("ready", READY_TIMEOUT_S)
        yield child
    finally:
        lab.stop(child)
