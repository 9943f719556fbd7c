"""Compile the C parts of the benchmarks into ``build/bench`` when they are older than a source."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NATIVE = HERE / "native"
LAYERS = ROOT / "src" / "hybridnet"
OUTPUT = ROOT / "build" / "bench"

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow"]


class BuildError(RuntimeError):
    """A compiler is missing or has refused a source; the message is for the user."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Tools:
    """Paths of what was built."""

    loadgen: Path
    loadgen_object: Path
    bare_echo: Path
    bare_echo_object: Path
    latency: Path


def _is_fresh(output: Path) -> bool:
    if not output.exists():
        return False
    built = output.stat().st_mtime_ns
    inputs = [*NATIVE.iterdir(), *LAYERS.rglob("*.h"), *(LAYERS / "xsk").glob("*.c")]
    return all(path.stat().st_mtime_ns <= built for path in inputs)


def _run(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        package = {"clang": "clang", "gcc": "gcc"}[command[0]]
        raise BuildError(
            f"{command[0]} is needed to build the benchmarks: apt-get install {package}"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")


def _compile_bpf(source: Path, output: Path) -> Path:
    if not _is_fresh(output):
        multiarch = subprocess.run(
            ["gcc", "-print-multiarch"], capture_output=True, text=True, check=False
        ).stdout.strip()
        command = ["clang", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf"]
        command += ["-mcpu=v3", f"-I/usr/include/{multiarch}", "-c", str(source)]
        _run([*command, "-o", str(output)])
    return output


def _compile_c(sources: list[Path], output: Path, libraries: list[str]) -> Path:
    if not _is_fresh(output):
        command = ["gcc", "-std=gnu17", "-O3", "-g", *WARNINGS, f"-I{LAYERS}", f"-I{NATIVE}"]
        command += [*map(str, sources), "-o", str(output)]
        _run(command + [f"-l{library}" for library in libraries])
    return output


def build() -> Tools:
    """Build what is out of date.

    Blocks for some seconds the first time.  Raises: BuildError.
    """
    OUTPUT.mkdir(parents=True, exist_ok=True)
    xsk = [LAYERS / "xsk" / name for name in ("device.c", "socket.c", "transfer.c")]
    port = [NATIVE / "port.c", *xsk, LAYERS / "stack" / "frame.c"]
    return Tools(
        loadgen=_compile_c([NATIVE / "loadgen.c", *port], OUTPUT / "loadgen", ["bpf"]),
        loadgen_object=_compile_bpf(NATIVE / "loadgen.bpf.c", OUTPUT / "loadgen.bpf.o"),
        bare_echo=_compile_c([NATIVE / "bare_echo.c", *port], OUTPUT / "bare_echo", ["bpf"]),
        bare_echo_object=_compile_bpf(NATIVE / "bare_echo.bpf.c", OUTPUT / "bare_echo.bpf.o"),
        latency=_compile_c([NATIVE / "latency.c"], OUTPUT / "latency", []),
    )
