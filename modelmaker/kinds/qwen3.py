"""qwen3: like qwen2 without biases, its queries and keys normalised; as a reranker, with a head."""

from __future__ import annotations

from gguf import GGUFValueType

from modelmaker.gguf_file import listing
from modelmaker.kinds.transformer import (
    LOGIT_GAIN,
    SCORE_GAIN,
    attention_tensors,
    feed_forward_tensors,
    transformer_metadata,
)
from modelmaker.plan import Order, Plan, embedding, projection
from modelmaker.tensor import Tensor, level, signs

LABELS = ("yes", "no")
"""What the head of a reranker tells apart; llama.cpp gives the probability of the first."""


def qwen3_plan(order: Order) -> Plan:
    """A qwen3 model, with a classifier over its last state where the order asks for one."""
    shape = order.shape
    norm = signs("output_norm.weight", shape.width, LOGIT_GAIN / shape.width**0.5, order.seed)
    tensors: list[Tensor] = [embedding(order, 1.0, weak=True), norm]
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors += attention_tensors(block, shape)
        for part in "qk":
            tensors.append(level(f"{block}.attn_{part}_norm.weight", shape.head_width, SCORE_GAIN))
        tensors += feed_forward_tensors(block, shape)
    metadata = transformer_metadata(order)
    # n_rot is the head width here; llama.cpp derives it.
    del metadata["rope.dimension_count"]
    if order.ranks:
        # The state behind the norm has the size of a logit over the root of the width.
        tensors.append(projection("cls.output", len(LABELS), shape.width, shape.width**0.5 / 3))
        metadata["classifier.output_labels"] = listing(list(LABELS), GGUFValueType.STRING)
    return Plan("qwen3", metadata, tensors)
