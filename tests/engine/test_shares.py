"""Nobody starves: tenants get their shares, priorities count, and long and short get on."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from samovar.engine.engine import EngineOptions
from samovar.engine.fairness import GENERATED_WEIGHT, SECONDS_PER_PRIORITY
from samovar.native.weightless import WeightlessBackend
from samovar.types import GenerateRequest
from tests.engine.builders import MODES, Trial, request


def backend(num_sequences: int = 2, batch_size: int = 64, **more: object) -> WeightlessBackend:
    return WeightlessBackend(
        context_length=2048,
        num_sequences=num_sequences,
        batch_size=batch_size,
        end_bias=-100.0,
        **more,  # type: ignore[arg-type]
    )


def fresh(length: int, number: int) -> tuple[int, ...]:
    """A prompt that shares nothing with those of other numbers."""
    return (number % 250, number // 250, *((7 * i) % 250 for i in range(length - 2)))


class Stream:
    """Requests of one tenant without end."""

    def __init__(self, tenant: str, length: int = 10, max_tokens: int = 8, **more: object) -> None:
        self.tenant = tenant
        self._length, self._max_tokens, self._more = length, max_tokens, more
        self._numbers = itertools.count()

    def __next__(self) -> GenerateRequest:
        number = next(self._numbers)
        prompt = fresh(self._length, number)
        return request(
            f"{self.tenant}{number}",
            prompt,
            max_tokens=self._max_tokens,
            tenant=self.tenant,
            **self._more,
        )


def keep_busy(trial: Trial, *streams: Stream, waiting: int = 6) -> None:
    """Bring what waits of every stream up to so many requests."""
    for stream in streams:
        line = trial.engine.scheduler.waiting
        for _ in range(waiting - sum(one.request.tenant == stream.tenant for one in line)):
            trial.submit(next(stream))


def served(trial: Trial) -> Counter[str]:
    """What was computed for each tenant so far, as the shares weigh it."""
    totals: Counter[str] = Counter()
    for answer in trial.answers.values():
        if answer.end is not None:
            usage = answer.finished.usage
            work = usage.prompt_tokens + GENERATED_WEIGHT * usage.generated_tokens
            totals[answer.end.request_id.rstrip("0123456789")] += int(work)
    return totals


# ---- tenants ------------------------------------------------------------------------------------


def check_a_flood_does_not_stop_others() -> None:
    trial = Trial(backend())
    flood = Stream("flood")
    keep_busy(trial, flood, waiting=50)
    trial.step(20)
    trial.submit(request("calm", fresh(10, 9999), tenant="calm"))
    for _ in range(40):
        keep_busy(trial, flood, waiting=50)
        trial.step()
        if trial.has_ended("calm"):
            return
    raise AssertionError("a tenant with one request still waits for one with many")


def test_a_tenant_that_floods_does_not_stop_another() -> None:
    check_a_flood_does_not_stop_others()


SIZES = [
    pytest.param((10, 8), (10, 8), id="alike"),
    pytest.param((200, 2), (5, 20), id="long prompts against long answers"),
    pytest.param((5, 2), (100, 30), id="small requests against large ones"),
]


def check_shares(mine: tuple[int, int], theirs: tuple[int, int]) -> None:
    trial = Trial(backend(num_sequences=3))
    streams = [Stream("a", *mine), Stream("b", *theirs)]
    for _ in range(400):
        keep_busy(trial, *streams)
        trial.step()
    totals = served(trial)
    assert totals["a"] <= 1.5 * totals["b"]
    assert totals["b"] <= 1.5 * totals["a"]


@pytest.mark.parametrize(("mine", "theirs"), SIZES)
def test_two_busy_tenants_get_about_the_same(
    mine: tuple[int, int], theirs: tuple[int, int]
) -> None:
    check_shares(mine, theirs)


def test_a_tenant_cannot_save_up_for_a_burst() -> None:
    trial = Trial(backend())
    steady, burst = Stream("steady"), Stream("burst")
    for _ in range(200):
        keep_busy(trial, steady)
        trial.step()
    before = served(trial)["steady"]
    for _ in range(100):
        keep_busy(trial, steady, burst)
        trial.step()
    totals = served(trial)
    assert totals["burst"] <= 1.5 * (totals["steady"] - before)


def check_order_of_arrival() -> None:
    trial = Trial(backend(num_sequences=1))
    asked = [request(f"r{i}", fresh(8, i), max_tokens=2) for i in range(6)]
    trial.submit(*asked)
    ended: list[str] = []
    while len(ended) < len(asked):
        assert trial.num_steps < 100
        trial.step()
        ended += [name for name in trial.answers if trial.has_ended(name) and name not in ended]
    assert ended == [one.request_id for one in asked]


def test_who_came_first_is_served_first() -> None:
    check_order_of_arrival()


# ---- priorities ---------------------------------------------------------------------------------


def test_a_higher_priority_goes_first_and_a_lower_one_last() -> None:
    trial = Trial(backend(num_sequences=1))
    trial.submit(request("busy", fresh(8, 0), max_tokens=3))
    trial.step()
    for number, priority in enumerate([0, -1, 2, 1], 1):
        trial.submit(request(f"p{priority}", fresh(8, number), max_tokens=3, priority=priority))
    ended: list[str] = []
    while len(ended) < 5:
        assert trial.num_steps < 100
        trial.step()
        ended += [name for name in trial.answers if trial.has_ended(name) and name not in ended]
    assert ended == ["busy", "p2", "p1", "p0", "p-1"]


def check_aging() -> None:
    trial = Trial(backend(num_sequences=1), cost=lambda rows, backend: 1.0)  # noqa: ARG005
    urgent = Stream("urgent", max_tokens=4, priority=3)
    keep_busy(trial, urgent)
    trial.submit(request("patient", fresh(10, 9999), priority=0, tenant="urgent"))
    for _ in range(int(5 * SECONDS_PER_PRIORITY)):
        keep_busy(trial, urgent)
        trial.step()
        if trial.has_ended("patient"):
            assert trial.clock.now > 3 * SECONDS_PER_PRIORITY
            return
    raise AssertionError("a low priority waits for ever behind higher ones")


def test_waiting_raises_the_priority() -> None:
    check_aging()


# ---- long and short -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds_per_token", [0.0, 0.001, 0.02])
def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one(seconds_per_token: float) -> None:
    trial = Trial(
        backend(batch_size=128),
        cost=lambda rows, _: seconds_per_token * sum(len(row.tokens) for row in rows),
    )
    trial.submit(request("long", fresh(2000, 1), max_tokens=4, tenant="long"))
    trial.step(2)
    trial.submit(request("short", fresh(60, 2), max_tokens=4, tenant="short"))
    started = trial.clock.now
    trial.until(lambda: bool(trial.answers["short"].deltas), most=12)
    assert not trial.answers["long"].deltas
    assert trial.clock.now - started <= seconds_per_token * 5 * 128
    trial.finish()


@pytest.mark.parametrize("length", [2, 16, 17, 40])
@pytest.mark.parametrize("batch_size", [8, 16, 64])
def test_a_stream_of_short_prompts_does_not_stop_a_long_one(length: int, batch_size: int) -> None:
    trial = Trial(backend(num_sequences=4, batch_size=batch_size))
    short = Stream("short", length, max_tokens=1)
    trial.submit(request("long", fresh(300, 1), max_tokens=1, tenant="long"))
    for _ in range(600):
        keep_busy(trial, short)
        trial.step()
        if trial.has_ended("long"):
            return
    raise AssertionError(f"the long prompt does not get on: {trial.describe()}")


def test_a_prompt_that_needs_the_whole_pool_gets_it_in_the_end() -> None:
    trial = Trial(backend(num_sequences=4, num_cells=300))
    small = Stream("small", 20, max_tokens=4)
    keep_busy(trial, small)
    trial.step(3)
    trial.submit(request("large", fresh(290, 1), max_tokens=2, tenant="large"))
    for _ in range(300):
        keep_busy(trial, small)
        trial.step()
        if trial.has_ended("large"):
            return
    raise AssertionError("a large prompt waits for ever while small ones pass")


@pytest.mark.parametrize("num_sets", [2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_everybody_gets_on_under_whatever_adapters(mode: str, num_sets: int) -> None:
    """Sets of adapters take turns, and so do prompts and answers in deterministic mode."""
    trial = Trial(backend(num_sequences=6), EngineOptions(is_deterministic=mode == "deterministic"))
    names = ["none", "x", "y"][:num_sets]
    for name in names:
        trial.engine.load_adapter(name, name)
    sets = {name: ((name, 1.0),) for name in names} | {"none": ()}
    for number, name in enumerate(names):
        asked = request(f"{name} says", fresh(10, number), max_tokens=400, adapters=sets[name])
        trial.submit(asked)
    trial.step(30)
    for number, name in enumerate(names, 10):
        prompt = fresh(640, number)
        trial.submit(request(f"{name} reads", prompt, max_tokens=1, adapters=sets[name]))
    before = {name: len(trial.answers[f"{name} says"].tokens()) for name in names}
    trial.step(90)
    for name in names:
        assert len(trial.answers[f"{name} says"].tokens()) >= before[name] + 10
        assert trial.has_ended(f"{name} reads")


# ---- a full queue -------------------------------------------------------------------------------


def test_a_full_queue_refuses_the_newest_at_once_and_says_when_to_come_back() -> None:
    trial = Trial(backend(), EngineOptions(max_waiting=3))
    trial.submit(*(request(f"r{i}", fresh(50, i)) for i in range(5)))
    trial.step(3)
    trial.submit(request("more", fresh(50, 7)), request("n", fresh(50, 8), choices=2))
    calls = len(trial.calls)
    trial.step()
    assert len(trial.calls) == calls + 1
    for name in ("more", "n"):
        failed = trial.answers[name].failed
        assert failed.code == "overloaded"
        assert failed.retryable
        assert failed.retry_after_seconds is not None
        assert failed.retry_after_seconds > 0
    trial.finish()
    assert all(trial.answers[f"r{i}"].finished for i in range(5))


def test_the_advice_when_to_come_back_grows_with_the_work_that_waits() -> None:
    advice = []
    for length, max_tokens in ((10, 50), (1000, 50), (1000, 500)):
        trial = Trial(backend(), EngineOptions(max_waiting=2), cost=lambda rows, _: 0.5 * len(rows))
        asked = [request(f"r{i}", fresh(length, i), max_tokens=max_tokens) for i in range(4)]
        trial.submit(*asked)
        trial.step(40)
        trial.submit(*(request(f"s{i}", fresh(length, i + 9)) for i in range(4)))
        trial.step()
        failed = trial.answers["s3"].failed
        advice.append(failed.retry_after_seconds)
    assert advice == sorted(advice)
    assert advice[0] < advice[-1]
