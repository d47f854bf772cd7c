"""Every template's own rendering of a turn is read back exactly, however it comes in pieces."""

from __future__ import annotations

import json

import pytest

from samovar.chat.choosing import choose, starts_in_reasoning
from samovar.errors import TemplateError
from tests.chat.turns import CASES, NAMES, Case, comparable, pieces, source, splits, template, turn
from tests.conftest import scaled

# What a template does not show of a turn; it is what no parser can bring back.
NO_CALLS = {"one call", "two calls", "empty arguments", "unicode", "nested"}
NO_REASONING = {"reasoning and call", "reasoning and answer"}
TEXT = {"text and call"}
LOST = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": TEXT | {"reasoning and answer"},
    "HuggingFaceTB-SmolLM3-3B": NO_CALLS | NO_REASONING | TEXT,
    "Kimi-K2-Instruct": NO_REASONING,
    "LFM2-8B-A1B": NO_CALLS | NO_REASONING | TEXT,
    "Mistral-Small-3.2-24B-Instruct-2506": NO_REASONING | TEXT,
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": NO_REASONING | TEXT,
    "Qwen-Qwen2.5-7B-Instruct": NO_REASONING,
    "Qwen3-Coder": NO_REASONING,
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": NO_REASONING | TEXT,  # a turn of its own
    "deepseek-ai-DeepSeek-V3.1": NO_REASONING,
    "google-gemma-2-2b-it": NO_CALLS | NO_REASONING | TEXT,
    "google-gemma-4-31B-it": {"reasoning and answer"},
    "ibm-granite-granite-3.3-2B-Instruct": NO_CALLS | NO_REASONING | TEXT,
    "ibm-granite-granite-4.0": NO_REASONING,
    "meta-llama-Llama-3.1-8B-Instruct": NO_REASONING | TEXT | {"two calls"},  # refused
    "meta-llama-Llama-3.2-3B-Instruct": NO_REASONING | TEXT | {"two calls"},
    "microsoft-Phi-3.5-mini-instruct": NO_CALLS | NO_REASONING | TEXT,
    "mistralai-Mistral-Nemo-Instruct-2407": NO_REASONING | TEXT,
    "openai-gpt-oss-120b": {"two calls", "text and call"},  # the text is shown as reasoning
}


def shown(name: str, case: Case) -> list[tuple[object, ...]] | None:
    """What a template shows of a turn, in its order; None if it refuses it."""
    try:
        _, text = turn(template(name), case)
    except TemplateError:
        return None
    facts: list[tuple[int, tuple[object, ...]]] = []
    if case.reasoning and case.reasoning in text:
        facts.append((text.index(case.reasoning), ("Reasoning", case.reasoning)))
    if case.content and case.content in text:
        kind = "Reasoning" if case.calls and "<|channel|>analysis" in text else "Content"
        facts.append((text.index(case.content), (kind, case.content)))
    place = 0
    for called, arguments in case.calls:
        if called in text[place:]:
            place = text.index(called, place) + len(called)
            facts.append((place, ("call", called, json.loads(arguments))))
    return [fact for _, fact in sorted(facts, key=lambda fact: fact[0])]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_template_shows_of_a_turn_is_read_back(name: str, case: str) -> None:
    expected = shown(name, CASES[case])
    if expected is None:
        assert case in LOST[name]
        return
    head, text = turn(template(name), CASES[case])
    family = choose(source(name))
    begins = starts_in_reasoning(family, head)
    for chunks in splits(text, scaled(4, 100)):
        told = pieces(family, chunks, starts_in_reasoning=begins)
        assert list(map(comparable, told)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_a_template_does_not_show_is_known(name: str) -> None:
    lost = set()
    for label, case in CASES.items():
        facts = shown(name, case) or []
        kinds = [fact[0] for fact in facts]
        complete = kinds.count("call") == len(case.calls)
        complete &= not case.content or "Content" in kinds
        complete &= not case.reasoning or "Reasoning" in kinds
        if not complete:
            lost.add(label)
    assert lost == LOST.get(name, set())
