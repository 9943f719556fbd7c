"""The command line of the benchmarks: which parts, how long, where the figures go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from bench.build import BuildError, build
from bench.lab import Lab, LabError
from bench.measures import (
    FULL,
    QUICK,
    Plan,
    RateSearch,
    Setting,
    measure_ceiling,
    measure_idle,
    measure_latency,
    measure_quic,
    measure_soak,
    measure_start,
    measure_udp,
)
from bench.report import Results, render
from bench.subjects import DEFAULT, SUBJECTS

PARTS = ("udp", "latency", "quic", "idle", "start", "soak")

P = ParamSpec("P")
T = TypeVar("T")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure hybridnet against asyncio and uvloop on kernel sockets and against "
        "a bare C loop, in network namespaces of its own.  Needs root.",
    )
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="measure this part (may be repeated)"
    )
    parser.add_argument("--quick", action="store_true", help="one short round: a rough look")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of udp, latency and quic")
    parser.add_argument("--soak", action="store_true", help="watch memory for 60 s, not 10 s")
    parser.add_argument(
        "--subjects",
        metavar="A,B",
        help=f"of: {', '.join(SUBJECTS)} (default: {','.join(DEFAULT)})",
    )
    parser.add_argument("--sizes", metavar="N,N", default="64,1400", help="payload bytes")
    parser.add_argument("--server-core", type=int, metavar="N", help="default: the last")
    parser.add_argument("--client-core", type=int, metavar="N", help="default: the first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every record there")
    found = parser.parse_args(arguments)
    names = found.subjects.split(",") if found.subjects else list(DEFAULT)
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        parser.error(f"no such subject: {', '.join(unknown)}")
    found.subjects = names
    try:
        found.sizes = tuple(int(size) for size in found.sizes.split(","))
    except ValueError:
        parser.error("--sizes: numbers with commas between them")
    if any(not 8 <= size <= 1472 for size in found.sizes):
        parser.error("--sizes: 8 to 1472 bytes")
    return found


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds:
        plan = replace(plan, rounds=arguments.rounds)
    if arguments.soak:
        plan = replace(plan, soak_s=60.0)
    return plan


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One run: goes through the parts, and notes what could not be measured."""

    def __init__(self, setting: Setting, arguments: argparse.Namespace) -> None:
        self.setting = setting
        self.subjects: list[str] = arguments.subjects
        self.sizes: tuple[int, ...] = arguments.sizes
        self.results = Results()

    def _try(
        self, what: str, measure: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T | None:
        _say(f"  {what}")
        try:
            return measure(*arguments, **named)
        except LabError as error:
            text = f"{what}: {error}"
            if text not in self.results.failures:
                self.results.failures.append(text)
            _say(f"    {error}")
            return None

    def _in_turn(self, turn: int) -> list[str]:
        # Forwards and backwards, so that a slow drift of the machine weighs on all alike.
        return self.subjects if turn % 2 == 0 else self.subjects[::-1]

    def udp(self) -> None:
        search = RateSearch(self.setting.plan)
        for turn in range(self.setting.plan.rounds):
            ceilings = self._try(
                f"round {turn + 1}, generator alone",
                measure_ceiling,
                self.setting,
                self.sizes,
                turn,
            )
            self.results.ceiling += ceilings or []
            for subject in self._in_turn(turn):
                records = self._try(
                    f"round {turn + 1}, udp, {subject}",
                    measure_udp,
                    self.setting,
                    search,
                    subject,
                    self.sizes,
                    turn,
                )
                self.results.udp += records or []

    def latency(self) -> None:
        runs = [
            (subject, profile)
            for subject in self.subjects
            for profile in ("default", "busy")
            if profile == "default" or SUBJECTS[subject].program == "example"
        ]
        for turn in range(self.setting.plan.rounds):
            for subject, profile in runs if turn % 2 == 0 else runs[::-1]:
                records = self._try(
                    f"round {turn + 1}, latency, {subject}, {profile}",
                    measure_latency,
                    self.setting,
                    subject,
                    profile,
                    self.sizes,
                    turn,
                )
                self.results.latency += records or []

    def quic(self) -> None:
        subjects = ["uvloop", "hybridnet"]
        for turn in range(self.setting.plan.rounds):
            for subject in subjects if turn % 2 == 0 else subjects[::-1]:
                record = self._try(
                    f"round {turn + 1}, quic, {subject}", measure_quic, self.setting, subject, turn
                )
                self.results.quic += [record] if record else []

    def idle(self) -> None:
        for subject in self.subjects:
            if SUBJECTS[subject].program == "bare":
                continue
            record = self._try(f"idle, {subject}", measure_idle, self.setting, subject)
            self.results.idle += [record] if record else []

    def start(self) -> None:
        record = self._try("start", measure_start, self.setting)
        self.results.start += [record] if record else []

    def soak(self) -> None:
        size = self.sizes[0]
        for subject in self.subjects:
            if SUBJECTS[subject].program != "example":
                continue
            record = self._try(f"soak, {subject}", measure_soak, self.setting, subject, size)
            self.results.soak += [record] if record else []


def _processor_times() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]


def _machine(lab: Lab) -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "server_core": lab.cores["server"],
        "client_core": lab.cores["client"],
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _write(path: Path, machine: dict[str, Any], results: Results) -> None:
    path.write_text(json.dumps({"machine": machine, **asdict(results)}, indent=1) + "\n")


def _on_terminate(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    options = _parse(arguments)
    if os.geteuid() != 0:
        print("The benchmarks make network namespaces and load XDP programs: run them as root.")
        return 2
    cores = sorted(os.sched_getaffinity(0))
    server = cores[-1] if options.server_core is None else options.server_core
    client = cores[0] if options.client_core is None else options.client_core
    if server == client:
        print("Only one core: server and generator share it, and the figures mean little.")
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        tools = build()
    except BuildError as error:
        print(error)
        return 2
    try:
        with Lab(server, client) as lab:
            machine = _machine(lab)
            print(
                f"Linux {machine['kernel']}, {machine['cores']} cores: server on core {server}, "
                f"generator on core {client}; veth, load before {machine['load_before']:.2f}",
                flush=True,
            )
            setting = Setting(lab=lab, tools=tools, plan=_plan(options))
            bench = Bench(setting, options)
            started, times = time.monotonic(), _processor_times()
            try:
                for part in options.only or PARTS:
                    getattr(bench, part)()
            finally:
                seconds = time.monotonic() - started
                stolen = (_processor_times()[7] - times[7]) / os.sysconf("SC_CLK_TCK")
                machine |= {"seconds": seconds, "stolen_cpu_seconds": stolen}
                print("\n" + render(bench.results, options.sizes))
                print(f"{seconds:.0f} s; the hypervisor took {stolen:.1f} s of processor time.")
                if options.json:
                    _write(options.json, machine, bench.results)
    except KeyboardInterrupt:
        print("stopped; nothing is left behind", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0
