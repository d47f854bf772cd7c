"""Events that go the short way to the connection: the same bytes, whoever takes how much."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from samovar.api.openai.failures import failure
from samovar.config import ServerConfig
from samovar.errors import OutOfMemory
from samovar.runtime.ticket import Ticket
from samovar.server import stream
from samovar.server.body_writer import EXTENSION, BodyWriter, offer
from samovar.server.current import Current, set_current
from samovar.server.generation import Generation
from samovar.server.observing import Observers, Watch
from samovar.server.stream import EventStream
from samovar.types import Burst, Event, Failed, TextDelta
from tests.conftest import scaled
from tests.runtime.serving import request
from tests.server.serving import PATIENCE, lifespan, listening
from tests.server.test_stream import BEGUN, END, Client, Words, alone, until


class Model:
    """A request, what comes of it, and what became of it."""

    def __init__(self) -> None:
        self.closed: list[Ticket] = []
        self.observers = Observers()
        self.ticket = Ticket(request(1), 0.0, self.closed.append)

    def generation(self) -> Generation:
        return Generation(self.submit, lambda: Watch(self.observers, "m", None))

    async def submit(self) -> Ticket:
        return self.ticket

    def say(self, *said: Event | str) -> None:
        """What comes at once."""
        for one in said:
            self.ticket.take(TextDelta("r", one, (1,)) if isinstance(one, str) else one)
        self.ticket.wake()


@dataclass
class Connected(Client):
    """A client whose connection offers the short way, and which may take nothing for a while."""

    pushed: list[bytes] = field(default_factory=list)
    unsent: bytes = b""
    everything: bytes = b""
    takes: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.takes.set()

    async def send(self, message: Message) -> None:
        """Take a message, in a while."""
        await self.takes.wait()
        await super().send(message)
        self.everything += message.get("body", b"")

    @property
    def is_taken(self) -> bool:
        return bool(self.got) and self.takes.is_set()

    def write(self, data: bytes) -> bool:
        """What comes the short way, before something is sent behind it."""
        self.pushed.append(data)
        self.unsent += data
        return self.takes.is_set()

    def flush(self) -> None:
        self.everything += self.unsent
        self.unsent = b""

    async def listen(self, generation: AsyncIterator[Burst]) -> None:
        scope: Scope = {"type": "http"}
        offer(scope, self)
        await EventStream(generation, Words(), failure)(scope, self.receive, self.send)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _begun() -> tuple[Model, Connected, asyncio.Task[None]]:
    """A stream whose first event, "a", has gone out."""
    model, client = Model(), Connected()
    listening = asyncio.create_task(client.listen(model.generation()))
    await _settle()
    model.say("a")
    await _settle()
    return model, client, listening


@alone
async def test_what_follows_the_first_event_is_pushed() -> None:
    model, client = Model(), Connected()
    listening = asyncio.create_task(client.listen(model.generation()))
    await _settle()
    model.say(BEGUN)
    await _settle()
    assert client.got == []  # a failure may still have a status
    model.say("a")
    await _settle()
    assert (client.status, client.writes, client.pushed) == (200, [b"a"], [])
    model.say("b")
    model.say("c", "d")
    assert client.pushed == [b"b", b"cd"]  # nothing was awaited in between
    model.say(END)
    await listening
    assert client.everything == b"abcd[end]"
    assert client.writes == [b"a", b""]
    assert client.got[-1]["more_body"] is False
    assert model.closed == [model.ticket]


@alone
async def test_a_bug_in_what_is_pushed_ends_the_stream_and_the_request() -> None:
    set_current(Current("req_7"))
    told: list[Failed] = []

    class Teller(Words):
        def feed(self, event: Event) -> bytes:
            if isinstance(event, Failed):
                told.append(event)
            return super().feed(event)

    model, client = Model(), Connected()
    scope: Scope = {"type": "http"}
    offer(scope, client)
    answer = EventStream(model.generation(), Teller(), failure)
    listening = asyncio.create_task(answer(scope, client.receive, client.send))
    await _settle()
    model.say("a")
    await _settle()
    model.say("b", "bug", "c")
    model.say("d")
    await listening
    assert client.everything == b"ab[failed]"
    assert "req_7" in told[0].message
    assert model.closed == [model.ticket]


@alone
async def test_a_client_that_goes_while_events_are_pushed_ends_its_request() -> None:
    model, client, listening = await _begun()
    client.gone.set()
    with pytest.raises(stream.ClientGone):
        await listening
    model.say("b")
    assert client.everything == b"a"
    assert model.closed == [model.ticket]
    assert model.observers.requests.value("m", "cancelled") == 1


@alone
async def test_who_is_cut_off_while_events_are_pushed_is_told() -> None:
    model, client, listening = await _begun()
    model.say("b")
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert client.everything == b"ab[failed]"


@alone
async def test_a_request_that_is_not_taken_is_counted_by_why() -> None:
    model, client = Model(), Connected()

    async def refuse() -> Ticket:
        raise OutOfMemory("too large")

    watch: Callable[[], Watch] = lambda: Watch(model.observers, "m", None)  # noqa: E731
    await client.listen(Generation(refuse, watch))
    assert client.status == 503
    assert model.observers.requests.value("m", "out_of_memory") == 1


def test_signs_of_life_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HOLD_SECONDS", 0.01)
    monkeypatch.setattr(stream, "PING_SECONDS", 0.02)

    @alone
    async def check() -> None:
        model, client = Model(), Connected()
        listening = asyncio.create_task(client.listen(model.generation()))
        await _settle()
        model.say(BEGUN, "a")
        await until(lambda: client.pushed.count(b"[ping]") >= 3)
        model.say("b", END)
        await listening
        assert client.everything.replace(b"[ping]", b"") == b"ab[end]"

    check()


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=40))
@settings(max_examples=scaled(60, 2000), deadline=None)
def test_everything_comes_once_and_in_order(steps: list[tuple[int, bool, bool]]) -> None:
    """Whenever a client takes nothing, and whatever comes meanwhile."""

    @alone
    async def check() -> None:
        model, client, said = Model(), Connected(), ""
        listening = asyncio.create_task(client.listen(model.generation()))
        for number, (size, takes, waits) in enumerate(steps):
            if takes:
                client.takes.set()
            else:
                client.takes.clear()
            texts = [f"{number}.{one} " for one in range(size)]
            said += "".join(texts)
            model.say(*texts)
            if waits:
                await _settle()
        client.takes.set()
        model.say(END)
        await listening
        assert client.everything == f"{said}[end]".encode()

    check()


# ---- real connections ----------------------------------------------------------------------------

_ROUNDS = 3
_PIECE = 2**16  # bytes, at most


class Stopping:
    """An application whose one client is waited for, time and again."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pushed: list[int] = []
        """Bytes that went the short way."""
        self.sent: list[int] = []
        """Bytes that went as messages."""
        self.stopped = threading.Semaphore(0)
        """More waits for the client than may."""
        self.going_on = threading.Event()
        """The client has taken what waited."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with some megabytes, or as many as sockets hold."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        await _body_read(receive)
        writer: BodyWriter = scope["extensions"][EXTENSION]
        offer(scope, _Counted(writer, self.pushed))

        async def counted(message: Message) -> None:
            self.sent.append(len(message.get("body", b"")))
            await send(message)

        model = Model()
        feeding = asyncio.ensure_future(self._feed(model, writer))
        await EventStream(model.generation(), Words(), failure)(scope, receive, counted)
        await feeding

    async def _feed(self, model: Model, writer: BodyWriter) -> None:
        numbers = random.Random(7)
        for _ in range(_ROUNDS):
            is_waited_for = False
            while not is_waited_for:
                is_waited_for = bool(self.pushed) and not writer.is_taken
                self.said.append(f"{len(self.said):07d}" + "x" * numbers.randrange(_PIECE))
                model.say(self.said[-1])
                await asyncio.sleep(0)
            self.going_on.clear()
            self.stopped.release()
            await until(lambda: writer.is_taken)
            self.going_on.set()
        model.say(END)


def test_a_real_client_that_stops_and_goes_on_gets_every_byte() -> None:
    """Events go one way while it takes them and the other while it does not, in order."""
    app = Stopping()
    with listening(app, ServerConfig(port=0)) as url, socket.socket() as sock:
        address = httpx.URL(url)
        sock.connect((address.host, address.port))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = bytearray()
        for _ in range(_ROUNDS):
            assert app.stopped.acquire(timeout=PATIENCE)
            sock.settimeout(0.01)
            while not app.going_on.is_set():
                with contextlib.suppress(TimeoutError):
                    got += sock.recv(2**20)
        sock.settimeout(PATIENCE)
        while data := sock.recv(2**20):
            got += data
    assert _body(bytes(got)) == ("".join(app.said) + "[end]").encode()
    assert len(app.pushed) > _ROUNDS
    assert len(app.sent) > _ROUNDS


@dataclass
class _Counted:
    """A BodyWriter that counts."""

    writer: BodyWriter
    pushed: list[int]

    @property
    def is_taken(self) -> bool:
        return self.writer.is_taken

    def write(self, data: bytes) -> bool:
        self.pushed.append(len(data))
        return self.writer.write(data)

    def flush(self) -> None:
        self.writer.flush()


def _body(response: bytes) -> bytes:
    """Of a response in chunks."""
    at = response.index(b"\r\n\r\n") + 4
    found = []
    while True:
        end = response.index(b"\r\n", at)
        length = int(response[at:end], 16)
        at = end + 2 + length
        assert response[at : at + 2] == b"\r\n"
        if not length:
            assert len(response) == at + 2
            return b"".join(found)
        found.append(response[end + 2 : at])
        at += 2


async def _body_read(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass
