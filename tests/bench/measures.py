"""What is measured: each function runs its subjects once and returns plain records.

A record is a frozen value that goes into the JSON file as it is; ``report.py`` reduces the
records of all rounds to medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from bench.build import Tools
from bench.lab import PORT, SERVER_DEV, SERVER_HOST, Child, Lab, LabError
from bench.subjects import EXAMPLES, PEERS, SUBJECTS, generating, serving


@dataclass(slots=True, frozen=True, kw_only=True)
class Plan:
    """How long and how often; ``quick`` and ``full`` are the two that are used."""

    rounds: int
    warm_up_s: float
    step_s: float
    search: tuple[float, ...]  # offered rates of the first search, × what was answered at max
    refine: tuple[float, ...]  # of the later ones, × the best offered rate so far
    requests: int  # round trips per latency measurement
    quic_bytes: int
    idle_s: float
    starts: int  # processes started for import and open times
    soak_s: float


QUICK = Plan(
    rounds=1,
    warm_up_s=0.1,
    step_s=0.25,
    search=(0.9, 1.05, 1.25, 1.5),
    refine=(0.95, 1.05),
    requests=5_000,
    quic_bytes=4 << 20,
    idle_s=3.0,
    starts=3,
    soak_s=5.0,
)
FULL = Plan(
    rounds=3,
    warm_up_s=0.15,
    step_s=0.5,
    search=(0.9, 1.0, 1.1, 1.25, 1.5, 1.8),
    refine=(0.94, 1.0, 1.06),
    requests=20_000,
    quic_bytes=16 << 20,
    idle_s=5.0,
    starts=7,
    soak_s=10.0,
)


@dataclass(slots=True, frozen=True, kw_only=True)
class Setting:
    """Where and how long everything is measured."""

    lab: Lab
    tools: Tools
    plan: Plan

    def command(self, subject: str, *extra: str) -> list[str]:
        """Return a subject's command line.  Raises: LabError: its program is not there."""
        return SUBJECTS[subject].command(self.lab, self.tools, extra)


@dataclass(slots=True, frozen=True, kw_only=True)
class Step:
    """One rate offered for a while, and what came back."""

    offered_per_s: float  # 0: as fast as the generator can
    sent_per_s: float
    answered_per_s: float
    wrong_bytes: int  # payload bytes answered, minus what as many whole echoes have
    cpu_share: float  # of the server's core, by the server
    disturbed: float  # share of the time that server or generator waited for their cores


@dataclass(slots=True, frozen=True, kw_only=True)
class UdpRecord:
    """The highest rate answered by one subject in one round, and what it does at overload."""

    subject: str
    mode: str
    size: int  # bytes of UDP payload
    round: int
    best: Step
    flat_out: Step
    overload: Step  # twice the highest rate, or as fast as the generator can
    overload_is_flat_out: bool
    steps: tuple[Step, ...]
    report: dict[str, Any]  # what the server printed when it ended


@dataclass(slots=True, frozen=True, kw_only=True)
class CeilingRecord:
    """The generator alone, against an interface that drops everything in XDP."""

    size: int
    round: int
    sent_per_s: float
    arrived_share: float  # of all packets sent, those that the other side saw


@dataclass(slots=True, frozen=True, kw_only=True)
class LatencyRecord:
    """Round trips one at a time, in nanoseconds."""

    subject: str
    profile: str
    mode: str
    size: int
    round: int
    requests: int
    lost: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    server_cpu_share: float


@dataclass(slots=True, frozen=True, kw_only=True)
class QuicRecord:
    """One stream echoed in full."""

    subject: str
    mode: str
    round: int
    bytes: int
    seconds: float
    mbit_per_s: float  # one way, payload
    server_cpu_share: float


@dataclass(slots=True, frozen=True, kw_only=True)
class IdleRecord:
    """A server that nobody talks to."""

    subject: str
    mode: str
    seconds: float
    cpu_share: float
    wake_ups: int


