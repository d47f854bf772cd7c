"""bert: an encoder that sees the whole text at once and gives embeddings or a rank, not tokens."""

from __future__ import annotations

from modelmaker.gguf_file import count, flag, real
from modelmaker.kinds.transformer import SCORE_GAIN
from modelmaker.plan import Order, Plan, projection
from modelmaker.shape import Shape
from modelmaker.tensor import Constant, Matrix, Tensor, noise, ones

_TOKEN_TYPES = 2
_BIAS = 0.1


def bert_plan(order: Order) -> Plan:
    """A bert model; all its heads have keys and values of their own."""
    shape = order.shape
    tensors = _embeddings(order)
    for layer in range(shape.layers):
        tensors += _block(f"blk.{layer}", shape, order.seed)
    if order.ranks:
        tensors += _head(shape.width, order.seed)
    metadata = {
        "context_length": count(order.context_length),
        "embedding_length": count(shape.width),
        "block_count": count(shape.layers),
        "feed_forward_length": count(shape.feed_forward),
        "attention.head_count": count(shape.heads),
        "attention.layer_norm_epsilon": real(1e-12),
        "attention.causal": flag(on=False),
        "vocab_size": count(order.vocabulary_size),
    }
    return Plan("bert", metadata, tensors)


def _embeddings(order: Order) -> list[Tensor]:
    """Embeddings of tokens, positions and token types, and the norm of their sum."""
    width = order.shape.width
    types = noise("token_types.weight", (_TOKEN_TYPES, width), 0.1, order.seed)
    places = noise("position_embd.weight", (order.context_length, width), 0.5, order.seed)
    words = Matrix("token_embd.weight", order.vocabulary_size, width, 1.0)
    return [words, types, places, *_norm("token_embd_norm", width, order.seed)]


def _block(block: str, shape: Shape, seed: int) -> list[Tensor]:
    width, inner = shape.width, shape.feed_forward
    return [
        *_biased(f"{block}.attn_q", width, width, SCORE_GAIN, seed),
        *_biased(f"{block}.attn_k", width, width, SCORE_GAIN, seed),
        *_biased(f"{block}.attn_v", width, width, 1.0, seed),
        *_biased(f"{block}.attn_output", width, width, 2.0, seed),
        *_norm(f"{block}.attn_output_norm", width, seed),
        *_biased(f"{block}.ffn_up", inner, width, 1.0, seed),
        *_biased(f"{block}.ffn_down", width, inner, 1.5, seed),
        *_norm(f"{block}.layer_output_norm", width, seed),
    ]


def _head(width: int, seed: int) -> list[Tensor]:
    """What makes one score of the first token's state: a layer with tanh, and a projection."""
    return [
        *_biased("cls", width, width, 0.5, seed),
        *_biased("cls.output", 1, width, 5.0, seed),
    ]


def _biased(name: str, rows: int, columns: int, gain: float, seed: int) -> list[Tensor]:
    bias: Constant = noise(f"{name}.bias", (rows,), _BIAS, seed)
    return [projection(name, rows, columns, gain), bias]


def _norm(name: str, width: int, seed: int) -> list[Tensor]:
    bias: Constant = noise(f"{name}.bias", (width,), _BIAS, seed)
    return [ones(f"{name}.weight", width), bias]
