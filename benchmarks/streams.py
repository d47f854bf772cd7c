"""Streams that are asked for over HTTP, all at once, by a process of its own.

    python -m benchmarks.streams ADDRESS DIALECT [--streams 64] [--requests 4] [--tokens 128]
    python -m benchmarks.streams library --model FILE [...]

Every stream asks on one connection, again as soon as it is answered (llama-server closes it after
an answer that it streamed, so there `--requests` is 1). Answers are of different
lengths, so that streams do not keep step. `library` asks the same of an AsyncModel in this process,
which has its worker as a server would. Prints one JSON object: tokens, seconds, and the seconds to
each answer's first token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import uvloop

from samovar.asyncmodel import AsyncModel
from samovar.config import CacheConfig
from samovar.errors import from_code
from samovar.types import Failed, Message, TextDelta

_SPREAD = 0.5  # of the usual length: how much longer or shorter an answer may be
_DEADLINE_SECONDS = 600.0
_END = b"\r\n0\r\n\r\n"  # of a response in chunks


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a stream is asked for, and what each token's event contains once and nothing else."""

    path: str
    marker: bytes

    def body(self, question: str, tokens: int) -> dict[str, object]:
        """A greedy answer of so many tokens."""
        messages = [{"role": "user", "content": question}]
        common = {"model": "model", "messages": messages, "stream": True}
        if self.path == "/api/chat":
            return {**common, "options": {"num_predict": tokens, "temperature": 0}}
        return {**common, "max_tokens": tokens, "temperature": 0}


DIALECTS = {
    "openai": Dialect("/v1/chat/completions", b'"delta":{"content":"'),
    "anthropic": Dialect("/v1/messages", b'"text_delta"'),
    "ollama": Dialect("/api/chat", b'"done":false'),
}


@dataclass
class Heard:
    """What came of all streams."""

    tokens: int = 0
    seconds: float = 0.0
    firsts: list[tuple[int, float]] = field(default_factory=list)
    """Seconds from a request until its first token, behind which request of its stream it was."""


def questions(stream: int, requests: int, tokens: int) -> Iterator[tuple[str, int]]:
    """What a stream asks, and how many tokens it wants. No two questions begin alike."""
    chance = random.Random(stream)
    for _ in range(requests):
        text = " ".join(str(chance.randrange(10**6)) for _ in range(6))
        yield text, round(tokens * chance.uniform(1 - _SPREAD, 1 + _SPREAD))


class _Stream(asyncio.Protocol):
    """Asks on one connection. Reads cheaply: it counts what stands in each token's event."""

    def __init__(self, dialect: Dialect, asked: Iterator[tuple[str, int]], heard: Heard) -> None:
        self._dialect = dialect
        self._asked = asked
        self._heard = heard
        self._began = 0.0
        self._number = -1
        self._wanted = self._got = 0
        self._rest = b""
        """The end of what was read, in which something may have begun."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        marker = self._dialect.marker
        seen = self._rest + data
        count = seen.count(marker)
        if count:
            if not self._got:
                self._heard.firsts.append((self._number, time.perf_counter() - self._began))
            self._got += count
        is_over = seen.endswith(_END)
        behind = seen.rfind(marker) + len(marker) if count else 0
        self._rest = seen[max(behind, len(seen) - len(marker) + 1) :]
        if is_over:
            self._end(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server ended a connection"))

    def _ask(self) -> None:
        question = next(self._asked, None)
        if question is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._number += 1
        text, self._wanted = question
        self._got, self._rest = 0, b""
        body = json.dumps(self._dialect.body(text, self._wanted)).encode()
        head = f"POST {self._dialect.path} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._began = time.perf_counter()
        self._transport.write(head.encode() + body)

    def _end(self, data: bytes) -> None:
        if self._got != self._wanted:
            text = f"{self._got} tokens came, {self._wanted} were asked for: {data[-300:]!r}"
            self.done.set_exception(ValueError(text))
            self._transport.close()
            return
        self._heard.tokens += self._got
        self._ask()


async def asked_over_http(args: argparse.Namespace) -> Heard:
    """All streams at a server."""
    host, _, port = args.where.rpartition(":")
    loop, heard = asyncio.get_running_loop(), Heard()
    dialect = DIALECTS[args.dialect]
    began = time.perf_counter()
    streams = [
        _Stream(dialect, questions(number, args.requests, args.tokens), heard)
        for number in range(args.streams)
    ]
    for one in streams:
        await loop.create_connection(lambda one=one: one, host, int(port))  # type: ignore[misc]
    async with asyncio.timeout(_DEADLINE_SECONDS):
        await asyncio.gather(*(one.done for one in streams))
    heard.seconds = time.perf_counter() - began
    return heard


async def asked_of_library(args: argparse.Namespace) -> Heard:
    """All streams in this process."""
    heard = Heard()
    nothing = CacheConfig(memory_bytes=0, disk_bytes=0)
    options = {"num_sequences": args.streams, "context_length": args.context, "threads": 1}
    async with await AsyncModel.load(args.model, cache=nothing, **options) as model:
        await _answered(model, iter([("first of all", 8)]), Heard())
        began = time.perf_counter()
        asked = (questions(number, args.requests, args.tokens) for number in range(args.streams))
        await asyncio.gather(*(_answered(model, one, heard) for one in asked))
        heard.seconds = time.perf_counter() - began
    return heard


async def _answered(model: AsyncModel, asked: Iterator[tuple[str, int]], heard: Heard) -> None:
    for number, (text, tokens) in enumerate(asked):
        got, began = 0, time.perf_counter()
        messages: list[Message] = [{"role": "user", "content": text}]
        async for event in model.stream_chat(messages, max_tokens=tokens, temperature=0.0):
            if isinstance(event, Failed):
                raise from_code(event.code, event.message)
            if isinstance(event, TextDelta) and event.text:
                if not got:
                    heard.firsts.append((number, time.perf_counter() - began))
                got += len(event.tokens)
        heard.tokens += got


def main() -> None:
    """Ask, and print what came."""
    line = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    line.add_argument("where", help="HOST:PORT, or library")
    line.add_argument("dialect", nargs="?", choices=DIALECTS, default="openai")
    line.add_argument("--streams", type=int, default=64)
    line.add_argument("--requests", type=int, default=4)
    line.add_argument("--tokens", type=int, default=128)
    line.add_argument("--model", help="A GGUF file, for library.")
    line.add_argument("--context", type=int, default=512, help="Tokens of a sequence.")
    args = line.parse_args()
    ask = asked_of_library if args.where == "library" else asked_over_http
    sys.stdout.write(json.dumps(asdict(uvloop.run(ask(args)))) + "\n")


if __name__ == "__main__":
    main()
