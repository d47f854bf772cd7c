"""From events to responses: what goes out when, and who is told that a client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from samovar.api.openai.failures import failure
from samovar.api.wire import SSE
from samovar.errors import OutOfMemory
from samovar.server import stream
from samovar.server.stream import ClientGone, EventStream, collected, while_connected
from samovar.types import Begun, Burst, Choice, Event, Failed, Finished, TextDelta, Usage

BEGUN = Begun("r", 7)
END = Finished("r", (Choice("stop", 0),), Usage(1, 1))


class Words:
    """A dialect of few words, for streams and for bodies."""

    media_type = SSE

    def __init__(self) -> None:
        self.said = b""
        self.has_begun = False

    def feed(self, event: Event) -> bytes:
        """A word for each event."""
        if isinstance(event, Begun):
            self.has_begun = True
            return b""
        if isinstance(event, TextDelta):
            if event.text == "bug":
                raise ZeroDivisionError
            data = event.text.encode()
        else:
            data = b"[failed]" if isinstance(event, Failed) else b"[end]"
        self.said += data
        return data

    def ping(self) -> bytes:
        """A sign of life, and whether it is known that the request has begun."""
        return b"[ping]" if self.has_begun else b"[waiting]"

    def body(self) -> bytes:
        """Everything."""
        return self.said


@dataclass
class Client:
    """What an ASGI server is to an application: takes messages, and may go."""

    got: list[Message] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Message) -> None:
        """Take a message."""
        self.got.append(message)

    async def receive(self) -> Message:
        """It says nothing more, until it goes."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def status(self) -> int:
        """Of the response."""
        return int(self.got[0]["status"])

    @property
    def writes(self) -> list[bytes]:
        """What was written at once."""
        return [one["body"] for one in self.got[1:]]

    async def hear(self, events: AsyncIterator[Burst]) -> None:
        """Listen to a stream."""
        await EventStream(events, Words(), failure)({"type": "http"}, self.receive, self.send)


def _event(said: Event | str) -> Event:
    return TextDelta("r", said, (1,)) if isinstance(said, str) else said


