"""Vectors and scores beside text: right ones, in slices that nobody notices, and one end each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine import embedding
from samovar.engine.engine import Engine, EngineOptions
from samovar.engine.fairness import SECONDS_PER_PRIORITY
from samovar.engine.latency import LEAST_CHUNK
from samovar.engine.work import normalized
from samovar.errors import InvalidRequest, NativeError
from samovar.native.interface import Aborted, Passage
from samovar.native.llama import LlamaBackend
from samovar.native.weightless import WeightlessBackend
from samovar.types import (
    MAX_INPUTS,
    Embedded,
    EmbedRequest,
    Failed,
    Finished,
    GenerateRequest,
    Ranked,
    RankRequest,
    SamplingParams,
    TextDelta,
)
from tests.conftest import Models, scaled
from tests.engine.builders import MODES, Model, Trial, expected, request
from tests.engine.test_promised_gap import MACHINES, Machine, Watch
from tests.engine.test_shares import fresh
from tests.native.test_backend import opened, prompt
from tests.native.test_embeddings import PLAIN

Asked = EmbedRequest | RankRequest

SHORT = ("tea", "a kettle of tea", b"stone", (1, 2, 3))


def embed(name: str = "e", inputs: Sequence[Any] = SHORT, **more: Any) -> EmbedRequest:  # noqa: ANN401
    return EmbedRequest(name, tuple(inputs), **({"normalizes": False} | more))


def rank(name: str = "r", documents: Sequence[Any] = SHORT, **more: Any) -> RankRequest:  # noqa: ANN401
    return RankRequest(name, "what is tea", tuple(documents), **more)


class Bench(Trial):
    """A trial whose slices take time, and are noted."""

    def __init__(
        self,
        backend: WeightlessBackend | None = None,
        options: EngineOptions | None = None,
        seconds_of_token: float = 0.001,
        **more: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(backend, options, **more)
        self.slices: list[int] = []
        """Tokens of every slice."""
        self.poison: tuple[int, ...] | None = None
        """No call with this text in it goes well."""
        self.was_alone = False
        """Whether the last call had one text only."""
        self._seconds_of_token = seconds_of_token
        self._advance = self.backend.embedder.advance
        self.backend.embedder.advance = self._slice  # type: ignore[method-assign]

    def _slice(self, passages: Sequence[Passage], pooling: str, limit: int) -> int:
        self.was_alone = len(passages) == 1
        before = [(one, one.num_computed, one.vector, one.partial) for one in passages]
        count = self._advance(passages, pooling, limit)
        if any(tuple(one.tokens) == self.poison and one.vector is not None for one in passages):
            for one, *held in before:
                one.num_computed, one.vector, one.partial = held
            raise NativeError("this text cannot be computed")
        self.slices.append(count)
        self.clock.advance(count * self._seconds_of_token)
        return count

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            held = len(self.slices)
            super().step()
            assert len(self.slices) <= held + 1, "more than one slice in a step"

    def check_the_end(self) -> None:
        super().check_the_end()
        active = self.engine.scheduler.tenants._active  # noqa: SLF001 - who still counts as here
        assert not active, "a tenant stays without a request"

    def embedded(self, name: str = "e") -> np.ndarray:
        end = self.answers[name].end
        assert isinstance(end, Embedded), end
        return end.vectors

    def ranked(self, name: str = "r") -> tuple[float, ...]:
        end = self.answers[name].end
        assert isinstance(end, Ranked), end
        return end.scores

    def served(self) -> dict[str, float]:
        tenants = self.engine.scheduler.tenants
        return {name: tenants.served(name) for name in ("a", "b")}


def alone(asked: EmbedRequest) -> np.ndarray:
    """What a request's texts come to on a backend that nobody else uses."""
    backend = WeightlessBackend()
    backend.apply_adapters([(backend.load_adapter(name), scale) for name, scale in asked.adapters])
    texts = [
        list(text) if isinstance(text, tuple) else backend.tokenize(text) for text in asked.inputs
    ]
    found = backend.embed_many(texts, pooling=asked.pooling)
    if asked.normalizes:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return found


