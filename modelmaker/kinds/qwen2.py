"""qwen2: like llama with biases on queries, keys and values, and with one matrix at both ends."""

from __future__ import annotations

from modelmaker.kinds.transformer import (
    LOGIT_GAIN,
    attention_tensors,
    feed_forward_tensors,
    transformer_metadata,
)
from modelmaker.plan import Order, Plan, embedding
from modelmaker.tensor import Tensor, noise, signs

_BIASES = {"q": 0.3, "k": 0.3, "v": 0.05}
"""Sizes of the biases; a strong one on values would be the same whatever the text says."""


def qwen2_plan(order: Order) -> Plan:
    """A qwen2 model."""
    shape = order.shape
    norm = signs("output_norm.weight", shape.width, LOGIT_GAIN / shape.width**0.5, order.seed)
    tensors: list[Tensor] = [embedding(order, 1.0, weak=True), norm]
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors += attention_tensors(block, shape)
        for part, size in _BIASES.items():
            width = shape.width if part == "q" else shape.kv_width
            tensors.append(noise(f"{block}.attn_{part}.bias", (width,), size, order.seed))
        tensors += feed_forward_tensors(block, shape)
    metadata = transformer_metadata(order)
    # n_rot is the head width here; llama.cpp derives it.
    del metadata["rope.dimension_count"]
    return Plan("qwen2", metadata, tensors)
