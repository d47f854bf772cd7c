"""The tokenizer: byte-level BPE, trained on the corpus, split as llama.cpp's `qwen2` splits.

Every digit is a token of its own, which is what makes sums learnable at this size.
"""

from __future__ import annotations

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.corpus.document import DIVIDER, END, START, segments
from training.corpus.mixture import documents

SIZE = 2048
PRE = "qwen2"
CONTROL = (DIVIDER, START, END)
MARKS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
)  # fmt: skip
"""Tokens that are text to a reader: the model writes them and they are shown."""

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SAMPLE_DOCUMENTS = 20_000
"""Enough to meet every word of the small world many times."""


def trained(seed: int) -> Tokenizer:
    """The tokenizer of a seed's corpus."""
    tokenizer = _around(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=_added(),
    )
    texts = (
        "".join(segment.text for segment in segments(document))
        for document in documents(seed, _SAMPLE_DOCUMENTS)
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def rebuilt(texts: list[str], merged: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer of a model file, of its texts by their ids and its merges."""
    ids = {text: number for number, text in enumerate(texts)}
    tokenizer = _around(models.BPE(vocab=ids, merges=merged))
    # Texts that are in the vocabulary keep their ids.
    tokenizer.add_special_tokens(_added())
    return tokenizer


def _around(model: models.BPE) -> Tokenizer:
    """A model between what splits text for it and what joins its texts."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _added() -> list[AddedToken]:
    """What is never split, the control tokens first."""
    return [
        *(AddedToken(text, special=True, normalized=False) for text in CONTROL),
        *(AddedToken(text, special=False, normalized=False) for text in MARKS),
    ]


def merges(tokenizer: Tokenizer) -> list[str]:
    """The merges as a model file lists them."""
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(merge) if isinstance(merge, list) else merge for merge in found]