def scored(asked: RankRequest) -> tuple[float, ...]:
    backend = WeightlessBackend()
    backend.apply_adapters([(backend.load_adapter(name), scale) for name, scale in asked.adapters])
    return tuple(map(float, backend.rank(asked.query, asked.documents)))


# ---- what comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pooling", [None, "mean", "cls", "last"])
@pytest.mark.parametrize("normalizes", [False, True])
def test_a_request_gets_a_vector_for_each_text(
    mode: str,
    pooling: str | None,
    normalizes: bool,  # noqa: FBT001
) -> None:
    bench = Bench(options=EngineOptions(is_deterministic=mode == "deterministic"))
    asked = embed(pooling=pooling, normalizes=normalizes)
    bench.serve(asked)
    vectors = bench.embedded()
    assert vectors.shape == (len(SHORT), 16)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, alone(asked), atol=1e-6)
    if normalizes:
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_a_request_gets_a_score_for_each_document() -> None:
    bench = Bench()
    bench.serve(rank())
    assert bench.ranked() == scored(rank())


def test_the_end_says_what_it_took() -> None:
    bench = Bench()
    bench.serve(embed(inputs=["abc", (1, 2)]), rank(documents=["abc"]))
    end = bench.answers["e"].end
    assert isinstance(end, Embedded)
    assert (end.usage.prompt_tokens, end.usage.generated_tokens) == (4 + 2, 0)
    timings = end.usage.timings
    assert timings.prefill_seconds == pytest.approx(0.006)
    other = bench.answers["r"].end
    assert isinstance(other, Ranked)
    assert other.usage.prompt_tokens == 3 + len("what is tea") + 3
    assert other.usage.timings.queue_seconds == pytest.approx(0.006)


def test_a_vector_of_zeros_stays_one() -> None:
    rows = np.array([[0, 0], [3, 4]], np.float32)
    assert np.allclose(normalized(rows), [[0, 0], [0.6, 0.8]])


def test_nothing_left_means_idle() -> None:
    bench = Bench()
    bench.submit(embed())
    assert not bench.engine.is_idle
    bench.finish()
    assert bench.engine.is_idle


# ---- together -----------------------------------------------------------------------------------


def test_requests_that_are_computed_alike_share_calls() -> None:
    bench = Bench()
    bench.serve(*(embed(f"e{i}", [(i, 7)], pooling="mean") for i in range(8)))
    assert bench.slices == [16]


def test_no_pooling_is_the_one_of_the_file() -> None:
    bench = Bench()
    bench.serve(embed("e0", [(1, 7)]), embed("e1", [(2, 7)], pooling="last"))
    assert bench.slices == [4]


def test_requests_that_differ_in_pooling_or_adapters_share_none() -> None:
    bench = Bench()
    bench.engine.load_adapter("x", "x")
    requests = [
        embed("e0", [(1, 7)]),
        embed("e1", [(1, 7)], pooling="mean"),
        embed("e2", [(1, 7)], adapters=(("x", 1.0),)),
        embed("e3", [(1, 7)], adapters=(("x", 0.5),)),
        rank("e4", [(1, 7)]),
    ]
    bench.serve(*requests)
    assert len(bench.slices) == len(requests)
    for one in requests[:3]:
        assert isinstance(one, EmbedRequest)
        assert np.array_equal(bench.embedded(one.request_id), alone(one))


def test_a_deterministic_engine_computes_every_text_by_itself() -> None:
    bench = Bench(options=EngineOptions(is_deterministic=True))
    bench.serve(*(embed(f"e{i}", [(i, 7), (i, 8)]) for i in range(3)))
    assert bench.slices == [2] * 6


# ---- beside those who decode --------------------------------------------------------------------