@dataclass(slots=True, frozen=True, kw_only=True)
class StartRecord:
    """Import and open times, medians over several processes."""

    import_ms: float  # `import hybridnet`, without the bare interpreter
    interpreter_ms: float
    open_ms: float | None
    mode: str


@dataclass(slots=True, frozen=True, kw_only=True)
class SoakRecord:
    """Resident memory under full load."""

    subject: str
    mode: str
    size: int
    seconds: float
    answered: int
    answered_per_s: float
    first_bytes: int  # after the warm-up
    last_bytes: int
    max_bytes: int
    report: dict[str, Any]


# Waiting for a core less than this is explained by the kernel's own threads.
DISTURBED_SHARE = 0.1
ATTEMPTS = 3


def _step(generator: Child, server: Child, size: int, rate: float, plan: Plan) -> Step:
    """Take one step, again when something else had a core; return the least disturbed."""
    taken: list[Step] = []
    while len(taken) < ATTEMPTS:
        taken.append(_step_once(generator, server, size, rate, plan))
        if taken[-1].disturbed <= DISTURBED_SHARE:
            break
    return min(taken, key=lambda step: step.disturbed)


def _step_once(generator: Child, server: Child, size: int, rate: float, plan: Plan) -> Step:
    before, before_sending = server.usage(), generator.usage()
    command = f"{size} {rate:.0f} {plan.warm_up_s} {plan.step_s}"
    answer = generator.ask(command, plan.warm_up_s + plan.step_s + 5)
    after, after_sending = server.usage(), generator.usage()
    seconds = plan.warm_up_s + plan.step_s
    # The usage spans the step's drain too, in which the server is idle or spins.
    share = min(1.0, (after.cpu_ns - before.cpu_ns) / 1e9 / seconds)
    return Step(
        offered_per_s=rate,
        sent_per_s=answer["sent_per_s"],
        answered_per_s=answer["replies_per_s"],
        wrong_bytes=answer["reply_bytes_all"] - answer["replies_all"] * size,
        cpu_share=share,
        disturbed=max(after.wait_share(before), after_sending.wait_share(before_sending)),
    )


class RateSearch:
    """Finds the highest answered rate; knows from earlier rounds where to look.

    Offering more than can be answered may lower the answered rate, so the highest is looked for
    upwards from below what was answered flat out.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[tuple[str, int], float] = {}

    def run(
        self, subject: str, size: int, generator: Child, server: Child
    ) -> tuple[Step, Step, Step, bool, tuple[Step, ...]]:
        """Return the best step, the one flat out, the one at overload (and whether that was flat
        out because the generator cannot offer twice the best), and all steps."""
        plan = self._plan

        def step(rate: float) -> Step:
            return _step(generator, server, size, rate, plan)

        flat_out = step(0)
        steps = [flat_out]
        ceiling = flat_out.sent_per_s
        known = self._known.get((subject, size))
        if known is None:
            base = max(flat_out.answered_per_s, 1000.0)
            rates = [base * factor for factor in plan.search]
        else:
            rates = [known * factor for factor in plan.refine]
        steps += [step(rate) for rate in rates if rate < ceiling * 1.3]
        best = max(steps, key=lambda s: s.answered_per_s)
        if known is None:
            offered = best.offered_per_s or best.sent_per_s
            steps += [step(offered * factor) for factor in plan.refine]
            best = max(steps, key=lambda s: s.answered_per_s)
        self._known[(subject, size)] = best.offered_per_s or best.sent_per_s
        twice = 2 * best.answered_per_s
        is_flat_out = twice >= ceiling
        overload = step(0 if is_flat_out else twice)
        steps.append(overload)
        best = max(steps, key=lambda s: s.answered_per_s)
        return best, flat_out, overload, is_flat_out, tuple(steps)


def measure_udp(
    setting: Setting, search: RateSearch, subject: str, sizes: tuple[int, ...], turn: int
) -> list[UdpRecord]:
    """Search the highest answered rate of one subject for every size, in one server's life."""
    found: list[UdpRecord] = []
    command = setting.command(subject)
    with (
        generating(setting.lab, setting.tools) as generator,
        serving(setting.lab, subject, command) as server,
    ):
        for size in sizes:
            best, flat_out, overload, is_flat_out, steps = search.run(
                subject, size, generator, server.child
            )
            found.append(
                UdpRecord(
                    subject=subject,
                    mode=server.mode,
                    size=size,
                    round=turn,
                    best=best,
                    flat_out=flat_out,
                    overload=overload,
                    overload_is_flat_out=is_flat_out,
                    steps=steps,
                    report={},
                )
            )
    # What it has to report it says when it ends, which is now.
    return [replace(record, report=server.child.report) for record in found]


