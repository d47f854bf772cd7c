"""The worst time between two tokens of running sequences while a long prompt comes in.

Samovar's in process, from step to step; llama-server's as streaming clients on the same machine
see it. Each beside the promise: the larger of 200 ms and 2.5 of its own decode steps.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import statistics
import threading
import time
from dataclasses import dataclass

from benchmarks.measure import (
    FREE,
    Others,
    Report,
    emptied,
    opened,
    prompt,
    rounded,
    started,
    stepped,
)
from benchmarks.server import READ_SECONDS, completion, llama_server
from samovar.engine.engine import Engine
from samovar.engine.latency import DECODE_STEPS, LEAST_GAP_SECONDS
from samovar.native.llama import LlamaBackend
from samovar.types import GenerateRequest, TextDelta

_NUM_SEQUENCES = 4
_WARM = 20  # steps before the long prompt comes
_LONG = "long"
_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class _Run:
    """Seconds: the worst gap, the promise, and how long the prompt took; and who else was busy."""

    worst: float
    promise: float
    took: float
    others: float


def gap(args: argparse.Namespace) -> Report:
    """Both, in turn, where there are peers."""
    ours: list[_Run] = []
    theirs: list[_Run] = []
    with opened(args, _NUM_SEQUENCES + 1, _CONTEXT) as backend:
        for run in range(args.runs):
            ours.append(_of_samovar(backend, args.prompt, run))
            if args.peers:
                theirs.append(_of_server(args, run))
    report: Report = {"samovar": _summary(ours)}
    if theirs:
        report["llama-server"] = _summary(theirs)
    return report


def _summary(runs: list[_Run]) -> Report:
    return {
        "worst_gap_seconds": rounded(statistics.median(run.worst for run in runs)),
        "promise_seconds": rounded(statistics.median(run.promise for run in runs)),
        "first_token_of_the_prompt_seconds": rounded(statistics.median(run.took for run in runs)),
        "ratio": round(statistics.median(run.worst / run.promise for run in runs), 3),
        "ratios": [round(run.worst / run.promise, 3) for run in runs],
        "cpu_of_others": [round(run.others, 3) for run in runs],
    }


# ---- Samovar ------------------------------------------------------------------------------------


def _of_samovar(backend: LlamaBackend, length: int, run: int) -> _Run:
    others = Others()
    engine = emptied(backend)
    started(engine, _NUM_SEQUENCES)
    for _ in range(_WARM):
        stepped(engine)
    promise = engine.costs.gap(_NUM_SEQUENCES)
    engine.submit(GenerateRequest(_LONG, prompt(length, run), FREE, max_tokens=2))
    began = time.perf_counter()
    worst = _worst_gap(engine, began)
    took = time.perf_counter() - began
    engine.close()
    return _Run(worst, promise, took, others.share())


def _worst_gap(engine: Engine, began: float) -> float:
    last = {one.request_id: began for one in engine.scheduler.running}
    worst = 0.0
    while True:
        events = stepped(engine)
        now = time.perf_counter()
        heard = {event.request_id for event in events if isinstance(event, TextDelta)}
        for request_id in heard & last.keys():
            worst = max(worst, now - last[request_id])
            last[request_id] = now
        if _LONG in heard:
            return max(worst, *(now - then for then in last.values()))


# ---- llama-server -------------------------------------------------------------------------------


class _Stream:
    """A client that notes when each token comes."""

    def __init__(self, port: int, ids: tuple[int, ...], most: int) -> None:
        self.times: list[float] = []
        self.heard = threading.Condition()
        self._objects = completion(port, ids, most, is_cached=False)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        # The server is stopped while it answers: that is the end of the stream.
        with contextlib.suppress(OSError, http.client.HTTPException):
            for found in self._objects:
                now = time.perf_counter()
                if found.get("tokens"):
                    with self.heard:
                        self.times.append(now)
                        self.heard.notify_all()

    def wait_for(self, count: int) -> None:
        """Until so many tokens came."""
        with self.heard:
            if not self.heard.wait_for(lambda: len(self.times) >= count, READ_SECONDS):
                raise SystemExit("llama-server fell silent")


def _of_server(args: argparse.Namespace, run: int) -> _Run:
    others = Others()
    slots = _NUM_SEQUENCES + 1  # one for each
    options = ["--parallel", str(slots), "-c", str(slots * _CONTEXT), "--cont-batching"]
    with llama_server(args, [*options, *args.server_options]) as server:
        streams = [_Stream(server.port, prompt(16, 1000 + number), 4000) for number in range(4)]
        for stream in streams:
            stream.wait_for(_WARM + 2)
        began = time.perf_counter()
        step = statistics.median(
            later - earlier
            for stream in streams
            for earlier, later in itertools.pairwise(stream.times[2:])
        )
        long = _Stream(server.port, prompt(args.prompt, run), 2)
        long.wait_for(1)
        ended = long.times[0]
        for stream in streams:  # the token that came with it, or after it
            stream.wait_for(sum(then <= ended for then in stream.times) + 1)
        worst = max(_longest(stream.times, began, ended) for stream in streams)
    promise = max(LEAST_GAP_SECONDS, DECODE_STEPS * step)
    return _Run(worst, promise, ended - began, others.share())


def _longest(times: list[float], began: float, ended: float) -> float:
    """The longest gap of those that were open at some time from `began` to `ended`."""
    pairs = list(itertools.pairwise(times))
    return max(later - max(then, began) for then, later in pairs if later > began and then < ended)