TEXTS = st.lists(
    st.one_of(
        st.text("abc", min_size=1, max_size=30),
        st.lists(st.integers(0, 255), min_size=1, max_size=150).map(tuple),
    ),
    min_size=1,
    max_size=6,
)
ADAPTERS = st.sampled_from([(), (), (("x", 1.0),)])
TENANTS = st.sampled_from("ab")


@st.composite
def asked(draw: st.DrawFn, name: str) -> Asked | GenerateRequest:
    more: dict[str, Any] = {"adapters": draw(ADAPTERS), "tenant": draw(TENANTS)}
    more["priority"] = draw(st.integers(0, 1))
    kind = draw(st.sampled_from(["embed", "rank", "text"]))
    if kind == "text":
        tokens = draw(st.lists(st.integers(0, 255), min_size=1, max_size=100))
        return request(name, tokens, max_tokens=draw(st.integers(1, 12)), **more)
    if kind == "rank":
        return rank(name, draw(TEXTS), **more)
    pooling = draw(st.sampled_from([None, "mean", "cls"]))
    return embed(name, draw(TEXTS), pooling=pooling, **more)


@settings(max_examples=scaled(80, 3000), database=None, deadline=None)
@given(data=st.data(), mode=st.sampled_from(MODES), can_cut=st.booleans())
def test_every_request_gets_its_own_whatever_else_is_asked_and_goes_wrong(
    data: st.DataObject,
    mode: str,
    can_cut: bool,  # noqa: FBT001
) -> None:
    bench = Bench(options=EngineOptions(is_deterministic=mode == "deterministic"))
    bench.backend.embedder.can_cut = can_cut
    bench.engine.load_adapter("x", "x")
    requests, cancelled, excuses = [], set(), []

    def fault() -> Exception | Aborted | None:
        if not faults:
            return None
        excuses.append(bench.was_alone)
        return faults.pop()

    faults: list[Exception | Aborted] = []
    bench.backend.embedder._fault = fault  # noqa: SLF001 - only the calls of the embedder fail
    for number in range(data.draw(st.integers(1, 8))):
        one = data.draw(asked(f"q{number}"))
        requests.append(one)
        bench.submit(one)
        bench.step(data.draw(st.integers(0, 3)))
        if data.draw(st.integers(0, 4)) == 0:
            faults.append(
                data.draw(st.sampled_from([NativeError("once"), Aborted(timed_out=True)]))
            )
        if data.draw(st.integers(0, 5)) == 0:
            victim = data.draw(st.sampled_from(requests)).request_id
            if not bench.has_ended(victim):
                cancelled.add(victim)
            bench.cancel(victim)
    bench.finish()
    for one in requests:
        end = bench.answers[one.request_id].end
        if one.request_id in cancelled:
            assert isinstance(end, Finished)
            assert end.choices[0].reason == "cancelled"
        elif isinstance(end, Failed) and not isinstance(one, GenerateRequest):
            assert excuses.pop(excuses.index(True))  # its own text, alone in a call
        else:
            judge(bench, one)


def judge(bench: Bench, one: Asked | GenerateRequest) -> None:
    """Whether a request got what it gets alone."""
    if isinstance(one, EmbedRequest):
        assert np.array_equal(bench.embedded(one.request_id), alone(one))
    elif isinstance(one, RankRequest):
        assert bench.ranked(one.request_id) == scored(one)
    else:
        assert bench.answers[one.request_id].said() == expected(one, Model())


def test_text_is_the_same_as_without_embeddings_between_its_tokens() -> None:
    bench = Bench()
    asked_for = request("text", "once there was", max_tokens=40)
    bench.submit(asked_for)
    for number in range(12):
        bench.submit(embed(f"e{number}", [fresh(90, number)]), rank(f"r{number}"))
        bench.step()
    bench.finish()
    assert bench.answers["text"].said() == expected(asked_for, Model())


