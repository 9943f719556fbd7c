"""``hybridnet doctor``: what this machine can do, what that means, and how to get the rest."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridnet.xsk.probe import DeviceReport, Finding

SUMMARY = "what this machine and its interfaces can do for the fast path"
DESCRIPTION = """\
Probe the kernel, this process's privileges and one interface (or all, in short), and say for
each finding whether it is ok, degraded or missing, what that means and how to get it.
Nothing is changed."""
EXAMPLES = """\
examples:
  hybridnet doctor            the machine, and one line per interface
  hybridnet doctor eth0       the machine and everything about eth0
  hybridnet doctor --json     for programs
  hybridnet lab up; hybridnet lab exec b -- hybridnet doctor vb

exit status: 0 the fast path can run, 1 kernel path only, 2 wrong usage (no such interface)"""

OK, DEGRADED, MISSING = "ok", "degraded", "missing"
_COLORS = {OK: "32", DEGRADED: "33", MISSING: "31"}


@dataclass(slots=True, frozen=True, kw_only=True)
class Advice:
    """How one finding is explained.  ``absent``: what it is called when it is not there."""

    title: str
    meaning: str
    remedy: str
    absent: str = DEGRADED


@dataclass(slots=True, frozen=True, kw_only=True)
class Line:
    """One line of the report; ``meaning`` and ``remedy`` are empty when all is well."""

    name: str
    title: str
    state: str
    presence: str
    value: str
    meaning: str
    remedy: str


_ROOT = "run as root, or: setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep on the python"

ADVICE: dict[str, Advice] = {
    "kernel": Advice(
        title="kernel",
        meaning="before Linux 5.10 there is no fast path; everything runs on kernel sockets",
        remedy="boot Linux 5.10 or later; 6.6 or later for packets larger than a frame",
        absent=MISSING,
    ),
    "cap_net_admin": Advice(
        title="CAP_NET_ADMIN",
        meaning="no XDP program can be attached to an interface",
        remedy=_ROOT,
        absent=MISSING,
    ),
    "cap_net_raw": Advice(
        title="CAP_NET_RAW",
        meaning="no AF_XDP socket can be opened",
        remedy=_ROOT,
        absent=MISSING,
    ),
    "cap_bpf": Advice(
        title="CAP_BPF",
        meaning="the steering program cannot be loaded",
        remedy=_ROOT,
        absent=MISSING,
    ),
    "cap_ipc_lock": Advice(
        title="CAP_IPC_LOCK",
        meaning="packet memory counts against the locked-memory limit",
        remedy=f"{_ROOT}; or raise the limit (ulimit -l)",
    ),
    "af_xdp": Advice(
        title="AF_XDP sockets",
        meaning="packets cannot be handed to user space; everything runs on kernel sockets",
        remedy="a kernel built with CONFIG_XDP_SOCKETS; in a container, a seccomp profile that "
        "allows the AF_XDP family",
        absent=MISSING,
    ),
    "bpf_load": Advice(
        title="BPF programs",
        meaning="the steering program cannot be loaded",
        remedy="a kernel built with CONFIG_BPF_SYSCALL; in a container, a seccomp profile that "
        "allows bpf(2)",
        absent=MISSING,
    ),
    "bpf_jit": Advice(
        title="BPF JIT",
        meaning="the steering program is interpreted, several times slower per packet",
        remedy="sysctl net.core.bpf_jit_enable=1",
    ),
    "memlock": Advice(
        title="locked memory",
        meaning="a stack's packet memory (32 MiB by default) does not fit the limit",
        remedy="CAP_IPC_LOCK, or ulimit -l unlimited (LimitMEMLOCK= in systemd)",
    ),
    "bpffs": Advice(
        title="bpffs",
        meaning="not needed by a stack of its own; only sharing an interface with other XDP "
        "programs through libxdp's dispatcher does",
        remedy="mount -t bpf bpf /sys/fs/bpf",
    ),
    "interface": Advice(
        title="interface",
        meaning="there is no interface of that name in this network namespace",
        remedy="ip link shows those that are there",
        absent=MISSING,
    ),
    "link": Advice(
        title="link",
        meaning="no packet comes or goes until it is up",
        remedy="ip link set DEV up; without carrier, look at the other end of the cable",
    ),
    "driver": Advice(
        title="driver",
        meaning="only for information",
        remedy="ethtool -i DEV",
    ),
    "no_loopback": Advice(
        title="kind",
        meaning="loopback never leaves the kernel; channels reach it by the kernel path",
        remedy="none needed",
        absent=MISSING,
    ),
    "xdp_native": Advice(
        title="native XDP",
        meaning="the driver cannot run XDP; generic mode works on every driver, for TCP, and "
        "UDP of merged packets takes the kernel path",
        remedy="a driver with XDP support, or a veth or virtio_net device",
    ),
    "xdp_zero_copy": Advice(
        title="zero-copy",
        meaning="each packet is copied once between the driver and the stack",
        remedy="a NIC whose driver has AF_XDP zero-copy (ice, i40e, ixgbe, igc, mlx5 …)",
    ),
    "xdp_transmit": Advice(
        title="XDP redirect target",
        meaning="other interfaces' XDP programs cannot redirect packets to this one; a stack "
        "does not need that",
        remedy="on veth, an XDP program or GRO on the peer switches it on",
        absent=OK,
    ),
    "multi_buffer": Advice(
        title="multi-buffer",
        meaning="packets larger than one frame take the kernel path",
        remedy="Linux 6.6 or later and a driver with XDP scatter-gather, or a smaller MTU",
    ),
    "queues": Advice(
        title="queues",
        meaning="without a receive queue there is nothing to attach a socket to",
        remedy="ethtool -L DEV combined N",
        absent=MISSING,
    ),
    "mtu": Advice(
        title="MTU",
        meaning="packets larger than one frame cannot be received in native mode",
        remedy="ip link set DEV mtu 3500, or a driver with multi-buffer",
    ),
    "offloads": Advice(
        title="offloads",
        meaning="only for information",
        remedy="ethtool -k DEV",
    ),
    "no_lro": Advice(
        title="receive merging",
        meaning="the NIC merges packets (LRO) before XDP sees them; drivers refuse native XDP then",
        remedy="ethtool -K DEV lro off",
    ),
    "no_xdp_program": Advice(
        title="XDP program",
        meaning="the interface is taken; it is never replaced silently",
        remedy="stop that program, or detach what it left: ip link set DEV xdp off",
        absent=MISSING,
    ),
}


def explain(finding: Finding) -> Line:
    """Turn a finding into a line of the report."""
    advice = ADVICE[finding.name]
    state, meaning, remedy = OK, "", ""
    if finding.presence.value == "absent":
        state, meaning, remedy = advice.absent, advice.meaning, advice.remedy
    elif finding.presence.value == "unknown":
        state = DEGRADED
        meaning = f"could not tell; if it is not there: {advice.meaning}"
        remedy = advice.remedy
    return Line(
        name=finding.name,
        title=advice.title,
        state=state,
        presence=finding.presence.value,
        value=finding.value,
        meaning=meaning,
        remedy=remedy,
    )


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("device", nargs="?", metavar="DEV", help="an interface")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Probe and print; see EXAMPLES for the exit status."""
    from hybridnet.xsk import probe

    machine = probe.probe_machine()
    device: str | None = args.device
    if device is None:
        reports = probe.probe_devices(machine)
        ready = not probe.missing_for_fast_path(machine)
    else:
        found = probe.probe_device(device, machine)
        if found is None:
            print(_no_such_interface(device), file=sys.stderr)
            return 2
        reports = [found]
        ready = found.mode != "kernel"
    lines = [explain(finding) for finding in machine.findings]
    if args.json:
        print(_as_json(lines, reports, ready))
    elif device is None:
        print(_as_text(lines, reports, ready, detailed=False))
    else:
        print(_as_text(lines, reports, ready, detailed=True))
    return 0 if ready else 1


