"""Decode calls that are cut short, at their deadline or by another thread, and what is left."""

from __future__ import annotations

import gc
import itertools
import math
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import DecodeTimeout, Released
from samovar.native.context import Context, ContextOptions
from samovar.native.deadline import Deadline
from samovar.native.interface import Aborted, Decoded, Row, Stepped
from samovar.native.llama import LlamaBackend
from samovar.native.model import Model
from samovar.native.sequences import Sequence
from samovar.types import SamplingParams
from tests.conftest import GENERATING_KINDS, ROOT, Models, scaled
from tests.native.test_backend import (
    NOISE,
    OPTIONS,
    forced,
    greedy,
    logits_of,
    opened,
    prime,
    prompt,
    put,
)

pytestmark = pytest.mark.native

LAYOUTS = ("lanes", "pool")
PATIENCE = 20.0
"""Seconds after which something that should have happened at once will not happen any more."""


def wait_for(happened: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not happened() and time.monotonic() < end:
        time.sleep(0.002)
    return happened()


# ---- the deadline itself ------------------------------------------------------------------------


def test_a_deadline_sets_its_flag_when_the_moment_has_come() -> None:
    deadline = Deadline()
    deadline.arm(0.02)
    assert not deadline.is_overdue
    assert wait_for(lambda: deadline.is_set)
    assert deadline.is_overdue


def test_a_disarmed_deadline_never_comes() -> None:
    deadline = Deadline()
    deadline.arm(0.02)
    deadline.disarm()
    time.sleep(0.1)
    assert not deadline.is_set
    assert not deadline.is_overdue


def test_a_stale_moment_does_not_hit_the_next_call() -> None:
    deadline = Deadline()
    for _ in range(5):
        deadline.arm(0.02)
        deadline.disarm()
        deadline.arm(PATIENCE)
        time.sleep(0.05)
        assert not deadline.is_set
        deadline.disarm()


def test_an_abort_is_no_timeout_and_is_forgotten_by_the_next_call() -> None:
    deadline = Deadline()
    deadline.arm(PATIENCE)
    deadline.abort()
    assert deadline.is_set
    assert not deadline.is_overdue
    deadline.disarm()
    deadline.arm(PATIENCE)
    assert not deadline.is_set


def test_stopping_waits_for_the_call_that_runs() -> None:
    deadline = Deadline()
    deadline.stop()  # nothing runs
    started, over = threading.Event(), threading.Event()

    def call() -> None:
        deadline.arm(PATIENCE)
        started.set()
        wait_for(lambda: deadline.is_set)
        over.set()
        deadline.disarm()

    thread = threading.Thread(target=call)
    thread.start()
    assert started.wait(PATIENCE)
    deadline.stop()
    assert over.is_set()
    thread.join()


@pytest.mark.parametrize("seconds", [1e10, 1e18, 1e300, math.inf])
def test_a_moment_beyond_what_the_clock_can_wait_for_stops_nobody_elses(seconds: float) -> None:
    patient, other = Deadline(), Deadline()
    patient.arm(seconds)
    time.sleep(0.05)  # the watching thread has looked at it
    other.arm(0.02)
    assert wait_for(lambda: other.is_set)
    assert not patient.is_set


def test_an_earlier_moment_is_not_kept_waiting_by_a_later_one() -> None:
    deadlines = [Deadline() for _ in range(20)]
    for index, deadline in enumerate(reversed(deadlines)):
        deadline.arm(PATIENCE * (index + 1) if index < 19 else 0.02)
    assert wait_for(lambda: deadlines[0].is_overdue)
    assert not any(deadline.is_set for deadline in deadlines[1:])


def test_one_thread_watches_all_and_keeps_none_alive() -> None:
    def watching() -> int:
        return sum(thread.name == "samovar-deadlines" for thread in threading.enumerate())

    deadlines = [Deadline() for _ in range(50)]
    for deadline in deadlines:
        deadline.arm(PATIENCE)
    assert watching() == 1
    alive = [weakref.ref(deadline) for deadline in deadlines]
    del deadlines, deadline
    gc.collect()
    assert wait_for(lambda: not any(ref() for ref in alive))


def test_the_watch_does_not_keep_contexts_alive(models: Models) -> None:
    model = Model(models())
    context = Context(model, ContextOptions(**OPTIONS))
    handle = context.handle
    context.batch.add(0, [5, 6], 0, wants_logits=True)
    assert context.decode(context.batch) == Decoded()
    del context
    gc.collect()
    assert not handle.is_open
    model.close()


# ---- cutting calls short ------------------------------------------------------------------------

LONG = 900
"""Tokens of a row that takes a hundred times as long as the deadline that it is given."""


@contextmanager
def slow(
    models: Models, kind: str, micro: int = 1024, **options: object
) -> Iterator[tuple[LlamaBackend, Context]]:
    """A context with large batches, in which a call takes long."""
    size = {"context_length": 4096, "batch_size": 1024, "micro_batch_size": micro}
    with opened(models(kind), **(size | options)) as both:
        yield both


@contextmanager
def allowed(context: Context, seconds: float) -> Iterator[None]:
    """Another deadline for the calls inside."""
    usual = context.options
    context.options = replace(usual, decode_seconds=seconds)
    try:
        yield
    finally:
        context.options = usual


@contextmanager
def cut_at_once(monkeypatch: pytest.MonkeyPatch, spared: int = 0) -> Iterator[None]:
    """Calls inside, but for the first few, are aborted before their first node is computed."""
    arm, calls = Deadline.arm, itertools.count()

    def arm_and_abort(deadline: Deadline, seconds: float) -> None:
        arm(deadline, seconds)
        if next(calls) >= spared:
            deadline.abort()

    with monkeypatch.context() as patched:
        patched.setattr(Deadline, "arm", arm_and_abort)
        yield


def ends(context: Context) -> list[int]:
    return [context.last_position(s) + 1 for s in range(context.num_sequences)]


def begin(backend: LlamaBackend) -> None:
    """Two sequences that will be in the call, and two that will not."""
    for seq_id in range(4):
        put(backend, seq_id, prompt(60 + 3 * seq_id, seq_id))


HELD = [60, 63, 66, 69]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro", [1024, 64])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_call_beyond_its_deadline_is_taken_back(
    models: Models, kind: str, micro: int, layout: str
) -> None:
    with slow(models, kind, micro, layout=layout) as (backend, context):
        begin(backend)
        before = [logits_of(backend, s) for s in range(4)]
        with allowed(context, 0.01):
            outcome = backend.step([Row(0, prompt(LONG)), Row(3, [5])])
        assert outcome == Aborted(timed_out=True)
        assert [len(backend.tokens(s)) for s in range(4)] == ends(context) == HELD
        assert [backend.has_logits(s) for s in range(4)] == [True, True, True, False]
        for s in range(3):
            assert np.array_equal(logits_of(backend, s), before[s])
        assert isinstance(backend.step([Row(0, prompt(100, 7)), Row(3, [5])]), Stepped)
        found = [forced(backend, s, prompt(5, 9)) for s in range(4)]
    with slow(models, kind, micro, layout=layout) as (twin, _):
        begin(twin)
        twin.step([Row(0, prompt(100, 7)), Row(3, [5])])
        expected = [forced(twin, s, prompt(5, 9)) for s in range(4)]
    assert same(found, expected, layout)