def measure_ceiling(setting: Setting, sizes: tuple[int, ...], turn: int) -> list[CeilingRecord]:
    """Let the generator send flat out to an interface that drops everything."""
    found: list[CeilingRecord] = []
    for size in sizes:
        with generating(setting.lab, setting.tools) as generator:
            command = setting.command("bare-poll", "--drop")
            with serving(setting.lab, "drop", command) as server:
                answer = generator.ask(
                    f"{size} 0 {setting.plan.warm_up_s} {setting.plan.step_s}", 10
                )
        arrived = server.child.report.get("received", 0)
        found.append(
            CeilingRecord(
                size=size,
                round=turn,
                sent_per_s=answer["sent_per_s"],
                arrived_share=arrived / max(1, answer["sent_all"]),
            )
        )
    return found


def measure_latency(
    setting: Setting,
    subject: str,
    profile: str,
    sizes: tuple[int, ...],
    turn: int,
) -> list[LatencyRecord]:
    """Ask one request at a time over a kernel socket; ``profile`` is "default" or "busy"."""
    extra: tuple[str, ...] = ()
    if SUBJECTS[subject].program == "example":
        extra = ("--profile", profile)
    elif SUBJECTS[subject].program == "bare":
        extra = ("--clear-checksum",)
    found: list[LatencyRecord] = []
    with serving(setting.lab, subject, setting.command(subject, *extra)) as server:
        for size in sizes:
            before = server.child.usage()
            answer = _round_trips(setting, size, setting.plan.requests)
            after = server.child.usage()
            found.append(
                LatencyRecord(
                    subject=subject,
                    profile=profile,
                    mode=server.mode,
                    size=size,
                    round=turn,
                    requests=answer["requests"],
                    lost=answer["lost"],
                    p50_ns=answer["p50_ns"],
                    p90_ns=answer["p90_ns"],
                    p99_ns=answer["p99_ns"],
                    server_cpu_share=after.cpu_share(before),
                )
            )
    return found


def _round_trips(setting: Setting, size: int, requests: int) -> dict[str, Any]:
    seconds_max = 15
    command = [str(setting.tools.latency), SERVER_HOST, str(PORT), str(size), str(requests)]
    client = setting.lab.spawn("client", "latency", [*command, str(seconds_max)])
    try:
        # The warm-up alone may take 60 s when nothing answers; that is no measurement.
        return dict(json.loads(client.line_with("{", seconds_max + 30)))
    finally:
        setting.lab.stop(client)


def measure_quic(setting: Setting, subject: str, turn: int) -> QuicRecord:
    """Send a stream to an aioquic echo server and take it back; ``subject`` is "hybridnet" or
    the loop of the kernel peer."""
    certificate, key = make_certificate(setting.lab)
    tail = ["--listen", setting.lab.listen, "--cert", certificate, "--key", key]
    if subject == "hybridnet":
        command = [sys.executable, str(EXAMPLES / "quic_echo.py"), "--dev", SERVER_DEV, *tail]
    else:
        command = [sys.executable, str(PEERS / "quic_echo.py"), "--loop", subject, *tail]
    with serving(setting.lab, f"quic {subject}", command) as server:
        client_command = [
            sys.executable,
            str(PEERS / "quic_client.py"),
            "--server",
            setting.lab.listen,
        ]
        client = setting.lab.spawn("client", "quic client", client_command)
        try:
            client.line_with("ready", 15)
            before = server.child.usage()
            answer = client.ask(str(setting.plan.quic_bytes), 120)
            after = server.child.usage()
        finally:
            setting.lab.stop(client)
    return QuicRecord(
        subject=subject,
        mode=server.mode,
        round=turn,
        bytes=answer["bytes"],
        seconds=answer["seconds"],
        mbit_per_s=answer["bytes"] * 8 / answer["seconds"] / 1e6,
        server_cpu_share=after.cpu_share(before),
    )


def make_certificate(lab: Lab) -> tuple[str, str]:
    """Make a self-signed certificate once per lab; return the paths of it and its key."""
    certificate, key = lab.path("cert.pem"), lab.path("key.pem")
    if not certificate.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=bench", "-keyout", str(key), "-out", str(certificate)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"no certificate: {done.stderr.strip()[-300:]}")
    return str(certificate), str(key)


def measure_idle(setting: Setting, subject: str) -> IdleRecord:
    """Start a server, let it settle, exchange a few packets, and watch it do nothing."""
    extra = ("--clear-checksum",) if SUBJECTS[subject].program == "bare" else ()
    with serving(setting.lab, subject, setting.command(subject, *extra)) as server:
        _round_trips(setting, 64, 100)
        time.sleep(2.0)
        before = server.child.usage()
        time.sleep(setting.plan.idle_s)
        after = server.child.usage()
    return IdleRecord(
        subject=subject,
        mode=server.mode,
        seconds=(after.at_ns - before.at_ns) / 1e9,
        cpu_share=after.cpu_share(before),
        wake_ups=after.voluntary - before.voluntary,
    )


def measure_start(setting: Setting) -> StartRecord:
    """Time `import hybridnet` against a bare interpreter, and `open_stack` on the interface."""
    bare: list[float] = []
    imported: list[float] = []
    for _ in range(setting.plan.starts + 1):
        bare.append(_run_ms("pass"))
        imported.append(_run_ms("import hybridnet"))
    # The first pair may have compiled the modules or read them from disk.
    interpreter_ms = statistics.median(bare[1:])
    opened: list[float] = []
    mode = "?"
    for _ in range(setting.plan.starts):
        command = [sys.executable, str(PEERS / "open_stack.py"), "--dev", SERVER_DEV]
        child = setting.lab.spawn("server", "open_stack", command)
        try:
            answer = json.loads(child.line_with("{", 20))
        finally:
            setting.lab.stop(child)
        opened.append(answer["open_ms"])
        mode = answer["mode"]
    return StartRecord(
        import_ms=statistics.median(imported[1:]) - interpreter_ms,
        interpreter_ms=interpreter_ms,
        open_ms=statistics.median(opened),
        mode=mode,
    )


def _run_ms(statement: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", statement], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LabError(f"{statement}: {done.stderr.strip()[-300:]}")
    return (time.perf_counter() - start) * 1e3


def measure_soak(setting: Setting, subject: str, size: int) -> SoakRecord:
    """Load a server flat out and watch its memory, second by second."""
    answered = 0
    elapsed = 0.0
    sizes: list[int] = []
    command = setting.command(subject)
    with (
        generating(setting.lab, setting.tools) as generator,
        serving(setting.lab, subject, command) as server,
    ):
        generator.ask(f"{size} 0 1.0 1.0", 10)  # every frame and buffer has been touched
        sizes.append(server.child.resident_bytes())
        while elapsed < setting.plan.soak_s:
            answer = generator.ask(f"{size} 0 0 1.0", 10)
            answered += answer["replies"]
            elapsed += answer["seconds"]
            sizes.append(server.child.resident_bytes())
    return SoakRecord(
        subject=subject,
        mode=server.mode,
        size=size,
        seconds=elapsed,
        answered=answered,
        answered_per_s=answered / elapsed,
        first_bytes=sizes[0],
        last_bytes=sizes[-1],
        max_bytes=max(sizes),
        report=server.child.report,
    )
