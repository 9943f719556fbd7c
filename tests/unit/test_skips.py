"""Where everything can run, a skipped test is a failed one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_skipped():
    pytest.skip("no such thing here")

@pytest.mark.hardware
def test_needs_a_card():
    pytest.skip("no card")

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    raise AssertionError

def test_passes():
    pass
"""
MODULE = 'import pytest\npytest.importorskip("no_such_module")\n'


def run(tmp_path: Path, **environment: str) -> str:
    conftest = Path(__file__).resolve().parents[1] / "conftest.py"
    (tmp_path / "conftest.py").write_text(conftest.read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "HYBRIDNET_NO_SKIPS")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**clean, **environment},
    )
    return done.stdout


def test_skips_are_skips_on_a_developers_machine(tmp_path: Path) -> None:
    output = run(tmp_path)
    assert "1 passed, 3 skipped, 1 xfailed" in output


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"HYBRIDNET_NO_SKIPS": "1"}])
def test_skips_fail_where_all_can_run(tmp_path: Path, environment: dict[str, str]) -> None:
    output = run(tmp_path, **environment, PYTEST_ADDOPTS="--continue-on-collection-errors")
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error" in output
    assert "no such thing here" in output
    assert "no_such_module" in output
