"""The demo as a user runs it: to its end, interrupted, and without privileges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from hybridnet.cli.namespaces import NETNS_DIRECTORY, Lab
from support.netns import need_root, python_environment, wait_until

DEMO = [sys.executable, "-m", "hybridnet.cli", "demo", "--json"]


def start_demo(*argv: str, scratch: Path, prefix: list[str] | None = None) -> Any:
    environment = {**os.environ, **python_environment(), "TMPDIR": str(scratch)}
    return subprocess.Popen(
        [*(prefix or []), *DEMO, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )


def finish(demo: Any, timeout_s: float = 50.0) -> tuple[str, str]:
    try:
        return demo.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(demo.pid, signal.SIGKILL)
        raise


def namespaces_of(pid: int) -> set[str]:
    if not NETNS_DIRECTORY.is_dir():
        return set()
    return {path.name for path in NETNS_DIRECTORY.iterdir() if path.name.startswith(f"hn{pid}x")}


def children_of(scratch: Path) -> list[int]:
    """Processes that have this run's scratch directory in their environment or arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(scratch).encode() in text:
            found.append(int(entry.name))
    return found


@pytest.fixture
def scratch() -> Any:
    with tempfile.TemporaryDirectory(prefix="hn-demo-test-") as name:
        yield Path(name)


def test_demo_ends_with_both_servers_measured_and_quic_checked(scratch: Path) -> None:
    need_root()
    demo = start_demo("--seconds", "0.4", scratch=scratch)
    output, progress = finish(demo)
    assert demo.returncode == 0, progress
    result = json.loads(output)
    assert result["mode"] == "native"
    for server in ("hybridnet", "kernel"):
        for window in ("single", "deep"):
            assert result[server][window]["received"] > 100
            assert result[server][window]["corrupt"] == 0
    assert result["quic"]["correct"] == result["quic"]["streams"] == 16
    assert result["ping"].startswith("3 of 3")
    assert result["same_host"]["received"] > 10
    stack = result["stack"]
    answered = sum(result["hybridnet"][window]["received"] for window in ("single", "deep"))
    assert stack["fast"]["rx_packets"] >= answered
    assert stack["kernel"]["rx_packets"] >= result["same_host"]["received"]
    assert "hybridnet serves UDP and QUIC echo" in progress
    assert namespaces_of(demo.pid) == set()
    assert children_of(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("mode", ["generic", "kernel"])
def test_demo_in_another_mode_grants_what_was_asked(mode: str, scratch: Path) -> None:
    need_root()
    demo = start_demo("--seconds", "0.2", "--mode", mode, scratch=scratch)
    output, progress = finish(demo)
    assert demo.returncode == 0, progress
    assert json.loads(output)["mode"] == mode


@pytest.mark.parametrize(
    ("number", "moment_s"),
    [
        (signal.SIGINT, 0.0),
        (signal.SIGINT, 0.3),
        (signal.SIGINT, 2.0),
        (signal.SIGTERM, 0.3),
        (signal.SIGHUP, 2.0),
    ],
)
def test_interrupted_demo_leaves_nothing_behind(
    number: signal.Signals, moment_s: float, scratch: Path
) -> None:
    need_root()
    demo = start_demo("--seconds", "20", scratch=scratch)
    try:
        wait_until(lambda: bool(namespaces_of(demo.pid)), "the demo's namespaces", 10)
        time.sleep(moment_s)  # the point is to hit it at different stages
        os.kill(demo.pid, number)
        finish(demo, 15)
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
    assert demo.returncode == 130
    assert namespaces_of(demo.pid) == set()
    wait_until(lambda: children_of(scratch) == [], "the demo's processes to be gone")
    assert list(scratch.iterdir()) == []


def test_without_privileges_the_demo_says_so_and_runs_on_loopback(lab: Lab, scratch: Path) -> None:
    # Inside a lab, so that its loopback is used and not the machine's.
    drop = [*lab.command(lab.a, "setpriv", "--bounding-set=-all", "--inh-caps=-all")]
    demo = start_demo("--seconds", "0.3", scratch=scratch, prefix=drop)
    output, progress = finish(demo)
    assert demo.returncode == 0, progress
    result = json.loads(output)
    assert result["mode"] == "kernel"
    assert result["address"] == "127.0.0.1"
    assert result["quic"]["correct"] == 16
    assert "no fast path here: cap_net_admin not held" in progress
    assert "network namespaces need root" in progress
