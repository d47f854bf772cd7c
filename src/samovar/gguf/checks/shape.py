"""The numbers that shape a model: layers, heads, widths, experts, windows.

llama.cpp asserts many of them (`load_hparams` and `create_memory` in src/llama-model.cpp, the
graphs in src/models/) and divides by others; an assertion or a division by zero ends the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from samovar.gguf.architectures import (
    HYBRID,
    RECURRENT,
    ROTATES_WHOLE_HEADS,
    UNEQUAL_HEADS,
)
from samovar.gguf.checks.keys import (
    count_key,
    in_range,
    layer_counts,
    number_key,
    refuse,
    required_count,
    text_key,
)
from samovar.gguf.checks.quirks import check_quirks
from samovar.gguf.checks.windows import check_windows
from samovar.gguf.header import MAX_LAYERS, POOLING_TYPES, Header
from samovar.gguf.stack import window_rule

# Bounds far above what exists: 10 million tokens of context, width 20,480, 256 heads of 576.
MAX_CONTEXT = 1 << 28
MAX_WIDTH = 1 << 20
MAX_HEADS = 1 << 12
MAX_HEAD_SIZE = 1 << 14
MAX_FEED_FORWARD = 1 << 24
# `LLAMA_MAX_EXPERTS`, src/llama-hparams.h.
MAX_EXPERTS = 1024
# `LLAMA_ROPE_SCALING_TYPES`, src/llama-model.cpp; any other name is asserted against.
ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})

# The norms assert eps >= 0 while they compute (ggml/src/ggml-cpu/ops.cpp).
EPSILONS = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.group_norm_epsilon",
)
# Positive numbers that must not be NaN or infinite.
SCALES = ("rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor")


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention heads of each layer, and the sizes of a key head and a value head."""

    queries: tuple[int, ...]
    pairs: tuple[int, ...]
    key_size: int
    value_size: int


def check_shape(header: Header) -> None:
    """Raises MalformedGGUF for hyperparameters that cannot be true together."""
    key = header.of_arch
    required_count(header, key("context_length"), 1, MAX_CONTEXT)
    width = required_count(header, key("embedding_length"), 1, MAX_WIDTH)
    layers = required_count(header, key("block_count"), 1, MAX_LAYERS)
    if (drafting := count_key(header, key("nextn_predict_layers"), 0, layers)) == layers:
        raise refuse(header, f"all {layers} layers are for drafting ({drafting})")
    layer_counts(header, "feed_forward_length", layers, MAX_FEED_FORWARD)
    heads = _read_heads(header, layers, width)
    if heads is not None:
        _check_heads(header, heads)
        _check_rotation(header, heads)
    _check_experts(header, layers)
    _check_numbers(header)
    _check_pooling(header)
    check_quirks(header, layers, width)
    check_windows(header)


def _read_heads(header: Header, layers: int, width: int) -> Heads | None:
    """The attention heads; None for architectures without attention."""
    queries = layer_counts(header, "attention.head_count", layers, MAX_HEADS)
    if queries is None or not any(queries):
        if header.architecture in RECURRENT:
            return None
        raise refuse(header, f"{header.of_arch('attention.head_count')} is missing or 0")
    pairs = layer_counts(header, "attention.head_count_kv", layers, MAX_HEADS) or queries
    # llama.cpp takes the size of all heads from the first layer.
    size = width // queries[0] if queries[0] else 0
    sizes = [
        count_key(header, header.of_arch(f"attention.{name}_length"), 1, MAX_HEAD_SIZE)
        for name in ("key", "value")
    ]
    if None in sizes and queries[0] and width % queries[0]:
        raise refuse(header, f"a width of {width} does not divide into {queries[0]} heads")
    return Heads(queries, pairs, sizes[0] or size, sizes[1] or size)


