"""Texts of real models do not depend on who else is served, but for float noise at near ties.

Rows that are computed in other company, other chunks or the other layout have other last bits. How
much that is, is measured for every model; a greedy text is compared as far as its two likeliest
tokens lie further apart than ten times that. In deterministic mode nothing is left to noise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from samovar.engine.engine import EngineOptions
from samovar.native.context import ContextOptions
from samovar.native.interface import Row, StateKind
from samovar.native.llama import LlamaBackend
from samovar.types import GenerateRequest, SamplingParams
from tests.conftest import GENERATING_KINDS, Models, scaled
from tests.engine.builders import Answer, Trial, request
from tests.native.test_backend import logits_of, prompt, put

pytestmark = pytest.mark.native

LAYOUTS = ("lanes", "pool")
OPTIONS = {
    "context_length": 512,
    "num_sequences": 4,
    "batch_size": 64,
    "micro_batch_size": 64,
    "threads": 1,
}


@contextmanager
def opened(path: Path, **options: object) -> Iterator[LlamaBackend]:
    context = ContextOptions(**(OPTIONS | options))  # type: ignore[arg-type]
    with LlamaBackend.open(path, context=context) as backend:
        yield backend


@contextmanager
def serving(path: Path, *, is_deterministic: bool = False, **options: object) -> Iterator[Trial]:
    """An engine on a real model."""
    with opened(path, **options) as backend:
        yield Trial(backend, EngineOptions(is_deterministic=is_deterministic))


# ---- what a text is alone -----------------------------------------------------------------------


@lru_cache
def noise(path: Path) -> float:
    """The largest difference between the same logits, over layouts, seats, chunks and companies."""
    text, tail = prompt(50, 1), prompt(16, 2)
    seen = []
    for layout in LAYOUTS:
        with opened(path, layout=layout) as backend:
            for seq_id, chunk, company in ((0, 50, ()), (0, 16, (1, 2, 3)), (2, 7, (0, 3))):
                seen.append(_logits_along(backend, seq_id, text, tail, chunk, company))
                for other in range(4):
                    backend.seq_rm(other)
    return max(float(np.abs(one - seen[0]).max()) for one in seen)


def _logits_along(
    backend: LlamaBackend,
    seq_id: int,
    text: list[int],
    tail: list[int],
    chunk: int,
    company: Sequence[int],
) -> np.ndarray:
    for other in company:
        put(backend, other, prompt(30 + other, other))
    for start in range(0, len(text), chunk):
        backend.step([Row(seq_id, text[start : start + chunk])])
    seen = [logits_of(backend, seq_id)]
    for token in tail:
        rows = [Row(seq_id, [token]), *(Row(other, [token]) for other in company)]
        backend.step(sorted(rows, key=lambda row: row.seq_id))
        seen.append(logits_of(backend, seq_id))
    return np.array(seen)


Text = list[tuple[int, float]]
"""Tokens, and by how much each was likelier than the second."""


def alone(backend: LlamaBackend, asked: GenerateRequest) -> Text:
    """The greedy tokens of a request without an engine, and how far the second was each time."""
    assert asked.max_tokens is not None
    backend.seq_rm(0)
    put(backend, 0, asked.prompt)  # type: ignore[arg-type]
    found: Text = []
    while len(found) < asked.max_tokens:
        logits = logits_of(backend, 0)
        second, first = np.partition(logits, -2)[-2:]
        token = int(logits.argmax())
        found.append((token, float(first - second)))
        if backend.vocabulary.is_eog(token):
            break
        put(backend, 0, [token])
    return found


def num_clear(whole: Text, largest_noise: float) -> int:
    """How many tokens there are before the first near tie."""
    ties = (count for count, (_, margin) in enumerate(whole) if margin < 10 * largest_noise)
    return next(ties, len(whole))


def agreed(answer: Answer, whole: Text, largest_noise: float) -> int:
    """How many tokens of an answer had to be, and are, those of the request alone."""
    count = num_clear(whole, largest_noise)
    assert list(answer.tokens()[:count]) == [token for token, _ in whole[:count]]
    return count


def require_agreement(answers: Sequence[Answer], texts: Sequence[Text], path: Path) -> None:
    """Require all answers to be those of the requests alone, up to near ties, which are rare."""
    counts = [
        agreed(answer, whole, noise(path)) for answer, whole in zip(answers, texts, strict=True)
    ]
    assert sum(counts) >= sum(map(len, texts)) / 4


def crowd(count: int, max_tokens: int = 12, **more: object) -> list[GenerateRequest]:
    """Requests of several lengths, every third of which begins like others."""
    shared = tuple(prompt(45, 100))
    asked = []
    for index in range(count):
        own = tuple(prompt(5 + 11 * (index % 6), index))
        whole = (*shared, *own) if index % 3 == 0 else own
        asked.append(request(f"r{index}", whole, max_tokens=max_tokens, **more))
    return asked


# ---- greedy texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_sixteen_texts_at_once_are_those_of_each_alone(
    models: Models, kind: str, layout: str
) -> None:
    path, asked = models(kind), crowd(16)
    with opened(path, layout=layout) as backend:
        texts = [alone(backend, one) for one in asked]
    with serving(path, layout=layout) as trial:
        answers = trial.serve(*asked)
        require_agreement(answers, texts, path)
        if trial.backend.state_kind is StateKind.DIVISIBLE:
            live = sum(answer.finished.usage.cached.live for answer in answers)
            assert live >= 2 * 45


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_preempted_text_goes_on_as_it_was(models: Models, kind: str) -> None:
    path = models(kind)
    asked, texts = clearest(path, 4)
    with serving(path, layout="pool", context_length=256) as trial:
        trial.submit(*asked)
        preempted: dict[str, int] = {}
        for _ in range(600):
            trial.step()
            for one in trial.engine.scheduler.waiting:
                if one.num_preemptions:
                    preempted[one.request_id] = one.num_generated
        trial.finish()
        counts = {
            one.request_id: agreed(trial.answers[one.request_id], whole, noise(path))
            for one, whole in zip(asked, texts, strict=True)
        }
        if trial.backend.num_cells is None:  # the length of a recurrent sequence costs no cells
            assert not preempted
        else:
            assert any(counts[name] > generated for name, generated in preempted.items())


def clearest(path: Path, count: int) -> tuple[list[GenerateRequest], list[Text]]:
    """Requests whose texts alone are the longest before a near tie, the longest last."""
    some = [request(f"r{i}", prompt(40, i), max_tokens=40) for i in range(24)]
    with opened(path) as backend:
        found = [(one, alone(backend, one)) for one in some]
    found.sort(key=lambda pair: num_clear(pair[1], noise(path)))
    return [one for one, _ in found[-count:]], [whole for _, whole in found[-count:]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["llama", "lfm2", "mamba"])
def test_texts_under_different_adapters_are_those_of_each_alone(
    models: Models, kind: str, layout: str
) -> None:
    path = models(kind)
    files = {"x": str(models.adapter(path, seed=1)), "y": str(models.adapter(path, seed=2))}
    sets = [(), (("x", 1.0),), (("y", 0.5),), (("x", 1.0), ("y", 1.0))]
    same = prompt(40, 3)
    asked = [
        request(f"r{i}", same if i < 4 else prompt(20, i), max_tokens=10, adapters=sets[i % 4])
        for i in range(8)
    ]
    with opened(path, layout=layout) as backend:
        loaded = {name: backend.load_adapter(file) for name, file in files.items()}
        texts = []
        for one in asked:
            backend.apply_adapters([(loaded[name], scale) for name, scale in one.adapters])
            texts.append(alone(backend, one))
    assert len({tuple(token for token, _ in whole) for whole in texts[:4]}) == 4
    with serving(path, layout=layout) as trial:
        for name, file in files.items():
            trial.engine.load_adapter(name, file)
        require_agreement(trial.serve(*asked), texts, path)


# ---- deterministic mode -------------------------------------------------------------------------


def heard(answer: Answer) -> list[object]:
    """Everything that was said, to the last bit."""
    return [
        answer.tokens(),
        answer.text(),
        [scores for delta in answer.deltas for scores in delta.logprobs],
    ]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_in_deterministic_mode_company_changes_no_bit(models: Models, kind: str) -> None:
    """Greedy and sampled, cold and warm, one after the other and in a changing crowd."""
    path = models(kind)
    options = {"is_deterministic": True, "context_length": 1024}
    sampling = [
        SamplingParams(logprobs=3),
        SamplingParams(temperature=0.9, seed=5, top_p=0.95, repeat_penalty=1.1, logprobs=3),
    ]
    asked = [
        request(one.request_id, one.prompt, max_tokens=30, sampling=sampling[index % 2])
        for index, one in enumerate(crowd(10))
    ]
    asked.append(request("long", prompt(600, 77), max_tokens=30, sampling=sampling[1]))
    expected = []
    for one in asked:
        with serving(path, **options) as trial:
            expected.append(heard(trial.serve(one)[0]))
    with serving(path, **options) as trial:
        steps = random.Random(4)
        for one in asked:
            trial.submit(one)
            trial.step(steps.choice([0, 1, 5]))
        trial.finish()
        for one, whole in zip(asked, expected, strict=True):
            assert heard(trial.answers[one.request_id]) == whole
        again = [
            request(f"{one.request_id} again", one.prompt, max_tokens=30, sampling=one.sampling)
            for one in reversed(asked)  # the last ones still lie in their lanes
        ]
        answers = trial.serve(*again)
        assert sum(answer.finished.usage.cached.live for answer in answers) >= 64
        assert [heard(answer) for answer in answers] == expected[::-1]


def test_without_that_mode_company_does_change_bits(models: Models) -> None:
    """Or the test above proves nothing."""
    assert noise(models("llama")) > 0


# ---- many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_after_many_have_come_and_gone_every_cell_is_free(
    models: Models, kind: str, layout: str
) -> None:
    chance = random.Random(7)
    with serving(models(kind), layout=layout, context_length=256) as trial:
        for index, one in enumerate(crowd(scaled(100, 1000), max_tokens=20)):
            trial.submit(one)
            if chance.random() < 0.3:
                trial.cancel(f"r{chance.randrange(index + 1)}")
            trial.step(chance.choice([0, 1, 1, 2, 8]))
        trial.finish()
        backend = trial.backend
        if backend.num_cells is not None:
            assert not any(backend.tokens(seq_id) for seq_id in range(4))
        for seq_id in range(4):
            backend.seq_rm(seq_id)
        room = backend.num_cells or backend.context_length
        put(backend, 3, prompt(room))
        assert len(backend.tokens(3)) == room
