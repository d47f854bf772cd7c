"""Templates of published models, where the working copy has them beside it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from samovar.chat.family import template_family
from samovar.chat.literal import Segment
from samovar.chat.prompt import render_chat
from samovar.chat.specials import Specials
from samovar.chat.template import Template

FOLDER = Path(__file__).parents[3] / "shared" / "templates"
TEMPLATES = {path.stem: path for path in sorted(FOLDER.glob("*.jinja"))}

FACTS = {
    "system": "heron",
    "tools": "Tells the weather",
    "question": "raining in Visby",
    "call": "Visby harbour",
    "result": "drizzle, 7 degrees",
    "answer": "A little drizzle",
    "last": "And tomorrow?",
}

# What a template has no words for. All others show every fact.
NO_DEFINITIONS = {"tools"}  # such a model is told of its tools in the system message
LOST = {
    "HuggingFaceTB-SmolLM3-3B": {"tools", "call"},  # an edited one: tools come as `xml_tools`
    "LFM2-8B-A1B": {"call"},  # past calls are dropped, their results are not
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": NO_DEFINITIONS,
    "deepseek-ai-DeepSeek-V3.1": NO_DEFINITIONS,
    "ibm-granite-granite-3.3-2B-Instruct": {"call"},
    "microsoft-Phi-3.5-mini-instruct": {"tools", "call", "result"},  # made before tools
}
REFUSES_TOOLS = {"google-gemma-2-2b-it"}  # roles must alternate, and there are but two

FAMILY = {
    "ByteDance-Seed-OSS": "seed",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r",
    "GLM-4.6": "glm",
    "HuggingFaceTB-SmolLM3-3B": "chatml",
    "Kimi-K2-Instruct": "kimi",
    "LFM2-8B-A1B": "lfm2",
    "MiniMax-M2": "minimax",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen-xml",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek",
    "deepseek-ai-DeepSeek-V3.1": "deepseek",
    "google-gemma-2-2b-it": "gemma",
    "google-gemma-4-31B-it": "gemma4",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "granite",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
    "microsoft-Phi-3.5-mini-instruct": "phi",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "openai-gpt-oss-120b": "harmony",
}

# Control tokens of these models' vocabularies, as their templates write them.
TOKENS = """
<|im_start|> <|im_end|> <|im_user|> <|im_middle|> <|eot_id|> <|end|> <|user|> <|assistant|>
<|start_header_id|> <|end_header_id|> <|system|> [INST] [/INST] [TOOL_CALLS] [SYSTEM_PROMPT]
[e~[ ]~b] <|object_ref_start|> <start_of_turn> <end_of_turn> <|turn> <turn|> <|"|> <|start|>
<|start_of_role|> <|end_of_role|> <|end_of_text|> <\uff5cUser\uff5c> <\uff5cAssistant\uff5c>
<|message|> <|channel|> <seed:bos> <seed:eos> [gMASK] <sop> <|START_OF_TURN_TOKEN|>
<|END_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> <BOS> <EOS>
"""
SPECIALS = Specials(TOKENS.split())


@cache
def template(name: str) -> Template:
    return Template(TEMPLATES[name].read_text(), bos_token="<BOS>", eos_token="<EOS>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_plain_chat_is_complete(name: str) -> None:
    messages = [
        {"role": "system", "content": "Be terse, heron."},
        {"role": "user", "content": "Is it raining in Visby?"},
        {"role": "assistant", "content": "A little drizzle."},
        {"role": "user", "content": "And tomorrow?"},
    ]
    text = template(name).render(messages)
    assert [text.count(FACTS[fact]) for fact in ("system", "question", "answer", "last")] == [1] * 4
    assert "None" not in text


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - REFUSES_TOOLS))
def test_a_tool_conversation_is_as_complete_as_the_template_can(
    name: str, weather_talk: list[dict[str, Any]], weather_tool: dict[str, Any]
) -> None:
    text = template(name).render(weather_talk, [weather_tool, {"name": "get_time"}])
    assert {fact for fact, words in FACTS.items() if words not in text} == LOST.get(name, set())
    assert "None" not in text


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_family_is_known(name: str) -> None:
    assert template_family(TEMPLATES[name].read_text()) == FAMILY[name]


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - REFUSES_TOOLS))
def test_specials_in_user_text_are_literal_and_nothing_else_changes(
    name: str, weather_talk: list[dict[str, Any]], weather_tool: dict[str, Any]
) -> None:
    spell = " ".join(sorted(SPECIALS.texts - {'<|"|>', "<|channel|>"}))
    weather_talk[1]["content"] += spell
    weather_talk[3]["content"] = "drizzle, 7 degrees" + spell
    segments = render_chat(template(name), weather_talk, [weather_tool], specials=SPECIALS)
    whole = template(name).render(weather_talk, [weather_tool])
    assert "".join(segment.text for segment in segments) == whole
    assert [s.text for s in segments if not s.parse_special] == [
        text for _ in range(whole.count(spell)) for text in spell.split()
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_harmless_text_is_one_segment(name: str) -> None:
    messages = [{"role": "user", "content": "Is 3 < 4, and [this]>that?"}]
    segments = render_chat(template(name), messages, specials=SPECIALS)
    assert segments == [Segment(template(name).render(messages), parse_special=True)]