class GapWatch(Watch):
    """A watch whose trial also computes vectors, at a price of its own."""

    def __init__(self, machine: Machine, seconds_of_token: float) -> None:
        super().__init__(machine)
        self.trial = self.bench = Bench(
            self.trial.backend, cost=machine, seconds_of_token=seconds_of_token
        )
        self._least = LEAST_CHUNK * seconds_of_token

    def promise(self) -> float:
        return max(super().promise(), self._floor())

    def _floor(self) -> float:
        """What the least step and the least slice take, if that is more than was promised."""
        depths = [len(self.trial.backend.tokens(seat)) for seat in range(len(self._last))]
        running = self.trial.engine.scheduler.running
        deepest = max(one.num_computed for one in running)
        chunk = self.machine.of_row(deepest, LEAST_CHUNK + 1) if len(running) > len(depths) else 0.0
        return self.machine.decode(depths) + chunk + self._least


@pytest.mark.parametrize("with_prompts", [False, True])
@pytest.mark.parametrize("num_decoding", [1, 4])
@pytest.mark.parametrize("name", ["quick", "middling", "slow", "slower with depth"])
def test_embedding_does_not_keep_those_who_decode_waiting(
    name: str,
    num_decoding: int,
    with_prompts: bool,  # noqa: FBT001
) -> None:
    machine = MACHINES[name]
    watch = GapWatch(machine, 1.5 * machine.token)
    watch.start([f"d{i}" for i in range(num_decoding)])
    inputs = [fresh(3000, 60), *(fresh(40, number) for number in range(40))]
    watch.bench.submit(embed("e", inputs), rank("r", inputs[1:20]))
    for number in range(3 if with_prompts else 0):
        watch.bench.submit(request(f"long{number}", fresh(2000, 50 + number), max_tokens=1))
    for _ in range(4000):
        if watch.bench.has_ended("e") and watch.bench.has_ended("r"):
            break
        watch.step()
    assert np.array_equal(
        watch.bench.embedded(), WeightlessBackend(context_length=4096).embed_many(inputs)
    )
    assert len(watch.gaps) > 8 * num_decoding
    # The first slices and chunks have a price that is a guess.
    assert len(watch.breaches) <= 4 * num_decoding, watch.breaches
    assert all(gap <= 1.6 * promise for gap, promise in watch.breaches)


def test_prompts_get_on_beside_embeddings_without_end() -> None:
    watch = GapWatch(MACHINES["middling"], 0.002)
    watch.start(["d0"])
    watch.bench.submit(*(embed(f"e{i}", [fresh(3000, i)] * 4) for i in range(4)))
    watch.bench.submit(request("long", fresh(2000, 50), max_tokens=1))
    watch.bench.until(lambda: watch.bench.has_ended("long"), 400)
    assert not watch.bench.has_ended("e3")


def test_slices_are_whole_batches_when_nobody_waits_for_a_token() -> None:
    bench = Bench(WeightlessBackend(batch_size=64, context_length=512))
    bench.serve(embed(inputs=[fresh(500, 1)]))
    assert bench.slices == [64] * 7 + [52]


# ---- fairness -----------------------------------------------------------------------------------


def test_a_short_request_does_not_wait_for_a_long_one_of_somebody_else() -> None:
    bench = Bench()
    bench.submit(embed("flood", [fresh(60, i) for i in range(500)], tenant="a"))
    bench.step(3)
    bench.submit(embed("short", [fresh(60, 1)], tenant="b"))
    bench.until(lambda: bench.has_ended("short"), 3)
    assert not bench.has_ended("flood")


def test_two_busy_tenants_get_equal_shares() -> None:
    bench = Bench()
    bench.submit(embed("many", [fresh(40, i) for i in range(900)], tenant="a"))
    for number in range(90):
        bench.submit(embed(f"b{number}", [fresh(20, number + i) for i in range(10)], tenant="b"))
    bench.step(150)
    served = bench.served()
    assert 0.8 < served["a"] / served["b"] < 1.25


