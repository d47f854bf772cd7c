"""`samovar info`: what a GGUF file holds and what it will take to run it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from samovar import gguf
from samovar.cli.input import model_path
from samovar.cli.inquiry import inquire
from samovar.cli.output import print_json, size
from samovar.gguf.show import shown


@click.command()
@click.argument("model", type=model_path)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(*, model: str, as_json: bool) -> None:
    """Print what MODEL holds: a model, a vocabulary or an adapter.

    MODEL is a GGUF file or a built-in name.
    """
    header = gguf.read_header(Path(model))
    facts = _facts(header)
    if header.is_adapter:
        gguf.check_adapter(header)
    elif header.is_vocab_only:
        gguf.check_vocabulary(header)
    else:
        gguf.check(header)
        facts |= _model_facts(header)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if value is not None:
            sys.stdout.write(f"{name.replace('_', ' '):22} {_readable(name, value)}\n")


def _facts(header: gguf.Header) -> dict[str, Any]:
    kind = "adapter" if header.is_adapter else "vocabulary" if header.is_vocab_only else "model"
    return {
        "kind": kind,
        "name": header.name,
        "architecture": header.architecture,
        "file_bytes": header.file_size,
        "parameters": header.num_params or None,
        "quantization": header.quantization,
        "vocabulary": None if header.is_adapter else header.vocab_type,
        "vocabulary_size": header.vocab_size,
    }


def _model_facts(header: gguf.Header) -> dict[str, Any]:
    found = inquire("describe", path=str(header.path))
    kv = gguf.kv_bytes_per_token(header)
    return {
        "context_length": header.n_ctx_train,
        "layers": header.n_layer,
        "embedding_width": header.n_embd,
        "heads": header.n_head,
        "kv_heads": header.n_head_kv,
        "sliding_window": header.sliding_window,
        "state_kind": found["state_kind"],
        "kv_bytes_per_token": kv.full + kv.windowed,
        "weights_bytes": gguf.weights_bytes(header),
        "pooling": header.pooling,
        "chat_template": found["chat_template"],
    }


def _readable(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{size(value)} ({value})"
    return f"{value:,}" if name == "parameters" else shown(str(value))
