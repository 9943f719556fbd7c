"""Compile and run the C tests under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/native/run.py [NAME ...]      names as in test_fib.c or fib; none: all

The first lines of a test say what it is linked with, relative to src/hybridnet:

    // sources: stack/ip/fib.c stack/ip/rule.c
    // libraries: pthread
    // flags: -O2

A glob is allowed among the sources.  Exit code: how many tests failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
PACKAGE = PROJECT / "src" / "hybridnet"

FLAGS = [
    *("-std=gnu17", "-O1", "-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla", "-Wstrict-prototypes", "-Werror"),
    "-DHN_DEBUG=1",
    *(f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "aligned_alloc")),
]


def directives(test: Path) -> dict[str, list[str]]:
    """Return the words behind each ``// key:`` at the head of a test."""
    found: dict[str, list[str]] = {}
    for line in test.read_text(encoding="utf-8").splitlines():
        if not line.startswith("// "):
            break
        key, _, words = line[3:].partition(":")
        found.setdefault(key.strip(), []).extend(words.split())
    return found


def sources(patterns: list[str]) -> list[str]:
    """Expand the patterns; one that matches nothing is a mistake in the test."""
    found: list[str] = []
    for pattern in patterns:
        paths = sorted(PACKAGE.glob(pattern))
        if not paths:
            raise SystemExit(f"no source matches {pattern}")
        found += [str(path) for path in paths]
    return found


def run(test: Path, directory: Path) -> tuple[bool, str]:
    """Build and run one test; return whether it passed, and what it said."""
    head = directives(test)
    program = directory / test.stem
    command = [os.environ.get("CC", "gcc"), *FLAGS, *head.get("flags", [])]
    command += [f"-I{PACKAGE}", f"-I{PROJECT / 'bpf'}", f"-I{HERE}", str(test)]
    command += sources(head.get("sources", []))
    command += ["-o", str(program), *(f"-l{name}" for name in head.get("libraries", []))]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        return False, built.stderr
    try:
        ran = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired as error:
        return False, f"still running after {error.timeout} s"
    return ran.returncode == 0, ran.stdout + ran.stderr


def main(names: list[str]) -> int:
    wanted = {name.removeprefix("test_").removesuffix(".c") for name in names}
    tests = sorted(HERE.glob("test_*.c"))
    tests = [test for test in tests if not wanted or test.stem.removeprefix("test_") in wanted]
    if not tests:
        raise SystemExit("no such test")
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="hn-native-") as directory,
        ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
    ):
        results = pool.map(lambda test: run(test, Path(directory)), tests)
        for test, (passed, output) in zip(tests, results, strict=True):
            count = sum(line.startswith("ok ") for line in output.splitlines())
            print(f"{'passed' if passed else 'FAILED'} {test.name} ({count})", flush=True)
            if not passed:
                failed += 1
                print(output)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
