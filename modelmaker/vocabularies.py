"""Choosing a vocabulary by name, by path, or for a kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modelmaker.bpe_vocabulary import bpe_vocabulary
from modelmaker.copied_vocabulary import copied_vocabulary
from modelmaker.spm_vocabulary import spm_vocabulary
from modelmaker.vocabulary import Vocabulary
from modelmaker.wpm_vocabulary import wpm_vocabulary

VOCABULARIES: dict[str, Callable[[int], Vocabulary]] = {
    "bpe": bpe_vocabulary,
    "spm": spm_vocabulary,
    "wpm": wpm_vocabulary,
}
"""The vocabularies made here, by name; each is made in the size asked for."""


def vocabulary_for(vocab: str | Path | Vocabulary, size: int) -> Vocabulary:
    """The vocabulary of that name in that size, or the one in the GGUF file of that path.

    One that is made already is taken as it is.
    """
    if isinstance(vocab, Vocabulary):
        return vocab
    made = VOCABULARIES.get(str(vocab))
    return copied_vocabulary(Path(vocab)) if made is None else made(size)