def _check_heads(header: Header, heads: Heads) -> None:
    may_lack_pairs = header.architecture in HYBRID | RECURRENT | {"deci"}
    for layer, (queries, pairs) in enumerate(zip(heads.queries, heads.pairs, strict=True)):
        where = f"layer {layer} has {queries} heads and {pairs} key-value heads"
        if pairs > queries:
            raise refuse(header, f"{where}, more than heads")
        if queries and not pairs and not may_lack_pairs:
            raise refuse(header, where)
        if pairs and queries % pairs:
            raise refuse(header, f"{where}, which does not divide")
    if heads.key_size != heads.value_size and header.architecture not in UNEQUAL_HEADS:
        raise refuse(
            header,
            f"key heads have {heads.key_size} elements and value heads {heads.value_size}, "
            f"and {header.architecture} needs them equal",
        )


def _check_rotation(header: Header, heads: Heads) -> None:
    rotated = count_key(header, header.of_arch("rope.dimension_count"), 0, MAX_HEAD_SIZE)
    if not heads.queries[0]:
        return
    if window_rule(header) is not None:
        _check_windowed_rotation(header, rotated, heads.key_size)
    if rotated is None:
        return
    size = heads.key_size
    _require_rotation(header, rotated, size)
    if rotated != size and header.architecture in ROTATES_WHOLE_HEADS:
        raise refuse(
            header,
            f"{rotated} of {size} elements of a head are rotated, and {header.architecture} "
            "rotates whole heads",
        )


def _check_windowed_rotation(header: Header, rotated: int | None, size: int) -> None:
    """Layers with a window may have heads of their own; what is not stated is as elsewhere."""
    own = count_key(header, header.of_arch("rope.dimension_count_swa"), 0, MAX_HEAD_SIZE)
    own_size = count_key(header, header.of_arch("attention.key_length_swa"), 1, MAX_HEAD_SIZE)
    if own is not None or own_size is not None:
        usual = size if rotated is None else rotated
        _require_rotation(header, usual if own is None else own, own_size or size)


def _require_rotation(header: Header, rotated: int, size: int) -> None:
    # `ggml_compute_forward_rope` asserts an even number within the head, and never ends at 0.
    if rotated < 2 or rotated % 2 or rotated > size:
        raise refuse(header, f"{rotated} elements of a head of {size} are rotated")


def _check_experts(header: Header, layers: int) -> None:
    key = header.of_arch
    experts = count_key(header, key("expert_count"), 0, MAX_EXPERTS) or 0
    used = max(layer_counts(header, "expert_used_count", layers, MAX_EXPERTS) or (0,))
    if used > experts or (experts and not used):
        raise refuse(header, f"{used} of {experts} experts are used")
    groups = count_key(header, key("expert_group_count"), 0, MAX_EXPERTS) or 0
    chosen = count_key(header, key("expert_group_used_count"), 0, MAX_EXPERTS) or 0
    if groups and groups >= experts:
        raise refuse(header, f"{experts} experts are in {groups} groups")
    if groups > 1 and (experts % groups or not 0 < chosen < groups):
        raise refuse(header, f"{experts} experts are in {groups} groups, {chosen} of them used")


def _check_numbers(header: Header) -> None:
    for suffix in EPSILONS:
        number_key(header, header.of_arch(suffix), 0.0, 1.0)
    for suffix in SCALES:
        number_key(header, header.of_arch(suffix), 0.0, 1e15)
    scaling = text_key(header, header.of_arch("rope.scaling.type"))
    if scaling is not None and scaling not in ROPE_SCALINGS:
        raise refuse(header, f"{header.of_arch('rope.scaling.type')} is not a kind of scaling")


def _check_pooling(header: Header) -> None:
    # "unknown pooling type" ends the process when the first batch is done (llama-context.cpp).
    most = max(POOLING_TYPES)
    for suffix in ("pooling_type", "classifier.pooling_type"):
        found = header.metadata.get(header.of_arch(suffix))
        if found is not None and isinstance(found.value, int):
            in_range(header, header.of_arch(suffix), found.value, 0, most)
