"""Which family a template's model writes in, and whether a turn begins within reasoning."""

from __future__ import annotations

import pytest

from samovar.chat.choosing import PROBED, choose, starts_in_reasoning
from samovar.chat.families import FAMILIES, NONE
from samovar.chat.parser import Call
from samovar.chat.probing import Render
from samovar.chat.shapes import Family
from samovar.chat.template import Template
from samovar.errors import InvalidRequest, TemplateError
from tests.chat.turns import CASES, MINI, NAMES, pieces, source

CHOSEN = {
    MINI: "hermes",
    "ByteDance-Seed-OSS": "seed",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "cohere",
    "GLM-4.6": "glm",
    "HuggingFaceTB-SmolLM3-3B": "think",
    "Kimi-K2-Instruct": "kimi",
    "LFM2-8B-A1B": "lfm2",
    "MiniMax-M2": "minimax",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral-id",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen-xml",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek",
    "google-gemma-2-2b-it": "none",
    "google-gemma-4-31B-it": "gemma4",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
    "microsoft-Phi-3.5-mini-instruct": "none",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-list",
    "openai-gpt-oss-120b": "harmony",
}

HEAD = """\
{%- for message in messages %}{{- '[' + message.role + ']' + message.content }}
{%- for call in message.tool_calls %}
"""
TAIL = """
{%- endfor %}{{- '[end]' }}{%- endfor %}
"""
UNKNOWN = {
    "a JSON object between tags": (
        """{{- '<fn> ' }}{{- {'tool': call.function.name, 'args': call.function.arguments}
        | tojson }}{{- ' </fn>' }}"""
    ),
    "a JSON object alone": (
        "{{- {'name': call.function.name, 'parameters': call.function.arguments} | tojson }}"
    ),
    "a name, then JSON": (
        "{{- '@call ' + call.function.name + ' with ' }}{{- call.function.arguments | tojson }}"
        "{{- ' @done' }}"
    ),
    "a JSON array": (
        """{{- '<fns>[' }}{{- {'name': call.function.name, 'arguments': call.function.arguments}
        | tojson }}{{- ']</fns>' }}"""
    ),
}


def rendering(made: Template) -> Render:
    """How the template renders, for `choose`."""
    return lambda messages, tools: made.render(messages, tools, add_generation_prompt=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_markers_in_a_template_tell_the_family(name: str) -> None:
    assert choose(source(name)).name == CHOSEN[name]


@pytest.mark.parametrize("family", [family for family in FAMILIES.values() if family.markers])
def test_no_family_is_hidden_behind_a_more_general_one(family: Family) -> None:
    assert [choose(" ".join(row)) for row in family.markers] == [family] * len(family.markers)


def test_a_name_wins() -> None:
    assert choose(source(MINI), name="glm") is FAMILIES["glm"]
    assert choose(source(MINI), name="none") is NONE


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="hermes"):
        choose(source(MINI), name="hermetic")


@pytest.mark.parametrize("missing", [None, "", "{{ messages }}"])
def test_without_markers_there_is_no_family(missing: str | None) -> None:
    assert choose(missing) is NONE


@pytest.mark.parametrize("case", ["one call", "two calls", "empty arguments", "unicode", "nested"])
@pytest.mark.parametrize("form", UNKNOWN)
def test_a_call_of_no_known_family_is_found_out_by_rendering_one(form: str, case: str) -> None:
    made = Template(HEAD + UNKNOWN[form] + TAIL)
    family = choose(made.source, render=rendering(made))
    assert family.name == PROBED
    text = made.render([CASES[case].message], add_generation_prompt=False)
    text = text.removeprefix("[assistant]").removesuffix("[end]")
    calls = [
        (piece.name, piece.arguments) for piece in pieces(family, text) if isinstance(piece, Call)
    ]
    assert len(calls) == len(pieces(family, text))
    assert [name for name, _ in calls] == [name for name, _ in CASES[case].calls]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("", id="calls are not shown"),
        pytest.param("{{- call.function.name }}", id="arguments are not shown"),
        pytest.param("{{- call.function.name ~ call.function.arguments }}", id="Python's notation"),
        pytest.param("{{- raise_exception('no') }}", id="refused"),
        pytest.param("{{- '<' ~ call.id ~ '>' ~ call.function.name }}", id="the id is shown"),
    ],
)
def test_what_is_no_json_is_not_guessed(form: str) -> None:
    made = Template(HEAD + form + TAIL)
    assert choose(made.source, render=rendering(made)) is NONE


def test_a_template_that_fails_is_one_without_a_family() -> None:
    def fail(*_: object) -> str:
        raise TemplateError("no")

    assert choose("{{ x }}", render=fail) is NONE


@pytest.mark.parametrize(
    ("prompt", "begins"),
    [
        ("<|assistant|><think>\n", True),
        ("<|assistant|><think>", True),
        ("<|assistant|><think>\n\n</think>\n\n", False),
        ("<|user|>what is <think><|assistant|>", False),
        ("", False),
    ],
)
def test_a_prompt_may_end_within_reasoning(prompt: str, begins: bool) -> None:  # noqa: FBT001
    assert starts_in_reasoning(FAMILIES["hermes"], prompt) is begins
    assert not starts_in_reasoning(NONE, prompt)
