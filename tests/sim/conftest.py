"""A stack on an in-memory wire with a clock of the test's own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from simulated import World


@pytest.fixture
def world() -> Iterator[World]:
    """A host with its peer's link-layer addresses known; no frame may be lost at the end."""
    made = World()
    yield made
    made.close()


@pytest.fixture
def generator() -> random.Random:
    """Random numbers whose seed is printed; HYBRIDNET_SEED repeats a run."""
    seed = int(os.environ.get("HYBRIDNET_SEED") or random.randrange(2**31))
    print(f"seed {seed}: HYBRIDNET_SEED={seed} repeats it")
    return random.Random(seed)
