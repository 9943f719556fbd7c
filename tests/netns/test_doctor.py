"""``hybridnet doctor`` on a real veth, and on interfaces that are in the way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridnet.cli.namespaces import Lab
from support.netns import run_python

Report = dict[str, Any]


def doctor(lab: Lab, *argv: str) -> tuple[int, Report]:
    done = run_python(lab, lab.b, "-m", "hybridnet.cli", "doctor", "--json", *argv, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def device_lines(report: Report) -> dict[str, Report]:
    return {line["name"]: line for line in report["devices"][0]["lines"]}


@pytest.fixture
def pass_program(tmp_path: Path) -> Path:
    """The object of an XDP program that lets everything pass."""
    source = tmp_path / "pass.bpf.c"
    source.write_text('__attribute__((section("xdp"), used)) int let_pass(void *x) { return 2; }\n')
    output = tmp_path / "pass.bpf.o"
    command = ["clang", "-O2", "-target", "bpf", "-c", str(source), "-o", str(output)]
    subprocess.run(command, check=True)
    return output


def test_veth_is_ready_for_native_mode(lab: Lab) -> None:
    status, report = doctor(lab, "vb")
    lines = device_lines(report)
    assert status == 0
    assert report["fast_path"] is True
    assert report["devices"][0]["mode"] == "native"
    assert lines["driver"]["value"] == "veth"
    assert lines["xdp_native"]["state"] == "ok"
    assert lines["xdp_zero_copy"]["presence"] == "absent"
    assert lines["xdp_zero_copy"]["remedy"]
    assert lines["queues"]["value"] == "1 receive, 1 transmit"
    assert "frame of 2048" in lines["mtu"]["value"]
    assert {line["state"] for line in report["machine"]} <= {"ok", "degraded", "missing"}


def test_jumbo_veth_with_two_queues_needs_multi_buffer(make_lab: Callable[..., Lab]) -> None:
    lines = device_lines(doctor(make_lab(queues=2, mtu=9000), "vb")[1])
    assert lines["queues"]["value"] == "2 receive, 2 transmit"
    assert "needs multi-buffer" in lines["mtu"]["value"]
    assert lines["mtu"]["presence"] == lines["multi_buffer"]["presence"]


def test_link_that_is_down_is_degraded_and_says_how_to_bring_it_up(lab: Lab) -> None:
    lab.run(lab.b, "ip", "link", "set", "vb", "down")
    status, report = doctor(lab, "vb")
    line = device_lines(report)["link"]
    assert status == 0
    assert line["state"] == "degraded"
    assert "ip link set" in line["remedy"]


def test_foreign_xdp_program_is_named_and_blocks_the_fast_path(
    lab: Lab, pass_program: Path
) -> None:
    lab.run(lab.b, "ip", "link", "set", "vb", "xdpgeneric", "obj", str(pass_program), "sec", "xdp")
    status, report = doctor(lab, "vb")
    line = device_lines(report)["no_xdp_program"]
    assert status == 1
    assert report["devices"][0]["mode"] == "kernel"
    assert line["state"] == "missing"
    assert "another program's: let_pass (id " in line["value"]
    assert "generic mode" in line["value"]
    lab.run(lab.b, "ip", "link", "set", "vb", "xdpgeneric", "off")
    assert doctor(lab, "vb")[0] == 0


def test_loopback_is_left_to_the_kernel(lab: Lab) -> None:
    status, report = doctor(lab, "lo")
    assert status == 1
    assert report["devices"][0]["mode"] == "kernel"


def test_unknown_interface_is_wrong_usage_and_lists_the_others(lab: Lab) -> None:
    status, report = doctor(lab, "nothere0")
    assert status == 2
    assert "lo, vb" in report["error"]


def test_without_a_device_every_interface_has_one_line(lab: Lab) -> None:
    done = run_python(lab, lab.b, "-m", "hybridnet.cli", "doctor")
    words = [line.split()[:3] for line in done.stdout.splitlines() if line]
    assert ["missing", "lo", "kernel"] in words
    assert ["ok", "vb", "native"] in words


def test_without_privileges_the_missing_ones_are_named(lab: Lab) -> None:
    script = (
        "import ctypes, sys; from hybridnet.cli import main\n"
        # Drop the effective and permitted sets of this thread: capset(2), version 3.
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0); data = (ctypes.c_uint32 * 6)()\n"
        "assert ctypes.CDLL(None).capset(header, data) == 0\n"
        "sys.exit(main(['doctor', 'vb', '--json']))"
    )
    done = run_python(lab, lab.b, "-c", script, check=False)
    report = json.loads(done.stdout)
    lines = {line["name"]: line for line in report["machine"]}
    assert done.returncode == 1
    assert report["fast_path"] is False
    assert lines["cap_net_admin"]["state"] == "missing"
    assert "setcap" in lines["cap_net_admin"]["remedy"]
    assert lines["af_xdp"]["presence"] == "unknown"
    assert lines["bpf_load"]["presence"] == "unknown"
