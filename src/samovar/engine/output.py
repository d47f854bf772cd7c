"""What a choice has said: tokens in, text out, and whether it is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from samovar.chat.detokenizer import Detokenizer
from samovar.chat.stopping import StopStrings
from samovar.types import FinishReason


class Ending(msgspec.Struct, frozen=True):
    """Why a choice is over, and the stop string or token that ended it, if one did."""

    reason: FinishReason
    stop: str | int | None = None


class Said(msgspec.Struct, frozen=True):
    """The text that became sure with a token, and the end if that was one."""

    text: str
    ending: Ending | None = None


class Output:
    """The text of one choice, without its stop strings and never with half a character.

    `ends` are texts that end it like `stop`, but are not named: nobody asked for them.
    """

    def __init__(
        self,
        pieces: Callable[[Sequence[int]], bytes],
        stop: Sequence[str] = (),
        stop_tokens: Sequence[int] = (),
        ends: Sequence[str] = (),
    ) -> None:
        self._pieces = pieces
        self._detokenizer = Detokenizer()
        self._stops = StopStrings([*stop, *ends])
        self._ends = frozenset(ends) - frozenset(stop)
        self._stop_tokens = frozenset(stop_tokens)

    def feed(self, token: int, *, is_eog: bool) -> Said:
        """One more token. An end-of-generation or stop token says nothing and ends the choice."""
        if is_eog or token in self._stop_tokens:
            stop = None if is_eog and token not in self._stop_tokens else token
            return Said(self.flush(), Ending("stop", stop))
        text = self._detokenizer.feed(self._pieces([token]))
        if self._stops.is_empty:
            return Said(text)
        passed = self._stops.feed(text)
        if passed.stop is not None:
            named = None if passed.stop in self._ends else passed.stop
            return Said(passed.text, Ending("stop", named))
        return Said(passed.text)

    def flush(self) -> str:
        """What was held back, when nothing more will come."""
        passed = self._stops.feed(self._detokenizer.flush())
        return passed.text + self._stops.flush()