def _no_such_interface(name: str) -> str:
    from hybridnet.xsk import netlink_query

    there = ", ".join(link.name for link in netlink_query.links())
    return f"hybridnet doctor: no interface {name} in this network namespace; there are: {there}"


def _as_object(line: Line) -> dict[str, str]:
    return {name: getattr(line, name) for name in Line.__slots__}


def _as_json(lines: list[Line], reports: list[DeviceReport], ready: bool) -> str:
    devices = [
        {
            "name": report.name,
            "ifindex": report.ifindex,
            "mode": report.mode,
            "lines": [_as_object(explain(finding)) for finding in report.findings],
        }
        for report in reports
    ]
    machine = [_as_object(line) for line in lines]
    return json.dumps({"fast_path": ready, "machine": machine, "devices": devices}, indent=2)


def _paint(state: str) -> str:
    padded = f"{state:<8}"
    return f"\033[{_COLORS[state]}m{padded}\033[0m" if sys.stdout.isatty() else padded


def _format(line: Line) -> list[str]:
    text = [f"  {_paint(line.state)}  {line.title:<20}  {line.value}"]
    for label, words in (("means", line.meaning), ("to get it", line.remedy)):
        if words:
            text += textwrap.wrap(
                f"{label}: {words}", 96, initial_indent=" " * 12, subsequent_indent=" " * 14
            )
    return text


def _summary(report: DeviceReport) -> str:
    """One interface on one line: its best mode, and what stands in the way of a better one."""
    values = {finding.name: finding.value for finding in report.findings}
    state = OK if report.mode in ("zerocopy", "native") else DEGRADED
    wrong = [line for line in map(explain, report.findings) if line.state == MISSING]
    if wrong:
        state = MISSING
    because = "; ".join(f"{line.title}: {line.value}" for line in wrong)
    text = f"{values['driver']}, {values['queues']}, mtu {values['mtu']}, {values['link']}"
    return f"  {_paint(state)}  {report.name:<15}  {report.mode:<8}  {because or text}"


def _as_text(lines: list[Line], reports: list[DeviceReport], ready: bool, *, detailed: bool) -> str:
    text = ["machine"]
    for line in lines:
        text += _format(line)
    if not detailed:
        text += ["", "interfaces (best mode; 'hybridnet doctor DEV' for the details)"]
        text += [_summary(report) for report in reports]
    for report in reports if detailed else []:
        text += ["", f"{report.name} (best mode: {report.mode})"]
        for finding in report.findings:
            text += _format(explain(finding))
    text += [
        "",
        "the fast path can run" if ready else "kernel path only: see what is missing above",
    ]
    return "\n".join(text)
