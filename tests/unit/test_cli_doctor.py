"""The doctor's words, and the probes that need no interface of their own."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import replace

import pytest

from hybridnet.cli import doctor, main
from hybridnet.xsk import netlink_query, probe
from hybridnet.xsk.probe import Finding, Presence


def machine_with(**absent: Presence) -> probe.MachineReport:
    report = probe.probe_machine()
    findings = [replace(f, presence=absent.get(f.name, Presence.PRESENT)) for f in report.findings]
    return probe.MachineReport(findings=tuple(findings))


def test_every_finding_has_advice_with_meaning_and_remedy() -> None:
    machine = probe.probe_machine()
    found = {finding.name for finding in machine.findings}
    for device in probe.probe_devices(machine):
        found |= {finding.name for finding in device.findings}
    assert found <= set(doctor.ADVICE)
    for advice in doctor.ADVICE.values():
        assert advice.meaning
        assert advice.remedy


@pytest.mark.parametrize(
    ("presence", "state"),
    [(Presence.PRESENT, "ok"), (Presence.ABSENT, "missing"), (Presence.UNKNOWN, "degraded")],
)
def test_presence_decides_the_state(presence: Presence, state: str) -> None:
    line = doctor.explain(Finding(name="af_xdp", presence=presence, value="x"))
    assert line.state == state
    assert bool(line.remedy) == (presence is not Presence.PRESENT)
    assert ("could not tell" in line.meaning) == (presence is Presence.UNKNOWN)


def test_what_could_not_be_told_does_not_stop_the_fast_path() -> None:
    assert not probe.missing_for_fast_path(machine_with(af_xdp=Presence.UNKNOWN))
    assert not probe.missing_for_fast_path(machine_with(bpffs=Presence.ABSENT))
    missing = probe.missing_for_fast_path(machine_with(cap_bpf=Presence.ABSENT))
    assert [finding.name for finding in missing] == ["cap_bpf"]


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-cloud-amd64", (6, 18)),
        ("5.10", (5, 10)),
        ("10.0-rc1", (10, 0)),
        ("generic", None),
    ],
)
def test_kernel_release_is_read_by_number(release: str, version: tuple[int, int] | None) -> None:
    assert probe.kernel_version(release) == version


@pytest.mark.parametrize(
    ("effective", "held"),
    [
        ("0000000000000000", set()),
        ("0000008000003000", {"bpf", "net_admin", "net_raw"}),
        ("0000000000200000", {"sys_admin", "bpf"}),
    ],
)
def test_capabilities_are_those_of_the_effective_set(effective: str, held: set[str]) -> None:
    status = f"CapPrm:\tffffffffffffffff\nCapEff:\t{effective}\n"
    assert probe.effective_capabilities(status) == held
    assert probe.effective_capabilities("Name:\tx\n") is None


@pytest.mark.parametrize(
    ("mtu", "frame_bytes"),
    [(1500, 2048), (1774, 2048), (1775, 4096), (3822, 4096), (3823, None), (9000, None)],
)
def test_frame_holds_mtu_with_link_header_and_headroom(mtu: int, frame_bytes: int | None) -> None:
    assert probe.smallest_frame(mtu) == frame_bytes


def test_netlink_attributes_that_do_not_add_up_end_the_walk() -> None:
    good = struct.pack("=HH4s", 8, 3, b"abcd")
    assert list(netlink_query.attributes(good * 2)) == [(3, b"abcd")] * 2
    assert list(netlink_query.attributes(good + struct.pack("=HH", 3, 1))) == [(3, b"abcd")]
    assert list(netlink_query.attributes(good + struct.pack("=HH", 9, 1) + b"ab")) == [(3, b"abcd")]
    assert list(netlink_query.attributes(b"\x08\x00\x03")) == []


def test_netlink_attributes_of_random_bytes_stay_inside_them() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(500):
        data = source.randbytes(source.randrange(64))
        assert sum(4 + len(payload) for _kind, payload in netlink_query.attributes(data)) <= len(
            data
        )


def test_report_for_programs_has_the_same_lines_as_for_people(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert main(["doctor"]) == status
    text = capsys.readouterr().out
    assert report["fast_path"] == (status == 0)
    for line in report["machine"]:
        assert f"{line['state']:<8}  {line['title']:<20}  {line['value']}" in text
    for device in report["devices"]:
        assert device["name"] in text
