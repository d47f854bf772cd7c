"""The bytes of token ids, for dialects that tell log-probabilities.

Workers know them; what they told is remembered for as long as a model stays loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import NamedTuple

import msgspec
from fastapi import Request

from samovar.ipc.messages import Ready
from samovar.server.served import Served
from samovar.types import Burst, Event, PromptScores, ReasoningDelta, TextDelta, TokenLogprobs


class Piece(NamedTuple):
    """What an id stands for."""

    text: bytes
    is_shown: bool
    """Whether text shows it: control tokens are not."""


class KnownPieces:
    """What workers told, by model. At most as much as their vocabularies hold."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Ready, dict[int, Piece]]] = {}

    async def of(self, served: Served, name: str, tokens: Iterable[int]) -> dict[int, Piece]:
        """The pieces of these ids. Raises what asking a model raises."""
        ready = await served.ready(name)
        was, known = self._known.get(name, (ready, {}))
        if was is not ready:  # loaded anew, and perhaps from another file
            known = {}
        self._known[name] = ready, known
        wanted = set(tokens)
        missing = sorted(wanted - known.keys())
        if missing:
            told = await served.ask(name, "pieces", tokens=missing)
            known.update((token, Piece(*one)) for token, one in zip(missing, told, strict=True))
        return {token: known[token] for token in wanted}


def known_pieces(request: Request) -> KnownPieces:
    """Those of the application."""
    state = request.app.state
    if not hasattr(state, "pieces"):
        state.pieces = KnownPieces()
    found: KnownPieces = state.pieces
    return found


class PiecesOf:
    """The bytes of ids that one answer needs."""

    def __init__(self, known: KnownPieces, served: Served, name: str) -> None:
        self._known = known
        self._served = served
        self._name = name
        self.hidden: set[int] = set()
        """Those of them that no text shows."""
        self.here: dict[int, bytes] = {}
        """Every id that the log-probabilities of an event name, before it comes."""

    async def ahead_of(self, bursts: AsyncIterator[Burst]) -> AsyncIterator[Burst]:
        """The same events, without the log-probabilities of tokens that no text shows.

        Those are control tokens, such as the one that ends an answer.
        """
        async with aclosing(bursts) as stream:  # type: ignore[type-var]
            async for burst in stream:
                yield [await self._looked_up(event) for event in burst]

    async def _looked_up(self, event: Event) -> Event:
        if isinstance(event, TextDelta | ReasoningDelta) and event.logprobs:
            await self.look_up(_ids(event.logprobs))
            shown = tuple(one for one in event.logprobs if one.token not in self.hidden)
            return msgspec.structs.replace(event, logprobs=shown)
        if isinstance(event, PromptScores):
            await self.look_up(_ids(event.logprobs))
        return event

    async def look_up(self, tokens: set[int]) -> None:
        """Have the pieces of some ids here. Raises what asking a model raises."""
        missing = tokens - self.here.keys()
        if not missing:
            return
        found = await self._known.of(self._served, self._name, missing)
        self.here.update((token, piece.text) for token, piece in found.items())
        self.hidden.update(token for token, piece in found.items() if not piece.is_shown)


def _ids(logprobs: Iterable[TokenLogprobs]) -> set[int]:
    return {token for one in logprobs for token in (one.token, *(other for other, _ in one.top))}
