"""gemma2: every other layer sees a sliding window only; scores and logits are soft-capped."""

from __future__ import annotations

from modelmaker.gguf_file import count, real
from modelmaker.kinds.transformer import (
    LOGIT_GAIN,
    attention_tensors,
    feed_forward_tensors,
    transformer_metadata,
)
from modelmaker.plan import Order, Plan, embedding
from modelmaker.tensor import Tensor, level, signs

WINDOW = 64
"""Tokens that the windowed layers see: few, so that short tests reach beyond it."""

_EMBEDDING = 0.1
_ATTENTION_SIZE, _FEED_FORWARD_SIZE = 2.0, 6.0
"""Sizes of what the two halves of a layer add, set by the norms after them."""


def gemma2_plan(order: Order) -> Plan:
    """A gemma2 model; llama.cpp multiplies its embeddings by the square root of the width."""
    shape = order.shape
    width = shape.width
    # The logits' size comes from this norm, for the embedding is the output matrix too.
    norm = signs("output_norm.weight", width, LOGIT_GAIN / (_EMBEDDING * width**0.5), order.seed)
    tensors: list[Tensor] = [embedding(order, _EMBEDDING, weak=True), norm]
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors += attention_tensors(block, shape)
        tensors.append(level(f"{block}.post_attention_norm.weight", width, _ATTENTION_SIZE))
        tensors += feed_forward_tensors(block, shape)
        tensors.append(level(f"{block}.post_ffw_norm.weight", width, _FEED_FORWARD_SIZE))
    metadata = transformer_metadata(order) | {
        "attention.key_length": count(shape.head_width),
        "attention.value_length": count(shape.head_width),
        "attention.sliding_window": count(WINDOW),
        "attn_logit_softcapping": real(50.0),
        "final_logit_softcapping": real(30.0),
    }
    return Plan("gemma2", metadata, tensors)
