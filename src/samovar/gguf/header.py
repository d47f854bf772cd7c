"""What a GGUF file says about itself, before anything native has seen it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from samovar.errors import MalformedGGUF, ModelNotFound
from samovar.gguf.cursor import read_at, string_starts
from samovar.gguf.tensor import FILE_TYPES, TensorInfo
from samovar.gguf.values import (
    NUMPY_TYPES,
    ArrayRef,
    NumericArray,
    Scalar,
    StringArray,
    Value,
    ValueType,
)

# llama.cpp has room for this many layers (`LLAMA_MAX_LAYERS`, src/llama-hparams.h).
MAX_LAYERS = 512

VocabType = Literal["spm", "bpe", "wpm", "ugm", "rwkv", "plamo2", "none", "unknown"]

# `tokenizer.ggml.model` -> llama.cpp's tokenizer (src/llama-vocab.cpp, `impl::load`).
VOCAB_TYPES: dict[str, VocabType] = {
    "llama": "spm",
    "gpt2": "bpe",
    "hybriddna": "bpe",
    "whitespace": "bpe",
    "gemma4": "bpe",
    "bert": "wpm",
    "t5": "ugm",
    "rwkv": "rwkv",
    "plamo2": "plamo2",
    "none": "none",
    "no_vocab": "none",
}

# `enum llama_pooling_type`, include/llama.h.
POOLING_TYPES = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}

INTEGERS = frozenset(
    {
        ValueType.UINT8,
        ValueType.INT8,
        ValueType.UINT16,
        ValueType.INT16,
        ValueType.UINT32,
        ValueType.INT32,
        ValueType.UINT64,
        ValueType.INT64,
    }
)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a model: most models are one, large ones are split.

    `data_offset` is where tensor data begins, in bytes from the start of the file. `identity`
    (device, inode, size, modification time) tells whether the file is still the one that was read.
    """

    path: Path
    version: int
    file_size: int
    alignment: int
    data_offset: int
    identity: tuple[int, int, int, int]


