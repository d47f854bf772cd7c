"""Scenarios: who asks what and when, what goes wrong meanwhile, and what must come of it all.

Prompts are made of three blocks, so that they begin alike as often as not: random ones would never
find what two sequences have in common, nor what an engine gets wrong about it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hypothesis import strategies as st

from samovar.engine.engine import EngineOptions
from samovar.native.interface import StateKind
from samovar.native.weightless import EOS, WeightlessBackend
from samovar.types import Failed, Finished, GenerateRequest
from tests.engine.builders import (
    FAULTS,
    KINDS,
    Answer,
    Expected,
    Fault,
    Model,
    Trial,
    block,
    cut,
    expected,
    request,
)

BLOCKS = (block(0, 40), block(1, 33), block(2, 21))
STOPS = ("e", "\ufffd\ufffd", "A", "a\ufffd", "0\ufffd", "\ufffd0")
CONTEXT = 200


@dataclass(frozen=True)
class Shape:
    """A context and how it is served."""

    kind: StateKind = StateKind.DIVISIBLE
    num_cells: int | None = None
    num_sequences: int = 4
    batch_size: int = 64
    is_deterministic: bool = False
    end_bias: float = 5.0

    @property
    def model(self) -> Model:
        """What decides the answers."""
        room = CONTEXT if self.num_cells is None else min(CONTEXT, self.num_cells)
        return Model(room, self.end_bias)

    def trial(self) -> Trial:
        """An engine of this shape with two adapters."""
        backend = WeightlessBackend(
            state_kind=self.kind,
            context_length=CONTEXT,
            num_sequences=self.num_sequences,
            num_cells=self.num_cells,
            batch_size=self.batch_size,
            end_bias=self.end_bias,
        )
        trial = Trial(backend, EngineOptions(is_deterministic=self.is_deterministic))
        for name in ("x", "y"):
            trial.engine.load_adapter(name, name)
        return trial


@dataclass(frozen=True)
class Client:
    """A request, the step before which it comes, and the one before which it is cancelled."""

    asked: GenerateRequest
    comes: int = 0
    cancels: int | None = None

    def _repr_pretty_(self, printer: object, cycle: object) -> None:  # noqa: ARG002
        """See `__repr__`; hypothesis would print every field."""
        printer.text(repr(self))  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        """What is not as usual, in one line: a scenario that fails is printed."""
        plain = request()
        told = [
            f"{field.name}={getattr(self.asked, field.name)!r}"
            for field in fields(self.asked)
            if field.name not in ("prompt", "sampling")
            and getattr(self.asked, field.name) != getattr(plain, field.name)
        ]
        sampling, prompt = self.asked.sampling, self.asked.prompt
        told += [f"temperature={sampling.temperature}, seed={sampling.seed}"]
        told += [f"prompt={len(prompt)} {prompt[:1]!r}..{prompt[-3:]!r}"]
        return f"Client({', '.join(told)}, comes={self.comes}, cancels={self.cancels})"


@dataclass(frozen=True)
class Scenario:
    """All that happens."""

    shape: Shape
    clients: tuple[Client, ...]
    faults: tuple[Fault | None, ...] = ()

    def play(self) -> Trial:
        """Let it happen."""
        trial = self.shape.trial()
        trial.faults.extend(self.faults)
        last = max(max(one.comes, one.cancels or 0) for one in self.clients)
        for at in range(last + 1):
            trial.submit(*(one.asked for one in self.clients if one.comes == at))
            for one in self.clients:
                if one.cancels == at:
                    trial.cancel(one.asked.request_id)
            trial.step()
        trial.finish()
        return trial

    def judge(self, trial: Trial) -> None:
        """Every request has the answer that it would have had alone."""
        for one in self.clients:
            name = one.asked.request_id
            may_break = name in trial.excused
            judge(
                one.asked,
                trial.answers[name],
                self.shape.model,
                was_cancelled=one.cancels is not None,
                may_break=may_break,
            )


def _ended_early(asked: GenerateRequest, tokens: tuple[int, ...], whole: Expected) -> bool:
    """Whether room ran out before it was done; with `prefill_only` no token shows that."""
    return asked.prefill_only or len(tokens) < len(whole.tokens)


def judge(
    asked: GenerateRequest,
    answer: Answer,
    model: Model,
    *,
    before: tuple[int, ...] = (),
    was_cancelled: bool = False,
    may_break: bool = False,
) -> None:
    """Whether a request has the answer it must have, or as much of it as was possible."""
    if isinstance(answer.end, Failed):
        assert may_break, answer.end
        assert answer.end.code in ("native_error", "decode_timeout"), answer.end
    for choice in range(asked.choices):
        whole = _whole(asked, model, choice, before)
        tokens = answer.tokens(choice)
        assert tokens == whole.tokens[: len(tokens)], "other tokens than alone"
        if not isinstance(answer.end, Finished):
            continue
        said = answer.said(choice)
        if said.reason == "cancelled":
            assert was_cancelled
            assert said.text == cut(tokens, asked).text
        elif may_break and said.reason == "length" and _ended_early(asked, tokens, whole):
            assert said.text == cut(tokens, asked).text
        else:
            assert said == whole, "another answer than alone"
    if isinstance(answer.end, Finished):
        _judge_usage(asked, answer, before)


def _whole(asked: GenerateRequest, model: Model, choice: int, before: tuple[int, ...]) -> Expected:
    if asked.prefill_only:
        return Expected((), "", "stop")
    return expected(asked, model, choice, before)


def _judge_usage(asked: GenerateRequest, answer: Answer, before: tuple[int, ...]) -> None:
    usage = answer.finished.usage
    assert usage.generated_tokens == sum(
        len(answer.tokens(choice)) for choice in range(asked.choices)
    )
    assert isinstance(asked.prompt, tuple)
    length = len(asked.prompt) + (len(before) if asked.continues else 0)
    assert usage.prompt_tokens == length
    assert 0 <= usage.cached.live < length
    seed = asked.sampling.seed or 0
    seeds = [choice.seed for choice in answer.finished.choices]
    assert seeds == [(seed + i) % 2**64 for i in range(asked.choices)]


# ---- drawing them -------------------------------------------------------------------------------


@st.composite
def prompts(draw: st.DrawFn, most: int = 3) -> tuple[int, ...]:
    """Blocks, the last one perhaps not whole, and perhaps a token of its own."""
    blocks = draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=most))
    whole = tuple(token for one in blocks for token in one)
    short = draw(st.sampled_from([0, 0, 0, 1, 5, 19]))
    return whole[: len(whole) - short] + draw(st.sampled_from([(), (), (255,), (254, 253)]))


@st.composite
def requests(draw: st.DrawFn, name: str, most_choices: int = 1) -> GenerateRequest:
    """A request for a few tokens."""
    return request(
        name,
        draw(prompts()),
        max_tokens=draw(st.integers(1, 10)),
        temperature=draw(st.sampled_from([0.0, 0.9])),
        seed=draw(st.sampled_from([0, 1, 2**64 - 1])),
        stop=draw(st.sampled_from([(), (), STOPS[:1], STOPS[1:3], STOPS])),
        stop_tokens=draw(st.sampled_from([(), (), (33, EOS), tuple(range(0, 250, 9))])),
        choices=draw(st.sampled_from([1, 1, 1, 2, 3])) if most_choices >= 3 else 1,
        tenant=draw(st.sampled_from(["", "t", "u"])),
        priority=draw(st.sampled_from([0, 0, 0, 1, -2])),
        adapters=draw(st.sampled_from([(), (), (), (("x", 1.0),), (("y", 0.5), ("x", 1.0))])),
        prefill_only=draw(st.sampled_from([False] * 7 + [True])),
    )


@st.composite
def any_shapes(draw: st.DrawFn) -> Shape:
    """Every kind of state, lanes and pools, roomy and crowded."""
    is_deterministic = draw(st.booleans())
    return Shape(
        draw(st.sampled_from(KINDS)),
        draw(st.sampled_from([None, None, 800, 200, 150])),
        draw(st.sampled_from([2, 3, 4, 6] if is_deterministic else [1, 2, 3, 4, 6])),
        draw(st.sampled_from([8, 16, 64])),
        is_deterministic,
    )


@st.composite
def scenarios(
    draw: st.DrawFn, shapes: st.SearchStrategy[Shape] | None = None, *, is_faulty: bool = False
) -> Scenario:
    """Up to seven requests in a context, some cancelled."""
    shape = draw(any_shapes() if shapes is None else shapes)
    clients = []
    for index in range(draw(st.integers(1, 7))):
        comes = draw(st.sampled_from([0, 0, 0, 1, 2, 5, 9]))
        stays = draw(st.sampled_from([None, None, None, None, 0, 1, 3, 6]))
        clients.append(
            Client(
                draw(requests(f"r{index}", shape.num_sequences)),
                comes,
                None if stays is None else comes + stays,
            )
        )
    faults: tuple[Fault | None, ...] = ()
    if is_faulty:
        some = st.sampled_from([None, None, None, *FAULTS])
        faults = tuple(draw(st.lists(some, min_size=1, max_size=40)))
    return Scenario(shape, tuple(clients), faults)
