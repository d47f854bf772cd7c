"""Time to first token of a turn, beside llama-server with a prompt cache of the same size.

Both have two lanes (slots) and as many bytes of memory for what does not fit there. Samovar runs in
process, llama-server behind HTTP on the same machine, which adds a millisecond or two to its times.
After the last turn both are stopped, started again, and asked for one more turn of each
conversation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cached import Answer, answer, folder, fresh, opened, opened_store, warm_up
from benchmarks.measure import Report, rounded
from benchmarks.server import completion, llama_server
from benchmarks.talks import LONGEST, talks
from samovar.config import CacheConfig
from samovar.engine.scopes import Cache
from samovar.types import Cached

_LANES = 2
_PLENTY = 2**40

Serve = Callable[[list[int], int], Answer]
Start = Callable[[], AbstractContextManager[Serve]]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One prompt of the trace."""

    round: str
    prompt: int
    found: Answer


def server(args: argparse.Namespace) -> Report:
    """The trace for each of the budgets."""
    return {f"{budget} MiB": _compared(args, budget) for budget in args.budgets}


def _compared(args: argparse.Namespace, budget: int) -> Report:
    with folder(args) as directory:
        ours = _traced(args, lambda: _samovar(args, directory, budget))
    return {
        "samovar": _summary(ours),
        "llama-server": _summary(_traced(args, lambda: _llama_server(args, budget))),
    }


def _traced(args: argparse.Namespace, start: Start) -> list[_Turn]:
    every, turns = talks(args), list[_Turn]()
    rounds = [f"turn {number + 1}" for number in range(args.turns)]
    for names in (rounds, ["after a restart"]):
        with start() as serve:
            for name in names:
                for talk in every.round():
                    found = serve(talk.tokens, args.answer)
                    turns.append(_Turn(name, len(talk.tokens), found))
                    talk.hear(found.tokens)
    return turns


def _summary(turns: list[_Turn]) -> Report:
    report: Report = {}
    for name in dict.fromkeys(turn.round for turn in turns):
        these = [turn for turn in turns if turn.round == name]
        took = [turn.found.first_token_seconds * 1e3 for turn in these]
        report[name] = {
            "first_token_ms": rounded(statistics.median(took)),
            "least_and_most": [rounded(min(took)), rounded(max(took))],
            "share_of_the_prompts_not_computed": round(
                sum(turn.found.cached.total for turn in these) / sum(turn.prompt for turn in these),
                3,
            ),
        }
    return report


@contextmanager
def _samovar(args: argparse.Namespace, directory: Path, budget: int) -> Iterator[Serve]:
    config = CacheConfig(directory, budget * 2**20, disk_bytes=_PLENTY)
    with opened(args, _LANES, _length(args)) as backend:
        warm_up(backend)
        store = opened_store(backend, config)
        engine = fresh(backend, Cache(store, config))
        yield lambda tokens, most: answer(engine, tokens, most)
        engine.close()
        if not store.close():
            raise SystemExit("not everything was written")


@contextmanager
def _llama_server(args: argparse.Namespace, budget: int) -> Iterator[Serve]:
    options = ["--parallel", str(_LANES), "-c", str(_LANES * _length(args)), "--no-kv-unified"]
    options += ["--cache-ram", str(budget), *args.server_options]
    with llama_server(args, options) as server:
        _asked(server.port, [5] * 512, 2)  # as `warm_up` does
        yield lambda tokens, most: _asked(server.port, tokens, most)


def _asked(port: int, tokens: list[int], most: int) -> Answer:
    began, first, heard, cached = time.perf_counter(), 0.0, list[int](), 0
    for event in completion(port, tokens, most, is_cached=True):
        found = event.get("tokens")
        if isinstance(found, list) and not event.get("stop"):
            first = first or time.perf_counter() - began
            heard += found
        timings = event.get("timings")
        if isinstance(timings, dict):
            cached = int(timings.get("cache_n", 0))
    # Where it kept them it does not say.
    return Answer(first, time.perf_counter() - began, tuple(heard), Cached(live=cached))


def _length(args: argparse.Namespace) -> int:
    found: int = args.system + (args.turns + 1) * (LONGEST + args.answer) + 64
    return found
