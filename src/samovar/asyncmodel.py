"""A loaded model on an event loop: the same runtime and workers that serve over a network.

async with await AsyncModel.load("model.gguf") as model:
    print((await model.complete("Once upon a time", max_tokens=50)).text)
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from samovar.answers import Collector, Completion
from samovar.config import CacheConfig, RuntimeConfig, WorkerConfig
from samovar.errors import InvalidRequest, from_code
from samovar.options import (
    ChatOptions,
    LoadOptions,
    Options,
    Prompt,
    RenderOptions,
    chat_request,
    generate_request,
)
from samovar.runtime.runtime import Runtime
from samovar.types import (
    Embedded,
    EmbeddingText,
    EmbedRequest,
    Event,
    Failed,
    Message,
    Ranked,
    RankRequest,
    TextDelta,
)

if TYPE_CHECKING:
    import numpy as np


class AsyncModel:
    """A loaded model. Made by `load`; unload it, or use it as a context manager."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self._name = name
        self._numbers = itertools.count()
        self._scales: dict[str, float] = {}

    @classmethod
    async def load(
        cls,
        path: str,
        *,
        cache: CacheConfig | None = None,
        runtime: RuntimeConfig | None = None,
        **options: Unpack[LoadOptions],
    ) -> AsyncModel:
        """Load a GGUF file or a built-in model, such as samovar-mini.

        `cache` None: the usual one; `CacheConfig(memory_bytes=0, disk_bytes=0)`: none. Raises
        ModelNotFound, LoadFailed and its kinds, with what to do.
        """
        watched = replace(runtime or RuntimeConfig(), keep_alive_seconds=None)
        made = Runtime(watched)
        worker = WorkerConfig(**options)
        try:
            await made.load(path, path, worker, CacheConfig() if cache is None else cache)
        except BaseException:
            await made.close()
            raise
        model = cls(made, path)
        model._scales = dict.fromkeys((name for name, _ in worker.adapters), 1.0)
        return model

    async def unload(self) -> None:
        """Let what runs finish, save, and free everything. Idempotent."""
        await self._runtime.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.unload()

    # ---- text ---------------------------------------------------------------------------------

    async def events(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncIterator[Event]:
        """Every event of a request; the last one is terminal."""
        async for event in self._generate(prompt, options):
            yield event

    async def complete(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """The whole answer to a prompt. Raises what ended the request otherwise."""
        return await _collected(self.events(prompt, **options))

    async def stream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncIterator[str]:
        """The text of the first answer, piece by piece."""
        async for piece in _pieces(self.events(prompt, **options)):
            yield piece

    async def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Completion:
        """The answer to a conversation, through the model's own template: text, reasoning, calls.

        Raises TemplateError, and what ended the request otherwise.
        """
        return await _collected(self._converse(messages, options))

    async def stream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> AsyncIterator[Event]:
        """The same as it comes: deltas of text, reasoning and calls, and one terminal event."""
        async for event in self._converse(messages, options):
            yield event

    async def render(
        self, messages: Sequence[Message], **options: Unpack[RenderOptions]
    ) -> list[int]:
        """The ids that a conversation becomes. Special tokens are only what the template wrote."""
        given: dict[str, Any] = {**options}
        if "tools" in given:
            given["tools"] = list(given["tools"])
        found: list[int] = await self.ask("render", messages=list(messages), **given)
        return found

    async def prefill(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """Compute a prompt and generate nothing: it is warm for what comes next."""
        return await _collected(self._generate(prompt, options, prefill_only=True))

    def session(self, name: str | None = None) -> AsyncSession:
        """A conversation that keeps its place in the model between requests."""
        return AsyncSession(self, name or f"session-{next(self._numbers)}")

    def in_session(
        self, name: str, prompt: Prompt, options: Options, *, goes_on: bool
    ) -> AsyncIterator[Event]:
        """The events of a request that keeps its sequence under a name (see AsyncSession)."""
        return self._generate(prompt, options, session=name, continues=goes_on)

    # ---- vectors ------------------------------------------------------------------------------

    async def embed(
        self, texts: EmbeddingText | Sequence[EmbeddingText], *, normalizes: bool = True
    ) -> np.ndarray:
        """One vector for each text: float32, (number of texts, width)."""
        is_one = isinstance(texts, (str, bytes)) or all(isinstance(one, int) for one in texts)
        given = (texts,) if is_one else tuple(texts)
        request = EmbedRequest(self._id(), given, normalizes=normalizes)  # type: ignore[arg-type]
        async for event in self._runtime.generate(self._name, request):
            if isinstance(event, Embedded):
                return event.vectors
            _raise_if_failed(event)
        raise InvalidRequest("the model gave no vectors")

    async def rank(self, query: str, documents: Sequence[str]) -> tuple[float, ...]:
        """How well each document answers the query; higher is better."""
        request = RankRequest(self._id(), query, tuple(documents))
        async for event in self._runtime.generate(self._name, request):
            if isinstance(event, Ranked):
                return event.scores
            _raise_if_failed(event)
        raise InvalidRequest("the model gave no scores")

    # ---- tokens -------------------------------------------------------------------------------

    async def tokenize(self, text: str | bytes, *, add_special: bool = True) -> list[int]:
        """Text to ids, with what the model expects around it (BOS)."""
        found: list[int] = await self.ask("tokenize", text=text, add_special=add_special)
        return found

    async def detokenize(self, tokens: Iterable[int]) -> str:
        """Ids to text."""
        found: str = await self.ask("detokenize", tokens=list(tokens))
        return found

    async def count_tokens(self, text: str | bytes) -> int:
        """How many tokens a text is."""
        return len(await self.tokenize(text))

    # ---- adapters -----------------------------------------------------------------------------

    async def load_adapter(self, name: str, path: str, scale: float = 1.0) -> None:
        """Load a LoRA file; from now on requests use it, unless they say otherwise."""
        await self.ask("load_adapter", name=name, path=path)
        self._scales[name] = scale

    def set_adapter_scale(self, name: str, scale: float) -> None:
        """How strongly the requests to come use an adapter; 0: not at all. Others go on as are."""
        if name not in self._scales:
            raise InvalidRequest(f"no adapter named {name} is loaded")
        self._scales[name] = scale

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises InvalidRequest while requests use it."""
        await self.ask("unload_adapter", name=name)
        self._scales.pop(name, None)

    def list_adapters(self) -> dict[str, float]:
        """Loaded adapters and their scales."""
        return dict(self._scales)

    # ---- about --------------------------------------------------------------------------------

    async def cache_info(self) -> dict[str, Any]:
        """What the cache has, and has done since the model was loaded."""
        found: dict[str, Any] = await self.ask("cache_info")
        return found

    async def status(self) -> dict[str, Any]:
        """The model, its process, and how busy it is."""
        about = self._runtime.status().get(self._name, {})
        return {**about, **await self.ask("status")}

    async def ask(self, operation: str, /, **arguments: Any) -> Any:  # noqa: ANN401
        """Ask the model's process something by name (see worker.operations)."""
        return await self._runtime.ask(self._name, operation, **arguments)

    # ---- helpers ------------------------------------------------------------------------------

    def _id(self) -> str:
        return f"request-{next(self._numbers)}"

    def _converse(self, messages: Sequence[Message], options: ChatOptions) -> AsyncIterator[Event]:
        request = chat_request(self._id(), messages, options, self._defaults())
        return self._runtime.generate(self._name, request)

    def _defaults(self) -> dict[str, Any]:
        """What requests have if nothing else is said: the adapters that are set."""
        used = tuple((name, scale) for name, scale in self._scales.items() if scale)
        return {"adapters": used}

    def _generate(self, prompt: Prompt, options: Options, **more: Any) -> AsyncIterator[Event]:  # noqa: ANN401
        request = generate_request(self._id(), prompt, options, self._defaults())
        return self._runtime.generate(self._name, replace(request, **more))


class AsyncSession:
    """Requests that follow on each other: each sees all that was said before."""

    def __init__(self, model: AsyncModel, name: str, *, has_begun: bool = False) -> None:
        self._model = model
        self.name = name
        self._has_begun = has_begun

    async def complete(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """Continue with a prompt behind everything that the session holds."""
        events = self._model.in_session(self.name, prompt, options, goes_on=self._has_begun)
        done = await _collected(events)
        self._has_begun = True
        return done

    async def fork(self, name: str | None = None) -> AsyncSession:
        """Another session that holds the same."""
        target = self._model.session(name).name
        await self._model.ask("fork_session", source=self.name, target=target)
        return AsyncSession(self._model, target, has_begun=True)

    async def tokens(self) -> list[int]:
        """What it holds."""
        found: list[int] = await self._model.ask("session_tokens", name=self.name)
        return found

    async def reset(self) -> None:
        """Forget what it holds, and fail what runs on it."""
        await self._model.ask("reset_session", name=self.name)
        self._has_begun = False

    async def end(self) -> None:
        """Let its place in the model go."""
        await self._model.ask("end_session", name=self.name)
        self._has_begun = False


async def _collected(events: AsyncIterator[Event]) -> Completion:
    collector = Collector()
    async for event in events:
        done = collector.take(event)
        if done is not None:
            return done
    raise InvalidRequest("the request ended without an answer")


async def _pieces(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    async for event in events:
        if isinstance(event, TextDelta) and event.choice == 0 and event.text:
            yield event.text
        _raise_if_failed(event)


def _raise_if_failed(event: Event) -> None:
    if isinstance(event, Failed):
        raise from_code(event.code, event.message)
