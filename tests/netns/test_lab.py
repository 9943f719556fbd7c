"""The lab: what ``hybridnet lab`` and the fixtures make, against the machine's own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridnet.cli.namespaces import NETNS_DIRECTORY, Lab
from hybridnet.errors import HybridnetError
from support.netns import need_root, python_environment, read_line, run_python, start_python

ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 9000))
print("ready", flush=True)
while True:
    s.sendto(*s.recvfrom(65536))
"""


def namespaces() -> set[str]:
    return {path.name for path in NETNS_DIRECTORY.iterdir()} if NETNS_DIRECTORY.is_dir() else set()


def hybridnet(*argv: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hybridnet.cli", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **python_environment(), **options},
    )


@pytest.fixture
def prefix() -> Iterator[str]:
    """A name for a lab made by the command line; removed whatever happened."""
    need_root()
    name = f"hnt{os.getpid()}"
    yield name
    hybridnet("lab", "down", "--name", name)


@pytest.mark.parametrize("address", ["10.77.0.2", "fd77::2"])
def test_fresh_lab_carries_udp_at_once(lab: Lab, address: str) -> None:
    server = start_python(lab, lab.b, "-c", ECHO, address)
    assert read_line(server) == "ready"
    target = f"[{address}]:9000" if ":" in address else f"{address}:9000"
    done = run_python(
        lab, lab.a, "-m", "hybridnet.cli.echo_client", target, "--seconds", "0.3", "--json"
    )
    result = json.loads(done.stdout)
    assert result["received"] > 10
    assert result["corrupt"] == result["lost"] == 0
    assert 0 < result["min_us"] <= result["p50_us"] <= result["p99_us"] * 1.02


def test_lab_has_the_queues_and_mtu_that_were_asked_for(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=3, mtu=9000)
    for host in lab.hosts:
        assert "mtu 9000" in lab.run(host, "ip", "link", "show", host.interface).stdout
        queues = lab.run(host, "ls", f"/sys/class/net/{host.interface}/queues").stdout.split()
        assert sorted(queues) == ["rx-0", "rx-1", "rx-2", "tx-0", "tx-1", "tx-2"]


def test_two_labs_at_a_time_do_not_meet(make_lab: Callable[..., Lab]) -> None:
    first, second = make_lab(), make_lab()
    server = start_python(first, first.b, "-c", ECHO, "10.77.0.2")
    assert read_line(server) == "ready"
    done = run_python(
        *(second, second.a, "-m", "hybridnet.cli.echo_client", "10.77.0.2:9000"),
        *("--seconds", "0.2", "--json"),
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["refused"] > 0


def is_running(pid: int) -> bool:
    """Tell a live process from one that is gone or only waits to be reaped by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_failing_block_leaves_no_namespace_and_no_process() -> None:
    need_root()
    lab = Lab.private()

    def fail() -> None:
        with lab:
            # One that ignores SIGTERM, and a grandchild.
            script = "trap '' TERM; sleep 1000 & echo ready; wait"
            child = lab.start(lab.a, "sh", "-c", script)
            assert read_line(child) == "ready"
            running.extend(lab.processes())
            raise ZeroDivisionError

    running: list[int] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert not {host.namespace for host in lab.hosts} & namespaces()
    assert len(running) == 2
    assert not [pid for pid in running if is_running(pid)]


def test_up_refuses_a_name_that_exists_and_does_not_touch_it(prefix: str) -> None:
    assert hybridnet("lab", "up", "--name", prefix).returncode == 0
    before = Path(f"/run/netns/{prefix}-a").stat().st_ino
    with pytest.raises(HybridnetError, match="exists already"):
        Lab(prefix).up()
    assert hybridnet("lab", "up", "--name", prefix).returncode == 1
    assert Path(f"/run/netns/{prefix}-a").stat().st_ino == before


def test_lab_commands_make_show_use_and_remove(prefix: str) -> None:
    up = hybridnet("lab", "up", "--name", prefix, "--queues", "2", "--mtu", "4000")
    assert up.returncode == 0, up.stderr
    status = hybridnet("lab", "status", "--name", prefix)
    assert status.returncode == 0
    assert "10.77.0.1/24" in status.stdout
    assert "mtu 4000" in status.stdout
    shown = hybridnet("lab", "exec", "--name", prefix, "b", "--", "ip", "-br", "address")
    assert "10.77.0.2/24" in shown.stdout
    assert "tentative" not in shown.stdout
    assert hybridnet("lab", "exec", "--name", prefix, "b", "--", "false").returncode == 1
    assert hybridnet("lab", "exec", "--name", prefix, "b").returncode == 2
    assert hybridnet("lab", "down", "--name", prefix).stdout == "removed\n"
    assert not {f"{prefix}-a", f"{prefix}-b"} & namespaces()
    assert hybridnet("lab", "down", "--name", prefix).stdout == "nothing to remove\n"


def test_down_leaves_a_namespace_alone_that_up_did_not_make(prefix: str) -> None:
    assert hybridnet("lab", "up", "--name", prefix).returncode == 0
    subprocess.run(["ip", "netns", "del", f"{prefix}-a"], check=True)
    subprocess.run(["ip", "netns", "add", f"{prefix}-a"], check=True)
    try:
        assert hybridnet("lab", "down", "--name", prefix).returncode == 0
        assert {f"{prefix}-a", f"{prefix}-b"} & namespaces() == {f"{prefix}-a"}
        assert hybridnet("lab", "down", "--name", prefix).returncode == 1
    finally:
        subprocess.run(["ip", "netns", "del", f"{prefix}-a"], check=True)
