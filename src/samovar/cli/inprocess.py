"""Opens models in this process: the one place above the process wall that reaches below it.

Everything a command needs of the native side goes through here, so that the day models live in
worker processes only this file changes.
"""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from samovar import gguf
from samovar.chat.family import template_family as template_family
from samovar.chat.prompt import request_renderer
from samovar.chat.renderer import Renderer
from samovar.chat.specials import Specials
from samovar.errors import ContextOverflow, DecodeTimeout, InvalidRequest
from samovar.native import library, memory, probe
from samovar.native.context import Context, ContextOptions
from samovar.native.interface import StateKind
from samovar.native.llama import LlamaBackend
from samovar.native.model import Model, ModelOptions
from samovar.types import FinishReason, SamplingParams


@dataclass(slots=True)
class Timings:
    """Seconds spent."""

    load_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(slots=True)
class Generation:
    """One answer, as far as it has come."""

    prompt_tokens: int
    seed: int
    tokens: list[int] = field(default_factory=list)
    """Generated ids, the end-of-generation token excluded."""
    text: str = ""
    finish_reason: FinishReason = "length"
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
    adapters: Sequence[tuple[str, float]] = (),
) -> Iterator[LlamaBackend]:
    """A loaded model with its adapters applied and its chat template ready.

    A context length of 0 means what the model was trained for, cut to what memory allows.
    """
    model_options = ModelOptions(gpu_layers=gpu_layers)
    length = context_length or _fitting_length(path)
    options = ContextOptions(context_length=length, threads=threads)
    backend = LlamaBackend.open(path, model=model_options, context=options, proves_state=False)
    renderer = _renderer(backend)
    try:
        if renderer is not None:
            specials = Specials(backend.vocabulary.control_texts)
            backend.use_renderer(request_renderer(renderer, specials))
        loaded = [(backend.load_adapter(name), scale) for name, scale in adapters]
        backend.apply_adapters(loaded)
        yield backend
    finally:
        if renderer is not None:
            renderer.close()
        backend.close()


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


def generate(
    backend: LlamaBackend,
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
    stop = cancelled or threading.Event()
    if len(tokens) >= backend.context_length:
        raise ContextOverflow(
            f"the prompt has {len(tokens)} tokens and the context {backend.context_length}:"
            " shorten the prompt or raise --ctx-size"
        )
    backend.configure_sampler(params)
    answer = Generation(len(tokens), backend.seed)
    started = time.monotonic()
    try:
        _prefill(backend, tokens, stop)
        answer.timings.prefill_seconds = time.monotonic() - started
        _decode(backend, answer, max_tokens, on_text, stop)
    except DecodeTimeout:
        if not stop.is_set():
            raise
    if stop.is_set():
        answer.finish_reason = "cancelled"
    answer.timings.decode_seconds = time.monotonic() - started - answer.timings.prefill_seconds
    return answer


def _prefill(backend: LlamaBackend, tokens: list[int], stop: threading.Event) -> None:
    """In chunks of the grid, so that a cancellation does not wait for a whole prompt."""
    for start in range(0, len(tokens), backend.batch_size):
        if stop.is_set():
            return
        backend.prefill(tokens[start : start + backend.batch_size])


def _decode(
    backend: LlamaBackend,
    answer: Generation,
    max_tokens: int | None,
    on_text: Callable[[str], None],
    stop: threading.Event,
) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    room = backend.context_length - answer.prompt_tokens
    limit = room if max_tokens is None else min(max_tokens, room)
    for _ in range(limit):
        if stop.is_set():
            break
        sampled = backend.decode_one()
        if sampled.is_eog:
            answer.finish_reason = "stop"
            break
        answer.tokens.append(sampled.token)
        _emit(answer, decoder.decode(backend.detokenize([sampled.token])), on_text)
    _emit(answer, decoder.decode(b"", final=True), on_text)


def _emit(answer: Generation, text: str, on_text: Callable[[str], None]) -> None:
    if text:
        answer.text += text
        on_text(text)


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
