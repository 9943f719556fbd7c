"""What every test can use, and the rule that nothing is skipped where everything can run."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hybridnet.cli.namespaces import Lab

MAY_SKIP = "hardware"


def skips_are_failures() -> bool:
    """Tell whether this run claims that everything can run (CI=true, HYBRIDNET_NO_SKIPS=1)."""
    wanted = os.environ.get("HYBRIDNET_NO_SKIPS") or os.environ.get("CI") or ""
    return wanted.lower() in ("1", "true", "yes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MAY_SKIP}: needs a device that CI has not; may be skipped there too"
    )
    config.addinivalue_line("markers", "both_loops: runs on uvloop and on asyncio's own loop")


def _as_failure(report: Any) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"skipped where nothing may be skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected_to_fail = hasattr(report, "wasxfail")
    allowed = item.get_closest_marker(MAY_SKIP) is not None
    if report.skipped and not expected_to_fail and not allowed and skips_are_failures():
        _as_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and skips_are_failures():
        _as_failure(report)
    return report


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Make labs (two hosts on a veth) of the test's own; all are gone after it."""
    from support.netns import lab_factory

    with lab_factory() as make:
        yield make


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """One lab with default sizes."""
    return make_lab()
