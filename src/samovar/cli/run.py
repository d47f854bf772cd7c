"""`samovar run`: a prompt in, text out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from samovar.cli import opened
from samovar.cli.generation import Generation
from samovar.cli.input import (
    model_path,
    read_adapter,
    read_grammar,
    read_messages,
    read_text,
)
from samovar.cli.interrupt import INTERRUPTED
from samovar.cli.output import print_json, write_text
from samovar.config import CacheConfig
from samovar.errors import InvalidRequest
from samovar.types import GenerateRequest, Message, SamplingParams, TextDelta

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
    prompt: bytes | list[Message] = messages or []
    if messages is None:
        prompt = _required(read_text(options.prompt, "prompt"))
    params = _params(options)
    if options.max_tokens is not None and options.max_tokens < 1:
        raise InvalidRequest("--max-tokens must be 1 or more")
    answer = opened.run(_answer(options, prompt, params))
    _report(answer, as_json=options.as_json)
    if options.stats:
        click.echo(_stats(answer), err=True)
    return INTERRUPTED if answer.finish_reason == "cancelled" else 0


def _required(prompt: bytes) -> bytes:
    if not prompt:
        raise InvalidRequest("the prompt is empty; give some text")
    return prompt


async def _answer(
    options: RunOptions, prompt: bytes | list[Message], params: SamplingParams
) -> Generation:
    adapters = [read_adapter(text) for text in options.lora]
    worker = opened.worker_config(
        ctx_size=options.ctx_size,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
        adapters=adapters,
    )
    started = time.monotonic()
    async with opened.opened(options.model, worker, _cache(options)) as model:
        load_seconds = time.monotonic() - started
        if isinstance(prompt, bytes):
            tokens = await model.ask("encode", text=prompt, is_raw=options.raw)
        else:
            tokens = await model.ask("render", messages=prompt)
        answer = Generation(len(tokens), load_seconds=load_seconds)
        request = GenerateRequest(
            "run",
            tuple(tokens),
            sampling=params,
            max_tokens=options.max_tokens,
            adapters=opened.scaled(adapters),
        )
        async for event in model.events(request):
            answer.take(event)
            if isinstance(event, TextDelta) and event.text and not options.as_json:
                write_text(event.text)
    return answer


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


def _report(answer: Generation, *, as_json: bool) -> None:
    if not as_json:
        write_text("\n")
        return
    count = len(answer.tokens)
    cached = answer.usage.cached
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
            "timings": {name: round(value, 6) for name, value in answer.timings.items()},
        }
    )


def _stats(answer: Generation) -> str:
    """One line for people: what was restored, what was computed, and how long each took."""
    timings, cached = answer.usage.timings, answer.usage.cached.total
    parts = [f"prompt of {answer.prompt_tokens} tokens"]
    if cached:
        parts.append(f"{cached} restored in {timings.restore_seconds * 1000:.1f} ms")
    computed = answer.prompt_tokens - cached
    parts.append(f"{computed} computed in {timings.prefill_seconds * 1000:.1f} ms")
    parts.append(f"{len(answer.tokens)} generated in {timings.decode_seconds * 1000:.0f} ms")
    return "; ".join(parts)
