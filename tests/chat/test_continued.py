"""Answers that go on, reasoning that is turned on and off, by every template at hand."""

from __future__ import annotations

from functools import cache

import pytest

from samovar.chat.choosing import choose, is_reasoning_open, starts_in_reasoning
from samovar.chat.template import Template
from samovar.chat.unfinished import is_within_reasoning, reasoning_of
from samovar.errors import InvalidRequest, TemplateError
from tests.chat.turns import NAMES, source

USER = {"role": "user", "content": "Hi there"}

SWITCHES = {
    "ByteDance-Seed-OSS": "thinking_budget",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "enable_thinking",
    "GLM-4.6": "enable_thinking",
    "HuggingFaceTB-SmolLM3-3B": "enable_thinking",
    "Qwen-Qwen3-0.6B": "enable_thinking",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "enable_thinking",
    "deepseek-ai-DeepSeek-V3.1": "thinking",
    "google-gemma-4-31B-it": "enable_thinking",
    "ibm-granite-granite-3.3-2B-Instruct": "thinking",
    "samovar-mini": "enable_thinking",
}
"""What turns reasoning on and off; gpt-oss only reasons less."""

WRITES_REASONING = {
    "ByteDance-Seed-OSS",
    "GLM-4.6",
    "MiniMax-M2",
    "Qwen-Qwen3-0.6B",
    "openai-gpt-oss-120b",
    "samovar-mini",
}
"""Templates that show the reasoning of a last message."""


@cache
def template(name: str) -> Template:
    return Template(source(name), bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", NAMES)
def test_reasoning_is_switched_by_the_variable_that_the_template_heeds(name: str) -> None:
    made = template(name)
    usual = made.render([USER])
    on, off = (made.render([USER], thinks=thinks) for thinks in (True, False))
    if name not in SWITCHES:
        assert on == usual
        assert (off == usual) == (name != "openai-gpt-oss-120b")
        return
    assert on != off
    value = {"thinking_budget": 0}.get(SWITCHES[name], False)
    assert off == made.render([USER], **{SWITCHES[name]: value})
    assert made.render([USER], thinks=True, **{SWITCHES[name]: value}) in (on, off)
    family = choose(made.source)
    assert not starts_in_reasoning(family, off)


def test_where_reasoning_cannot_be_turned_off_it_is_made_short() -> None:
    made = template("openai-gpt-oss-120b")
    assert "Reasoning: low" in made.render([USER], thinks=False)
    assert "Reasoning: high" in made.render([USER], thinks=False, reasoning_effort="high")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["The cow ", "It is <b>\n\nso", "x"])
def test_an_answer_ends_where_it_broke_off(name: str, text: str) -> None:
    made = template(name)
    begun = {"role": "assistant", "content": text}
    prompt = made.render([USER, begun], continues_last=True)
    assert prompt.endswith(text)
    closed = made.render([USER, begun], add_generation_prompt=False)
    assert len(prompt) < len(closed) or "</s>" not in closed
    assert closed.startswith(prompt.rstrip())
    parts = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    assert made.render([USER, parts], continues_last=True) == prompt
    assert not is_reasoning_open(choose(made.source), prompt)


@pytest.mark.parametrize("name", NAMES)
def test_reasoning_ends_where_it_broke_off_if_the_template_shows_it(name: str) -> None:
    made = template(name)
    begun = {"role": "assistant", "content": "", "reasoning_content": "Let me see"}
    prompt = made.render([USER, begun], continues_last=True)
    shown = prompt.endswith("Let me see")
    assert shown == (name in WRITES_REASONING)
    assert is_reasoning_open(choose(made.source), prompt) == shown


def test_what_cannot_be_continued_is_refused() -> None:
    made = template("samovar-mini")
    with pytest.raises(InvalidRequest, match="assistant"):
        made.render([USER], continues_last=True)
    call = {"function": {"name": "f", "arguments": {}}}
    with pytest.raises(InvalidRequest, match="calls"):
        made.render(
            [USER, {"role": "assistant", "content": None, "tool_calls": [call]}],
            continues_last=True,
        )
    blind = Template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(TemplateError, match="cannot be continued"):
        blind.render([USER, {"role": "assistant", "content": "x"}], continues_last=True)


def test_the_mark_is_no_text_of_the_conversations() -> None:
    made = template("samovar-mini")
    for text in ("zirconquill", "zirconquillx zirconquill"):
        begun = {"role": "assistant", "content": text}
        prompt = made.render([{"role": "user", "content": text}, begun], continues_last=True)
        assert prompt.endswith(f"assistant\n{text}")


def test_reasoning_has_several_names() -> None:
    for key in ("reasoning", "reasoning_content", "thinking"):
        message = {"role": "assistant", key: "So"}
        assert reasoning_of(message) == "So"
        assert is_within_reasoning(message)
        assert not is_within_reasoning({**message, "content": "x"})
    assert not is_within_reasoning({"role": "assistant", "content": ""})
