"""Open a stack once and say how long that took."""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import uvloop

import hybridnet


async def measure(device: str) -> dict[str, object]:
    start = time.perf_counter()
    async with hybridnet.open_stack(device) as stack:
        open_ms = (time.perf_counter() - start) * 1e3
        mode = str(getattr(stack, "mode", "?"))
    return {"open_ms": open_ms, "mode": mode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", required=True)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(arguments.dev))), flush=True)


if __name__ == "__main__":
    main()
