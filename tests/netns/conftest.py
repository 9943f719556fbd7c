"""A module here names the event loops that its tests run on in ``LOOP_FACTORIES``."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import pytest


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], AbstractEventLoop]] | None:
    return getattr(getattr(item, "module", None), "LOOP_FACTORIES", None)
