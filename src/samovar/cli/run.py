"""`samovar run`: a prompt in, text out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from samovar.cli import inprocess
from samovar.cli.input import (
    model_path,
    read_adapter,
    read_grammar,
    read_messages,
    read_text,
)
from samovar.cli.interrupt import INTERRUPTED, act_on_interrupt, leave
from samovar.cli.output import print_json, write_text
from samovar.config import CacheConfig
from samovar.errors import InvalidRequest
from samovar.types import Cached, SamplingParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line of `samovar run`, as parsed."""

    model: str
    prompt: str | None
    raw: bool
    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    grammar_file: Path | None
    lora: tuple[str, ...]
    ctx_size: int
    threads: int
    gpu_layers: int
    messages: Path | None
    no_cache: bool
    cache_dir: Path | None
    stats: bool
    as_json: bool


@click.command()
@click.argument("model", type=model_path)
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Do not apply the chat template.")
@click.option("--max-tokens", type=int, metavar="N", help="Default: until the model ends.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0: greedy.")
@click.option("--top-k", type=int, default=40, show_default=True, help="0: off.")
@click.option("--top-p", type=float, default=0.95, show_default=True, help="1: off.")
@click.option("--min-p", type=float, default=0.05, show_default=True, help="0: off.")
@click.option("--seed", type=int, help="Same seed, same text. Default: a random one.")
@click.option("--grammar-file", type=Path, metavar="FILE", help="GBNF to follow.")
@click.option("--lora", multiple=True, metavar="PATH[:SCALE]", help="An adapter; may be repeated.")
@click.option("--ctx-size", type=int, default=0, metavar="N", help="Context in tokens.")
@click.option("--threads", type=int, default=0, metavar="N", help="Default: every core.")
@click.option("--gpu-layers", type=int, default=-1, metavar="N", help="Default: all.")
@click.option("--messages", type=Path, metavar="FILE", help="A conversation, as a JSON list.")
@click.option("--no-cache", is_flag=True, help="Compute everything, keep nothing.")
@click.option("--cache-dir", type=Path, metavar="DIR", help="Default: ~/.cache/samovar/kv.")
@click.option("--stats", is_flag=True, help="Say where the prompt came from, and the times.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(**options: Any) -> int:  # noqa: ANN401 - click hands over what it parsed
    """Generate text from PROMPT (default: standard input) with MODEL.

    MODEL is a GGUF file or a built-in name, such as samovar-mini.
    """
    return _run(RunOptions(**options))


def _run(options: RunOptions) -> int:
    messages = None if options.messages is None else read_messages(options.messages)
    if messages is not None and options.prompt is not None:
        raise InvalidRequest("give a PROMPT or --messages, not both")
    prompt = read_text(options.prompt, "prompt") if messages is None else ""
    params = _params(options)
    if options.max_tokens is not None and options.max_tokens < 1:
        raise InvalidRequest("--max-tokens must be 1 or more")
    if options.ctx_size < 0 or options.threads < 0:
        raise InvalidRequest("--ctx-size and --threads must be positive")
    adapters = [read_adapter(text) for text in options.lora]
    started = time.monotonic()
    with (
        inprocess.open_model(
            options.model,
            context_length=options.ctx_size,
            threads=options.threads,
            gpu_layers=options.gpu_layers,
            proves_state=not options.no_cache,
        ) as backend,
        inprocess.serve(backend, adapters, _cache(options)) as served,
    ):
        load_seconds = time.monotonic() - started
        if messages is None:
            tokens = inprocess.encode_prompt(backend, prompt, is_raw=options.raw)
        else:
            tokens = inprocess.encode_messages(backend, messages)
        with _cancellable(backend.abort) as cancelled:
            answer = inprocess.generate(
                served,
                tokens,
                params,
                max_tokens=options.max_tokens,
                on_text=(lambda _: None) if options.as_json else write_text,
                cancelled=cancelled,
            )
    answer.timings.load_seconds = load_seconds
    _report(answer, as_json=options.as_json)
    if options.stats:
        click.echo(_stats(answer), err=True)
    return INTERRUPTED if answer.finish_reason == "cancelled" else 0


def _cache(options: RunOptions) -> CacheConfig | None:
    if options.no_cache:
        return None
    if options.cache_dir is not None:
        return CacheConfig(directory=options.cache_dir)
    try:
        return CacheConfig()
    except InvalidRequest as error:
        logger.warning("the prompt is not kept: %s", error)
        return None


def _params(options: RunOptions) -> SamplingParams:
    grammar = None if options.grammar_file is None else read_grammar(options.grammar_file)
    return SamplingParams(
        grammar=grammar,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        seed=options.seed,
    )


@contextmanager
def _cancellable(abort: Callable[[], None]) -> Iterator[threading.Event]:
    """Turn Ctrl-C into a cancellation that takes effect inside the running decode call.

    A second one ends the process: the first may be waiting for a reader that takes nothing.
    """
    cancelled = threading.Event()

    def cancel() -> None:
        if cancelled.is_set():
            leave()
        cancelled.set()
        abort()

    undo = act_on_interrupt(cancel)
    try:
        yield cancelled
    finally:
        undo()


def _report(answer: inprocess.Generation, *, as_json: bool) -> None:
    if not as_json:
        write_text("\n")
        return
    count = len(answer.tokens)
    cached = Cached() if answer.usage is None else answer.usage.cached
    usage = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": count,
        "total_tokens": answer.prompt_tokens + count,
        "prompt_tokens_details": {
            "cached_tokens": cached.total,
            "memory": cached.memory,
            "shm": cached.shm,
            "disk": cached.disk,
        },
    }
    print_json(
        {
            "text": answer.text,
            "tokens": answer.tokens,
            "prompt_tokens": answer.prompt_tokens,
            "finish_reason": answer.finish_reason,
            "seed": answer.seed,
            "usage": usage,
            "timings": {name: round(value, 6) for name, value in asdict(answer.timings).items()},
        }
    )


def _stats(answer: inprocess.Generation) -> str:
    """One line for people: what was restored, what was computed, and how long each took."""
    timings = answer.timings
    cached = 0 if answer.usage is None else answer.usage.cached.total
    parts = [f"prompt of {answer.prompt_tokens} tokens"]
    if cached:
        parts.append(f"{cached} restored in {timings.restore_seconds * 1000:.1f} ms")
    computed = answer.prompt_tokens - cached
    parts.append(f"{computed} computed in {timings.prefill_seconds * 1000:.1f} ms")
    parts.append(f"{len(answer.tokens)} generated in {timings.decode_seconds * 1000:.0f} ms")
    return "; ".join(parts)
