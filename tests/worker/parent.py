"""Serves two models until it is killed: says the ids of their processes once they are busy."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from samovar.runtime.runtime import Runtime
from tests.runtime.faulty_worker import trigger
from tests.runtime.serving import Place, configured, listen, load, request


async def main() -> None:
    """The first one streams, the second one hangs in a step, the third one still loads."""
    place = Place(Path(sys.argv[1]))
    runtime = Runtime(configured(stuck_seconds=3600.0))
    await load(runtime, place, "a", seconds=0.02)
    await load(runtime, place, "b")
    streams = [listen(runtime, "a", request(i, max_tokens=400)) for i in range(8)]
    for one in streams:
        await one.heard.at_least(1)
    bad = request(9, prompt=b"x" + trigger("hang", 2), request_id="bad", max_tokens=9)
    streams.append(listen(runtime, "b", bad))
    await streams[-1].heard.at_least(1)
    loading = asyncio.create_task(load(runtime, place, "c", boots=["hang"]))
    while runtime.status().get("c", {}).get("progress") != 0.5:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)
    pids = [one["pid"] for one in runtime.status().values()]
    sys.stdout.write(" ".join(map(str, pids)) + "\n")
    sys.stdout.flush()
    await loading


asyncio.run(main())
