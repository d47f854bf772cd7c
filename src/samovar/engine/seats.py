"""The sequence ids of a context: whose cells they are, and what idle ones still hold.

In lanes every id has cells of its own, as many as a sequence may be long. In the pool all ids
share them, and a copied prefix takes none. A finished sequence stays where it is until the room is
needed: the next prompt that begins alike goes on from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from samovar.engine.cells import CellLedger
from samovar.engine.sequence import Adapters, Sequence, common_prefix

LEAST_COPY = 32  # tokens: a shorter prefix is computed again in less time than it takes to copy
LEAST_LOSS = 64  # tokens of an idle sequence that may be thrown away for a prefix of it


@dataclass(frozen=True, slots=True)
class Left:
    """What an idle seat holds."""

    tokens: list[int]
    num_prompt: int
    adapters: Adapters
    salt: str


@dataclass(slots=True, eq=False)
class Seat:
    """One sequence id: held by a running sequence, kept for a session, idle, or empty."""

    seq_id: int
    holder: Sequence | None = None
    session: str | None = None
    adapters: Adapters = ()
    salt: str = ""
    """Only sequences of the same adapters and salt may go on from what it holds."""
    last_used: int = 0
    _left: list[int] = field(default_factory=list)
    _left_prompt: int = 0

    @property
    def tokens(self) -> list[int]:
        """What its cells hold. Not to be changed."""
        if self.holder is not None:
            return self.holder.tokens[: self.holder.num_computed]
        return self._left

    @property
    def known(self) -> list[int]:
        """What its first `num_cells` tokens are the beginning of; not a copy."""
        return self.holder.tokens if self.holder is not None else self._left

    @property
    def num_cells(self) -> int:
        """How many cells it uses."""
        return self.holder.num_computed if self.holder is not None else len(self._left)

    @property
    def num_prompt(self) -> int:
        """How long the prompt was of what it holds."""
        return self._left_prompt if self.holder is None else self.holder.num_prompt

    @property
    def num_regular(self) -> int:
        """How many of its first cells belong to a prompt, but for the prompt's last one.

        None do of one with log-probabilities, which is computed in smaller pieces.
        """
        if self.holder is not None and self.holder.is_scored:
            return 0
        return min(self.num_cells, max(0, self.num_prompt - 1))

    @property
    def is_takeable(self) -> bool:
        """Whether a newcomer may have it, whatever it holds."""
        return self.holder is None and self.session is None

    def leave(self, *, keep: bool) -> None:
        """The holder goes; what it computed stays in the cells, or is gone."""
        assert self.holder is not None
        self._left = self.holder.tokens[: self.holder.num_computed] if keep else []
        self._left_prompt = 0 if self.holder.is_scored else self.holder.num_prompt
        self.holder = None

    def wipe(self) -> None:
        """Its idle cells are gone, and the session that they were kept for has none."""
        assert self.holder is None
        self._left, self.session = [], None

    def forget(self) -> None:
        """What it held has moved away."""
        self._left, self._left_prompt = [], 0

    def fill(self, left: Left) -> None:
        """Idle cells with these tokens are here now."""
        assert self.holder is None
        self._left, self._left_prompt = left.tokens, left.num_prompt
        self.adapters, self.salt = left.adapters, left.salt

    def left(self) -> Left:
        """What `fill` takes."""
        return Left(self.tokens, self.num_prompt, self.adapters, self.salt)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an admitted sequence goes, and which of its tokens are there without computing."""

    sequence: Sequence
    seq_id: int
    source: int | None = None
    """The id whose first `length` cells it begins with; None: it begins empty. The same id as
    `seq_id`: they are there already, and what lies behind them goes."""
    length: int = 0


@dataclass(frozen=True, slots=True)
class Cuts:
    """What can be taken over of a state: any prefix, or nothing but the whole."""

    is_divisible: bool
    grid: int = 1
    """Only so many tokens at a time, and only of prompts: what was computed in other pieces has
    other last bits. 1: every token will do."""

    def most(self, sequence: Sequence) -> int:
        """How many of its first tokens a sequence need not compute itself.

        Logits come from computing, and so do log-probabilities of its prompt; where every bit
        counts, a prompt that has some is computed in pieces of its own.
        """
        if sequence.is_scored and self.grid > 1:
            return 0
        return sequence.num_scored - 1 if sequence.awaits_scores else sequence.num_tokens

    def usable(self, known: list[int], held: int, num_regular: int, tokens: list[int]) -> int:
        """With how many of the first `held` of `known` a sequence of `tokens` can begin.

        One token is left to compute, because logits come from computing. Of those held, the first
        `num_regular` were computed in pieces of the grid.
        """
        shared = min(common_prefix(known, tokens), held, len(tokens) - 1)
        if self.grid > 1:
            shared = min(shared, num_regular) // self.grid * self.grid
        return shared if self.is_divisible or shared == held else 0


