"""Build and run the fuzz targets (clang's libFuzzer, AddressSanitizer, UndefinedBehaviorSanitizer).

    python tests/fuzz/run.py [--seconds N] [--seed N] [--keep] [TARGET ...]

TARGET is a name as in fuzz_frame.c or frame; none: all.  Each runs from its committed corpus
(corpus/TARGET); a crash is written to corpus/TARGET as crash-..., to be kept as a test.  --keep
merges what a run found into the corpus, smallest inputs first.  The first lines of a target say
what it is linked with, as in tests/native.  Exit code: how many targets failed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "native"))

import run as native  # noqa: E402

FLAGS = [
    *("-std=gnu17", "-O1", "-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
    *("-Wall", "-Wextra", "-Wshadow", "-Werror", "-DHN_DEBUG=1"),
]
INPUT_BYTES_MAX = 20_000


def targets(names: list[str]) -> list[Path]:
    """Return the chosen targets, or all."""
    wanted = {name.removeprefix("fuzz_").removesuffix(".c") for name in names}
    found = sorted(HERE.glob("fuzz_*.c"))
    chosen = [path for path in found if not wanted or name_of(path) in wanted]
    if not chosen:
        raise SystemExit("no such fuzz target")
    return chosen


def name_of(target: Path) -> str:
    return target.stem.removeprefix("fuzz_")


def build(target: Path, directory: Path) -> Path:
    """Compile a target; its warnings are errors."""
    clang = shutil.which("clang")
    if clang is None:
        raise SystemExit("clang is needed for fuzzing: apt-get install clang libclang-rt-dev")
    head = native.directives(target)
    program = directory / target.stem
    command = [clang, *FLAGS, *head.get("flags", []), f"-I{native.PACKAGE}", f"-I{HERE}"]
    command += [f"-I{native.PROJECT / 'bpf'}", str(target), "-o", str(program)]
    command += native.sources(head.get("sources", []))
    command += [f"-l{name}" for name in head.get("libraries", [])]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise SystemExit(f"{target.name}: {built.stderr}")
    return program


def fuzz(target: Path, seconds: int, seed: int, *, keep: bool = False) -> tuple[bool, str]:
    """Run a target for a while; return whether it survived, and what it said at the end."""
    corpus = HERE / "corpus" / name_of(target)
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hn-fuzz-") as name:
        directory = Path(name)
        program = build(target, directory)
        found = directory / "found"
        found.mkdir()
        command = [str(program), f"-seed={seed}", f"-max_total_time={seconds}"]
        command += [f"-max_len={INPUT_BYTES_MAX}", "-timeout=20", "-rss_limit_mb=2048"]
        command += ["-print_final_stats=1", f"-artifact_prefix={corpus}/"]
        ran = subprocess.run(
            [*command, str(found), str(corpus)],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 120,
        )
        if keep and ran.returncode == 0:
            merge = [str(program), "-merge=1", str(corpus), str(found)]
            subprocess.run(merge, capture_output=True, check=True)
    lines = ran.stderr.splitlines()
    return ran.returncode == 0, "\n".join(lines[-60:] if ran.returncode else lines[-12:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="per target (default 60)")
    parser.add_argument("--seed", type=int, help="of libFuzzer; default: random, printed")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus")
    arguments = parser.parse_args()
    failed = 0
    for target in targets(arguments.targets):
        seed = arguments.seed or random.randrange(1, 2**31)
        print(f"{target.name}: seed {seed}, {arguments.seconds} s", flush=True)
        survived, output = fuzz(target, arguments.seconds, seed, keep=arguments.keep)
        print(output, flush=True)
        failed += not survived
    return failed


if __name__ == "__main__":
    sys.exit(main())
