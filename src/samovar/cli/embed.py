"""`samovar embed`: texts to vectors."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click

from samovar.cli import opened
from samovar.cli.input import model_path, read_text
from samovar.cli.interrupt import INTERRUPTED
from samovar.cli.output import print_json
from samovar.errors import InvalidRequest, from_code
from samovar.types import MAX_INPUTS, Embedded, EmbedRequest, Failed


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """The command line of `samovar embed`, as parsed."""

    model: str
    texts: tuple[str, ...]
    pooling: str | None
    raw: bool
    ctx_size: int
    threads: int
    gpu_layers: int
    as_json: bool


@click.command()
@click.argument("model", type=model_path)
@click.argument("texts", nargs=-1)
@click.option(
    "--pooling",
    type=click.Choice(("mean", "cls", "last")),
    help="Default: what the file says, else last.",
)
@click.option("--raw", is_flag=True, help="Do not scale vectors to length 1.")
@click.option("--ctx-size", type=int, default=0, metavar="N", help="Longest text in tokens.")
@click.option("--threads", type=int, default=0, metavar="N", help="Default: every core.")
@click.option("--gpu-layers", type=int, default=-1, metavar="N", help="Default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def embed(**options: Any) -> int:  # noqa: ANN401 - click hands over what it parsed
    """Print one vector per text of TEXTS (default: standard input as one), a line each.

    MODEL is a GGUF file or a built-in name.
    """
    return _embed(EmbedOptions(**options))


def _embed(options: EmbedOptions) -> int:
    texts = [read_text(text, "text") for text in options.texts or (None,)]
    if not all(texts):
        raise InvalidRequest("a text is empty: there are no tokens to make a vector of")
    vectors, count = opened.run(_vectors(options, texts))
    if not vectors:
        return INTERRUPTED
    if options.as_json:
        usage = {"prompt_tokens": count, "total_tokens": count}
        print_json({"embeddings": vectors, "usage": usage})
    else:
        for vector in vectors:
            sys.stdout.write(" ".join(f"{value:.6g}" for value in vector) + "\n")
    return 0


async def _vectors(options: EmbedOptions, texts: list[bytes]) -> tuple[list[list[float]], int]:
    """One of each text, and how many tokens they have."""
    worker = opened.worker_config(
        ctx_size=options.ctx_size, threads=options.threads, gpu_layers=options.gpu_layers
    )
    found: list[list[float]] = []
    count = 0
    async with opened.opened(options.model, worker, None) as model:
        for start in range(0, len(texts), MAX_INPUTS):
            some = tuple(texts[start : start + MAX_INPUTS])
            request = EmbedRequest(
                f"embed-{start}",
                some,
                pooling=options.pooling,  # type: ignore[arg-type]  # click has checked it
                normalizes=not options.raw,
            )
            async for event in model.events(request):
                if isinstance(event, Failed) and model.is_cancelled:
                    return [], 0
                if isinstance(event, Failed):
                    raise from_code(event.code, event.message)
                if isinstance(event, Embedded):
                    found += event.vectors.tolist()
                    count += event.usage.prompt_tokens
    return found, count
