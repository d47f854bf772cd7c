"""What is kept of responses: bounded, by tenant, the oldest of the largest tenant goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.api.openai.responses.turn import Head, Turn
from samovar.errors import Overloaded
from samovar.server.responses_running import MAX_BACKGROUND, run_in_background
from samovar.server.responses_store import Answer, Answers
from samovar.types import Burst, Choice, Event, Finished, TextDelta, Usage
from tests.conftest import scaled

END = Finished("r", (Choice("stop", 0),), Usage(1, 1))


def answered(number: int, tenant: str = "a", size: int = 10, **more: object) -> Answer:
    head = Head(f"resp_{number}", 0, {})
    turn = Turn(head, lambda prefix: f"{prefix}{number}", lambda: 0)
    context = ({"id": f"in_{number}", "text": "x" * size},)
    answer = Answer(tenant, "m", turn, context, is_kept=True, **more)
    answer.take((TextDelta("r", "Hi", ()), END))
    return answer


def test_the_oldest_goes_when_there_are_too_many() -> None:
    answers = Answers(max_kept=2)
    for number in range(3):
        answers.keep(answered(number))
    assert answers.get("a", "resp_0") is None
    assert answers.item("a", "in_0") is None
    assert answers.get("a", "resp_1") is not None
    assert answers.item("a", "in_2") == {"id": "in_2", "text": "x" * 10}
    assert answers.item("a", "msg_2") is not None


def test_who_keeps_the_most_loses_first() -> None:
    answers = Answers(max_bytes=10_000)
    answers.keep(answered(0, "small", 1000))
    for number in range(1, 20):
        answers.keep(answered(number, "large", 1000))
    assert answers.get("small", "resp_0") is not None
    assert answers.get("large", "resp_1") is None
    assert answers.get("large", "resp_19") is not None


def test_what_is_larger_than_everything_is_not_kept() -> None:
    answers = Answers(max_bytes=10_000)
    answers.keep(answered(0, size=20_000))
    assert answers.num_kept == 0
    assert answers.get("a", "resp_0") is None


def test_an_item_stays_as_long_as_one_response_has_it() -> None:
    answers = Answers()
    first = answered(0)
    answers.keep(first)
    second = answered(1)
    second.context = first.conversation() + second.context
    answers.keep(second)
    answers.forget(first)
    assert answers.item("a", "in_0") is not None
    answers.forget(second)
    assert answers.item("a", "in_0") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4000)), max_size=40))
@settings(max_examples=scaled(50, 1000), deadline=None)
def test_the_limits_hold_whatever_comes(given_sizes: list[tuple[str, int]]) -> None:
    answers = Answers(max_kept=8, max_bytes=10_000)
    kept: list[Answer] = []
    for number, (tenant, size) in enumerate(given_sizes):
        kept.append(answered(number, tenant, size))
        answers.keep(kept[-1])
        there = [one for one in kept if answers.get(one.tenant, one.response_id) is one]
        assert len(there) == answers.num_kept <= 8
        assert sum(one.size for one in there) <= 10_000
        if there:
            assert there[-1] is kept[-1] or size > 1000 or len(there) == 8
    for one in kept:
        answers.forget(one)
    assert answers.num_kept == 0


def test_whoever_follows_sees_everything_from_the_beginning() -> None:
    async def run() -> tuple[list[Event], list[Event]]:
        answer = answered(0)
        late = Answer("a", "m", Turn(answer.turn.head, str, lambda: 0), (), is_kept=True, events=[])
        early = asyncio.create_task(all_of(late.follow()))
        await asyncio.sleep(0)
        late.take([TextDelta("r", "Hi", ())])
        await asyncio.sleep(0)
        late.take([END])
        return await early, await all_of(late.follow())

    early, afterwards = asyncio.run(run())
    assert early == afterwards == [TextDelta("r", "Hi", ()), END]


async def all_of(bursts: AsyncIterator[Burst]) -> list[Event]:
    return [event async for burst in bursts for event in burst]


def test_what_runs_is_found_and_forgotten_when_it_is_left() -> None:
    async def run() -> None:
        answers, answer = Answers(), answered(0)

        async def events() -> AsyncIterator[Burst]:
            yield [END]
            yield [END]

        watched = answers.watched(answer, events())
        assert answers.get("a", "resp_0") is None
        await anext(watched)
        assert answers.get("a", "resp_0") is answer
        assert answers.get("b", "resp_0") is None
        await watched.aclose()
        assert answers.get("a", "resp_0") is None
        assert answer.over.is_set()

    asyncio.run(run())


def test_only_so_many_run_in_the_background_and_all_end_with_the_server() -> None:
    async def run() -> None:
        answers = Answers()
        begun = [unanswered(number, "a") for number in range(MAX_BACKGROUND)]
        for one in begun:
            run_in_background(answers, one, endless())
        with pytest.raises(Overloaded):
            run_in_background(answers, unanswered(-1, "a"), endless())
        other = unanswered(-2, "b")
        run_in_background(answers, other, endless())
        await answers.close()
        assert all(one.turn.status == "cancelled" for one in (*begun, other))
        assert answers.num_background("a") == answers.num_background("b") == 0
        assert answers.num_kept == MAX_BACKGROUND + 1

    asyncio.run(run())


def test_a_bug_in_the_background_is_told_by_the_response() -> None:
    async def broken() -> AsyncIterator[Burst]:
        yield [TextDelta("r", "Hi", ())]
        raise ZeroDivisionError

    async def run() -> Answer:
        answers, answer = Answers(), unanswered(0, "a")
        run_in_background(answers, answer, broken())
        await answer.over.wait()
        return answer

    response = asyncio.run(run()).turn.response()
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert response["output"][0]["content"][0]["text"] == "Hi"


def unanswered(number: int, tenant: str) -> Answer:
    turn = Turn(Head(f"resp_{number}", 0, {}), lambda prefix: f"{prefix}{number}", lambda: 0)
    return Answer(tenant, "m", turn, (), is_kept=True)


async def endless() -> AsyncIterator[Burst]:
    yield [TextDelta("r", "Hi", ())]
    await asyncio.Event().wait()


@pytest.mark.parametrize("is_kept", [True, False])
def test_only_what_is_to_be_kept_is(*, is_kept: bool) -> None:
    answers, answer = Answers(), answered(0)
    answer.is_kept = is_kept
    answers.keep(answer)
    assert (answers.num_kept == 1) is is_kept
