"""Every fuzz target for a few seconds from its corpus: what has crashed once stays tested."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
SECONDS = int(os.environ.get("HYBRIDNET_FUZZ_SECONDS", "5"))


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hybridnet_fuzz_run", HERE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
@pytest.mark.parametrize("target", sorted(HERE.glob("fuzz_*.c")), ids=lambda path: path.stem)
def test_target_survives_its_corpus_and_mutations_of_it(target: Path) -> None:
    seed = int(os.environ.get("HYBRIDNET_SEED") or random.randrange(1, 2**31))
    print(f"seed {seed}: HYBRIDNET_SEED={seed} repeats it")
    survived, output = load().fuzz(target, SECONDS, seed)
    assert survived, output
