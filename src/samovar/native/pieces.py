"""A vocabulary as llguidance wants it: the bytes of every token, and how a text is spelt."""

from __future__ import annotations

import llguidance

from samovar.errors import OperationUnsupported
from samovar.native.vocabulary import Vocabulary

# SentencePiece puts a space before a text. Behind this, which is a token of its own, it does not.
_BEFORE = b"\x02"


class Pieces:
    """A vocabulary in the shape that llguidance.TokenizerWrapper asks for.

    Control and unknown tokens have no text of their own. What stands for them begins with 0xFF,
    which never begins a text.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = vocabulary.eog_tokens[0]
        self.bos_token_id = vocabulary.bos
        texts = ((token, vocabulary.piece(token)) for token in range(vocabulary.size))
        self.tokens = [
            piece or b"\xff" + vocabulary.piece(token, special=True) for token, piece in texts
        ]
        self.special_token_ids = [
            token for token, piece in enumerate(self.tokens) if piece.startswith(b"\xff<")
        ]
        self._before = b""
        if vocabulary.detokenize(self(b"a")) != b"a":
            self._before = _BEFORE
        self._skipped = len(self._tokenize(self._before))

    def __call__(self, text: str | bytes) -> list[int]:
        """The ids of a text that goes on from another one."""
        data = text.encode() if isinstance(text, str) else text
        if not self._before:
            return self._tokenize(data)
        return self._tokenize(self._before + data)[self._skipped :]

    def _tokenize(self, data: bytes) -> list[int]:
        return self._vocabulary.tokenize(data, add_special=False)


def tokenizer(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    """The vocabulary, ready for grammars: up to 2 s by its size.

    Raises OperationUnsupported for one in which no text could ever end.
    """
    ends = list(vocabulary.eog_tokens)
    if not ends:
        raise OperationUnsupported(
            "this vocabulary has no end-of-generation token, so a grammar could never end"
        )
    wrapper = llguidance.TokenizerWrapper(Pieces(vocabulary))
    return llguidance.LLTokenizer(wrapper, eos_token=ends)
