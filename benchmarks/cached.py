"""What the measurements of the cache share: folders, stores, engines with one, first tokens."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import FREE, stepped
from samovar.cache.keys import Namespace
from samovar.cache.opening import namespace_of, open_store
from samovar.cache.store import BlockStore
from samovar.config import CacheConfig
from samovar.engine.engine import Engine
from samovar.engine.scopes import Cache
from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.types import Cached, Finished, GenerateRequest, TextDelta

FLUSH_SECONDS = 120.0


def opened(args: argparse.Namespace, sequences: int, length: int) -> LlamaBackend:
    """The model with lanes (or a pool) for so many sequences of `length` tokens each."""
    options = ContextOptions(
        context_length=length * (sequences if args.layout == "pool" else 1),
        num_sequences=sequences,
        layout="pool" if args.layout == "pool" else "lanes",
        threads=args.threads,
        decode_seconds=600.0,  # a busy machine makes a measurement worthless, but does not end it
    )
    return LlamaBackend.open(args.model, context=options)


@contextmanager
def folder(args: argparse.Namespace, root: Path | None = None) -> Iterator[Path]:
    """A directory that is removed afterwards: on the disk of `--folder`, unless `root` is given."""
    above = root or args.folder
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=above, prefix="samovar-benchmark-") as found:
        yield Path(found)


def namespace(backend: LlamaBackend, config: CacheConfig) -> Namespace:
    """What the backend's blocks are kept under. Reads the weights once per file."""
    return namespace_of(backend.describe_state(), backend.weights_paths, config)


def opened_store(backend: LlamaBackend, config: CacheConfig) -> BlockStore:
    """The store of a backend, as a configuration says."""
    return open_store(namespace(backend, config), config)


def fresh(backend: LlamaBackend, cache: Cache | None) -> Engine:
    """A new engine on a backend whose cells are all free, so that only the cache can help."""
    for seq_id in range(backend.num_sequences):
        backend.seq_rm(seq_id)
    return Engine(backend, cache=cache)


def warm_up(backend: LlamaBackend) -> None:
    """Fault the weights in, with tokens that no measurement begins with."""
    engine = fresh(backend, None)
    engine.submit(GenerateRequest("w", (5,) * 256, FREE, max_tokens=2))
    while not engine.is_idle:
        stepped(engine)
    engine.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request."""

    first_token_seconds: float
    """From submitting it."""
    seconds: float
    tokens: tuple[int, ...]
    cached: Cached


def answer(engine: Engine, prompt: Sequence[int], max_tokens: int = 1) -> Answer:
    """Serve one request alone."""
    began, first, heard = time.perf_counter(), 0.0, list[int]()
    engine.submit(GenerateRequest("a", tuple(prompt), FREE, max_tokens=max_tokens))
    while True:
        for event in stepped(engine):
            if isinstance(event, TextDelta):
                first = first or time.perf_counter() - began
                heard += event.tokens
            elif isinstance(event, Finished):
                took = time.perf_counter() - began
                return Answer(first, took, tuple(heard), event.usage.cached)


def cached(found: Cached) -> dict[str, int]:
    """Tokens by where they came from; what is zero is left out."""
    every = {name: getattr(found, name) for name in ("live", "memory", "shm", "disk")}
    return {name: count for name, count in every.items() if count}
