"""From the records of all rounds to medians, ratios and the printed tables.

Ratios are taken within a round, where both sides saw the same machine, and then the median of
the rounds is shown with the least and the greatest; a ratio of medians would mix good minutes of
one subject with bad minutes of another.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bench.measures import (
    DISTURBED_SHARE,
    CeilingRecord,
    IdleRecord,
    LatencyRecord,
    QuicRecord,
    SoakRecord,
    StartRecord,
    UdpRecord,
)
from bench.subjects import BARE, PEER, SUBJECTS


@dataclass(slots=True)
class Results:
    """Everything that was measured, and what could not be."""

    udp: list[UdpRecord] = field(default_factory=list)
    ceiling: list[CeilingRecord] = field(default_factory=list)
    latency: list[LatencyRecord] = field(default_factory=list)
    quic: list[QuicRecord] = field(default_factory=list)
    idle: list[IdleRecord] = field(default_factory=list)
    start: list[StartRecord] = field(default_factory=list)
    soak: list[SoakRecord] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True, frozen=True, kw_only=True)
class Band:
    """A median and how far the rounds lie apart."""

    median: float
    low: float
    high: float

    def times(self) -> str:
        """Render as a ratio."""
        if self.low == self.high:
            return f"{self.median:.2f} x"
        return f"{self.median:.2f} x ({self.low:.2f}-{self.high:.2f})"


def band(values: Sequence[float]) -> Band | None:
    """Reduce the rounds' values; None when there are none."""
    if not values:
        return None
    return Band(median=statistics.median(values), low=min(values), high=max(values))


def ratios(mine: dict[int, float], other: dict[int, float]) -> Band | None:
    """Divide round by round."""
    return band([mine[turn] / other[turn] for turn in sorted(mine) if other.get(turn)])


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render left-aligned first and right-aligned other columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rendered = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(len(line) for line in rendered)
    return "\n".join([title, rule, rendered[0], rule, *rendered[1:], ""])


def _thousands(per_second: float) -> str:
    return f"{per_second / 1e3:,.1f} k"


def _or_dash(value: Band | None, render: Callable[[Band], str] = Band.times) -> str:
    return "-" if value is None else render(value)


class Udp:
    """Views on the UDP records of one payload size."""

    def __init__(self, records: Iterable[UdpRecord], size: int) -> None:
        self.records = [record for record in records if record.size == size]

    def subjects(self) -> list[str]:
        return list(dict.fromkeys(record.subject for record in self.records))

    def of(self, subject: str) -> list[UdpRecord]:
        return [record for record in self.records if record.subject == subject]

    def best(self, subject: str) -> dict[int, float]:
        return {record.round: record.best.answered_per_s for record in self.of(subject)}

    def bare(self) -> dict[int, float]:
        """The limit: the better of the two bare loops, round by round."""
        limit: dict[int, float] = {}
        for name in BARE:
            for turn, value in self.best(name).items():
                limit[turn] = max(value, limit.get(turn, 0.0))
        return limit

    def over_peer(self, subject: str) -> Band | None:
        return ratios(self.best(subject), self.best(PEER))

    def over_bare(self, subject: str) -> Band | None:
        return ratios(self.best(subject), self.bare())

    def kept(self, subject: str) -> Band | None:
        """Share of the highest rate that is still answered at overload."""
        return band([r.overload.answered_per_s / r.best.answered_per_s for r in self.of(subject)])


def _modes(modes: Iterable[str]) -> str:
    return "/".join(dict.fromkeys(modes))


def udp_table(results: Results, size: int) -> str:
    view = Udp(results.udp, size)
    rows: list[list[str]] = []
    for subject in view.subjects():
        records = view.of(subject)
        highest = statistics.median(r.best.answered_per_s for r in records)
        sent = statistics.median(r.overload.sent_per_s for r in records)
        mark = "*" if any(r.overload_is_flat_out for r in records) else " "
        busy = statistics.median(r.best.cpu_share for r in records)
        wrong = sum(abs(step.wrong_bytes) for r in records for step in r.steps)
        kept = view.kept(subject)
        rows.append(
            [
                SUBJECTS[subject].label,
                _modes(r.mode for r in records),
                _thousands(highest),
                _or_dash(view.over_peer(subject)),
                _or_dash(view.over_bare(subject)),
                f"{busy:.0%}",
                _thousands(sent) + mark,
                "-" if kept is None else f"{kept.median:.0%}",
                "ok" if wrong == 0 else f"{wrong} bytes",
            ]
        )
    ceilings = [record for record in results.ceiling if record.size == size]
    if ceilings:
        sent = statistics.median(record.sent_per_s for record in ceilings)
        arrived = min(record.arrived_share for record in ceilings)
        rows.append(
            ["load generator, alone", "native", _thousands(sent), *["-"] * 5, f"{arrived:.1%} in"]
        )
    header = ["server", "mode", "answered/s", "x uvloop", "x bare C", "its core", "overload/s"]
    return table(
        f"UDP echo, {size} bytes, open loop: highest rate answered, and what is kept at overload",
        [*header, "kept", "payload"],
        rows,
    )


