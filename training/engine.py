"""A model file that answers, for the scripts that measure it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.types import SamplingParams
from training.corpus.document import Conversation, prompt_text

_LONGEST_ANSWER = 300
"""Tokens; the longest story has about half of it."""


class Engine:
    """Prompts to texts and scores."""

    def __init__(self, backend: LlamaBackend) -> None:
        self.backend = backend

    def encode(self, text: str) -> list[int]:
        """The ids of rendered text."""
        return self.backend.tokenize(text, add_special=False, parse_special=True)

    def generate(
        self, text: str, params: SamplingParams, limit: int = _LONGEST_ANSWER
    ) -> list[int]:
        """The ids written after a rendered text, the end excluded."""
        backend = self.backend
        backend.seq_rm(0)
        backend.configure_sampler(params)
        backend.prefill(self.encode(text))
        written: list[int] = []
        while len(written) < limit:
            sampled = backend.decode_one()
            if sampled.is_eog:
                break
            written.append(sampled.token)
        return written

    def write(self, text: str, params: SamplingParams) -> str:
        """The text written after a rendered text."""
        return self.backend.detokenize(self.generate(text, params)).decode("utf-8", "replace")

    def answer(self, conversation: Conversation) -> str:
        """The greedy last answer of a conversation, marks of reasoning and calls included."""
        return self.write(prompt_text(conversation), SamplingParams())

    def scores(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """After each of the ids, the logits of the next one."""
        self.backend.seq_rm(0)
        rows = []
        for token in ids:
            self.backend.prefill([token])
            rows.append(self.backend.logits(0))
        return np.stack(rows)


@contextmanager
def opened(
    path: Path, *, adapter: Path | None = None, threads: int = 1, is_exact: bool = False
) -> Iterator[Engine]:
    """The model of a file, with its whole context, and perhaps an adapter.

    Exact: without flash attention, which rounds to F16 on the way, and with keys and values as
    they are. Without it logits move by some hundredths.
    """
    options = ContextOptions(context_length=2048, threads=threads)
    if is_exact:
        options = replace(options, flash_attention="off", type_k="f32", type_v="f32")
    backend = LlamaBackend.open(path, context=options, proves_state=False)
    try:
        if adapter is not None:
            backend.apply_adapters([(backend.load_adapter(adapter), 1.0)])
        yield Engine(backend)
    finally:
        backend.close()


def log_softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores as log-probabilities, row by row."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