def same(found: list[np.ndarray], expected: list[np.ndarray], layout: str) -> bool:
    noise = 0 if layout == "lanes" else NOISE["F16"]
    return all(np.abs(a - b).max() <= noise for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro", [1024, 64])
@pytest.mark.parametrize("kind", ["gemma2", "lfm2", "mamba"])
def test_a_single_row_cut_short_is_whole_or_empty(
    models: Models, kind: str, micro: int, layout: str
) -> None:
    with slow(models, kind, micro, layout=layout) as (backend, context):
        begin(backend)
        with allowed(context, 0.01):
            outcome = backend.step([Row(1, prompt(LONG))])
        assert isinstance(outcome, Aborted)
        assert outcome.timed_out
        held = [60, 0 if outcome.lost else 63, 66, 69]
        assert outcome.lost in ((), (1,))
        assert [len(backend.tokens(s)) for s in range(4)] == ends(context) == held
        if kind in ("lfm2", "mamba"):
            assert outcome.lost == (1,)
        if outcome.lost:
            put(backend, 1, prompt(63, 1))
        found = [forced(backend, s, prompt(5, 9)) for s in (0, 2, 3)]
        put(backend, 1, [5])
        found.append(forced(backend, 1, prompt(5, 9)))
    with slow(models, kind, micro, layout=layout) as (twin, _):
        begin(twin)
        expected = [forced(twin, s, prompt(5, 9)) for s in (0, 2, 3)]
        put(twin, 1, [5])
        expected.append(forced(twin, 1, prompt(5, 9)))
    exact = "lanes" if kind != "gemma2" else "pool"  # the window's cells lie elsewhere now
    assert same(found, expected, layout if layout == "pool" else exact)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arrival", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 1, 0, 2), (2, 0, 3, 1)])
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_whatever_a_call_cut_short_may_have_torn_is_lost_and_nothing_else(
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    arrival: tuple[int, ...],
    layout: str,
) -> None:
    """llama.cpp moves the recurrent states of bystanders when it gathers those of the rows."""
    with (
        opened(models(kind), layout=layout) as (backend, context),
        opened(models(kind), layout=layout) as (twin, _),
    ):
        for s in arrival:
            put(backend, s, prompt(20 + s, s))
            put(twin, s, prompt(20 + s, s))
        with cut_at_once(monkeypatch):
            outcome = backend.step([Row(0, [5]), Row(1, [6])])
        assert isinstance(outcome, Aborted)
        assert not outcome.timed_out
        kept = [s for s in range(4) if s not in outcome.lost]
        assert kept == ([] if kind in ("lfm2", "mamba") else [0, 1, 2, 3])
        assert ends(context) == [20 + s if s in kept else 0 for s in range(4)]
        for s in range(4):
            if s in outcome.lost:
                put(backend, s, prompt(20 + s, s))
            put(backend, s, [7])
            put(twin, s, [7])
        found = [forced(backend, s, prompt(5, 9)) for s in range(4)]
        expected = [forced(twin, s, prompt(5, 9)) for s in range(4)]
        assert same(found, expected, layout)


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_fresh_sequence_cut_short_is_fresh_again(
    models: Models, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with opened(models(kind)) as (backend, context):
        with cut_at_once(monkeypatch):
            assert backend.step([Row(2, prompt(30))]) == Aborted()
        assert ends(context) == [0, 0, 0, 0]
        put(backend, 2, prompt(30))
        put(backend, 1, prompt(30))
        assert np.array_equal(logits_of(backend, 2), logits_of(backend, 1))


def test_saved_logits_of_a_row_outlive_its_interruption(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models()) as (backend, _):
        put(backend, 0, prompt(20))
        expected = logits_of(backend)
        put(backend, 1, [5])  # the logits of sequence 0 are a copy from here on
        with cut_at_once(monkeypatch):
            assert backend.step([Row(0, [6])]) == Aborted()
        assert np.array_equal(logits_of(backend), expected)


def test_the_cells_of_a_call_cut_short_are_free_again(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models(), layout="pool", context_length=256) as (backend, _):
        put(backend, 0, prompt(190))
        for _ in range(5):
            with cut_at_once(monkeypatch):
                assert backend.step([Row(1, prompt(60))]) == Aborted()
        assert isinstance(backend.step([Row(1, prompt(60))]), Stepped)


# ---- through the reference's operations ---------------------------------------------------------


def test_prefill_cut_short_keeps_the_chunks_before(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models()) as (backend, _):
        with cut_at_once(monkeypatch, spared=2), pytest.raises(DecodeTimeout, match="aborted"):
            backend.prefill(prompt(500))
        assert backend.tokens(0) == prompt(500)[:128]
        assert not backend.has_logits(0)
        backend.prefill(prompt(500)[128:])
        put(backend, 1, prompt(500))
        assert np.array_equal(logits_of(backend), logits_of(backend, 1))


def test_prefill_beyond_its_deadline_says_so(models: Models) -> None:
    with slow(models, "llama") as (backend, context):
        with allowed(context, 0.01), pytest.raises(DecodeTimeout, match="deadline"):
            backend.prefill(prompt(LONG))
        assert backend.tokens(0) == []


def test_decode_one_cut_short_has_not_moved_its_sampler(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(interrupted_at: int | None) -> list[int]:
        with opened(models()) as (backend, _):
            backend.configure_sampler(SamplingParams(temperature=1.0, seed=5, repeat_penalty=1.5))
            backend.prefill(prompt(65))
            found = []
            for index in range(12):
                if index == interrupted_at:
                    with cut_at_once(monkeypatch), pytest.raises(DecodeTimeout, match="aborted"):
                        backend.decode_one()
                    assert backend.tokens(0) == prompt(65) + found
                    prime(backend)
                found.append(backend.decode_one().token)
            return found

    assert drawn(4) == drawn(0) == drawn(None)


def test_decode_one_cut_short_has_not_moved_its_grammar(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models()) as (backend, _):
        backend.set_grammar('root ::= "0" "1" "2" "3" "4"')
        backend.prefill(prompt(65))
        while not backend.decode_one().is_eog:
            with cut_at_once(monkeypatch), pytest.raises(DecodeTimeout):
                backend.decode_one()
            prime(backend)
        assert backend.detokenize(backend.tokens(0)[65:]) == b"01234"


def test_text_after_interruptions_is_the_text_without(models: Models) -> None:
    with slow(models, "llama") as (backend, context):
        backend.prefill(prompt(65))
        expected = greedy(backend, 0, 20)
        backend.seq_rm(0)
        backend.prefill(prompt(65))
        found: list[int] = []
        for _ in range(20):
            with allowed(context, 0.005):
                backend.step([Row(0, prompt(LONG))])
            assert backend.tokens(0) == prompt(65) + found
            prime(backend)
            found += greedy(backend, 0, 1)
        assert found == expected


def test_embed_cut_short_can_be_repeated(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("llama", "bert"):
        with opened(models(kind)) as (backend, _):
            expected = backend.embed(prompt(50))
            with cut_at_once(monkeypatch), pytest.raises(DecodeTimeout):
                backend.embed(prompt(50))
            assert np.array_equal(backend.embed(prompt(50)), expected)


# ---- from another thread ------------------------------------------------------------------------


def test_abort_from_another_thread_interrupts_the_call_that_is_running(models: Models) -> None:
    with slow(models, "llama") as (backend, context):
        begin(backend)
        stop = threading.Event()

        def insist() -> None:
            while not stop.wait(0.001):
                backend.abort()

        thread = threading.Thread(target=insist)
        thread.start()
        outcome = backend.step([Row(0, prompt(LONG))])
        stop.set()
        thread.join()
        assert outcome == Aborted(timed_out=False)
        assert ends(context) == HELD
        assert isinstance(backend.step([Row(0, prompt(LONG))]), Stepped)


def test_abort_between_calls_is_forgotten(models: Models) -> None:
    with opened(models()) as (backend, _):
        for _ in range(20):
            backend.abort()
            assert isinstance(backend.step([Row(0, [5])]), Stepped)
        backend.abort()
        backend.prefill([6])
        backend.abort()
        backend.decode_one()


def test_aborts_at_random_moments_leave_either_everything_or_nothing(models: Models) -> None:
    with opened(models(), layout="pool", batch_size=256, micro_batch_size=32) as (backend, context):
        stop = threading.Event()

        def annoy() -> None:
            chance = np.random.default_rng(3)
            while not stop.wait(float(chance.uniform(0, 0.01))):
                backend.abort()

        thread = threading.Thread(target=annoy)
        thread.start()
        held: list[list[int]] = [[] for _ in range(4)]
        aborted = 0
        try:
            for turn in range(scaled(150, 1000)):
                rows = [Row(s, prompt(1 + 40 * (turn % 3 == s), turn)) for s in range(3)]
                for s in range(3):
                    if len(held[s]) > 100:
                        backend.seq_rm(s)
                        held[s] = []
                outcome = backend.step(rows)
                if isinstance(outcome, Stepped):
                    for row in rows:
                        held[row.seq_id] += row.tokens
                else:
                    aborted += 1
                    assert outcome == Aborted()
                assert [backend.tokens(s) for s in range(4)] == held
                assert ends(context) == [len(tokens) for tokens in held]
        finally:
            stop.set()
            thread.join()
        assert aborted
        for s in range(3):
            put(backend, s, [5])
            put(backend, 3, [*held[s], 5])
            difference = np.abs(logits_of(backend, 3) - logits_of(backend, s)).max()
            assert difference <= NOISE["F16"]
            backend.seq_rm(3)


def test_closing_from_another_thread_waits_for_the_call_that_is_running(models: Models) -> None:
    for _ in range(scaled(5, 50)):
        with slow(models, "llama") as (backend, context):
            ended: list[object] = []

            def work(backend: LlamaBackend = backend, ended: list[object] = ended) -> None:
                try:
                    while True:
                        backend.step([Row(0, prompt(LONG))])
                        backend.seq_rm(0)
                except Released as error:
                    ended.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(0.03)
            context.close()
            thread.join(PATIENCE)
            assert ended


def test_the_process_ends_well_while_a_thread_computes(models: Models, cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPUTING, models()],
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


COMPUTING = """
import logging, sys, threading, time
from pathlib import Path
from samovar.errors import SamovarError
from samovar.native.interface import Row
from tests.native.test_backend import opened

logging.getLogger("samovar").addHandler(logging.NullHandler())

def work():
    size = {"context_length": 2048, "batch_size": 1024, "micro_batch_size": 1024}
    try:
        with opened(Path(sys.argv[1]), **size) as (backend, _):
            while True:
                backend.step([Row(0, [5] * 900)])
                backend.seq_rm(0)
    except SamovarError:
        pass

threading.Thread(target=work, daemon=True).start()
time.sleep(1.5)
"""


def test_a_call_that_a_signal_ends_is_taken_back(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models()) as (backend, context):
        put(backend, 0, prompt(65))
        disarm = Deadline.disarm

        def disarm_and_raise(deadline: Deadline) -> None:
            disarm(deadline)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Deadline, "disarm", disarm_and_raise)
            with pytest.raises(KeyboardInterrupt):
                backend.step([Row(0, prompt(30, 1)), Row(1, [5])])
        assert ends(context) == [65, 0, 0, 0]
        assert backend.tokens(0) == prompt(65)
        put(backend, 0, [7])
        put(backend, 1, prompt(65))
        put(backend, 1, [7])
        assert np.array_equal(logits_of(backend), logits_of(backend, 1))


@pytest.mark.parametrize("is_armed", [False, True])
def test_a_signal_while_a_call_is_being_armed_holds_up_nobody(
    models: Models, monkeypatch: pytest.MonkeyPatch, *, is_armed: bool
) -> None:
    with opened(models()) as (backend, context):
        put(backend, 0, prompt(65))
        arm = Deadline.arm

        def arm_and_raise(deadline: Deadline, seconds: float) -> None:
            if is_armed:
                arm(deadline, seconds)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Deadline, "arm", arm_and_raise)
            with pytest.raises(KeyboardInterrupt):
                backend.step([Row(0, [5]), Row(1, [5])])
        assert ends(context) == [65, 0, 0, 0]
        closing = threading.Thread(target=context.close, daemon=True)
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "lfm2", "mamba"])
def test_a_signal_while_a_call_is_being_recorded_leaves_cells_and_tokens_together(
    models: Models, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    extend, calls = Sequence.extend, itertools.count()

    def extend_once(sequence: Sequence, tokens: list[int], adapters: bytes) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt
        extend(sequence, tokens, adapters)

    with opened(models(kind)) as (backend, context):
        begin(backend)
        with monkeypatch.context() as patched:
            patched.setattr(Sequence, "extend", extend_once)
            with pytest.raises(KeyboardInterrupt):
                backend.step([Row(s, [5, 6]) for s in (0, 1, 3)])
        assert [len(backend.tokens(s)) for s in range(4)] == ends(context)
        for s in range(4):
            backend.seq_rm(s)
        begin(backend)
        assert ends(context) == HELD


# ---- calls that are in time ---------------------------------------------------------------------


def test_only_the_proof_at_load_takes_as_long_as_it_takes(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what reads the weights from the disk."""
    arm, allowed_for = Deadline.arm, []

    def arm_and_tell(deadline: Deadline, seconds: float) -> None:
        allowed_for.append(seconds)
        arm(deadline, seconds)

    monkeypatch.setattr(Deadline, "arm", arm_and_tell)
    with opened(models(), decode_seconds=7) as (backend, _):
        assert set(allowed_for) == {math.inf}
        allowed_for.clear()
        backend.prefill(prompt(65))
        assert set(allowed_for) == {7}


def test_a_deadline_of_an_earlier_call_never_hits_a_later_one(models: Models) -> None:
    with opened(models()) as (backend, context), allowed(context, 0.5):
        for _ in range(3):
            assert isinstance(backend.step([Row(0, [5])]), Stepped)
            time.sleep(0.3)
            backend.prefill([6])
            time.sleep(0.3)  # the deadline of the first call comes now
            backend.decode_one()


def test_thousands_of_calls_inside_of_their_deadlines_are_left_alone(models: Models) -> None:
    with opened(models()) as (backend, context), allowed(context, 0.5):
        start = time.monotonic()
        calls = 0
        while calls < scaled(1500, 10_000) or time.monotonic() - start < 1.2:
            if len(backend.tokens(0)) == backend.context_length:
                backend.seq_rm(0)
            assert isinstance(backend.step([Row(0, [5 + calls % 200])]), Stepped)
            calls += 1
