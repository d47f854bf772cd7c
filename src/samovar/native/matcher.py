"""How far one sequence has come in a grammar, and what may come next.

A token matches by its bytes, markup like `<think>` included; control tokens match only where the
grammar names them, and an end of generation only where the text is complete with it. Every
spelling of a text is allowed, whether or not the tokenizer would have chosen it; what `forced`
tells is spelt as the tokenizer spells it.
"""

from __future__ import annotations

from collections.abc import Callable

import llguidance
import numpy as np
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from samovar.errors import GrammarRejected, InvalidToken
from samovar.native.pieces import Pieces

_CONTROL = b"\xff"  # what stands for a control token among forced bytes


class Matcher:
    """One sequence in a grammar. One thread uses it at a time.

    Everything but `forced` raises GrammarRejected once the grammar turns out to lead nowhere, or
    to be too much work for llguidance's limits. It would otherwise pass for one that has ended.
    `names_tokens`: whether the grammar may name control tokens. `use_up` is called when the states
    that all matchers of a grammar share have run out.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        pieces: Pieces,
        use_up: Callable[[], None] = lambda: None,
        *,
        names_tokens: bool = True,
    ) -> None:
        self._matcher = matcher
        self._pieces = pieces
        self._names_tokens = names_tokens
        self._use_up = use_up
        self._size = pieces.vocabulary.size
        self._ends = pieces.vocabulary.eog_tokens
        self._end_rows = np.array(self._ends)
        self._bits = allocate_token_bitmask(1, self._size)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. A few microseconds, whatever the vocabulary."""
        if self._matcher.is_stopped():  # validate_tokens then refuses the ends as well
            self._require_sound()
            return token in self._ends
        if not 0 <= token < self._size:
            return False
        if self._matcher.validate_tokens([token]) == 1:
            return True
        self._require_sound()
        return self._names_tokens and token in self._ends and self._completes(token)

    def mask(self) -> np.ndarray:
        """Which tokens may come next: bool, one per token of the vocabulary."""
        fill_next_token_bitmask(self._matcher, self._bits, 0)
        self._require_sound()  # in error, the mask would be that of a grammar that has ended
        octets = self._bits.view(np.uint8).reshape(-1)
        mask = np.unpackbits(octets, count=self._size, bitorder="little").view(np.bool_)
        if self._names_tokens and mask[self._end_rows].any() and not self._matcher.is_accepting():
            for end in self._ends:  # which the grammar names, perhaps with more text behind it
                mask[end] = mask[end] and self._completes(end)
        return mask

    def forced(self, limit: int) -> list[int]:
        """The tokens that must come next, in order, at most `limit`; changes nothing.

        They are the ones that the tokenizer makes of the text that must come, and makes of it
        however that goes on. Empty where the text may end or go on differently. Never the end of
        generation, and never an error: what has failed is found when it is used.
        """
        if limit <= 0:
            return []
        # The question makes llguidance take a last token that is named for an error. A copy takes
        # long: 0.04 ms after a thousand tokens.
        matcher = self._matcher.deep_copy() if self._names_tokens else self._matcher
        data = matcher.compute_ff_bytes()
        if not data:
            return []
        text, control, _ = data.partition(_CONTROL)
        if not text:
            tokens = [t for t in matcher.compute_ff_tokens()[:1] if t not in self._ends]
        else:
            whole, tokens = self._pieces.spell(text)
            if len(tokens) < len(whole) and (control or self._ends_with(whole)):
                tokens = whole
        return tokens[: min(limit, self._matcher.validate_tokens(tokens))]

    def _completes(self, end: int) -> bool:
        """Whether the text is complete with this end, which the grammar then names."""
        ahead = self._matcher.deep_copy()
        return bool(ahead.consume_token(end) and (ahead.is_accepting() or ahead.is_stopped()))

    def _ends_with(self, tokens: list[int]) -> bool:
        """Whether nothing may come after these."""
        ahead = self._matcher.deep_copy()
        return bool(ahead.try_consume_tokens(tokens) == len(tokens) and ahead.is_stopped())

    def consume(self, token: int) -> None:
        """Go on by one token. Raises InvalidToken, and stays where it was, if it is not allowed.

        Asking first matters: a refused token would leave llguidance in an error it never leaves.
        """
        if not self.allows(token):
            raise InvalidToken(f"the grammar does not allow token {token} here")
        if not self._matcher.consume_token(token):
            self._require_sound()
            raise InvalidToken(f"the grammar does not allow token {token} here")

    def _require_sound(self) -> None:
        if not self._matcher.is_error():
            return
        reason = (self._matcher.get_error() or "").partition("\n")[0].partition(" <non-")[0]
        if "too many states" in reason:
            self._use_up()
        if not reason or reason.startswith("NoExtension"):
            reason = "it matches no text at all"
        raise GrammarRejected(
            f"the grammar cannot be followed further: {reason[:200]}; simplify it, and give long"
            " lists of literals a rule of their own"
        )
