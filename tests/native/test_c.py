"""Every C test of this folder, compiled with the sanitizers and run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from support.scripts import load_script

HERE = Path(__file__).resolve().parent
TESTS = sorted(HERE.glob("test_*.c"))
Running = dict[Path, Future[tuple[bool, str]]]


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """All that were chosen, being compiled side by side."""
    run = load_script(HERE / "run.py").run
    directory = tmp_path_factory.mktemp("native")
    chosen = {item.callspec.params["test"] for item in request.session.items if is_ours(item)}
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        yield {test: pool.submit(run, test, directory) for test in TESTS if test in chosen}
        pool.shutdown(cancel_futures=True)


def is_ours(item: pytest.Item) -> bool:
    return item.path == Path(__file__) and hasattr(item, "callspec")


@pytest.mark.parametrize("test", TESTS, ids=lambda path: path.stem)
def test_c(test: Path, running: Running) -> None:
    passed, output = running[test].result()
    assert passed, output
