"""Templates render as Hugging Face's own code renders them, where a conversation suits as it is."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from samovar.chat.template import Template
from samovar.errors import TemplateError
from tests.chat.turns import NAMES, TOOLS, source

USER = {"role": "user", "content": "Hi, where is Łódź?\n"}
SYSTEM = {"role": "system", "content": "Be kind."}
SAID = {"role": "assistant", "content": "In Poland."}
_FUNCTION = {"name": "get_weather", "arguments": {"town": "Łódź", "days": 2}}
_CALL = {"id": "abcdefgh1", "type": "function", "function": _FUNCTION}
CALLED = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
RESULT = {"role": "tool", "tool_call_id": "abcdefgh1", "name": "get_weather", "content": "rain"}

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one": ([USER], None),
    "system": ([SYSTEM, USER], None),
    "turns": ([USER, SAID, USER], None),
    "tools": ([SYSTEM, USER], TOOLS),
    "call": ([USER, CALLED, RESULT], TOOLS),
    "after": ([USER, CALLED, RESULT, SAID, USER], TOOLS),
}

OTHERWISE = {
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "call"),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "after"),
}
"""Not as there: an empty text beside a call would be a turn of its own; it is none to us."""

MORE = {
    ("Kimi-K2-Instruct", "call"),  # appends to a list, which the sandbox there forbids
    ("Kimi-K2-Instruct", "after"),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "one"),  # wants tools to be undefined
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "system"),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "turns"),
    ("google-gemma-2-2b-it", "system"),  # knows no system: users say it
    ("google-gemma-2-2b-it", "tools"),
}
"""What is rendered here and not there."""

_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@cache
def template(name: str) -> Template:
    """One of them, compiled once."""
    return Template(source(name), **_TOKENS)


def theirs(name: str, kind: str, *, prompts: bool) -> str | None:
    """What transformers renders; None: it cannot."""
    messages, tools = CONVERSATIONS[kind]
    try:
        texts, _ = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=source(name),
            add_generation_prompt=prompts,
            **_TOKENS,
        )
    except Exception:  # noqa: BLE001 - a template may raise anything
        return None
    text: str = texts[0]
    return text


def ours(name: str, kind: str, *, prompts: bool) -> str | None:
    """What is rendered here; None: it cannot."""
    messages, tools = CONVERSATIONS[kind]
    try:
        return template(name).render(messages, tools, add_generation_prompt=prompts)
    except TemplateError:
        return None


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_template_renders_as_in_transformers(name: str, kind: str) -> None:
    for prompts in (True, False):
        here, there = ours(name, kind, prompts=prompts), theirs(name, kind, prompts=prompts)
        if (name, kind) in MORE:
            assert there is None
            assert here is not None
        elif (name, kind) in OTHERWISE:
            assert None not in (here, there)
            assert here != there
        else:
            assert here == there
