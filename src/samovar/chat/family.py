"""Which family of chat formats a template belongs to, by the markers in its source.

For people (`samovar info`) and for choosing how to read a model's output.
"""

from __future__ import annotations

CUSTOM = "custom"
"""A template of no family known here."""

# The first row whose markers are all in the source; special cases stand before what they extend.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", ("<|start|>", "<|channel|>", "<|message|>")),
    ("llama4", ("<|header_start|>",)),
    ("llama3", ("<|start_header_id|>",)),
    ("gemma", ("<start_of_turn>",)),
    ("gemma4", ("<|turn>",)),
    ("command-r", ("<|START_OF_TURN_TOKEN|>",)),
    ("granite", ("<|start_of_role|>",)),
    ("deepseek", ("<\uff5cAssistant\uff5c>",)),  # full-width bars
    ("kimi", ("<|im_middle|>",)),
    ("minimax", ("]~b]",)),
    ("seed", ("<seed:bos>",)),
    ("glm", ("[gMASK]",)),
    ("glm", ("<|observation|>",)),
    ("llama2", ("[INST]", "<<SYS>>")),
    ("mistral", ("[INST]",)),
    ("phi", ("<|im_sep|>",)),
    ("lfm2", ("<|im_start|>", "<|tool_list_start|>")),
    ("qwen-xml", ("<|im_start|>", "<tool_call>", "<function=")),
    ("hermes", ("<|im_start|>", "<tool_call>")),
    ("chatml", ("<|im_start|>",)),
    ("phi", ("<|user|>", "<|end|>")),
    ("zephyr", ("<|user|>", "<|assistant|>")),
    ("vicuna", ("USER:", "ASSISTANT:")),
    ("alpaca", ("### Instruction", "### Response")),
)

FAMILIES = tuple(dict.fromkeys(name for name, _ in _FAMILIES))
"""Every name that `template_family` may give besides CUSTOM."""


def template_family(source: str | None) -> str | None:
    """The family's name, CUSTOM for none of them, None where there is no template."""
    if not source or not source.strip():
        return None
    for name, markers in _FAMILIES:
        if all(marker in source for marker in markers):
            return name
    return CUSTOM
