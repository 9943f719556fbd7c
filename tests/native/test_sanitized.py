"""The native suites: the C tests, and the Python ones over an extension with sanitizers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
# What has nothing to do with the extension, or is about its speed.
LEFT_OUT = ["tests/unit/test_tidy.py", "tests/unit/test_skips.py"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hybridnet_native_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(300)
def test_unit_and_simulated_tests_pass_under_the_sanitizers() -> None:
    sanitized = load("sanitized_python")
    left_out = [f"--ignore={name}" for name in LEFT_OUT]
    code, output = sanitized.run(
        [*sanitized.DEFAULT, *left_out, "-k", "not less_than_150_ms"], timeout=240
    )
    assert code == 0, output[-8000:]
    assert " passed" in output, output[-2000:]
