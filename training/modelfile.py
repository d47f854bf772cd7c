"""A model file read back: what training needs to go on from it instead of from a checkpoint.

Quantised weights come back as the numbers that llama.cpp computes with, so what training starts
from is what was measured. The state of the optimizers is in no model file and starts anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from gguf.quants import dequantize

from training.layout import Weights, file_names, from_file
from training.shape import Shape


@dataclass(frozen=True)
class ModelFile:
    """A decoder and its vocabulary: weights by the decoder's names, texts by their ids."""

    shape: Shape
    weights: Weights
    texts: list[str]
    merges: list[tuple[str, str]]


def read(path: Path) -> ModelFile:
    """Read a file that `training.export` wrote, in any of its types.

    ValueError: the file has other tensors than a decoder here has.
    """
    reader = GGUFReader(path)
    shape = _shape(reader)
    tensors = {one.name: one for one in reader.tensors}
    if set(tensors) != set(file_names(shape).values()):
        raise ValueError(f"{path} was not written by training.export: its tensors have other names")
    values = {name: dequantize(one.data, one.tensor_type) for name, one in tensors.items()}
    merges = [merge.split(" ") for merge in _field(reader, "tokenizer.ggml.merges")]
    return ModelFile(
        shape,
        # Copies: the reader's arrays are the mapped file, which may be the one that is replaced.
        {name: one.copy() for name, one in from_file(values, shape).items()},
        _field(reader, "tokenizer.ggml.tokens"),
        [(first, second) for first, second in merges],
    )


def _shape(reader: GGUFReader) -> Shape:
    return Shape(
        vocabulary=_field(reader, "llama.vocab_size"),
        width=_field(reader, "llama.embedding_length"),
        layers=_field(reader, "llama.block_count"),
        heads=_field(reader, "llama.attention.head_count"),
        kv_heads=_field(reader, "llama.attention.head_count_kv"),
        feed_forward=_field(reader, "llama.feed_forward_length"),
        context=_field(reader, "llama.context_length"),
        rope_base=_field(reader, "llama.rope.freq_base"),
        epsilon=_field(reader, "llama.attention.layer_norm_rms_epsilon"),
    )


def _field(reader: GGUFReader, key: str) -> Any:  # noqa: ANN401 (a file has many types)
    field = reader.fields.get(key)
    if field is None:
        raise ValueError(f"the model file has no {key}")
    return field.contents()
