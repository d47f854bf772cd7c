"""`samovar embed`: texts to vectors."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click

from samovar.cli import inprocess
from samovar.cli.input import model_path, read_text
from samovar.cli.output import print_json


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
def embed(**options: Any) -> None:  # noqa: ANN401 - click hands over what it parsed
    """Print one vector per text of TEXTS (default: standard input as one), a line each.

    MODEL is a GGUF file or a built-in name.
    """
    _embed(EmbedOptions(**options))


def _embed(options: EmbedOptions) -> None:
    texts = [read_text(text, "text") for text in options.texts or (None,)]
    vectors, count = [], 0
    with inprocess.open_model(
        options.model,
        context_length=options.ctx_size,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
    ) as backend:
        for text in texts:
            tokens = backend.tokenize(text)
            count += len(tokens)
            vectors.append(inprocess.embed(backend, tokens, options.pooling, is_raw=options.raw))
    if options.as_json:
        usage = {"prompt_tokens": count, "total_tokens": count}
        print_json({"embeddings": vectors, "usage": usage})
    else:
        for vector in vectors:
            sys.stdout.write(" ".join(f"{value:.6g}" for value in vector) + "\n")
