from __future__ import annotations

import pytest

from samovar.chat.family import template_family


@pytest.mark.parametrize("source", [None, "", "  \n"])
def test_no_template_has_no_family(source: str | None) -> None:
    assert template_family(source) is None


@pytest.mark.parametrize(
    ("source", "family"),
    [
        ("<|im_start|>", "chatml"),
        ("<|im_start|> <tool_call>", "hermes"),
        ("<|im_start|> <tool_call> <function=", "qwen-xml"),
        ("<|start|> <|channel|> <|message|>", "harmony"),
        ("[INST] <<SYS>>", "llama2"),
        ("[INST]", "mistral"),
        ("<|user|> <|end|>", "phi"),
        ("<|user|> <|assistant|>", "zephyr"),
        ("{{ messages }}", "custom"),
    ],
)
def test_markers_tell_the_family(source: str, family: str) -> None:
    assert template_family(source) == family
