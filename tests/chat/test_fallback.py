"""Templates for files without one, and families that a file beside a model describes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from samovar.chat.fallback import PLAIN, fallback
from samovar.chat.family import CUSTOM, template_family
from samovar.chat.parser import Call, Content, Parser, Piece, Reasoning
from samovar.chat.response_template import UnreadableError, described_family
from samovar.chat.template import Template
from tests.chat.turns import TOOLS, merged

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]

MARKERS = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "gemma4": ["<|turn>", "<turn|>"],
    "mistral": ["[INST]", "[/INST]"],
    "phi": ["<|user|>", "<|assistant|>", "<|end|>"],
    "deepseek": ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"],
    "granite": ["<|start_of_role|>", "<|end_of_role|>"],
    "command-r": [
        "<|START_OF_TURN_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
    ],
    "harmony": ["<|start|>", "<|message|>", "<|channel|>", "<|end|>"],
}


@pytest.mark.parametrize("name", MARKERS)
def test_the_tokens_of_a_vocabulary_choose_a_template(name: str) -> None:
    tokens = MARKERS[name]
    found = fallback(tokens.__contains__)
    assert found.name == name
    assert template_family(found.source) == name
    made = Template(found.source, bos_token="<s>", eos_token="</s>")
    prompt = made.render(TURNS)
    at = [prompt.index(turn["content"]) for turn in TURNS]
    assert at == sorted(at)
    assert prompt.startswith(made.render(TURNS[:3], continues_last=True))
    assert not found.ends
    for missing in tokens:
        rest = set(tokens) - {missing}
        assert fallback(rest.__contains__) is PLAIN


def test_turns_are_plain_text_where_there_are_no_tokens_for_them() -> None:
    found = fallback(lambda _: False)
    assert template_family(found.source) == CUSTOM
    prompt = Template(found.source).render(TURNS)
    assert prompt == "Be kind.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Bye\n\nAssistant:"
    assert "\nUser:" in found.ends


CONTENT = "{content}"
FUNCTION = {"name": "{content.name}", "arguments": "{content.arguments}"}
ARGUMENTS = '{"town": "Łódź"}'


def read(spec: dict[str, Any], text: str) -> list[Piece]:
    parser = Parser(described_family(spec), tools=TOOLS, starts_in_reasoning=False)
    return merged([*parser.feed(text), *parser.flush()])


def calls(**field: Any) -> dict[str, Any]:  # noqa: ANN401
    thinking = {"open": "<r>", "close": "</r>", "content": "text"}
    spec = {"thinking": thinking, "content": {}, "tool_calls": field}
    return {"version": 1, "start_anchor": "x", "defaults": {"role": "assistant"}, "fields": spec}


@pytest.mark.parametrize(
    ("field", "written"),
    [
        (
            {"open": "<c>", "close": "</c>", "content": "json", "repeats": True},
            '<c>{"name": "get_weather", "arguments": ARGUMENTS}</c>',
        ),
        (
            {
                "open": ["<c>", "<d>"],
                "close": "</c>",
                "content": "json",
                "transform": {
                    "type": "function",
                    "function": {"name": "{content.tool}", "arguments": "{content.args}"},
                },
            },
            '<c>{"tool": "get_weather", "args": ARGUMENTS}</c>',
        ),
        (
            {
                "open": "[C]",
                "content": "json",
                "transform_each": True,
                "transform": {"function": {"name": "{name}", "arguments": "{arguments}"}},
            },
            '[C][{"name": "get_weather", "arguments": ARGUMENTS}]',
        ),
        (
            {
                "open_pattern": r"<f=(?P<name>[^>]+)>\s*",
                "close": "</f>",
                "content": "json",
                "transform": {"function": {"name": "{name}", "arguments": "{content}"}},
            },
            "<f=get_weather>\nARGUMENTS</f>",
        ),
        (
            {"open": "<p>", "close": "</p>", "content": "python-call-list"},
            '<p>[get_weather(town="Łódź")]</p>',
        ),
    ],
)
def test_a_description_says_what_encloses_calls(field: dict[str, Any], written: str) -> None:
    text = f"<r>So</r>Look: {written.replace('ARGUMENTS', ARGUMENTS)}"
    assert read(calls(**field), text) == [
        Reasoning("So"),
        Content("Look:"),
        Call("get_weather", ARGUMENTS),
    ]


def test_a_description_may_name_a_family_or_enclose_the_answer() -> None:
    assert described_family({"family": "hermes"}).name == "hermes"
    enclosed = {"fields": {"content": {"open": "<a>", "close": "</a>"}}}
    assert read(enclosed, "<a>Yes</a>") == [Content("Yes")]


@pytest.mark.parametrize(
    "spec",
    [
        [],
        {},
        {"version": 2, "fields": {"content": {}}},
        {"family": "klingon"},
        {"family": ["hermes"]},
        {"fields": {"thinking": {"open": "<r>"}}},
        {"fields": {"thinking": {"open": " ", "close": " "}}},
        {"fields": {"thinking": {"open": 1, "close": "x"}}},
        calls(open="<c>", content="xml-inline"),
        calls(open="<c>", content="json", content_args={"unquoted_keys": True}),
        calls(content="json"),
        calls(open="<c>", close_pattern="a|b", content="json"),
        calls(open="<c>", content="json", transform={"function": {"name": "{name}"}}),
        calls(open_pattern="<(a|b)>", content="json", transform={"function": FUNCTION}),
        calls(
            open_pattern="<a.*(?P<name>x)>",
            content="json",
            transform={"function": {"name": "{name}", "arguments": CONTENT}},
        ),
        # An hour's work for an expression that has two ways to read a bracket.
        calls(open_pattern="(?P<name>" + "[x]" * 40, content="json"),
    ],
    ids=json.dumps,
)
def test_a_description_that_cannot_be_followed_says_why(spec: Any) -> None:  # noqa: ANN401
    with pytest.raises(UnreadableError, match=r"\w"):
        described_family(spec)
