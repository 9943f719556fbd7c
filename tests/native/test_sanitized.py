"""The Python tests that need no network, over an extension built with the sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.scripts import load_script

HERE = Path(__file__).resolve().parent
# What has nothing to do with the extension, or is about its speed.
LEFT_OUT = ["tests/unit/test_tidy.py", "tests/unit/test_skips.py"]


@pytest.mark.timeout(300)
def test_unit_and_simulated_tests_pass_under_the_sanitizers() -> None:
    sanitized = load_script(HERE / "sanitized_python.py")
    left_out = [f"--ignore={name}" for name in LEFT_OUT]
    code, output = sanitized.run(
        [*sanitized.DEFAULT, *left_out, "-k", "not less_than_150_ms"], timeout=240
    )
    assert code == 0, output[-8000:]
    assert " passed" in output, output[-2000:]