def test_vectors_count_against_the_tenant_that_asks_for_text_too() -> None:
    bench = Bench()
    bench.serve(embed("e", [fresh(60, i) for i in range(30)], tenant="a"), request("r", tenant="b"))
    assert bench.served()["a"] == 0 or bench.served()["a"] >= 1800


def test_a_higher_priority_goes_first_and_waiting_raises_it() -> None:
    bench = Bench()
    bench.submit(embed("low", [fresh(64, i) for i in range(9)], pooling="mean"))
    bench.submit(embed("high", [fresh(64, i) for i in range(9)], priority=1))
    bench.until(lambda: bench.has_ended("high"), 12)
    assert not bench.has_ended("low")
    bench.clock.advance(3 * SECONDS_PER_PRIORITY)
    bench.submit(embed("later", [fresh(64, i) for i in range(9)], priority=2))
    bench.until(lambda: bench.has_ended("low"), 12)
    assert not bench.has_ended("later")
    bench.finish()


def test_a_text_that_is_half_done_goes_on_before_others_of_its_pooling() -> None:
    bench = Bench()
    bench.submit(embed("long", [fresh(300, 1)], tenant="a"))
    bench.step()
    bench.submit(*(embed(f"s{i}", [fresh(60, i)], tenant="b", priority=5) for i in range(4)))
    bench.finish()
    assert sum(bench.slices) == 300 + 4 * 60  # nothing was computed twice


# ---- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(5))
def test_a_cancelled_request_ends_with_the_next_step(steps: int) -> None:
    bench = Bench()
    bench.submit(embed("gone", [fresh(300, 1)]), embed("kept", [fresh(150, 2)]))
    bench.step(steps)
    bench.cancel("gone")
    bench.step()
    end = bench.answers["gone"].end
    assert isinstance(end, Finished)
    assert end.choices[0].reason == "cancelled"
    bench.finish()
    assert np.array_equal(bench.embedded("kept"), alone(embed(inputs=[fresh(150, 2)])))


def test_a_request_that_is_late_fails_alone() -> None:
    bench = Bench(seconds_of_token=0.01)
    bench.submit(
        embed("late", [fresh(64, i) for i in range(9)], timeout_seconds=2),
        embed("kept", [fresh(64, 9)], timeout_seconds=200),
    )
    bench.finish()
    assert bench.answers["late"].failed.code == "deadline_exceeded"
    assert bench.answers["late"].failed.retryable
    assert bench.embedded("kept").shape == (1, 16)


def test_a_stopped_engine_fails_what_waits() -> None:
    bench = Bench()
    bench.submit(embed(), rank())
    ends = bench.engine.close()
    assert sorted(end.request_id for end in ends if isinstance(end, Failed)) == ["e", "r"]
    assert bench.engine.is_idle


def test_an_id_is_one_request_at_a_time() -> None:
    bench = Bench()
    bench.submit(embed("x"), request("y"))
    for again in (embed("x"), rank("x"), request("x"), embed("y")):
        with pytest.raises(InvalidRequest):
            bench.engine.submit(again)
    bench.finish()
    bench.serve(embed("x"))


# ---- when it does not go well -------------------------------------------------------------------


@pytest.mark.parametrize("fault", [NativeError("once"), Aborted(timed_out=True), Aborted()])
def test_a_call_that_goes_wrong_once_harms_nobody(fault: Exception | Aborted) -> None:
    bench = Bench()
    requests = [embed(f"e{i}", [fresh(20, i), fresh(90, i)]) for i in range(3)]
    bench.backend.fail_next(fault)
    bench.serve(*requests)
    for one in requests:
        assert np.array_equal(bench.embedded(one.request_id), alone(one))


def test_a_text_that_cannot_be_computed_fails_its_own_request() -> None:
    bench = Bench()
    bench.poison = fresh(20, 1)
    requests = [embed(f"e{i}", [fresh(20, i), (i,)]) for i in range(4)]
    bench.serve(*requests)
    assert bench.answers["e1"].failed.code == "native_error"
    for one in (requests[0], *requests[2:]):
        assert np.array_equal(bench.embedded(one.request_id), alone(one))


