"""llama: grouped query heads, one key and value cache over the whole context."""

from __future__ import annotations

from modelmaker.kinds.transformer import (
    LOGIT_GAIN,
    attention_tensors,
    feed_forward_tensors,
    transformer_metadata,
)
from modelmaker.plan import Order, Plan, embedding, output
from modelmaker.tensor import Tensor, ones, signs


def llama_plan(order: Order) -> Plan:
    """A llama model; shapes of benchmarks may have one matrix for embedding and output."""
    shape = order.shape
    tensors: list[Tensor] = list(_ends(order))
    for layer in range(shape.layers):
        tensors += attention_tensors(f"blk.{layer}", shape)
        tensors += feed_forward_tensors(f"blk.{layer}", shape)
    return Plan("llama", transformer_metadata(order), tensors)


def _ends(order: Order) -> list[Tensor]:
    """Embedding, last norm and output."""
    width = order.shape.width
    deviation = LOGIT_GAIN / width**0.5
    if order.shape.tied:
        norm = signs("output_norm.weight", width, deviation, order.seed)
        return [embedding(order, 1.0, weak=True), norm]
    embedded = embedding(order, 1.0, weak=False)
    return [embedded, ones("output_norm.weight", width), output(order, deviation)]
