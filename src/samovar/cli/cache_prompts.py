"""`samovar cache warm`, `explain`, `pin` and `unpin`: about one prompt of one model.

What they say holds for `samovar run` with the same model, options and prompt. None of them prints
any of it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from samovar.cli import opened
from samovar.cli.cache_input import cache_config, read_file
from samovar.cli.input import model_path, read_adapter, read_messages, read_text
from samovar.cli.interrupt import INTERRUPTED
from samovar.cli.opened import Opened
from samovar.cli.output import print_json
from samovar.cli.streams import complain
from samovar.errors import InvalidRequest, from_code
from samovar.types import DivergenceReason, Failed, GenerateRequest, Message

_T = TypeVar("_T")

_WORDS: dict[DivergenceReason, str] = {
    "none": "nothing is left to restore",
    "off": "there is no cache",
    "short": "prompts as short as this are not kept",
    "new": "nothing is kept that goes on from there",
    "other_tokens": "what is kept goes on with other tokens",
    "evicted": "what followed had to go to make room",
    "other_adapters": "what follows was computed under other adapters",
    "no_checkpoint": "more is kept, but the model's state was not kept any later",
}


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """The command line of these commands, as parsed."""

    model: str
    prompt: str | None
    messages: Path | None
    file: Path | None
    raw: bool
    lora: tuple[str, ...]
    ctx_size: int
    threads: int
    gpu_layers: int
    cache_dir: Path | None
    as_json: bool


_OPTIONS = (
    click.argument("model", type=model_path),
    click.argument("prompt", required=False),
    click.option("--messages", type=Path, metavar="FILE", help="A conversation, as a JSON list."),
    click.option("--file", type=Path, metavar="FILE", help="A file that holds the prompt."),
    click.option("--raw", is_flag=True, help="Do not apply the chat template."),
    click.option("--lora", multiple=True, metavar="PATH[:SCALE]", help="An adapter, as for run."),
    click.option("--ctx-size", type=int, default=0, metavar="N", help="Context in tokens."),
    click.option("--threads", type=int, default=0, metavar="N", help="Default: every core."),
    click.option("--gpu-layers", type=int, default=-1, metavar="N", help="Default: all."),
    click.option("--cache-dir", type=Path, metavar="DIR", help="Default: ~/.cache/samovar/kv."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def _about_a_prompt(function: Callable[..., _T]) -> Callable[..., _T]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@_about_a_prompt
def warm(**options: Any) -> int:  # noqa: ANN401 - click hands over what it parsed
    """Compute PROMPT (default: standard input) and keep it on disk; generate nothing.

    The exit code is 1 when not all of it could be kept.
    """
    asked = PromptOptions(**options)
    found = opened.run(_warm(asked))
    if found is None:
        return INTERRUPTED
    total, kept = found["prompt_tokens"], found["divergence"]["position"]
    if asked.as_json:
        print_json({"prompt_tokens": total, "kept_tokens": kept})
    else:
        sys.stdout.write(f"{kept} of {total} tokens are kept\n")
    if kept == total:
        return 0
    complain(_why_not(found["divergence"]["reason"]))
    return 1


async def _warm(asked: PromptOptions) -> dict[str, Any] | None:
    """What a request would find of the prompt, now that it is durable; None: interrupted."""
    async with _opened(asked) as (model, prompt):
        await model.ask("cache_explain", **prompt)  # whether there is a cache, before any work
        tokens, adapters = tuple(prompt["tokens"]), prompt["adapters"]
        request = GenerateRequest("warm", tokens, adapters=adapters, prefill_only=True)
        async for event in model.events(request):
            if isinstance(event, Failed) and not model.is_cancelled:
                raise from_code(event.code, event.message)
        if model.is_cancelled:
            return None
        await model.ask("cache_flush")
        found: dict[str, Any] = await model.ask("cache_explain", **prompt)
        return found


@click.command()
@_about_a_prompt
def explain(**options: Any) -> None:  # noqa: ANN401
    """Say how much of PROMPT (default: standard input) would not be computed, and why no more."""
    asked = PromptOptions(**options)
    found, _ = opened.run(_about("cache_explain", asked))
    if asked.as_json:
        print_json(found)
        return
    lines = [f"prompt of {found['prompt_tokens']} tokens"]
    lines += [f"{count} from {tier}" for tier, count in found["cached_tokens"].items() if count]
    lines.append(f"{found['computed_tokens']} to compute")
    sys.stdout.write("; ".join(lines) + "\n")
    position, reason = found["divergence"]["position"], found["divergence"]["reason"]
    where = "" if reason in ("none", "short") else f"from token {position}: "
    sys.stdout.write(f"{where}{_WORDS[reason]}\n")


@click.command()
@_about_a_prompt
def pin(**options: Any) -> None:  # noqa: ANN401
    """Keep what is there of PROMPT (default: standard input), whatever else has to go."""
    asked = PromptOptions(**options)
    count, total = opened.run(_about("cache_pin", asked))
    if not count:
        raise InvalidRequest("nothing of this prompt is kept: `samovar cache warm` it first")
    _report("pinned", count, total, as_json=asked.as_json)


@click.command()
@_about_a_prompt
def unpin(**options: Any) -> None:  # noqa: ANN401
    """Let PROMPT (default: standard input) go again when its room is needed."""
    asked = PromptOptions(**options)
    count, total = opened.run(_about("cache_unpin", asked))
    if not count:
        raise InvalidRequest("no beginning of this prompt is pinned")
    _report("unpinned", count, total, as_json=asked.as_json)


async def _about(operation: str, asked: PromptOptions) -> tuple[Any, int]:
    """What the cache answers about the prompt, and how many tokens that has."""
    async with _opened(asked) as (model, prompt):
        return await model.ask(operation, **prompt), len(prompt["tokens"])


@asynccontextmanager
async def _opened(options: PromptOptions) -> AsyncIterator[tuple[Opened, dict[str, Any]]]:
    """The model as `samovar run` opens it, and the prompt as its cache is asked about it."""
    prompt = _prompt(options)
    adapters = [read_adapter(each) for each in options.lora]
    worker = opened.worker_config(
        ctx_size=options.ctx_size,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
        adapters=adapters,
    )
    async with opened.opened(options.model, worker, cache_config(options.cache_dir)) as model:
        if isinstance(prompt, bytes):
            tokens = await model.ask("encode", text=prompt, is_raw=options.raw)
        else:
            tokens = await model.ask("render", messages=prompt)
        yield model, {"tokens": tokens, "adapters": opened.scaled(adapters)}


def _prompt(options: PromptOptions) -> bytes | list[Message]:
    """Text, or a conversation. Raises InvalidRequest."""
    if sum(given is not None for given in (options.prompt, options.messages, options.file)) > 1:
        raise InvalidRequest("give a PROMPT, --messages or --file, not several of them")
    if options.messages is not None:
        return read_messages(options.messages)
    if options.file is not None:
        return read_file(options.file)
    return read_text(options.prompt, "prompt")


def _why_not(reason: str) -> str:
    if reason == "short":
        return "prompts as short as this are not kept: give a longer one"
    return "the rest could not be kept: see whether the disk is full, or the budget too small"


def _report(done: str, count: int, total: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"prompt_tokens": total, f"{done}_tokens": count})
    else:
        sys.stdout.write(f"{done} {count} of {total} tokens\n")