@pytest.mark.parametrize("can_cut", [True, False])
def test_a_call_that_is_always_too_slow_fails_in_the_end(can_cut: bool) -> None:  # noqa: FBT001
    bench = Bench()
    bench.backend.embedder.can_cut = can_cut
    bench.backend.fail_next(*[Aborted(timed_out=True)] * 30)
    bench.submit(embed("e0", [fresh(60, 1)]), embed("e1", [fresh(60, 2)]))
    bench.until(lambda: bench.has_ended("e0") and bench.has_ended("e1"), 40)
    for name in ("e0", "e1"):
        assert bench.answers[name].failed.code == "decode_timeout"


def test_a_full_queue_says_so_at_once() -> None:
    bench = Bench(options=EngineOptions(max_waiting=3))
    bench.submit(*(embed(f"e{i}") for i in range(5)))
    bench.step()
    for name in ("e3", "e4"):
        failed = bench.answers[name].failed
        assert (failed.code, failed.retryable) == ("overloaded", True)
        assert failed.retry_after_seconds is not None
        assert failed.retry_after_seconds > 0
    bench.finish()


def test_waiting_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MAX_BYTES", 1000)
    bench = Bench()
    bench.submit(embed("e0", ["a" * 400, tuple(range(100))]), embed("e1", ["a" * 300]))
    bench.submit(embed("e2", ["a" * 400, tuple(range(200))]))
    bench.step()
    assert bench.answers["e1"].failed.code == "overloaded"
    assert bench.answers["e2"].failed.code == "invalid_request"
    bench.finish()
    bench.serve(embed("e3", ["a" * 400, tuple(range(100))]))
    assert bench.embedded("e3").shape == (2, 16)


def test_long_requests_are_tokenized_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "READ_BYTES", 1000)
    bench = Bench()
    read: list[int] = []
    tokenize = bench.backend.tokenize

    def counted(text: str | bytes, **more: bool) -> list[int]:
        read.append(len(text))
        return tokenize(text, **more)

    monkeypatch.setattr(bench.backend, "tokenize", counted)
    long = embed("long", [f"{number:0300}" for number in range(40)])
    bench.submit(long, request("text", (1, 2, 3), max_tokens=30))
    while not bench.has_ended("long"):
        assert sum(read) <= 1200
        read.clear()
        bench.step()
    bench.finish()
    assert np.array_equal(bench.embedded("long"), alone(long))


def test_what_is_wrong_with_a_late_text_is_found_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "READ_BYTES", 100)
    bench = Bench()
    bench.submit(embed("bad", ["a" * 90] * 9 + ["b" * 600]), embed("good", ["c" * 90] * 9))
    bench.finish()
    assert bench.answers["bad"].failed.code == "context_length_exceeded"
    assert bench.embedded("good").shape == (9, 16)
    assert sum(bench.slices) == 9 * 91


def test_an_adapter_is_not_unloaded_under_a_request() -> None:
    bench = Bench()
    bench.engine.load_adapter("x", "x")
    bench.submit(embed(adapters=(("x", 1.0),)))
    with pytest.raises(InvalidRequest):
        bench.engine.unload_adapter("x")
    bench.finish()
    bench.engine.unload_adapter("x")
    bench.serve(embed("again", adapters=(("x", 1.0),)))
    assert bench.answers["again"].failed.code == "invalid_request"


# ---- too long -----------------------------------------------------------------------------------


def test_a_text_that_is_too_long_is_refused_with_numbers() -> None:
    bench = Bench()
    bench.serve(
        embed("text", ["a" * 600]), embed("ids", [fresh(513, 1)]), rank("pair", ["a" * 500])
    )
    for name, numbers in (("text", "512"), ("ids", "513"), ("pair", "514")):
        failed = bench.answers[name].failed
        assert failed.code == "context_length_exceeded"
        assert not failed.retryable
        assert numbers in failed.message


