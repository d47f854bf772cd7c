"""The bytes of token ids, for dialects that tell log-probabilities.

Workers know them; what they told is remembered for as long as a model stays loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request

from samovar.ipc.messages import Ready
from samovar.server.served import Served
from samovar.types import Event, ReasoningDelta, TextDelta, TokenLogprobs


class KnownPieces:
    """What workers told, by model. At most as much as their vocabularies hold."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Ready, dict[int, bytes]]] = {}

    async def of(self, served: Served, name: str, tokens: Iterable[int]) -> dict[int, bytes]:
        """The bytes of these ids. Raises what asking a model raises."""
        ready = await served.ready(name)
        was, known = self._known.get(name, (ready, {}))
        if was is not ready:  # loaded anew, and perhaps from another file
            known = {}
        self._known[name] = ready, known
        wanted = set(tokens)
        missing = sorted(wanted - known.keys())
        if missing:
            told: list[bytes] = await served.ask(name, "pieces", tokens=missing)
            known.update(zip(missing, told, strict=True))
        return {token: known[token] for token in wanted}


def known_pieces(request: Request) -> KnownPieces:
    """Those of the application; for `Depends`."""
    state = request.app.state
    if not hasattr(state, "pieces"):
        state.pieces = KnownPieces()
    found: KnownPieces = state.pieces
    return found


@dataclass(slots=True)
class PiecesOf:
    """The bytes of ids that one answer needs."""

    known: KnownPieces
    served: Served
    name: str
    here: dict[int, bytes] = field(default_factory=dict)

    async def ahead_of(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The same events; before one comes, every id that its log-probabilities name is `here`."""
        async with aclosing(events) as stream:  # type: ignore[type-var]
            async for event in stream:
                if isinstance(event, TextDelta | ReasoningDelta) and event.logprobs:
                    missing = _ids(event.logprobs) - self.here.keys()
                    if missing:
                        self.here |= await self.known.of(self.served, self.name, missing)
                yield event


def _ids(logprobs: Iterable[TokenLogprobs]) -> set[int]:
    return {token for one in logprobs for token in (one.token, *(other for other, _ in one.top))}