@dataclass(frozen=True)
class Header:
    """The metadata and the tensor table of a model, LoRA adapter or vocabulary.

    The properties say what the file says, None where it is silent or says it with the wrong
    type; `check` decides whether it makes sense. `metadata` is that of the first part; `tensors`
    those of all parts, in order.
    """

    path: Path
    parts: tuple[Part, ...]
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    _layers: dict[str, tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def get(self, key: str) -> Scalar | None:
        """A scalar of the metadata; None if it is missing or an array."""
        found = self.metadata.get(key)
        return None if found is None or isinstance(found.value, ArrayRef) else found.value

    def text(self, key: str) -> str | None:
        """A string of the metadata; None if it is missing or of another type."""
        found = self.get(key)
        return found if isinstance(found, str) else None

    def integer(self, key: str) -> int | None:
        """A whole number of the metadata; None if it is missing or of another type."""
        found = self.metadata.get(key)
        return found.value if found and is_integer(found) else None  # type: ignore[return-value]

    def number(self, key: str) -> float | None:
        """A number of the metadata; None if it is missing or of another type."""
        found = self.get(key)
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return float(found) if is_number else None  # type: ignore[arg-type]

    def array_ref(self, key: str) -> ArrayRef | None:
        """Where an array of the metadata lies; None if it is missing or a scalar."""
        found = self.metadata.get(key)
        return found.value if found and isinstance(found.value, ArrayRef) else None

    def array(self, key: str) -> NumericArray | StringArray:
        """An array of the metadata: shape (count,), or a view that decodes its strings on demand.

        Large arrays are read from the file now. Raises KeyError if there is no such array,
        ModelNotFound if the file is gone, MalformedGGUF if it has changed since.
        """
        ref = self.array_ref(key)
        if ref is None:
            raise KeyError(key)
        return self.strings(key) if ref.element_type is ValueType.STRING else self.numbers(key)

    def strings(self, key: str) -> StringArray:
        """An array of strings. Raises as `array` does, KeyError also if it holds numbers."""
        ref = self.array_ref(key)
        if ref is None or ref.element_type is not ValueType.STRING:
            raise KeyError(key)
        data = self._read(ref)
        try:
            return StringArray(data, string_starts(data, ref.count))
        except ValueError as error:
            raise self._changed() from error

    def numbers(self, key: str) -> NumericArray:
        """An array of numbers, shape (count,). Raises as `array`, KeyError also for strings."""
        ref = self.array_ref(key)
        if ref is None or ref.element_type is ValueType.STRING:
            raise KeyError(key)
        data = ref.data if ref.data is not None else self._read(ref)
        return np.frombuffer(data, NUMPY_TYPES[ref.element_type])

    def of_arch(self, suffix: str) -> str:
        """The key of this architecture: `of_arch("block_count")` is `llama.block_count`."""
        return f"{self.architecture}.{suffix}"

    def per_layer(self, suffix: str) -> tuple[int, ...]:
        """A whole number for each layer, from a scalar or an array; empty where there is none."""
        # Kept, because those who ask for one layer after another ask for all of them each time.
        if suffix not in self._layers:
            self._layers[suffix] = self._read_layers(self.of_arch(suffix))
        return self._layers[suffix]

    @property
    def architecture(self) -> str | None:
        """`general.architecture`, such as `llama` or `qwen2`."""
        return self.text("general.architecture")

    @property
    def name(self) -> str | None:
        """What its makers call the model."""
        return self.text("general.name")

    @property
    def size_label(self) -> str | None:
        """Size as its makers state it, such as `7B` or `8x7B`."""
        return self.text("general.size_label")

    @property
    def file_size(self) -> int:
        """Bytes of all parts together."""
        return sum(part.file_size for part in self.parts)

    @cached_property
    def num_params(self) -> int:
        """Number of weights."""
        return sum(tensor.num_elements for tensor in self.tensors)

    @cached_property
    def dominant_type(self) -> str | None:
        """The tensor type that most bytes of the weights are stored in."""
        totals: dict[str, int] = {}
        for tensor in self.tensors:
            totals[tensor.type_name] = totals.get(tensor.type_name, 0) + tensor.num_bytes
        return max(totals, key=lambda name: totals[name]) if totals else None

    @property
    def quantization(self) -> str | None:
        """`Q4_K_M` and its like, from `general.file_type`; without that, the dominant type.

        The number is only a label that whoever made the file wrote; where its family (`Q4_K`) is
        not that of any tensor, the dominant type of the tensors is the truth and is given.
        """
        label = FILE_TYPES.get(self.integer("general.file_type") or 0)
        if "general.file_type" not in self.metadata or label is None:
            return self.dominant_type
        types = {tensor.type_name for tensor in self.tensors}
        fits = any(_family(name) == _family(label) for name in types)
        return label if fits or not types else self.dominant_type

    @property
    def n_ctx_train(self) -> int | None:
        """Longest context the model was trained on, in tokens."""
        return self.integer(self.of_arch("context_length"))

    @property
    def n_layer(self) -> int | None:
        """Number of layers."""
        return self.integer(self.of_arch("block_count"))

    @property
    def n_embd(self) -> int | None:
        """Width of the residual stream."""
        return self.integer(self.of_arch("embedding_length"))

    @property
    def n_head(self) -> int | None:
        """Attention heads; where layers differ, the most that one has."""
        return max(self.per_layer("attention.head_count"), default=None)

    @property
    def n_head_kv(self) -> int | None:
        """Key and value heads; where layers differ, the most that one has."""
        return max(self.per_layer("attention.head_count_kv"), default=self.n_head)

    @property
    def n_ff(self) -> int | None:
        """Width of the feed-forward layers; where layers differ, the widest."""
        return max(self.per_layer("feed_forward_length"), default=None)

    @property
    def n_expert(self) -> int:
        """Experts of a mixture-of-experts model, 0 for a dense one."""
        return self.integer(self.of_arch("expert_count")) or 0

    @property
    def sliding_window(self) -> int | None:
        """Window of the sliding-window layers in tokens."""
        return self.integer(self.of_arch("attention.sliding_window"))

    @property
    def rope_freq_base(self) -> float | None:
        """Base of the rotary position frequencies."""
        return self.number(self.of_arch("rope.freq_base"))

    @property
    def rope_dimension(self) -> int | None:
        """How many elements of a head are rotated."""
        return self.integer(self.of_arch("rope.dimension_count"))

    @property
    def pooling(self) -> str | None:
        """How an embedding model makes one vector of many: `mean`, `cls`, `last`, `rank`."""
        return POOLING_TYPES.get(self.integer(self.of_arch("pooling_type")) or 0)

    @property
    def vocab_type(self) -> VocabType:
        """The kind of tokenizer, by llama.cpp's names."""
        return VOCAB_TYPES.get(self.text("tokenizer.ggml.model") or "", "unknown")

    @property
    def vocab_size(self) -> int | None:
        """Number of tokens."""
        tokens = self.array_ref("tokenizer.ggml.tokens")
        return tokens.count if tokens else self.integer(self.of_arch("vocab_size"))

    @property
    def chat_template(self) -> str | None:
        """The default chat template, Jinja text."""
        return self.text("tokenizer.chat_template")

    @property
    def chat_templates(self) -> dict[str, str]:
        """Every chat template by name; the default one is `default`."""
        prefix = "tokenizer.chat_template."
        named = {key: self.text(key) for key in self.metadata if key.startswith(prefix)}
        found = {key.removeprefix(prefix): text for key, text in named.items() if text is not None}
        default = self.chat_template
        return found if default is None else {"default": default, **found}

    @property
    def is_adapter(self) -> bool:
        """Whether this is a LoRA adapter: weights to put on a model."""
        return self.text("general.type") == "adapter" or "adapter.type" in self.metadata

    @property
    def is_vocab_only(self) -> bool:
        """Whether there is a vocabulary but not one tensor."""
        return not self.tensors and "tokenizer.ggml.tokens" in self.metadata

    def _read_layers(self, key: str) -> tuple[int, ...]:
        ref, layers = self.array_ref(key), self.n_layer or 0
        if ref is not None:
            fits = ref.data is not None and ref.element_type in (*INTEGERS, ValueType.BOOL)
            return tuple(map(int, self.numbers(key).tolist())) if fits else ()
        scalar = self.integer(key)
        return (scalar,) * layers if scalar is not None and layers <= MAX_LAYERS else ()

    def _read(self, ref: ArrayRef) -> bytes:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ModelNotFound(f"{self.path} is gone: {error.strerror}") from error
        try:
            if identity_of(os.fstat(descriptor)) != self.parts[0].identity:
                raise self._changed()
            data = read_at(descriptor, ref.offset, ref.num_bytes)
        finally:
            os.close(descriptor)
        if len(data) != ref.num_bytes:
            raise self._changed()
        return data

    def _changed(self) -> MalformedGGUF:
        return MalformedGGUF(f"{self.path} has changed since its header was read: read it again")


def identity_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What tells one state of a file from another: device, inode, size, modification time."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def is_integer(value: Value) -> bool:
    """Whether a value is a scalar of one of the whole-number types."""
    return value.type in INTEGERS


def _family(name: str) -> str:
    """`Q4_K` of `Q4_K_M`; `Q3_K` of `Q3_K_L`; `MXFP4` of `MXFP4_MOE`."""
    for suffix in ("_S", "_M", "_L", "_XL", "_MOE", "_XS", "_XXS"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
