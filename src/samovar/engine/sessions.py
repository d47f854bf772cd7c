"""Sequences that are kept between requests under a name.

A session is the tokens of its last request, and as long as there is room also their cells: its
sequence is nobody else's until others need it, the longest unused first. A session whose cells
were taken goes on from its tokens, which are computed again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from samovar.engine.scheduler import Scheduler
from samovar.engine.sequence import Sequence, common_prefix
from samovar.errors import InvalidRequest, SessionBusy, SessionNotFound, TranscriptMismatch
from samovar.types import GenerateRequest

MAX_SESSIONS = 1024  # remembered; each is a list of ids, and clients forget to end theirs


@dataclass(slots=True)
class _Session:
    tokens: list[int]
    is_busy: bool = False


class Sessions:
    """The sessions of one engine, by name."""

    def __init__(self, scheduler: Scheduler, limit: int = MAX_SESSIONS) -> None:
        self._scheduler = scheduler
        self._limit = limit
        self._all: OrderedDict[str, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, name: str) -> bool:
        return name in self._all

    def tokens(self, name: str) -> list[int]:
        """What a session holds: prompts, answers and end tokens. Raises SessionNotFound."""
        return list(self._known(name).tokens)

    def listed(self) -> list[dict[str, Any]]:
        """What there is, the longest unused first: names, numbers of tokens, who is busy."""
        return [
            {"name": name, "tokens": len(one.tokens), "is_busy": one.is_busy}
            for name, one in self._all.items()
        ]

    def prompt(self, request: GenerateRequest, tokens: list[int]) -> list[int]:
        """The whole prompt of a request: what the session holds comes first when it continues.

        Raises SessionBusy, SessionNotFound and TranscriptMismatch; the session is unchanged then.
        """
        if request.session is None:
            return tokens
        session = self._all.get(request.session)
        if session is not None and session.is_busy:
            raise SessionBusy("another request runs on this session; wait for its end")
        if not request.continues:
            return tokens
        session = self._known(request.session)
        if request.expect_committed is not None:
            _require_same(session.tokens, list(request.expect_committed))
        return session.tokens + tokens

    def begin(self, request: GenerateRequest) -> None:
        """A request runs on its session from now on."""
        if request.session is None:
            return
        session = self._all.setdefault(request.session, _Session([]))
        session.is_busy = True
        self._all.move_to_end(request.session)
        while len(self._all) > self._limit and self._forget_oldest():
            pass

    def keep(self, sequence: Sequence) -> None:
        """The request ended well or was cancelled: this is what its session holds now."""
        name = sequence.request.session
        if name is not None:
            self._all[name].tokens = list(sequence.tokens)

    def release(self, request: GenerateRequest) -> None:
        """The request ended, however."""
        if request.session is not None and request.session in self._all:
            self._all[request.session].is_busy = False
            if not self._all[request.session].tokens:  # its first request failed
                self._unpin(request.session)
                del self._all[request.session]

    def fork(self, source: str, target: str) -> None:
        """A new session that holds the same. Its cells are copied when it is first used.

        Raises SessionNotFound, SessionBusy, and InvalidRequest if the new name is in use.
        """
        session = self._idle(source)
        if target in self._all:
            raise InvalidRequest("there is a session of that name; end it first")
        self._all[target] = _Session(list(session.tokens))

    def end(self, name: str) -> None:
        """Forget a session; its cells are free for others. Raises SessionNotFound, SessionBusy."""
        self._idle(name)
        self._unpin(name)
        del self._all[name]

    def _known(self, name: str) -> _Session:
        session = self._all.get(name)
        if session is None:
            raise SessionNotFound("there is no such session; send the whole prompt instead")
        return session

    def _idle(self, name: str) -> _Session:
        session = self._known(name)
        if session.is_busy:
            raise SessionBusy("a request runs on this session; cancel it or wait for its end")
        return session

    def _forget_oldest(self) -> bool:
        for name, session in self._all.items():
            if not session.is_busy:
                self._unpin(name)
                del self._all[name]
                return True
        return False

    def _unpin(self, name: str) -> None:
        seats = self._scheduler.seats
        seat = seats.of_session(name)
        if seat is None:
            return
        seat.session = None
        if seats.is_pool:
            seats.empty(seat)


def _require_same(held: list[int], expected: list[int]) -> None:
    if held == expected:
        return
    at = common_prefix(held, expected)
    raise TranscriptMismatch(
        f"the session holds {len(held)} tokens and {len(expected)} were expected; they differ from"
        f" token {at} on: send the whole prompt instead"
    )
