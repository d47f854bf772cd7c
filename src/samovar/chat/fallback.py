"""Templates for model files that carry none, chosen by the tokens that a vocabulary has.

A model that was taught turns has tokens for them, and those are telling. Where there are none,
turns are plain text, which most models have seen, and what ends an answer is looked for in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fallback:
    """A template, and what it takes."""

    name: str
    markers: tuple[str, ...]
    """The tokens that the vocabulary must have."""
    source: str
    ends: tuple[str, ...] = ()
    """Texts that end an answer, where no token does."""


_TEXT = "{{ message['content'] }}"


def _turns(before: str, between: str, after: str) -> str:
    """Turns of any role between three texts."""
    return (
        "{% for message in messages %}"
        f"{before}{{{{ message['role'] }}}}{between}{_TEXT}{after}"
        "{% endfor %}{% if add_generation_prompt %}"
        f"{before}assistant{between}{{% endif %}}"
    )


def _by_role(*, user: str, assistant: str, system: str = "", head: str) -> str:
    """Turns that are written by role; `*` stands for the text. No system: users say it."""
    turns = {"assistant": assistant, "system": system}
    cases = "".join(
        f"{{% {word} message['role'] == '{role}' %}}{turn.replace('*', _TEXT)}"
        for word, (role, turn) in zip(("if", "elif"), turns.items(), strict=True)
    )
    return (
        "{% for message in messages %}"
        f"{cases}{{% else %}}{user.replace('*', _TEXT)}{{% endif %}}"
        "{% endfor %}{% if add_generation_prompt %}" + head + "{% endif %}"
    )


_COMMAND = "<|START_OF_TURN_TOKEN|>"

_TABLE = (
    Fallback(
        "harmony",
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>"),
        _by_role(
            user="<|start|>user<|message|>*<|end|>",
            assistant="<|start|>assistant<|channel|>final<|message|>*<|end|>",
            system="<|start|>developer<|message|>*<|end|>",
            head="<|start|>assistant",
        ),
    ),
    Fallback(
        "chatml",
        ("<|im_start|>", "<|im_end|>"),
        _turns("<|im_start|>", "\n", "<|im_end|>\n"),
    ),
    Fallback(
        "llama3",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        _turns("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
    ),
    Fallback(
        "gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        _by_role(
            user="<start_of_turn>user\n*<end_of_turn>\n",
            assistant="<start_of_turn>model\n*<end_of_turn>\n",
            head="<start_of_turn>model\n",
        ),
    ),
    Fallback(
        "gemma4",
        ("<|turn>", "<turn|>"),
        _by_role(
            user="<|turn>user\n*<turn|>\n",
            assistant="<|turn>model\n*<turn|>\n",
            system="<|turn>system\n*<turn|>\n",
            head="<|turn>model\n",
        ),
    ),
    Fallback(
        "command-r",
        (_COMMAND, "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        _by_role(
            user=f"{_COMMAND}<|USER_TOKEN|>*<|END_OF_TURN_TOKEN|>",
            assistant=f"{_COMMAND}<|CHATBOT_TOKEN|>*<|END_OF_TURN_TOKEN|>",
            system=f"{_COMMAND}<|SYSTEM_TOKEN|>*<|END_OF_TURN_TOKEN|>",
            head=f"{_COMMAND}<|CHATBOT_TOKEN|>",
        ),
    ),
    Fallback(
        "granite",
        ("<|start_of_role|>", "<|end_of_role|>"),
        _turns("<|start_of_role|>", "<|end_of_role|>", "{{ eos_token }}\n"),
    ),
    Fallback(
        "deepseek",
        ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"),
        _by_role(
            user="<\uff5cUser\uff5c>*",
            assistant="<\uff5cAssistant\uff5c>*{{ eos_token }}",
            system="*\n\n",
            head="<\uff5cAssistant\uff5c>",
        ),
    ),
    Fallback(
        "phi",
        ("<|user|>", "<|assistant|>", "<|end|>"),
        _by_role(
            user="<|user|>\n*<|end|>\n",
            assistant="<|assistant|>\n*<|end|>\n",
            system="<|system|>\n*<|end|>\n",
            head="<|assistant|>\n",
        ),
    ),
    Fallback(
        "mistral",
        ("[INST]", "[/INST]"),
        _by_role(user="[INST]*[/INST]", assistant="*{{ eos_token }}", head=""),
    ),
)

PLAIN = Fallback(
    "plain",
    (),
    _by_role(user="User: *\n\n", assistant="Assistant: *\n\n", system="*\n\n", head="Assistant:"),
    ("\nUser:", "\nAssistant:"),
)
"""For models that know nothing of turns."""


def fallback(is_token: Callable[[str], bool]) -> Fallback:
    """The template for a vocabulary; `is_token`: whether a text is one token of it."""
    for one in _TABLE:
        if all(map(is_token, one.markers)):
            return one
    return PLAIN
