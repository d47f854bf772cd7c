"""Log-probabilities of prompts by llama.cpp: those of a pass that computes a token at a time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from samovar.native import philox
from samovar.native.interface import Logprobs
from samovar.types import TokenLogprobs
from tests.conftest import GENERATING_KINDS, Models
from tests.engine.builders import request
from tests.engine.test_llama_texts import LAYOUTS, opened, serving
from tests.native.test_backend import prompt

pytestmark = pytest.mark.native

PROMPT = tuple(prompt(150, 5))


def token_by_token(path: Path) -> tuple[list[Logprobs], float]:
    """What is right, and by how much it may differ: float noise of this prompt in other chunks."""
    right = _logits(path, 1)
    found = [
        philox.logprobs(right[place], following, 3)
        for place, (_, following) in enumerate(pairwise(PROMPT))
    ]
    others = [_logits(path, chunk) for chunk in (2, 3, 16, 50)]
    noise = max(
        float(np.abs(logits - right[place]).max())
        for other in others
        for place, logits in other.items()
    )
    return found, 4 * noise


def _logits(path: Path, chunk: int) -> dict[int, np.ndarray]:
    """At the last place of each chunk."""
    with opened(path) as backend:
        found = {}
        for start in range(0, len(PROMPT), chunk):
            backend.prefill(list(PROMPT[start : start + chunk]))
            found[min(start + chunk, len(PROMPT)) - 1] = backend.logits(0).copy()
        return found


def require_near(scores: list[TokenLogprobs], right: list[Logprobs], most: float) -> None:
    assert [one.token for one in scores] == list(PROMPT[1:])
    for one, other in zip(scores, right, strict=True):
        assert one.chosen == pytest.approx(other.chosen, abs=most)
        values = [value for _, value in one.top]
        assert values == pytest.approx([value for _, value in other.top], abs=most)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_they_are_those_of_a_token_at_a_time(models: Models, kind: str, layout: str) -> None:
    path = models(kind)
    right, most = token_by_token(path)
    asked = request("a", PROMPT, prompt_logprobs=3, max_tokens=4)
    beside = [request(f"b{i}", prompt(40, i), max_tokens=20) for i in range(2)]
    with serving(path, layout=layout) as trial:
        (answer,) = trial.serve(asked)
        require_near(answer.scores, right, most)
        (again, *_) = trial.serve(request("c", PROMPT, prompt_logprobs=3), *beside)
        require_near(again.scores, right, most)


def test_in_deterministic_mode_company_changes_no_bit_of_them(models: Models) -> None:
    asked = request("a", PROMPT, prompt_logprobs=3, max_tokens=4)
    beside = [request(f"b{i}", prompt(40, i), max_tokens=20) for i in range(2)]
    told = []
    for company in ([], beside):
        with serving(models("llama"), is_deterministic=True) as trial:
            trial.submit(*company)
            trial.step(len(company))
            told.append(trial.serve(asked)[0].scores)
    assert len(told[0]) == len(PROMPT) - 1
    assert told[0] == told[1]
