"""Every fuzz target for a few seconds from its corpus: what has crashed once stays tested."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from support.scripts import load_script

HERE = Path(__file__).resolve().parent
SECONDS = int(os.environ.get("HYBRIDNET_FUZZ_SECONDS", "5"))


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
@pytest.mark.parametrize("target", sorted(HERE.glob("fuzz_*.c")), ids=lambda path: path.stem)
def test_target_survives_its_corpus_and_mutations_of_it(target: Path) -> None:
    seed = int(os.environ.get("HYBRIDNET_SEED") or random.randrange(1, 2**31))
    print(f"seed {seed}: HYBRIDNET_SEED={seed} repeats it")
    survived, output = load_script(HERE / "run.py").fuzz(target, SECONDS, seed)
    assert survived, output
