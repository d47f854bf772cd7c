"""A process that serves requests from a model with a cache, and says what came of them.

    python -m tests.engine.cached_child JOB

JOB is JSON: `model`, `directory`, `layout`, `context_length`, and the `prompts`, lists of ids.
Prints a line of JSON for each prompt when everything that was saved of it is durable: its answer,
how much of it came from where, and the names of all files that are reported durable. With
`is_endless` it goes on with ever longer prompts until it is killed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from samovar.cache.filing import name_of_node
from samovar.cache.index.node import Tier
from samovar.cache.opening import namespace_of, open_store
from samovar.config import CacheConfig
from samovar.engine.engine import Engine
from samovar.engine.scopes import Cache
from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.types import Begun, Finished, GenerateRequest, SamplingParams, TextDelta

MAX_TOKENS = 8


def main(job: dict[str, object]) -> None:
    """See above."""
    options = ContextOptions(
        context_length=int(str(job["context_length"])),
        num_sequences=2,
        batch_size=128,
        micro_batch_size=128,
        threads=1,
        layout=str(job["layout"]),  # type: ignore[arg-type]
    )
    config = CacheConfig(
        directory=Path(str(job["directory"])), memory_bytes=0, disk_bytes=2**30, block_size=64
    )
    with LlamaBackend.open(Path(str(job["model"])), context=options) as backend:
        namespace = namespace_of(backend.describe_state(), backend.weights_paths, config)
        cache = Cache(open_store(namespace, config), config)
        engine = Engine(backend, cache=cache)
        for number, prompt in enumerate(prompts(job)):
            say(serve(engine, cache, str(number), prompt))
        engine.close()
        cache.store.close()


def prompts(job: dict[str, object]) -> Iterator[list[int]]:
    """What is asked."""
    asked: list[list[int]] = job["prompts"]  # type: ignore[assignment]
    yield from asked
    while job.get("is_endless"):
        asked.append([*asked[-1][:700], *asked[0][: 30 + len(asked) % 7], len(asked) % 200])
        yield asked[-1]


def serve(engine: Engine, cache: Cache, name: str, prompt: list[int]) -> dict[str, object]:
    """The answer to a prompt, when it is durable."""
    sampling = SamplingParams(ignore_eos=True)
    engine.submit(GenerateRequest(name, tuple(prompt), sampling, max_tokens=MAX_TOKENS))
    events = engine.run()
    [begun, end] = [one for one in events if not isinstance(one, TextDelta)]
    assert isinstance(begun, Begun), begun
    assert isinstance(end, Finished), end
    assert begun.cached == end.usage.cached
    assert cache.store.flush(60)
    return {
        "tokens": [t for one in events if isinstance(one, TextDelta) for t in one.tokens],
        "disk": end.usage.cached.disk,
        "total": end.usage.cached.total,
        "durable": [
            str(name_of_node(node, Tier.DISK)) for node in cache.store.index.nodes(Tier.DISK)
        ],
        "counters": cache.store.counters.as_dict(),
    }


def say(line: dict[str, object]) -> None:
    """One line, at once."""
    print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
