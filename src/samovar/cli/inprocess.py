"""Opens models in this process: the one place above the process wall that reaches below it.

Everything a command needs of the native side goes through here, so that the day models live in
worker processes only this file changes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from samovar import gguf
from samovar.cache.house import Directory as Directory
from samovar.cache.house import House as House
from samovar.cache.index.node import Tier
from samovar.cache.opening import disk_budget as disk_budget
from samovar.cache.opening import namespace_of, open_store
from samovar.cache.outlook import Needs, outlook
from samovar.cache.outlook import Outlook as Outlook
from samovar.cache.store import BlockStore, Scope
from samovar.chat.family import template_family as template_family
from samovar.chat.prompt import request_renderer
from samovar.chat.renderer import Renderer
from samovar.chat.specials import Specials
from samovar.config import CacheConfig
from samovar.engine.engine import Engine
from samovar.engine.restoring import LEAST_GAIN
from samovar.engine.scopes import Cache
from samovar.errors import ContextOverflow, InvalidRequest, from_code
from samovar.native import library, memory, probe
from samovar.native.context import Context, ContextOptions
from samovar.native.interface import StateKind
from samovar.native.llama import LlamaBackend
from samovar.native.model import Model, ModelOptions
from samovar.types import (
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    SamplingParams,
    TextDelta,
    Usage,
)

_REQUEST = "run"
_FLUSH_SECONDS = 60.0  # what waits to be written is at most write_queue_bytes


@dataclass(slots=True)
class Timings:
    """Seconds spent."""

    load_seconds: float = 0.0
    restore_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(slots=True)
class Served:
    """A model with an engine on it, for one request after the other."""

    backend: LlamaBackend
    engine: Engine
    store: BlockStore | None
    adapters: tuple[tuple[str, float], ...] = ()
    config: CacheConfig | None = None
    files: tuple[tuple[str, float], ...] = ()
    """Paths of the adapters, with their scales."""


@dataclass(slots=True)
class Generation:
    """One answer, as far as it has come."""

    prompt_tokens: int
    seed: int = 0
    """What it drew with."""
    tokens: list[int] = field(default_factory=list)
    """Generated ids, the end-of-generation token excluded."""
    text: str = ""
    finish_reason: FinishReason = "length"
    usage: Usage | None = None
    timings: Timings = field(default_factory=Timings)


@contextmanager
def open_vocabulary(path: str) -> Iterator[Model]:
    """The vocabulary of a file, without its weights."""
    model = Model(path, ModelOptions(vocab_only=True))
    try:
        yield model
    finally:
        model.close()


@contextmanager
def open_model(
    path: str,
    *,
    context_length: int = 0,
    threads: int = 0,
    gpu_layers: int = -1,
    proves_state: bool = False,
) -> Iterator[LlamaBackend]:
    """A loaded model with its chat template ready.

    A context length of 0 means what the model was trained for, cut to what memory allows. Without
    the proof, states can neither be saved nor restored.
    """
    model_options = ModelOptions(gpu_layers=gpu_layers)
    length = context_length or _fitting_length(path)
    options = ContextOptions(context_length=length, threads=threads)
    backend = LlamaBackend.open(
        path, model=model_options, context=options, proves_state=proves_state
    )
    renderer = _renderer(backend)
    try:
        if renderer is not None:
            specials = Specials(backend.vocabulary.control_texts)
            backend.use_renderer(request_renderer(renderer, specials))
        yield backend
    finally:
        if renderer is not None:
            renderer.close()
        backend.close()


@contextmanager
def serve(
    backend: LlamaBackend, adapters: Sequence[tuple[str, float]], config: CacheConfig | None
) -> Iterator[Served]:
    """An engine on a model, with the cache that belongs to it (None: without one).

    What is saved is durable when this ends.
    """
    store = None
    if config is not None and backend.state_kind is not StateKind.NONE:
        fields, weights = backend.describe_state(), backend.weights_paths
        store = open_store(namespace_of(fields, weights, config), config)
    try:
        cache = None if store is None or config is None else Cache(store, config)
        engine = Engine(backend, cache=cache)
        named = [(str(i), path, scale) for i, (path, scale) in enumerate(adapters)]
        for name, path, _ in named:
            engine.load_adapter(name, path)
        names = tuple((name, scale) for name, _, scale in named)
        yield Served(backend, engine, store, names, config, tuple(adapters))
        engine.close()
    finally:
        if store is not None:
            store.close()


def _fitting_length(path: str) -> int:
    header = gguf.read_header(Path(path))
    gguf.check(header)
    return memory.fitting_length(header, ContextOptions())


def _renderer(backend: LlamaBackend) -> Renderer | None:
    source = backend.model.chat_template
    if source is None or template_family(source) is None:  # a blank one is none
        return None
    vocabulary = backend.vocabulary
    bos, eos = vocabulary.bos, vocabulary.eos
    return Renderer(
        source,
        bos_token="" if bos is None else vocabulary.text(bos),
        eos_token="" if eos is None else vocabulary.text(eos),
    )


def encode_prompt(backend: LlamaBackend, prompt: str | bytes, *, is_raw: bool) -> list[int]:
    """The ids of a prompt: through the chat template when there is one and it is not raw.

    Raises InvalidRequest for nothing at all, and ContextOverflow before tokenizing what cannot fit.
    """
    if not prompt:
        raise InvalidRequest("the prompt is empty; give some text")
    backend.vocabulary.require_fits(prompt, backend.context_length)
    if is_raw or template_family(backend.model.chat_template) is None:
        tokens = backend.tokenize(prompt)
    else:
        text = prompt if isinstance(prompt, str) else prompt.decode("utf-8", "replace")
        tokens = backend.apply_chat_template({"messages": [{"role": "user", "content": text}]})
    if not tokens:
        raise InvalidRequest("this vocabulary has no token for the prompt; give some other text")
    return tokens


def encode_messages(backend: LlamaBackend, messages: Sequence[Message]) -> list[int]:
    """The ids of a conversation, through the chat template. Raises TemplateMissing and others."""
    return backend.apply_chat_template({"messages": list(messages)})


def generate(
    served: Served,
    tokens: list[int],
    params: SamplingParams,
    *,
    max_tokens: int | None = None,
    on_text: Callable[[str], None] = lambda _: None,
    cancelled: threading.Event | None = None,
) -> Generation:
    """Compute a prompt and generate until the model ends, room runs out, or someone cancels.

    `on_text` gets every piece of text as soon as it is complete UTF-8.
    """
    backend, engine = served.backend, served.engine
    if len(tokens) >= backend.context_length:
        raise ContextOverflow(
            f"the prompt has {len(tokens)} tokens and the context {backend.context_length}:"
            " shorten the prompt or raise --ctx-size"
        )
    answer = Generation(len(tokens))
    request = GenerateRequest(
        _REQUEST,
        tuple(tokens),
        sampling=params,
        max_tokens=max_tokens,
        adapters=served.adapters,
    )
    engine.submit(request)
    stop = cancelled or threading.Event()
    while not _advance(engine, answer, on_text, stop):
        pass
    return answer


def _advance(
    engine: Engine, answer: Generation, on_text: Callable[[str], None], stop: threading.Event
) -> bool:
    """One step of the engine. Whether the request has ended."""
    if stop.is_set():
        engine.cancel(_REQUEST)
    for event in engine.step():
        match event:
            case TextDelta(text=text, tokens=tokens):
                answer.tokens += tokens
                answer.text += text
                if text:
                    on_text(text)
            case Finished():
                _finish(answer, event)
                return True
            case Failed(code=code, message=message):
                if not stop.is_set():
                    raise from_code(code, message)
                answer.finish_reason = "cancelled"  # and the abort hit its last decode call
                return True
    return False


def _finish(answer: Generation, event: Finished) -> None:
    (choice,) = event.choices
    answer.finish_reason, answer.seed, answer.usage = choice.reason, choice.seed, event.usage
    if choice.reason == "stop" and choice.stop is None:
        answer.tokens.pop()  # the end of generation
    timings = event.usage.timings
    answer.timings.restore_seconds = timings.restore_seconds
    answer.timings.prefill_seconds = timings.prefill_seconds
    answer.timings.decode_seconds = timings.decode_seconds


# ---- the cache ------------------------------------------------------------------------------


def look(served: Served, tokens: list[int]) -> Outlook:
    """What a request with this prompt would find in the cache. Computes nothing, reads no block.

    Raises InvalidRequest where nothing can be cached.
    """
    store, config, scope = _kept(served)
    needs = Needs(served.backend.state_kind is not StateKind.DIVISIBLE, LEAST_GAIN)
    return outlook(store, scope, tokens, needs, config)


def warm(served: Served, tokens: list[int], cancelled: threading.Event) -> Outlook:
    """Compute a prompt, so that it is in the cache, and durable when this returns.

    Says what it would find there now. Raises what `look` does, and why it cannot be computed.
    """
    store, _, _ = _kept(served)
    engine = served.engine
    request = GenerateRequest(_REQUEST, tuple(tokens), adapters=served.adapters, prefill_only=True)
    engine.submit(request)
    while not engine.is_idle:
        if cancelled.is_set():
            engine.cancel(_REQUEST)
        for event in engine.step():
            if isinstance(event, Failed) and not cancelled.is_set():
                raise from_code(event.code, event.message)
    store.flush(_FLUSH_SECONDS)
    return look(served, tokens)


def pin(served: Served, tokens: list[int]) -> int:
    """Keep what is cached of a prompt until it is unpinned; returns how many tokens that is."""
    store, _, scope = _kept(served)
    needs_state = served.backend.state_kind is not StateKind.DIVISIBLE
    match = store.match(scope, tokens, needs_state=needs_state)
    node = match.state if needs_state else match.path[-1] if match.path else None
    if node is None:
        return 0
    store.pin(node.key)
    store.flush(_FLUSH_SECONDS)
    return node.end


def unpin(served: Served, tokens: list[int]) -> int:
    """Give the longest pinned beginning of a prompt free; returns how many tokens it has."""
    store, _, scope = _kept(served)
    pins = store.index.pins()
    for node in reversed(store.match(scope, tokens).path):
        if node.key in pins:
            store.pin(node.key, is_pinned=False)
            store.flush(_FLUSH_SECONDS)
            return node.end
    return 0


def _kept(served: Served) -> tuple[BlockStore, CacheConfig, Scope]:
    """The cache, how it is set, and the part of it that belongs to the adapters."""
    store, config = served.store, served.config
    if store is None or config is None:
        raise InvalidRequest("this model has no state that could be kept; there is no cache of it")
    if Tier.DISK in store.refused:
        raise InvalidRequest(f"{store.refused[Tier.DISK]}; give another --cache-dir")
    # What other processes computed under other adapters is known by what lies beside it.
    for others in House(config.directory).adapters(store.namespace):
        store.scope(others)
    return store, config, store.scope([(_digest(path), scale) for path, scale in served.files])


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embed(
    backend: LlamaBackend, tokens: list[int], pooling: str | None, *, is_raw: bool
) -> list[float]:
    """One vector, of length 1 unless it is wanted raw."""
    vector = backend.embed(tokens, pooling=pooling).astype("float64")
    norm = float((vector @ vector) ** 0.5)
    values: list[float] = (vector if is_raw or norm == 0 else vector / norm).tolist()
    return values


def read_state_kind(path: str) -> StateKind:
    """How the model's state can be cut, from a model without weights: the proof comes at load."""
    model = Model(path, ModelOptions(without_weights=True, check_memory=False))
    try:
        context = Context(model, ContextOptions(context_length=256, check_memory=False))
        has_memory, window = context.has_memory, model.window
        context.close()
        if not has_memory:
            return StateKind.NONE
        if model.is_recurrent:
            return StateKind.INDIVISIBLE
        has_tail = bool(window) or model.is_hybrid
        return StateKind.DIVISIBLE_WITH_TAIL if has_tail else StateKind.DIVISIBLE
    finally:
        model.close()


def describe_library() -> library.Library:
    """The native library that is installed. Raises InternalError when there is none that loads."""
    return library.describe()


def probe_library() -> probe.ProbeResult:
    """Whether its extra weight buffers work on this CPU."""
    return probe.probe_result()


def free_memory() -> int | None:
    """Bytes that a model could use now."""
    return memory.available_bytes()
