"""Conversations: turns that go on, fork and part from what was said, over restarts of everything.

A turn says what it begins with by number, and which turn that is, is known when it is reached: the
answers decide what there is to go on from. Everything is drawn before anything happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from hypothesis import strategies as st

from samovar.config import SAVE_MOMENTS
from samovar.engine.engine import EngineOptions
from samovar.engine.sequence import common_prefix
from samovar.native.interface import StateKind
from samovar.native.weightless import WeightlessBackend
from samovar.types import Finished, GenerateRequest
from tests.engine.builders import FAULTS, KINDS, MOST_STEPS, Fault, Model, Trial, block, request
from tests.engine.cached import PLENTY, Place, check_chains, place, transfer_of
from tests.engine.scenarios import judge

CONTEXT = 320
ADAPTERS = ((), (), (), (), (), (), (("x", 1.0),), (("x", 0.5),), (("y", 0.5), ("x", 1.0)))


@dataclass(frozen=True)
class Turn:
    """A request, and what it goes on from."""

    base: int = 0
    """Which of the texts so far it begins with; 0: none."""
    keeps: float = 1.0
    """How much of that."""
    changes_at: float | None = None
    """Where one token of it is another one: the same text in other ids."""
    fresh: tuple[int, int] = (0, 20)
    """Which new tokens follow, and how many."""
    max_tokens: int = 6
    temperature: float = 0.0
    choices: int = 1
    tenant: str = ""
    cache_salt: str | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    session: str | None = None
    continues: bool = False
    is_stored: bool = True
    prefill_only: bool = False
    comes: int = 0
    cancels: int | None = None

    def prompt(self, texts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Its tokens."""
        before = texts[self.base % (len(texts) + 1) - 1] if self.base % (len(texts) + 1) else ()
        before = before[: int(len(before) * self.keeps)]
        if self.changes_at is not None and before:
            at = int((len(before) - 1) * self.changes_at)
            before = (*before[:at], (before[at] + 100) % 250, *before[at + 1 :])
        which, length = self.fresh
        return (*before[: CONTEXT - 60], *block(which, length)) or (which,)


Wave = tuple[Turn, ...]
"""Turns at the same time, of different sessions."""


@dataclass(frozen=True)
class Life:
    """What happens between two starts of an engine and its cache on the same directory."""

    waves: tuple[Wave, ...]
    is_crash: bool = False
    """It ends without any closing; what was not written is lost."""
    faults: tuple[Fault | None, ...] = ()
    """What its decode calls come to."""


@dataclass(frozen=True)
class Cast:
    """An engine, its cache, and when file work is done."""

    kind: StateKind = StateKind.DIVISIBLE
    num_cells: int | None = None
    num_sequences: int = 4
    batch_size: int = 64
    is_deterministic: bool = False
    work: tuple[int, ...] = (3,)
    """How many things the hand that does the file work does after each step, in turn."""
    settings: tuple[tuple[str, object], ...] = ()

    @property
    def model(self) -> Model:
        """What decides the answers."""
        return Model(CONTEXT if self.num_cells is None else min(CONTEXT, self.num_cells), 5.0)

    def start(self, where: Place) -> Trial:
        """An engine on what the place holds."""
        backend = WeightlessBackend(
            state_kind=self.kind,
            context_length=CONTEXT,
            num_sequences=self.num_sequences,
            num_cells=self.num_cells,
            batch_size=self.batch_size,
            end_bias=5.0,
        )
        cache = where.open(backend, is_deterministic=self.is_deterministic)
        trial = Trial(backend, EngineOptions(is_deterministic=self.is_deterministic), cache=cache)
        for name in ("x", "y"):
            trial.engine.load_adapter(name, name)
        return trial


@dataclass
class Told:
    """What came of a conversation."""

    restored: dict[str, int] = field(default_factory=dict)
    """Tokens by tier."""
    counters: list[dict[str, object]] = field(default_factory=list)
    """Of each life."""


@dataclass(frozen=True)
class Conversation:
    """All that happens."""

    cast: Cast
    lives: tuple[Life, ...]

    def play(self) -> Told:
        """Let it happen, and require of every answer that it is the one without a cache."""
        with place(**dict(self.cast.settings)) as where:
            return _Play(self.cast, where).play(self.lives)