def test_a_text_that_is_too_long_may_be_cut() -> None:
    bench = Bench()
    text = "abc" * 400
    bench.serve(
        embed("text", [text], truncates=True),
        embed("ids", [fresh(900, 1)], truncates=True),
        rank("pair", [text, (1, 2)], truncates=True),
        RankRequest("query", "q" * 600, ("a",), truncates=True),
    )
    assert np.array_equal(bench.embedded("text"), alone(embed(inputs=[text[:511]])))
    assert np.array_equal(bench.embedded("ids"), alone(embed(inputs=[fresh(900, 1)[:512]])))
    room = 512 - 3 - len("what is tea")
    assert bench.ranked("pair") == scored(rank(documents=[text[:room], (1, 2)]))
    assert bench.answers["query"].failed.code == "context_length_exceeded"


# ---- what is refused ----------------------------------------------------------------------------


def test_requests_of_no_sense_are_refused() -> None:
    for refused in (
        lambda: embed(""),
        lambda: embed(inputs=[]),
        lambda: embed(inputs=["a", ""]),
        lambda: embed(inputs=[()]),
        lambda: embed(inputs=[[1, 2]]),
        lambda: embed(inputs=["a"] * (MAX_INPUTS + 1)),
        lambda: embed(pooling="none"),
        lambda: embed(timeout_seconds=0),
        lambda: rank(documents=[]),
        lambda: rank(documents=[""]),
        lambda: RankRequest("r", "", ("a",)),
        lambda: rank(timeout_seconds=-1),
    ):
        with pytest.raises(InvalidRequest):
            refused()


def test_what_the_model_cannot_do_is_a_failed_request() -> None:
    bench = Bench()
    bench.backend.embedder.can_rank = False
    bench.serve(
        rank(),
        embed("ids", [(1, 999)]),
        embed("negative", [(-1,)]),
        embed("words", [("a", "b")]),
        embed("adapter", adapters=(("none", 1.0),)),
        embed("fine"),
    )
    codes = {
        name: answer.end.code
        for name, answer in bench.answers.items()
        if isinstance(answer.end, Failed)
    }
    assert codes == {
        "r": "operation_unsupported",
        "ids": "invalid_token",
        "negative": "invalid_token",
        "words": "invalid_token",
        "adapter": "invalid_request",
    }
    assert bench.embedded("fine").shape == (4, 16)


# ---- real models --------------------------------------------------------------------------------


def serve(backend: LlamaBackend, *requests: Any, **options: Any) -> dict[str, list[Any]]:  # noqa: ANN401
    """Every event of every request."""
    engine = Engine(backend, EngineOptions(**options))
    for one in requests:
        engine.submit(one)
    events: dict[str, list[Any]] = {}
    for _ in range(3000):
        for event in engine.step():
            events.setdefault(event.request_id, []).append(event)
        if engine.is_idle:
            break
    assert engine.is_idle
    return events


def vectors_of(events: list[Any]) -> np.ndarray:
    (end,) = events
    assert isinstance(end, Embedded), end
    return end.vectors


@pytest.mark.native
@pytest.mark.parametrize("kind", ["bert", "llama", "mamba"])
def test_real_models_embed_through_the_engine(models: Models, kind: str) -> None:
    texts = [prompt(length, length) for length in (3, 120, 40, 7)]
    long = prompt(400)
    with opened(models(kind, "F32"), **PLAIN) as (backend, _):
        found = serve(
            backend,
            *(embed(f"e{i}", [tuple(text)], pooling="mean") for i, text in enumerate(texts)),
            embed("long", [tuple(long)], pooling="last"),
            embed("words", ["tea and stone"]),
        )
        for number, text in enumerate(texts):
            vector = vectors_of(found[f"e{number}"])[0]
            assert np.abs(vector - backend.embed(text, pooling="mean")).max() < 1e-3
        assert (
            np.abs(vectors_of(found["long"])[0] - backend.embed(long, pooling="last")).max() < 1e-3
        )
        words = backend.embed(backend.tokenize("tea and stone"))
        assert np.abs(vectors_of(found["words"])[0] - words).max() < 1e-3


