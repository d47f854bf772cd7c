"""lfm2: short convolutions with a recurrent state of a few tokens, between attention layers."""

from __future__ import annotations

from modelmaker.gguf_file import count, listing
from modelmaker.kinds.transformer import (
    ATTENTION_GAIN,
    LOGIT_GAIN,
    SCORE_GAIN,
    attention_tensors,
    feed_forward_tensors,
    transformer_metadata,
)
from modelmaker.plan import Order, Plan, embedding, projection
from modelmaker.shape import Shape
from modelmaker.tensor import Tensor, level, noise, ones, signs

_TAPS = 3


def lfm2_plan(order: Order) -> Plan:
    """An lfm2 model whose every second layer is attention, the others convolutions."""
    shape = order.shape
    # The norm before the output is called token_embd_norm in this architecture.
    norm = signs("token_embd_norm.weight", shape.width, LOGIT_GAIN / shape.width**0.5, order.seed)
    tensors: list[Tensor] = [embedding(order, 1.0, weak=True), norm]
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors += _attention(block, shape) if _attends(layer) else _convolution(block, order)
        tensors += feed_forward_tensors(block, shape)
    metadata = transformer_metadata(order)
    # A layer without key and value heads is a convolution.
    heads = [shape.kv_heads if _attends(layer) else 0 for layer in range(shape.layers)]
    metadata |= {"attention.head_count_kv": listing(heads), "shortconv.l_cache": count(_TAPS)}
    return Plan("lfm2", metadata, tensors)


def _attends(layer: int) -> bool:
    return layer % 2 == 1


def _attention(block: str, shape: Shape) -> list[Tensor]:
    """Attention whose queries and keys are normalised head by head."""
    norms = (f"{block}.attn_{part}_norm.weight" for part in "qk")
    return attention_tensors(block, shape) + [
        level(name, shape.head_width, SCORE_GAIN) for name in norms
    ]


def _convolution(block: str, order: Order) -> list[Tensor]:
    width = order.shape.width
    taps = noise(f"{block}.shortconv.conv.weight", (width, _TAPS), _TAPS**-0.5, order.seed)
    return [
        ones(f"{block}.attn_norm.weight", width),
        projection(f"{block}.shortconv.in_proj", 3 * width, width),
        taps,
        projection(f"{block}.shortconv.out_proj", width, width, ATTENTION_GAIN),
    ]
