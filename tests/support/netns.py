"""Network namespaces for tests: unique names, always removed, children ended by process id.

    def test_something(lab):                      # the fixture of tests/conftest.py
        server = start_python(lab, lab.b, "-m", "hybridnet.cli.demo_server", ...)
        lab.run(lab.a, "ip", "neigh")

A test needs root; without it the test is skipped, which CI counts as a failure.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from hybridnet.cli.namespaces import Host, Lab


def need_root() -> None:
    """Skip the running test unless namespaces can be made."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


@contextlib.contextmanager
def lab_factory() -> Iterator[Callable[..., Lab]]:
    """Give a function ``make(queues=1, mtu=1500) -> Lab``; every lab is down afterwards."""
    need_root()
    with contextlib.ExitStack() as labs:
        yield lambda **sizes: labs.enter_context(Lab.private(**sizes))


@contextlib.contextmanager
def private_lab(*, queues: int = 1, mtu: int = 1500) -> Iterator[Lab]:
    """Give one lab, for tests that choose its time of life themselves."""
    with lab_factory() as make:
        yield make(queues=queues, mtu=mtu)


def python_environment() -> dict[str, str]:
    """Return what a child Python needs to import the same package as this process."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def start_python(
    lab: Lab, host: Host, *argv: str, stderr: int | None = None
) -> subprocess.Popen[str]:
    """Start this Python with ``argv`` on a host; the lab ends it with all its children."""
    return lab.start(host, sys.executable, *argv, stderr=stderr, environment=python_environment())


def run_python(
    lab: Lab, host: Host, *argv: str, check: bool = True, timeout_s: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run this Python with ``argv`` on a host to its end."""
    return subprocess.run(
        lab.command(host, sys.executable, *argv),
        capture_output=True,
        text=True,
        check=check,
        timeout=timeout_s,
        env={**os.environ, **python_environment()},
    )


def read_line(child: subprocess.Popen[str], timeout_s: float = 10.0) -> str:
    """Return the next line that a child prints.

    Reads byte by byte, so that nothing hides in a buffer; meant for the odd line, not for data.
    Raises: TimeoutError: none came; EOFError: the child closed its output.
    """
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    deadline = time.monotonic() + timeout_s
    line = bytearray()
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(
                f"no line within {timeout_s} s from {child.args!r}; so far: {line!r}"
            )
        byte = os.read(descriptor, 1)
        if not byte:
            raise EOFError(f"{child.args!r} ended its output; so far: {line!r}")
        if byte == b"\n":
            return line.decode()
        line += byte


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 5.0) -> None:
    """Poll until a condition of the outside world holds.

    Raises: TimeoutError: it never did; names ``what``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)
