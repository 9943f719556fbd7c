"""Run Python tests with the extension built under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/native/sanitized_python.py [pytest argument ...]     default: tests/unit tests/sim

Builds the package into a temporary directory (with frame-ownership checks and poisoned frames),
preloads libasan into the same interpreter, and hands over to pytest.  Leaks are not looked for:
the interpreter itself keeps memory to the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT = ["tests/unit", "tests/sim"]
ASAN_OPTIONS = "detect_leaks=0:abort_on_error=0:halt_on_error=1:exitcode=99"
UBSAN_OPTIONS = "print_stacktrace=1:halt_on_error=1"


def runtime() -> str:
    """Return the sanitizer's library, as the compiler that builds the extension has it."""
    compiler = os.environ.get("CC", "gcc").split()
    command = [*compiler, "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        raise SystemExit("libasan is needed: apt-get install gcc (or libgcc-dev)")
    return str(Path(found).resolve())


def build(directory: Path) -> Path:
    """Copy the sources and build the extension among them; return what goes on the path."""
    copy = directory / "project"
    ignore = shutil.ignore_patterns("*.so", "*.o", "_lib.c", "__pycache__", "*.egg-info")
    for name in ("src", "bpf"):
        shutil.copytree(PROJECT / name, copy / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, copy / name)
    environment = os.environ | {"HYBRIDNET_SANITIZE": "1", "CFLAGS": "-O1"}
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel", "2"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise SystemExit(f"the sanitized build failed:\n{built.stdout}{built.stderr}")
    return copy / "src"


def run(arguments: Sequence[str], *, timeout: float | None = None) -> tuple[int, str]:
    """Build and run pytest; return its exit code and what it printed."""
    with tempfile.TemporaryDirectory(prefix="hn-sanitized-") as name:
        sources = build(Path(name))
        environment = os.environ | {
            "LD_PRELOAD": runtime(),
            "ASAN_OPTIONS": ASAN_OPTIONS,
            "UBSAN_OPTIONS": UBSAN_OPTIONS,
            "PYTHONPATH": str(sources),
            "PYTHONMALLOC": "malloc",  # so that the interpreter's objects are guarded as well
            "HYBRIDNET_SANITIZED": "1",
        }
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *arguments],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
        return ran.returncode, ran.stdout


def main() -> int:
    code, output = run(sys.argv[1:] or DEFAULT)
    print(output)
    return code


if __name__ == "__main__":
    sys.exit(main())
