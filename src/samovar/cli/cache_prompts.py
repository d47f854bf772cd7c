"""`samovar cache warm`, `explain`, `pin` and `unpin`: about one prompt of one model.

What they say holds for `samovar run` with the same model, options and prompt. None of them prints
any of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from samovar.cli import inprocess
from samovar.cli.cache_input import cache_config, read_file
from samovar.cli.input import model_path, read_adapter, read_messages, read_text
from samovar.cli.interrupt import INTERRUPTED, act_on_interrupt
from samovar.cli.output import print_json
from samovar.cli.streams import complain
from samovar.errors import InvalidRequest
from samovar.types import DivergenceReason

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
    asked, cancelled = PromptOptions(**options), threading.Event()
    with _opened(asked) as (served, tokens):

        def cancel() -> None:
            cancelled.set()
            served.backend.abort()

        undo = act_on_interrupt(cancel)
        try:
            found = inprocess.warm(served, tokens, cancelled)
        finally:
            undo()
    if cancelled.is_set():
        return INTERRUPTED
    kept = found.divergence.position
    if asked.as_json:
        print_json({"prompt_tokens": found.prompt_tokens, "kept_tokens": kept})
    else:
        sys.stdout.write(f"{kept} of {found.prompt_tokens} tokens are kept\n")
    if kept == found.prompt_tokens:
        return 0
    complain(_why_not(found))
    return 1


@click.command()
@_about_a_prompt
def explain(**options: Any) -> None:  # noqa: ANN401
    """Say how much of PROMPT (default: standard input) would not be computed, and why no more."""
    asked = PromptOptions(**options)
    with _opened(asked) as (served, tokens):
        found = inprocess.look(served, tokens)
    cached, divergence = found.cached, found.divergence
    by_tier = {"memory": cached.memory, "shm": cached.shm, "disk": cached.disk}
    computed = found.prompt_tokens - cached.total
    if asked.as_json:
        print_json(
            {
                "prompt_tokens": found.prompt_tokens,
                "cached_tokens": by_tier,
                "computed_tokens": computed,
                "divergence": {"position": divergence.position, "reason": divergence.reason},
            }
        )
        return
    lines = [f"prompt of {found.prompt_tokens} tokens"]
    lines += [f"{count} from {tier}" for tier, count in by_tier.items() if count]
    lines.append(f"{computed} to compute")
    sys.stdout.write("; ".join(lines) + "\n")
    where = "" if divergence.reason in ("none", "short") else f"from token {divergence.position}: "
    sys.stdout.write(f"{where}{_WORDS[divergence.reason]}\n")


@click.command()
@_about_a_prompt
def pin(**options: Any) -> None:  # noqa: ANN401
    """Keep what is there of PROMPT (default: standard input), whatever else has to go."""
    asked = PromptOptions(**options)
    with _opened(asked) as (served, tokens):
        count = inprocess.pin(served, tokens)
    if not count:
        raise InvalidRequest("nothing of this prompt is kept: `samovar cache warm` it first")
    _report("pinned", count, len(tokens), as_json=asked.as_json)


@click.command()
@_about_a_prompt
def unpin(**options: Any) -> None:  # noqa: ANN401
    """Let PROMPT (default: standard input) go again when its room is needed."""
    asked = PromptOptions(**options)
    with _opened(asked) as (served, tokens):
        count = inprocess.unpin(served, tokens)
    if not count:
        raise InvalidRequest("no beginning of this prompt is pinned")
    _report("unpinned", count, len(tokens), as_json=asked.as_json)


@contextmanager
def _opened(options: PromptOptions) -> Iterator[tuple[inprocess.Served, list[int]]]:
    """The model as `samovar run` opens it, and the tokens of the prompt."""
    if sum(given is not None for given in (options.prompt, options.messages, options.file)) > 1:
        raise InvalidRequest("give a PROMPT, --messages or --file, not several of them")
    if options.ctx_size < 0 or options.threads < 0:
        raise InvalidRequest("--ctx-size and --threads must be positive")
    messages = None if options.messages is None else read_messages(options.messages)
    text = b""
    if options.file is not None:
        text = read_file(options.file)
    elif messages is None:
        text = read_text(options.prompt, "prompt")
    config = cache_config(options.cache_dir)
    with (
        inprocess.open_model(
            options.model,
            context_length=options.ctx_size,
            threads=options.threads,
            gpu_layers=options.gpu_layers,
            proves_state=True,
        ) as backend,
        inprocess.serve(backend, [read_adapter(each) for each in options.lora], config) as served,
    ):
        if messages is None:
            yield served, inprocess.encode_prompt(backend, text, is_raw=options.raw)
        else:
            yield served, inprocess.encode_messages(backend, messages)


def _why_not(found: inprocess.Outlook) -> str:
    if found.divergence.reason == "short":
        return "prompts as short as this are not kept: give a longer one"
    return "the rest could not be kept: see whether the disk is full, or the budget too small"


def _report(done: str, count: int, total: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"prompt_tokens": total, f"{done}_tokens": count})
    else:
        sys.stdout.write(f"{done} {count} of {total} tokens\n")