class _Play:
    """A conversation while it happens."""

    def __init__(self, cast: Cast, where: Place) -> None:
        self._cast = cast
        self._where = where
        self._texts: list[tuple[int, ...]] = []
        self._computed: dict[object, list[tuple[int, ...]]] = {}
        """Whatever was computed in all lives, by who may see it and under which adapters."""
        self._names = (f"r{i}" for i in count())
        self._steps = count()
        self.told = Told()

    def play(self, lives: Sequence[Life]) -> Told:
        for life in lives:
            trial = self._cast.start(self._where)
            assert trial.cache is not None
            trial.faults.extend(life.faults)
            for wave in life.waves:
                self._wave(trial, wave)
            if life.is_crash:
                transfer_of(trial.cache.store).crash()
            else:
                assert not trial.engine.close()
            assert trial.cache.store.close()
            self.told.counters.append(trial.cache.store.counters.as_dict())
        return self.told

    def _wave(self, trial: Trial, wave: Wave) -> None:
        asked: list[tuple[Turn, GenerateRequest, tuple[int, ...]]] = []
        for at in range(1 + max(max(turn.comes, turn.cancels or 0) for turn in wave)):
            asked += [self._submit(trial, turn) for turn in wave if turn.comes == at]
            for turn, one, _ in asked:
                if turn.cancels == at:
                    trial.cancel(one.request_id)
            self._step(trial)
        for _ in range(MOST_STEPS):
            if trial.engine.is_idle:
                break
            self._step(trial)
        trial.finish()
        assert trial.cache is not None
        check_chains(trial.cache.store)
        for turn, one, before in asked:
            self._judge(trial, turn, one, before)
        texts = [self._said(trial, one, before) for _, one, before in asked]
        for at, (_, one, before) in enumerate(asked):
            others = [
                text
                for other, (_, by, _) in enumerate(asked)
                if other != at and _sees(by) == _sees(one)
                for text in texts[other]
            ]
            self._count(trial, one, before, [*self._computed.get(_sees(one), []), *others])
        for (_, one, _), said in zip(asked, texts, strict=True):
            self._computed.setdefault(_sees(one), []).extend(said)
            self._texts += said

    def _step(self, trial: Trial) -> None:
        assert trial.cache is not None
        trial.step()
        work = self._cast.work
        transfer_of(trial.cache.store).work(work[next(self._steps) % len(work)])

    def _submit(self, trial: Trial, turn: Turn) -> tuple[Turn, GenerateRequest, tuple[int, ...]]:
        sessions, before = trial.engine.sessions, ()
        continues = turn.continues and turn.session is not None and turn.session in sessions
        if continues:
            assert turn.session is not None
            before = tuple(sessions.tokens(turn.session))
            continues = len(before) + turn.fresh[1] < self._cast.model.room - 30
        which, length = turn.fresh
        prompt = block(which, length) if continues else turn.prompt(self._texts)
        if not continues:
            prompt, before = prompt[: self._cast.model.room - 30], ()
        asked = request(
            next(self._names),
            prompt,
            max_tokens=turn.max_tokens,
            temperature=turn.temperature,
            choices=1 if turn.session else min(turn.choices, self._cast.num_sequences),
            tenant=turn.tenant,
            cache_salt=turn.cache_salt,
            adapters=turn.adapters,
            session=turn.session,
            continues=continues,
            is_stored=turn.is_stored,
            prefill_only=turn.prefill_only,
        )
        trial.submit(asked)
        return turn, asked, before

    def _judge(
        self, trial: Trial, turn: Turn, asked: GenerateRequest, before: tuple[int, ...]
    ) -> None:
        answer = trial.answers[asked.request_id]
        if asked.prefill_only and asked.request_id in trial.excused:
            return  # it says nothing, and ends however its decode calls were made to
        judge(
            asked,
            answer,
            self._cast.model,
            before=before,
            was_cancelled=turn.cancels is not None,
            may_break=asked.request_id in trial.excused,
        )

    @staticmethod
    def _said(
        trial: Trial, asked: GenerateRequest, before: tuple[int, ...]
    ) -> list[tuple[int, ...]]:
        """What was computed for a request: its prompt and the answer of each choice."""
        assert isinstance(asked.prompt, tuple)
        answer = trial.answers[asked.request_id]
        return [(*before, *asked.prompt, *answer.tokens(choice)) for choice in range(asked.choices)]

    def _count(
        self,
        trial: Trial,
        asked: GenerateRequest,
        before: tuple[int, ...],
        computed: list[tuple[int, ...]],
    ) -> None:
        """Require that nothing was restored that nobody else who may be seen had computed."""
        end = trial.answers[asked.request_id].end
        if not isinstance(end, Finished):
            return
        assert isinstance(asked.prompt, tuple)
        prompt, cached = [*before, *asked.prompt], end.usage.cached
        most = max((common_prefix(prompt, list(one)) for one in computed), default=0)
        assert cached.total - cached.live <= most, "more was restored than it may see"
        assert cached.total <= len(prompt)
        for tier in ("memory", "shm", "disk"):
            found = self.told.restored
            found[tier] = found.get(tier, 0) + getattr(cached, tier)


def _sees(asked: GenerateRequest) -> tuple[str, object]:
    """Whose computing it may see: that of its salt, which is its tenant unless it is said."""
    return asked.tenant if asked.cache_salt is None else asked.cache_salt, asked.adapters