def latency_table(results: Results, size: int) -> str:
    records = [record for record in results.latency if record.size == size]
    keys = list(dict.fromkeys((record.subject, record.profile) for record in records))
    rows: list[list[str]] = []
    for subject, profile in keys:
        mine = [r for r in records if (r.subject, r.profile) == (subject, profile)]
        rows.append(
            [
                SUBJECTS[subject].label,
                profile if SUBJECTS[subject].program == "example" else "-",
                _modes(r.mode for r in mine),
                *(
                    f"{statistics.median(values) / 1e3:.1f}"
                    for values in (
                        [r.p50_ns for r in mine],
                        [r.p90_ns for r in mine],
                        [r.p99_ns for r in mine],
                    )
                ),
                _or_dash(latency_ratio(results, subject, profile, size)),
                f"{statistics.median(r.server_cpu_share for r in mine):.0%}",
                str(sum(r.lost for r in mine)),
            ]
        )
    header = ["server", "profile", "mode", "p50 us", "p90 us", "p99 us", "p50 x uvloop"]
    return table(
        f"Round trip, {size} bytes, one request at a time, kernel client that sleeps",
        [*header, "its core", "lost"],
        rows,
    )


def latency_ratio(results: Results, subject: str, profile: str, size: int) -> Band | None:
    def medians(name: str, wanted: str) -> dict[int, float]:
        return {
            r.round: float(r.p50_ns)
            for r in results.latency
            if (r.subject, r.profile, r.size) == (name, wanted, size) and r.p50_ns
        }

    return ratios(medians(subject, profile), medians(PEER, "default"))


def _quic_rates(results: Results, subject: str) -> dict[int, float]:
    return {r.round: r.mbit_per_s for r in results.quic if r.subject == subject}


def quic_table(results: Results) -> str:
    rows: list[list[str]] = []
    for subject in dict.fromkeys(record.subject for record in results.quic):
        mine = [r for r in results.quic if r.subject == subject]
        rows.append(
            [
                "hybridnet" if subject == "hybridnet" else f"{subject}, kernel socket",
                _modes(r.mode for r in mine),
                f"{statistics.median(r.mbit_per_s for r in mine):.1f}",
                _or_dash(ratios(_quic_rates(results, subject), _quic_rates(results, PEER))),
                f"{statistics.median(r.server_cpu_share for r in mine):.0%}",
            ]
        )
    return table(
        "QUIC echo of one stream, aioquic on both sides, client on uvloop and a kernel socket",
        ["server", "mode", "Mbit/s", "x uvloop", "its core"],
        rows,
    )


def idle_table(results: Results) -> str:
    return table(
        "Idle server",
        ["server", "mode", "CPU", "wake-ups", "in"],
        [
            [
                SUBJECTS[r.subject].label,
                r.mode,
                f"{r.cpu_share:.2%}",
                str(r.wake_ups),
                f"{r.seconds:.0f} s",
            ]
            for r in results.idle
        ],
    )


def start_table(results: Results) -> str:
    rows: list[list[str]] = []
    for r in results.start:
        rows.append(["import hybridnet", "-", f"{r.import_ms:.0f} ms"])
        rows.append(["bare interpreter", "-", f"{r.interpreter_ms:.0f} ms"])
        rows.append(["open a stack", r.mode, "-" if r.open_ms is None else f"{r.open_ms:.0f} ms"])
    return table("Start (medians)", ["what", "mode", "time"], rows)


def soak_table(results: Results) -> str:
    def mib(value: float) -> str:
        return f"{value / (1 << 20):.1f}"

    return table(
        "Memory at full rate (resident, MiB)",
        ["server", "mode", "for", "answered/s", "first", "last", "max", "growth"],
        [
            [
                SUBJECTS[r.subject].label,
                r.mode,
                f"{r.seconds:.0f} s",
                _thousands(r.answered_per_s),
                mib(r.first_bytes),
                mib(r.last_bytes),
                mib(r.max_bytes),
                f"{(r.last_bytes - r.first_bytes) / 1024:+.0f} KiB",
            ]
            for r in results.soak
        ],
    )


@dataclass(slots=True, frozen=True, kw_only=True)
class Goal:
    """One line of what the project wants to reach."""

    what: str
    mode: str
    wanted: str
    measured: str
    reached: bool


def _at_least(what: str, mode: str, got: Band | None, wanted: float, unit: str) -> list[Goal]:
    if got is None:
        return []
    scale = 100 if unit == "%" else 1
    digits = 0 if unit == "%" else 2
    return [
        Goal(
            what=what,
            mode=mode,
            wanted=f">= {wanted * scale:.{digits}f} {unit}",
            measured=f"{got.median * scale:.{digits}f} {unit}",
            reached=got.median >= wanted,
        )
    ]