@pytest.mark.native
@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_real_text_is_bit_for_bit_as_without_embeddings(models: Models, kind: str) -> None:
    sampling = SamplingParams(temperature=0.9, seed=3, logprobs=2)
    asked_for = [
        GenerateRequest(f"t{i}", tuple(prompt(30, i)), sampling=sampling, max_tokens=20)
        for i in range(2)
    ]
    others = [embed(f"e{i}", [tuple(prompt(90, i))], pooling="mean") for i in range(6)]

    def said(*requests: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401
        with opened(models(kind)) as (backend, _):
            events = serve(backend, *requests, is_deterministic=True)
        deltas = [e for i in range(2) for e in events[f"t{i}"] if isinstance(e, TextDelta)]
        return [(delta.tokens, delta.logprobs) for delta in deltas]

    assert said(*asked_for, *others) == said(*asked_for)


@pytest.mark.native
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_deterministic_engine_gives_the_same_vector_in_any_company(
    models: Models, kind: str
) -> None:
    mine = embed("mine", [tuple(prompt(90)), tuple(prompt(200, 1))], pooling="mean")
    others = [embed(f"o{i}", [tuple(prompt(40 + i, i))], pooling="mean") for i in range(5)]
    if kind == "llama":
        others.append(request("text", prompt(20), max_tokens=10))  # type: ignore[arg-type]
    found = []
    for company in ([], others):
        with opened(models(kind, "Q8_0")) as (backend, _):
            found.append(serve(backend, *company, mine, is_deterministic=True)["mine"])
    assert np.array_equal(vectors_of(found[0]), vectors_of(found[1]))


@pytest.mark.native
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_real_rerankers_rank_through_the_engine(models: Models, kind: str) -> None:
    documents = ("a kettle of tea", "stone", tuple(prompt(200)))
    with opened(models(kind, "F32", pooling="rank"), **PLAIN) as (backend, _):
        found = serve(backend, rank(documents=documents), embed(inputs=["tea"], pooling="cls"))
        (end,) = found["r"]
        assert isinstance(end, Ranked)
        expected_scores = backend.rank("what is tea", documents)
        assert np.abs(np.array(end.scores) - expected_scores).max() < 1e-3
        assert vectors_of(found["e"]).shape == (1, 128)


@pytest.mark.native
def test_a_cut_text_keeps_what_an_encoder_expects_at_its_end(models: Models) -> None:
    with opened(models("bert", "F32"), context_length=64, **PLAIN) as (backend, _):
        text = "tea and " * 100
        tokens = backend.tokenize(text)
        found = serve(backend, embed(inputs=[text], truncates=True))
        cut = [*tokens[:63], tokens[-1]]
        assert np.array_equal(vectors_of(found["e"])[0], backend.embed(cut))
        (failed,) = serve(backend, embed(inputs=[text]))["e"]
        assert failed.code == "context_length_exceeded"


@pytest.mark.native
def test_a_model_without_memory_for_a_text_refuses_that_text(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(models(), context_length=2000) as (backend, _):
        with monkeypatch.context() as patched:
            patched.setattr("samovar.native.memory.available_bytes", lambda: 6_000_000)
            found = serve(
                backend,
                embed("long", [tuple(prompt(1500))]),
                request("text", prompt(20), max_tokens=3),
            )
        assert found["long"][0].code == "out_of_memory"
        assert isinstance(found["text"][-1], Finished)
        assert vectors_of(serve(backend, embed("e", [tuple(prompt(1500))]))["e"]).shape == (1, 128)
