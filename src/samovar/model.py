"""Models as a library, for programs without an event loop.

    with samovar.load("model.gguf") as model:
        print(model.complete("Once upon a time", max_tokens=50).text)
        for piece in model.stream("The capital of France is"):
            print(piece, end="")

A `Model` drives an AsyncModel from a thread of its own: there is no second copy of anything.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from samovar.answers import Completion
from samovar.asyncmodel import AsyncModel, AsyncSession
from samovar.config import CacheConfig, RuntimeConfig
from samovar.options import ChatOptions, LoadOptions, Options, Prompt, RenderOptions
from samovar.types import EmbeddingText, Event, Message

if TYPE_CHECKING:
    import numpy as np

_T = TypeVar("_T")


class _Thread:
    """An event loop on a thread of its own, which every Model of a program shares."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_over = False

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run it there and wait. An interrupt of the caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it there and wait, but not on that thread itself, where garbage may be collected."""
        if self._is_over:
            work.close()
            return
        loop = self._started()
        if threading.current_thread() is self._thread:
            asyncio.run_coroutine_threadsafe(work, loop)
        else:
            self.run(work)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="samovar-runtime", daemon=True
                )
                self._thread.start()
                atexit.register(self._end)
            return self._loop

    def _end(self) -> None:
        """The program ends: nobody may wait for a thread that will not run any more.

        Workers see their sockets close, save what they have and leave.
        """
        self._is_over = True


_thread = _Thread()


class Model:
    """A loaded model, for programs without an event loop. From any thread.

    Every method does what AsyncModel's does, and waits for it.
    """

    def __init__(self, original: AsyncModel) -> None:
        self.asynchronous = original
        """The model behind it; to be used on its own event loop only."""

    @classmethod
    def load(
        cls,
        path: str,
        *,
        cache: CacheConfig | None = None,
        runtime: RuntimeConfig | None = None,
        **options: Unpack[LoadOptions],
    ) -> Model:
        """See AsyncModel.load."""
        return cls(_thread.run(AsyncModel.load(path, cache=cache, runtime=runtime, **options)))

    def unload(self) -> None:
        """See AsyncModel."""
        _thread.run(self.asynchronous.unload())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unload()

    def events(self, prompt: Prompt, **options: Unpack[Options]) -> Iterator[Event]:
        """See AsyncModel."""
        return _iterated(self.asynchronous.events(prompt, **options))

    def complete(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.complete(prompt, **options))

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Iterator[str]:
        """See AsyncModel."""
        return _iterated(self.asynchronous.stream(prompt, **options))

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Completion:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.chat(messages, **options))

    def stream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> Iterator[Event]:
        """See AsyncModel."""
        return _iterated(self.asynchronous.stream_chat(messages, **options))

    def render(self, messages: Sequence[Message], **options: Unpack[RenderOptions]) -> list[int]:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.render(messages, **options))

    def prefill(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.prefill(prompt, **options))

    def session(self, name: str | None = None) -> Session:
        """See AsyncModel."""
        return Session(self.asynchronous.session(name))

    def embed(
        self, texts: EmbeddingText | Sequence[EmbeddingText], *, normalizes: bool = True
    ) -> np.ndarray:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.embed(texts, normalizes=normalizes))

    def rank(self, query: str, documents: Sequence[str]) -> tuple[float, ...]:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.rank(query, documents))

    def tokenize(self, text: str | bytes, *, add_special: bool = True) -> list[int]:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.tokenize(text, add_special=add_special))

    def detokenize(self, tokens: Iterable[int]) -> str:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.detokenize(tokens))

    def count_tokens(self, text: str | bytes) -> int:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.count_tokens(text))

    def load_adapter(self, name: str, path: str, scale: float = 1.0) -> None:
        """See AsyncModel."""
        _thread.run(self.asynchronous.load_adapter(name, path, scale))

    def set_adapter_scale(self, name: str, scale: float) -> None:
        """See AsyncModel."""
        self.asynchronous.set_adapter_scale(name, scale)

    def unload_adapter(self, name: str) -> None:
        """See AsyncModel."""
        _thread.run(self.asynchronous.unload_adapter(name))

    def list_adapters(self) -> dict[str, float]:
        """See AsyncModel."""
        return self.asynchronous.list_adapters()

    def cache_info(self) -> dict[str, Any]:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.cache_info())

    def status(self) -> dict[str, Any]:
        """See AsyncModel."""
        return _thread.run(self.asynchronous.status())


class Session:
    """See AsyncSession."""

    def __init__(self, original: AsyncSession) -> None:
        self._original = original
        self.name = original.name

    def complete(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """See AsyncSession."""
        return _thread.run(self._original.complete(prompt, **options))

    def fork(self, name: str | None = None) -> Session:
        """See AsyncSession."""
        return Session(_thread.run(self._original.fork(name)))

    def tokens(self) -> list[int]:
        """See AsyncSession."""
        return _thread.run(self._original.tokens())

    def reset(self) -> None:
        """See AsyncSession."""
        _thread.run(self._original.reset())

    def end(self) -> None:
        """See AsyncSession."""
        _thread.run(self._original.end())


def _iterated(events: AsyncIterator[_T]) -> Iterator[_T]:
    """The same, one by one, waiting for each. Leaving early ends the request."""
    try:
        while True:
            item = _thread.run(_next(events))
            if item is None:
                return
            yield item
    finally:
        _thread.finish(_close(events))


async def _next(events: AsyncIterator[_T]) -> _T | None:
    return await anext(events, None)


async def _close(events: AsyncIterator[Any]) -> None:
    if hasattr(events, "aclose"):
        await events.aclose()
