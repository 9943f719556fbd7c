"""Run the benchmarks: ``python tests/bench/run.py --help``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script this file's own folder leads the path, where `bench` is not to be found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.cli import main

    raise SystemExit(main())
