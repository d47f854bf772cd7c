"""Small random models that write as published models do: their templates and control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelmaker import build_model
from modelmaker.bpe_vocabulary import bpe_vocabulary, piece
from modelmaker.copied_vocabulary import copied_vocabulary
from modelmaker.vocabulary import Vocabulary

SHARED = Path(__file__).resolve().parents[2] / "shared"
CONTEXT = 16384
_SIZE = 768  # tokens of a vocabulary that is made: bytes, control tokens, some hundred words

_CONTROL = re.compile(
    r"<\|[^|<>\s'\"]+\|>"  # <|im_start|>
    r"|<\|[a-z_]+>|<[a-z_]+\|>|<\|\"\|>"  # <|turn>, <turn|>, <|"|>: Gemma 4
    r"|<\uff5c[^\uff5c]+\uff5c>"  # DeepSeek's have full-width bars
    r"|\[/?[A-Z_]{3,}\]"  # [INST]
    r"|\]~!?b\[?|\[e~\[|\[gMASK\]|<sop>"
    r"|</?(?:seed|minimax):[a-z_]+>"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a template's source does not say of its model."""

    ends: tuple[str, ...] = ("<|im_end|>",)
    """Tokens that end generation."""
    control: tuple[str, ...] = ()
    """Control tokens that are not in the source."""
    shows_tools: bool = True
    """Tools stand in the prompt."""
    reasons: bool = False
    """It stays on: prompts open it whatever was asked for, or say more where it is off."""
    vocabulary: str = ""
    """The real one, where it lies beside the repository; else one is made."""


_DEEPSEEK = Kind(("<\uff5cend\u2581of\u2581sentence\uff5c>",), shows_tools=False)
_GRANITE = Kind(("<|end_of_text|>",))
_MISTRAL = Kind(("</s>",), ("</s>", "<s>"))
_LLAMA = Kind(vocabulary="llama-bpe")
KINDS = {
    "ByteDance-Seed-OSS": Kind(("<seed:eos>",), reasons=True),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Kind(("<|END_OF_TURN_TOKEN|>",)),
    "GLM-4.6": Kind(("<|endoftext|>", "<|user|>", "<|observation|>")),
    "Kimi-K2-Instruct": Kind(),
    "LFM2-8B-A1B": Kind(control=("<|tool_call_start|>", "<|tool_call_end|>")),
    "MiniMax-M2": Kind(("[e~[",), reasons=True),
    "Mistral-Small-3.2-24B-Instruct-2506": _MISTRAL,
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Kind(),
    "Qwen-Qwen2.5-7B-Instruct": Kind(vocabulary="qwen2"),
    "Qwen-Qwen3-0.6B": Kind(),
    "Qwen3-Coder": Kind(),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": replace(_DEEPSEEK, reasons=True),
    "deepseek-ai-DeepSeek-V3.1": _DEEPSEEK,
    "google-gemma-4-31B-it": Kind(("<turn|>",)),
    "ibm-granite-granite-3.3-2B-Instruct": _GRANITE,
    "ibm-granite-granite-4.0": _GRANITE,
    "meta-llama-Llama-3.1-8B-Instruct": _LLAMA,
    "meta-llama-Llama-3.2-3B-Instruct": _LLAMA,
    "mistralai-Mistral-Nemo-Instruct-2407": _MISTRAL,
    "openai-gpt-oss-120b": Kind(("<|return|>", "<|call|>"), ("<|constrain|>",)),
}
"""By the names of their files, the templates that show calls in a form of their own."""


def source_of(name: str) -> str:
    """The text of a template."""
    return (SHARED / "templates" / f"{name}.jinja").read_text()


def model_of(name: str, folder: Path) -> Path:
    """A model of random weights with that template. Always the same bytes."""
    source = source_of(name)
    path = folder / f"{name}.gguf"
    return build_model(
        path,
        "llama",
        quant="F32",
        vocab=_vocabulary(KINDS[name], _CONTROL.findall(source)),
        chat_template=source,
        context_length=CONTEXT,
    )


def _vocabulary(kind: Kind, found: Sequence[str]) -> Vocabulary:
    """Blanks are as unlikely as control tokens: JSON may have any, and there would be hundreds."""
    real = SHARED / "vocab" / f"ggml-vocab-{kind.vocabulary}.gguf"
    if kind.vocabulary and real.exists():
        words = copied_vocabulary(real)
    else:
        words = bpe_vocabulary(_SIZE, [*found, *kind.control, *kind.ends], kind.ends)
    texts = words.metadata["tokenizer.ggml.tokens"].value
    blanks = {number for number, text in enumerate(texts) if not piece(text).strip()}
    return replace(words, special=words.special | blanks)