def _at_most(what: str, mode: str, got: float, wanted: float, unit: str, digits: int) -> Goal:
    return Goal(
        what=what,
        mode=mode,
        wanted=f"<= {wanted:.{digits}f} {unit}",
        measured=f"{got:.{digits}f} {unit}",
        reached=got <= wanted,
    )


def _udp_goals(results: Results, size: int) -> list[Goal]:
    view = Udp(results.udp, size)
    goals: list[Goal] = []
    for subject, over_peer, over_bare in (("protocol", 1.6, None), ("batch", 2.2, 0.9)):
        mode = _modes(r.mode for r in view.of(subject))
        name = f"UDP echo {subject}, {size} bytes"
        goals += _at_least(name, mode, view.over_peer(subject), over_peer, "x uvloop")
        if over_bare is not None:
            goals += _at_least(name, mode, view.over_bare(subject), over_bare, "x bare C")
        goals += _at_least(f"{name}, at overload", mode, view.kept(subject), 0.9, "%")
    return goals


def goals(results: Results, sizes: Sequence[int]) -> list[Goal]:
    """Compare what was measured with what is wanted; only what was measured is listed."""
    found: list[Goal] = []
    for size in sizes:
        found += _udp_goals(results, size)
    for size in sizes:
        for profile, wanted in (("default", 1.0), ("busy", 0.5)):
            got = latency_ratio(results, "protocol", profile, size)
            if got is not None:
                mode = _modes(
                    r.mode
                    for r in results.latency
                    if (r.subject, r.profile) == ("protocol", profile)
                )
                what = f"round trip p50, {size} bytes, {profile} profile"
                found.append(_at_most(what, mode, got.median, wanted, "x uvloop", 2))
    quic = ratios(_quic_rates(results, "hybridnet"), _quic_rates(results, PEER))
    quic_mode = _modes(r.mode for r in results.quic if r.subject == "hybridnet")
    found += _at_least("QUIC echo bulk", quic_mode, quic, 1.0, "x uvloop")
    for idle in results.idle:
        if SUBJECTS[idle.subject].program == "example":
            what = f"idle {idle.subject} server"
            found.append(_at_most(what, idle.mode, idle.cpu_share * 100, 0, "% CPU", 1))
            found.append(_at_most(what, idle.mode, idle.wake_ups, 0, "wake-ups", 0))
    for start in results.start:
        found.append(_at_most("import hybridnet", "-", start.import_ms, 150, "ms", 0))
        if start.open_ms is not None:
            found.append(_at_most("open a stack", start.mode, start.open_ms, 300, "ms", 0))
    for soak in results.soak:
        if SUBJECTS[soak.subject].program == "example":
            growth = (soak.last_bytes - soak.first_bytes) / soak.first_bytes * 100
            what = f"memory growth, {soak.subject}, {soak.seconds:.0f} s"
            found.append(_at_most(what, soak.mode, growth, 1, "%", 1))
    return found


def goals_table(found: Sequence[Goal]) -> str:
    return table(
        "What is wanted, and what was measured (medians of the rounds)",
        ["what", "mode", "wanted", "measured", ""],
        [
            [g.what, g.mode, g.wanted, g.measured, "reached" if g.reached else "SHORT"]
            for g in found
        ],
    )


def render(results: Results, sizes: Sequence[int]) -> str:
    """All tables that have something in them."""
    parts: list[str] = []
    for size in sizes:
        if size in {r.size for r in results.udp} | {r.size for r in results.ceiling}:
            parts.append(udp_table(results, size))
    if any(record.overload_is_flat_out for record in results.udp):
        parts.append(
            "* the generator cannot offer twice the highest rate to this server (receiving for a\n"
            "  veth peer runs on the sender's core); this is as fast as it can.\n"
        )
    steps = [step for record in results.udp for step in record.steps]
    disturbed = sum(step.disturbed > DISTURBED_SHARE for step in steps)
    if disturbed:
        parts.append(
            f"{disturbed} of {len(steps)} steps stayed disturbed: server or generator waited more\n"
            f"than {DISTURBED_SHARE:.0%} of the time for a core that something else had.\n"
        )
    for size in sizes:
        if any(record.size == size for record in results.latency):
            parts.append(latency_table(results, size))
    if results.quic:
        parts.append(quic_table(results))
    if results.idle:
        parts.append(idle_table(results))
    if results.start:
        parts.append(start_table(results))
    if results.soak:
        parts.append(soak_table(results))
    found = goals(results, sizes)
    if found:
        parts.append(goals_table(found))
    if results.failures:
        parts.append("Not measured:\n" + "\n".join(f"  {text}" for text in results.failures) + "\n")
    return "\n".join(parts)
