"""What the kinds with rotary attention and a gated feed-forward network have in common."""

from __future__ import annotations

from gguf.gguf_writer import GGUFValue

from modelmaker.gguf_file import count, real
from modelmaker.plan import Order, projection
from modelmaker.shape import Shape
from modelmaker.tensor import Tensor, ones

SCORE_GAIN = 1.4
"""Size of queries and of keys; scores deviate by its square."""

ATTENTION_GAIN = 2.0
"""Size of attention's output before the averaging over tokens makes it smaller."""

FEED_FORWARD_GAIN = 6.0
"""Factor on the output of the feed-forward network, whose inner values have a size below 1."""

LOGIT_GAIN = 6.0
"""Standard deviation of the logits."""


def transformer_metadata(order: Order) -> dict[str, GGUFValue]:
    """Sizes of a decoder with rotary attention."""
    shape = order.shape
    return {
        "context_length": count(order.context_length),
        "embedding_length": count(shape.width),
        "block_count": count(shape.layers),
        "feed_forward_length": count(shape.feed_forward),
        "attention.head_count": count(shape.heads),
        "attention.head_count_kv": count(shape.kv_heads),
        "attention.layer_norm_rms_epsilon": real(1e-5),
        "rope.dimension_count": count(shape.head_width),
        "rope.freq_base": real(10000.0),
        "vocab_size": count(order.vocabulary_size),
    }


def attention_tensors(block: str, shape: Shape) -> list[Tensor]:
    """The norm before attention and its four matrices."""
    return [
        ones(f"{block}.attn_norm.weight", shape.width),
        projection(f"{block}.attn_q", shape.width, shape.width, SCORE_GAIN),
        projection(f"{block}.attn_k", shape.kv_width, shape.width, SCORE_GAIN),
        projection(f"{block}.attn_v", shape.kv_width, shape.width),
        projection(f"{block}.attn_output", shape.width, shape.width, ATTENTION_GAIN),
    ]


def feed_forward_tensors(block: str, shape: Shape) -> list[Tensor]:
    """The norm before the feed-forward network and its three matrices."""
    return [
        ones(f"{block}.ffn_norm.weight", shape.width),
        projection(f"{block}.ffn_gate", shape.feed_forward, shape.width),
        projection(f"{block}.ffn_up", shape.feed_forward, shape.width),
        projection(f"{block}.ffn_down", shape.width, shape.feed_forward, FEED_FORWARD_GAIN),
    ]