# ---- drawing them -------------------------------------------------------------------------------


@st.composite
def turns(draw: st.DrawFn, session: str | None = None) -> Turn:
    """A turn of any kind; most of them go on from another one."""
    comes = draw(st.sampled_from([0, 0, 0, 1, 4]))
    stays = draw(st.sampled_from([None] * 6 + [0, 1, 2, 5]))
    return Turn(
        base=draw(st.integers(0, 30)),
        keeps=draw(st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5])),
        changes_at=draw(st.sampled_from([None, None, None, None, 0.7, 0.99])),
        fresh=(draw(st.integers(0, 3)), draw(st.sampled_from([0, 1, 16, 45, 90, 130]))),
        max_tokens=draw(st.sampled_from([1, 3, 10, 30])),
        temperature=draw(st.sampled_from([0.0, 0.0, 0.9])),
        choices=draw(st.sampled_from([1, 1, 1, 2, 3])),
        tenant=draw(st.sampled_from([""] * 4 + ["t"])),
        cache_salt=draw(st.sampled_from([None] * 6 + ["s", "t"])),
        adapters=draw(st.sampled_from(ADAPTERS)),
        session=session,
        continues=draw(st.booleans()),
        is_stored=draw(st.sampled_from([True, True, True, False])),
        prefill_only=draw(st.sampled_from([False] * 7 + [True])),
        comes=comes,
        cancels=None if stays is None else comes + stays,
    )


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Up to four waves of up to three turns."""
    waves = []
    for _ in range(draw(st.integers(1, 5))):
        names = draw(st.sampled_from([(None,), ("p",), (None, None), ("p", "q", None)]))
        waves.append(tuple(draw(turns(name)) for name in names))
    some = st.sampled_from([None, None, None, *FAULTS])
    faults = draw(st.sampled_from([(), (), draw(st.lists(some, max_size=30))]))
    return Life(tuple(waves), draw(st.sampled_from([False, False, True])), tuple(faults))


@st.composite
def casts(draw: st.DrawFn, kinds: Sequence[StateKind] = KINDS) -> Cast:
    """Lanes and pools, roomy and crowded, with caches that hold everything or next to nothing."""
    is_deterministic = draw(st.booleans())
    names = ("cold", "continued", "finish", "evict", "shutdown")
    assert set(names) == set(SAVE_MOMENTS)
    settings = {
        "memory_bytes": draw(st.sampled_from([PLENTY, PLENTY, 0, 700, 4000, 12_000])),
        "shm_bytes": draw(st.sampled_from([0, 0, 0, PLENTY, 60_000])),
        "disk_bytes": draw(st.sampled_from([PLENTY, PLENTY, 0, 60_000, 120_000])),
        "write_queue_bytes": draw(st.sampled_from([PLENTY, PLENTY, PLENTY, 1200])),
        "block_size": draw(st.sampled_from([16, 16, 32])),
        "keeps_logits": draw(st.booleans()),
        "checkpoint_tokens": draw(st.sampled_from([16, 64, 2048])),
        "checkpoint_share": draw(st.sampled_from([0.5, 0.5, 1.0, 0.1])),
        "continued_tokens": draw(st.sampled_from([4, 16])),
        "save_moments": frozenset(draw(st.sampled_from([names, names, names[:1], names[2:]]))),
    }
    return Cast(
        draw(st.sampled_from(kinds)),
        draw(st.sampled_from([None, None, 800, 340])),
        draw(st.sampled_from([2, 4] if is_deterministic else [1, 2, 4])),
        draw(st.sampled_from([8, 16, 64])),
        is_deterministic,
        tuple(draw(st.lists(st.sampled_from([0, 0, 1, 3, 1000]), min_size=1, max_size=4))),
        tuple(settings.items()),
    )


@st.composite
def conversations(draw: st.DrawFn, kinds: Sequence[StateKind] = KINDS) -> Conversation:
    """Up to three lives."""
    number = draw(st.sampled_from([2, 3, 1]))
    return Conversation(draw(casts(kinds)), tuple(draw(lives()) for _ in range(number)))


@st.composite
def roomy_conversations(draw: st.DrawFn, kind: StateKind) -> Conversation:
    """Two lives in which everything is kept: what is wrong with what is restored shows early."""
    settings = {"keeps_logits": draw(st.booleans()), "checkpoint_tokens": 16}
    cast = Cast(kind, None, 2, 16, work=(1000,), settings=tuple(settings.items()))
    found = []
    for _ in range(2):
        waves = [(draw(turns()),) for _ in range(4)]
        found.append(Life(tuple((replace(one, cancels=None),) for (one,) in waves)))
    return Conversation(cast, tuple(found))