class Source:
    """Events that come when a test wants them to, and what became of whoever gave them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Burst | Exception] = asyncio.Queue()
        self.is_closed = False
        self.has_begun = asyncio.Event()

    def give(self, *events: Event | Exception | str) -> None:
        """Events that come one after the other; words are deltas."""
        for one in events:
            self._queue.put_nowait(one if isinstance(one, Exception) else [_event(one)])

    def give_at_once(self, *events: Event | str) -> None:
        """Events of one burst."""
        self._queue.put_nowait([_event(one) for one in events])

    async def events(self) -> AsyncIterator[Burst]:
        """Until the terminal one."""
        self.has_begun.set()
        try:
            while True:
                burst = await self._queue.get()
                if isinstance(burst, Exception):
                    raise burst
                yield burst
                if isinstance(burst[-1], (Finished, Failed)):
                    return
        finally:
            self.is_closed = True


Check = Callable[[], Coroutine[Any, Any, None]]


def alone(check: Check) -> Callable[[], None]:
    """Run it on a loop of its own; no task may be left, and no exception unheard."""

    def test() -> None:
        unheard: list[dict[str, Any]] = []

        async def whole() -> None:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: unheard.append(context)
            )
            async with asyncio.timeout(60):
                await check()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(whole())
        assert unheard == []

    test.__name__ = check.__name__
    return test


async def until(is_so: Callable[[], bool]) -> None:
    """Let others run until it is so."""
    while not is_so():  # noqa: ASYNC110 - it changes behind everybody's back
        await asyncio.sleep(0)


@alone
async def test_each_event_is_a_message_as_it_comes() -> None:
    source, client = Source(), Client()
    source.give("a", "b")
    task = asyncio.create_task(client.hear(source.events()))
    await until(lambda: len(client.got) == 3)
    source.give("c", END)
    await task
    assert client.status == 200
    assert client.writes == [b"a", b"b", b"c", b"[end]", b""]
    assert [one["more_body"] for one in client.got[1:]] == [True, True, True, True, False]
    assert source.is_closed


@alone
async def test_what_comes_at_once_is_one_message() -> None:
    source, client = Source(), Client()
    source.give_at_once("a", "b")
    source.give_at_once("c", END)
    await client.hear(source.events())
    assert client.writes == [b"ab", b"c[end]", b""]


@alone
async def test_what_came_before_a_bug_in_a_burst_is_told() -> None:
    source, client = Source(), Client()
    source.give_at_once("a", "bug", "b")
    await client.hear(source.events())
    assert client.writes == [b"a[failed]", b""]
    assert source.is_closed


@alone
async def test_a_failure_that_comes_first_has_a_status() -> None:
    for first in (Failed("r", "overloaded", "later", retryable=True), OutOfMemory("too large")):
        source, client = Source(), Client()
        source.give(first)
        await client.hear(source.events())
        assert client.status == 503
        assert source.is_closed


@alone
async def test_that_a_request_has_begun_is_no_answer_yet() -> None:
    source, client = Source(), Client()
    source.give(BEGUN)
    task = asyncio.create_task(client.hear(source.events()))
    await source.has_begun.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not client.got
    source.give_at_once("a", END)
    await task
    assert (client.status, client.writes) == (200, [b"a[end]", b""])


@alone
async def test_a_failure_of_what_has_only_begun_has_a_status() -> None:
    failed = Failed("r", "worker_lost", "gone", retryable=True)
    for is_at_once in (True, False):
        source, client = Source(), Client()
        if is_at_once:
            source.give_at_once(BEGUN, failed)
        else:
            source.give(BEGUN, failed)
        await client.hear(source.events())
        assert client.status == 503
        assert source.is_closed
        request = Request({"type": "http", "headers": []}, client.receive)
        source.give_at_once(BEGUN, failed)
        refused = await collected(request, source.events(), Words(), failure)
        assert refused.status_code == 503


@alone
async def test_a_bug_is_told_without_what_it_is() -> None:
    source, client = Source(), Client()
    source.give(ValueError("the prompt was: secret"))
    await client.hear(source.events())
    assert client.status == 500
    assert b"secret" not in b"".join(client.writes)


@alone
async def test_a_failure_that_comes_later_is_an_event() -> None:
    for later in (
        Failed("r", "worker_lost", "gone"),
        OutOfMemory("gone"),
        ValueError("bug"),
        "bug",
    ):
        source, client = Source(), Client()
        source.give("a")
        task = asyncio.create_task(client.hear(source.events()))
        await until(lambda client=client: len(client.got) == 2)  # type: ignore[misc]
        source.give(later)
        await task
        assert client.status == 200
        assert client.writes == [b"a", b"[failed]", b""]
        assert source.is_closed


@alone
async def test_a_client_that_goes_ends_its_request_whatever_it_waits_for() -> None:
    for given in ((), ("a",)):
        source, client = Source(), Client()
        source.give(*given)
        task = asyncio.create_task(client.hear(source.events()))
        await source.has_begun.wait()
        await until(lambda client=client, given=given: len(client.got) == 2 * len(given))  # type: ignore[misc]
        client.gone.set()
        with pytest.raises(ClientGone):
            await task
        assert source.is_closed


@alone
async def test_a_client_that_goes_before_one_body_ends_its_request() -> None:
    source, client = Source(), Client()
    request = Request({"type": "http", "headers": []}, client.receive)
    source.give("a")
    task = asyncio.create_task(collected(request, source.events(), Words(), failure))
    await source.has_begun.wait()
    client.gone.set()
    with pytest.raises(ClientGone):
        await task
    assert source.is_closed


@alone
async def test_one_body() -> None:
    source, client = Source(), Client()
    request = Request({"type": "http", "headers": []}, client.receive)
    source.give(BEGUN, "a", "b", END)
    response = await collected(request, source.events(), Words(), failure)
    assert response.body == b"ab[end]"
    source.give(OutOfMemory("too large"))
    refused = await collected(request, source.events(), Words(), failure)
    assert refused.status_code == 503


@alone
async def test_who_is_cut_off_is_told() -> None:
    source, client = Source(), Client()
    source.give("a")
    task = asyncio.create_task(client.hear(source.events()))
    await until(lambda: len(client.got) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.writes == [b"a", b"[failed]"]
    assert source.is_closed


def test_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HOLD_SECONDS", 0.01)
    monkeypatch.setattr(stream, "PING_SECONDS", 0.02)

    @alone
    async def check() -> None:
        source, client = Source(), Client()
        task = asyncio.create_task(client.hear(source.events()))
        await until(lambda: b"".join(client.writes).count(b"[waiting]") >= 3)
        source.give("a", END)
        await task
        assert b"".join(client.writes).endswith(b"[waiting]a[end]")

    check()


def test_what_says_nothing_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HOLD_SECONDS", 0.01)
    monkeypatch.setattr(stream, "PING_SECONDS", 0.02)

    @alone
    async def check() -> None:
        source, client = Source(), Client()
        task = asyncio.create_task(client.hear(source.events()))
        while b"".join(client.writes).count(b"[waiting]") < 3:
            source.give("")
            await asyncio.sleep(0)
        source.give(END)
        await task
        assert b"".join(client.writes).endswith(b"[waiting][end]")

    check()


def test_signs_of_life_know_that_a_request_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HOLD_SECONDS", 0.01)
    monkeypatch.setattr(stream, "PING_SECONDS", 0.02)

    @alone
    async def check() -> None:
        source, client = Source(), Client()
        source.give(BEGUN)
        task = asyncio.create_task(client.hear(source.events()))
        await until(lambda: len(client.writes) > 1)
        source.give("a", END)
        await task
        assert client.status == 200
        assert client.writes[0] == b"[ping]"
        assert b"".join(client.writes).endswith(b"[ping]a[end]")

    check()


@alone
async def test_the_result_of_work_whose_client_stays() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    request = Request({"type": "http", "headers": []}, Client().receive)
    assert await while_connected(request, work()) == 7