class Seats:
    """All sequence ids, who sits where, and where a newcomer is best put.

    `ledger` is there in the pool only: in lanes, a seat is all the room there is.
    """

    def __init__(self, count: int, cuts: Cuts, ledger: CellLedger | None = None) -> None:
        self.all = [Seat(seq_id) for seq_id in range(count)]
        self.cuts = cuts
        self.ledger = ledger
        self.emptied: list[int] = []
        """Ids whose cells are to be removed from the context before anything else is done."""
        self._uses = 0

    def __iter__(self) -> Iterator[Seat]:
        return iter(self.all)

    def __getitem__(self, seq_id: int) -> Seat:
        return self.all[seq_id]

    @property
    def is_pool(self) -> bool:
        """Whether the cells are shared."""
        return self.ledger is not None

    def of_session(self, name: str | None) -> Seat | None:
        """The seat that is kept for a session."""
        if name is None:
            return None
        return next((seat for seat in self.all if seat.session == name), None)

    @property
    def has_free(self) -> bool:
        """Whether anybody could be seated at all."""
        return any(seat.holder is None for seat in self.all)

    # ---- choosing -----------------------------------------------------------------------------

    def place(self, sequence: Sequence) -> Placement | None:
        """Where the sequence goes; None: there is no seat to be had."""
        own = self.of_session(sequence.request.session)
        if own is not None:
            return None if own.holder is not None else self._in_place(sequence, own)
        takeable = [seat for seat in self.all if seat.is_takeable]
        if not takeable:
            return None
        here = max(takeable, key=lambda seat: (self._usable(seat, sequence), -seat.seq_id))
        best = max(self.all, key=lambda seat: (self._usable(seat, sequence), seat is here))
        kept, found = self._usable(here, sequence), self._usable(best, sequence)
        if kept and found - kept < LEAST_COPY and here.num_cells - kept <= max(LEAST_LOSS, kept):
            return Placement(sequence, here.seq_id, here.seq_id, kept)
        target = self._cheapest(takeable, besides=best)
        if found >= LEAST_COPY and target is not None:
            return Placement(sequence, target.seq_id, best.seq_id, found)
        if kept:
            return Placement(sequence, here.seq_id, here.seq_id, kept)
        least = self._cheapest(takeable, besides=None)
        return None if least is None else Placement(sequence, least.seq_id)

    def vacant(self, sequence: Sequence) -> int | None:
        """Where a sequence goes that brings all its cells along: what is there goes."""
        own = self.of_session(sequence.request.session)
        if own is not None:
            return None if own.holder is not None else own.seq_id
        least = self._cheapest([seat for seat in self.all if seat.is_takeable], besides=None)
        return None if least is None else least.seq_id

    def _in_place(self, sequence: Sequence, seat: Seat) -> Placement:
        kept = self._usable(seat, sequence)
        return Placement(sequence, seat.seq_id, seat.seq_id if kept else None, kept)

    def _usable(self, seat: Seat, sequence: Sequence) -> int:
        if not seat.num_cells or seat.salt != sequence.salt or seat.adapters != sequence.adapters:
            return 0
        held, most = seat.num_cells, self.cuts.most(sequence)
        if most < held:
            held = most if self.cuts.is_divisible else 0
        return self.cuts.usable(seat.known, held, seat.num_regular, sequence.tokens) if held else 0

    @staticmethod
    def _cheapest(seats: list[Seat], besides: Seat | None) -> Seat | None:
        """An empty one with the lowest id, which keeps lanes packed; else the longest unused."""
        rest = [seat for seat in seats if seat is not besides]
        if not rest:
            return None
        return min(
            rest, key=lambda s: (s.num_cells > 0, s.last_used if s.num_cells else 0, s.seq_id)
        )

    # ---- sitting down and getting up ----------------------------------------------------------

    def take(self, placement: Placement) -> None:
        """The sequence sits there from now on; it has been told how much is computed."""
        seat = self.all[placement.seq_id]
        sequence = seat.holder = placement.sequence
        seat.adapters, seat.salt = sequence.adapters, sequence.salt
        seat.session = sequence.request.session
        self.touch(seat)

    def empty(self, seat: Seat) -> None:
        """Give up idle cells. The engine removes them from the context (`emptied`)."""
        seat.wipe()
        self.emptied.append(seat.seq_id)
        if self.ledger is not None:
            self.ledger.cut(seat.seq_id, 0)

    def touch(self, seat: Seat) -> None:
        """It was used just now."""
        self._uses += 1
        seat.last_used = self._uses

    def move(self, source: Seat, target: Seat) -> None:
        """The holder of one seat goes to another, which is empty; its session goes along."""
        assert source.holder is not None
        target.holder, source.holder = source.holder, None
        target.session, source.session = source.session, None
        target.adapters, target.salt = source.adapters, source.salt
        target.holder.seq_id = target.seq_id
        source.forget()
        self.touch(target)

    def idle(self) -> list[Seat]:
        """Seats with cells and without a holder, the longest unused first; sessions last."""
        found = [seat for seat in self.all if seat.holder is None and seat.num_cells]
        return sorted(found, key=lambda seat: (seat.session is not None, seat.last_used))
