"""The cache with real models of every kind of state: what is restored is what was computed.

Texts are compared as far as float noise cannot change them (`test_llama_texts.py`); where every bit
has to be the same, it is said so.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from samovar.cache.files.names import parse_name
from samovar.cache.files.tier import FileTier
from samovar.cache.index.node import Tier
from samovar.cache.keys import FORMAT, Namespace
from samovar.engine.engine import EngineOptions
from samovar.native.interface import StateKind
from samovar.types import GenerateRequest, SamplingParams
from tests.conftest import FULL_SCALE, GENERATING_KINDS, ROOT, Models, scaled
from tests.engine.builders import Trial, request
from tests.engine.cached import Place, files_of, place
from tests.engine.test_llama_texts import (
    LAYOUTS,
    Text,
    agreed,
    alone,
    heard,
    noise,
    num_clear,
    opened,
)
from tests.native.test_backend import prompt

pytestmark = pytest.mark.native

KINDS = GENERATING_KINDS
"""Attention only (twice), a sliding window, a hybrid, a recurrent one."""

SMALL = {"block_size": 16, "checkpoint_tokens": 64, "continued_tokens": 32}


@contextmanager
def serving(
    path: Path, where: Place | None, *, is_deterministic: bool = False, **options: object
) -> Iterator[Trial]:
    """An engine on a real model, with a cache if there is a place for it."""
    with opened(path, **options) as backend:
        cache = where and where.open(backend, is_deterministic=is_deterministic)
        engine_options = EngineOptions(is_deterministic=is_deterministic)
        trial = Trial(backend, engine_options, cache=cache or None)
        yield trial
        assert not trial.engine.close()
        if cache:
            assert cache.store.close()


def restored(trial: Trial, name: str) -> int:
    """How many tokens of a prompt came out of the cache."""
    cached = trial.answers[name].finished.usage.cached
    return cached.total - cached.live


def computed(trial: Trial) -> int:
    """How many tokens all decode calls had."""
    return sum(len(row.tokens) for rows in trial.calls for row in rows)


# ---- conversations ------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_goes_on_after_restarts_as_it_would_have(
    models: Models, kind: str, layout: str
) -> None:
    """Each turn in an engine of its own, on what those before it saved; and forks of it."""
    path, options = models(kind), {"context_length": 1024, "layout": layout}
    history = prompt(70, 1)
    turns: list[GenerateRequest] = []
    with place(**SMALL) as where:
        for number in range(4):
            asked = request(f"t{number}", history, max_tokens=64)
            with serving(path, where, **options) as trial:
                [answer] = trial.serve(asked)
                turns.append(asked)
                if number:
                    assert restored(trial, asked.request_id) >= 0.7 * len(history) - 20
                with opened(path, **options) as backend:
                    agreed(answer, alone(backend, asked), noise(path))
                history = [*history, *answer.tokens(), *prompt(25, 10 + number)]
        with serving(path, where, **options) as trial:
            forks = [
                request(f"f{number}", (*turns[2].prompt[:150], *prompt(20, number)), max_tokens=64)
                for number in range(3)
            ]
            answers = trial.serve(*forks)
        with opened(path, **options) as backend:
            texts: list[Text] = [alone(backend, one) for one in forks]
        counts = [agreed(a, t, noise(path)) for a, t in zip(answers, texts, strict=True)]
        assert sum(counts) == sum(num_clear(text, noise(path)) for text in texts)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd_of_conversations_in_one_engine(models: Models, kind: str, layout: str) -> None:
    """More conversations than sequences, each turn beside others of other conversations."""
    path, options = models(kind), {"context_length": 1024, "layout": layout, "num_sequences": 2}
    chance = random.Random(4)
    system = prompt(64, 99)
    histories = [[*system, *prompt(20 + 9 * i, i)] for i in range(6)]
    asked: list[GenerateRequest] = []
    with place(**SMALL) as where, serving(path, where, **options) as trial:
        for turn in range(3):
            order = chance.sample(range(6), 6)
            some = [request(f"c{i}t{turn}", histories[i], max_tokens=16) for i in order]
            for one in some:
                trial.submit(one)
                trial.step(chance.choice([0, 1, 3]))
            trial.finish()
            for i, one in zip(order, some, strict=True):
                answer = trial.answers[one.request_id]
                histories[i] += [*answer.tokens(), *prompt(12, 50 + turn)]
            asked += some
        total = sum(len(one.prompt) for one in asked[6:])
        found = sum(restored(trial, one.request_id) for one in asked[6:])
        assert found > total / 3
        with opened(path, **options) as backend:
            texts = [alone(backend, one) for one in asked]
        for one, whole in zip(asked, texts, strict=True):
            agreed(trial.answers[one.request_id], whole, noise(path))
        clear = sum(num_clear(whole, noise(path)) for whole in texts)
        assert clear >= sum(map(len, texts)) / 4


# ---- to the bit ---------------------------------------------------------------------------------

SCORED = [
    SamplingParams(logprobs=3),
    SamplingParams(temperature=0.9, seed=5, top_p=0.95, repeat_penalty=1.1, logprobs=3),
]


@pytest.mark.parametrize("kind", KINDS)
def test_in_deterministic_mode_a_cache_changes_no_bit(models: Models, kind: str) -> None:
    """Cold without a cache, cold with one, warm in the same engine, warm after a restart."""
    path = models(kind)
    options = {"is_deterministic": True, "context_length": 1024, "full_window": True}
    shared = prompt(140, 3)
    asked = [
        request(f"r{i}", [*shared, *prompt(10 + 60 * i, i)], max_tokens=30, sampling=SCORED[i % 2])
        for i in range(4)
    ]
    whole = []
    for one in asked:
        with serving(path, None, **options) as trial:
            whole.append(heard(trial.serve(one)[0]))
    with place(**SMALL) as where:
        for life in range(2):
            with serving(path, where, **options) as trial:
                for one, same in zip(asked, whole, strict=True):
                    assert heard(trial.serve(one)[0]) == same
                if life:
                    found = [restored(trial, one.request_id) for one in asked]
                    assert found[-1] >= 256
                    assert all(count % 64 == 0 for count in found)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_on_the_grid_of_chunks_what_is_restored_is_the_same_to_the_bit(
    models: Models, kind: str
) -> None:
    """In lanes, without any mode: the chunks behind what was restored are cut as they would be."""
    path, options = models(kind), {"context_length": 1024, "layout": "lanes", "full_window": True}
    whole = prompt(300, 6)
    asked = request("a", whole, max_tokens=40, sampling=SCORED[0])
    with serving(path, None, **options) as trial:
        cold = heard(trial.serve(asked)[0])
    for length in (64, 128, 256):
        with place(**SMALL) as where:
            with serving(path, where, **options) as trial:
                trial.serve(request("w", whole[:length], prefill_only=True))
            with serving(path, where, **options) as trial:
                assert heard(trial.serve(asked)[0]) == cold
                assert restored(trial, "a") == length


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_repeat_with_stored_logits_computes_nothing(
    models: Models, kind: str, layout: str
) -> None:
    path, options = models(kind), {"context_length": 512, "layout": layout}
    asked = request("a", prompt(150, 8), max_tokens=1, sampling=SCORED[0])
    with place(keeps_logits=True, **SMALL) as where:
        with serving(path, where, **options) as trial:
            first = heard(trial.serve(asked)[0])
            assert computed(trial) == 150
        with serving(path, where, **options) as trial:
            assert heard(trial.serve(asked)[0]) == first  # the logits are those that were stored
            assert computed(trial) == 0
            assert trial.answers["a"].finished.usage.cached.disk == 150
            assert trial.answers["a"].finished.usage.divergence.reason == "none"


# ---- other processes ----------------------------------------------------------------------------


def child(path: Path, directory: Path, prompts: list[list[int]], **more: object) -> list[str]:
    job = {
        "model": str(path),
        "directory": str(directory),
        "layout": "lanes",
        "context_length": 1024,
        "prompts": prompts,
    }
    return [sys.executable, "-m", "tests.engine.cached_child", json.dumps({**job, **more})]


def run(command: list[str]) -> list[dict[str, object]]:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("layout", LAYOUTS if FULL_SCALE else LAYOUTS[:1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_comes_back_from_disk_in_a_new_process(
    models: Models, kind: str, layout: str, tmp_path: Path
) -> None:
    length = scaled(700, 4096)
    path, ids = models(kind), prompt(length, 5)
    more = {"layout": layout, "context_length": length + 64}
    [cold] = run(child(path, tmp_path / "kv", [ids], **more))
    assert cold["total"] == 0
    [warm] = run(child(path, tmp_path / "kv", [ids], **more))
    assert warm["disk"] >= length - 1
    [longer] = run(child(path, tmp_path / "kv", [[*ids, *prompt(30, 1)]], **more))
    assert longer["disk"] >= length - 1
    with opened(path, layout=layout, context_length=length + 64) as backend:
        sampling = SamplingParams(ignore_eos=True)
        whole = alone(backend, request("a", ids, max_tokens=8, sampling=sampling))
    clear = num_clear(whole, noise(path))
    for one in (cold, warm):
        assert one["tokens"][:clear] == [token for token, _ in whole[:clear]]


@pytest.mark.parametrize("kind", ["llama", "lfm2", "mamba"] if FULL_SCALE else ["lfm2"])
def test_what_was_reported_durable_is_there_after_a_kill(
    models: Models, kind: str, tmp_path: Path
) -> None:
    path, directory = models(kind), tmp_path / "kv"
    chance = random.Random(1)
    for life in range(scaled(2, 10)):
        command = child(path, directory, [prompt(80, life)], is_endless=True)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randrange(2, 9))]
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
        reports = [json.loads(line) for line in [*lines, *rest.splitlines()] if _is_whole(line)]
        assert len(reports) >= 2
        require_durable(directory, reports[-1]["durable"])


def _is_whole(line: str) -> bool:
    return line.startswith("{") and line.rstrip().endswith("}")


def require_durable(directory: Path, durable: list[str]) -> None:
    """All of these are there, and whole."""
    [folder] = [one for one in directory.iterdir() if one.is_dir()]
    fields = json.loads((folder / "namespace.json").read_text())
    assert fields.pop("format") == FORMAT
    files = FileTier(directory, Namespace(fields), 2**30, is_durable=True)
    assert files.path == folder
    there = {entry.name for entry in files.open().entries}
    names = [parse_name(text) for text in durable]
    assert len(names) > 3
    assert there >= set(names)
    assert [one for one in files.check(deep=True) if one.kind not in ("leaving", "total")] == []
    files.close()


# ---- how much comes back ------------------------------------------------------------------------


def share_of_a_trace(path: Path) -> tuple[float, Trial]:
    """What part of the prompts of some conversations was there, by and by."""
    system, chance = prompt(150, 98), random.Random(9)
    histories = [[*system, *prompt(30 + 11 * i, i)] for i in range(5)]
    sampling = SamplingParams(ignore_eos=True)
    there = total = 0
    options = {"context_length": 1024, "num_sequences": 1}
    with place(**SMALL) as where, serving(path, where, **options) as trial:
        for turn in range(5):
            for i in chance.sample(range(5), 5):
                asked = request(f"c{i}t{turn}", histories[i], max_tokens=12, sampling=sampling)
                [answer] = trial.serve(asked)
                there += answer.finished.usage.cached.total
                total += len(histories[i])
                histories[i] += [*answer.tokens(), *prompt(25, 50 + turn)]
    return there / total, trial


@pytest.mark.parametrize("kind", ["gemma2", "lfm2", "mamba"])
def test_as_much_comes_back_of_states_that_cannot_be_cut(models: Models, kind: str) -> None:
    attention, _ = share_of_a_trace(models("llama"))
    found, trial = share_of_a_trace(models(kind))
    assert trial.backend.state_kind is not StateKind.DIVISIBLE
    assert attention > 0.7
    assert found >= 0.9 * attention
    store = trial.cache.store
    checkpoints = store._records.checkpoints  # noqa: SLF001 - the share is a promise
    for tier in (Tier.MEMORY, Tier.DISK):
        budget = store.memory_bytes if tier is Tier.MEMORY else files_of(store)[tier].budget
        assert 0 < checkpoints.bytes_of(tier) <= budget / 2
