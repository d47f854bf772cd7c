"""A prompt that is said again with log-probabilities: which part of its text each token is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from samovar.api.openai.logprobs import Offsets, Pieces, TextLogprobs, text_logprobs
from samovar.types import TokenLogprobs


@dataclass(frozen=True, slots=True)
class ToldPrompt:
    """The text of a prompt, and where its tokens lie in it."""

    text: str
    tokens: tuple[int, ...]
    offsets: tuple[int, ...]
    """Where each token begins in the text, in characters; and the end."""

    def part(self, start: int, end: int) -> str:
        """The text of some tokens: those of all, one behind the other, are the whole."""
        return self.text[self.offsets[start] : self.offsets[end]]

    def logprobs(self, start: int, scores: Sequence[TokenLogprobs], pieces: Pieces) -> TextLogprobs:
        """In the form of completions, from a token on. The prompt's first token has no score."""
        first = self.tokens[:1] if start == 0 else ()
        end = start + len(first) + len(scores)
        told = text_logprobs(scores, pieces, self.offsets[start + len(first) : end])
        if not first:
            return told
        return TextLogprobs.unscored(first[0], pieces, self.offsets[0]).before(told)


def told_prompt(
    text: str, tokens: Iterable[int], pieces: Pieces, hidden: Collection[int]
) -> ToldPrompt:
    """Find the tokens of a prompt in its text. Those that are hidden have no text in it."""
    ids = tuple(tokens)
    shown = [b"" if token in hidden else pieces[token] for token in ids]
    said = b"".join(shown).decode("utf-8", "replace")
    # Some tokenizers put a blank before a text, which is none of it.
    surplus = len(said) - len(text) if said.endswith(text) else 0
    position = Offsets()
    starts = [position.pass_over(data) - surplus for data in shown]
    ends = [min(max(0, at), len(text)) for at in starts]
    return ToldPrompt(text, ids, (*accumulate(ends, max), len(text)))
