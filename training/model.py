"""The decoder in plain PyTorch: what llama.cpp computes for the architecture `llama`.

RMSNorm before each half of a layer, rotary positions over neighbouring pairs, grouped heads, a
gated feed-forward part, and one table for the embeddings and the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.shape import Shape

Angles = tuple[Tensor, Tensor]

_PLAIN_LENGTH = 512
"""Up to here the plain products are several times faster than the fused attention's backward."""


class RmsNorm(nn.Module):
    """Scales a vector to length one, then each of its elements by a learned weight."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """The normed vectors, in the precision of `x`."""
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.epsilon)


def rotated(x: Tensor, angles: Angles) -> Tensor:
    """Turn each pair (i, i + half) of a head by the angle of its position.

    llama.cpp turns neighbouring pairs for this architecture: `export` reorders the rows of the
    query and key weights. Halves are contiguous, which is much faster here.
    """
    cosine, sine = angles
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention over (sequences, heads, tokens, head width)."""
    length = query.shape[2]
    if length > _PLAIN_LENGTH:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    later = torch.full((length, length), -torch.inf, dtype=scores.dtype).triu(1)
    return torch.softmax(scores + later, dim=-1).to(value.dtype) @ value


class Layer(nn.Module):
    """Attention, then the gated feed-forward part, each added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner = shape.width, shape.feed_forward
        kv_width = shape.kv_heads * shape.head_width
        self.shape = shape
        self.attention_norm = RmsNorm(width, shape.epsilon)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_width, bias=False)
        self.value = nn.Linear(width, kv_width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = RmsNorm(width, shape.epsilon)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        """One layer on; `x` is (sequences, tokens, width)."""
        x = x + self.attended(self.attention_norm(x), angles)
        y = self.feed_forward_norm(x)
        onwards: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return onwards

    def attended(self, x: Tensor, angles: Angles) -> Tensor:
        """What each position gathers from itself and those before it."""
        rows, length, width = x.shape
        shape, groups = self.shape, self.shape.heads // self.shape.kv_heads
        query = self.query(x).view(rows, length, shape.heads, shape.head_width)
        key = self.key(x).view(rows, length, shape.kv_heads, shape.head_width)
        value = self.value(x).view(rows, length, shape.kv_heads, shape.head_width)
        query = rotated(query, angles).transpose(1, 2)
        key = rotated(key, angles).repeat_interleave(groups, dim=2).transpose(1, 2)
        value = value.repeat_interleave(groups, dim=2).transpose(1, 2)
        mixed = attention(query, key, value)
        gathered: Tensor = self.output(mixed.transpose(1, 2).reshape(rows, length, width))
        return gathered


class Decoder(nn.Module):
    """The whole model: ids in, scores of the next id out."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.width, shape.epsilon)
        half = torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width
        turns = torch.outer(torch.arange(shape.context).double(), shape.rope_base**-half)
        self.register_buffer("cosine", turns.cos().float().repeat(1, 2)[:, None], persistent=False)
        self.register_buffer("sine", turns.sin().float().repeat(1, 2)[:, None], persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Small normal weights; those that write into the stream smaller with the depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("output.weight", "down.weight"))
                scale = 0.02 / (2 * self.shape.layers) ** 0.5 if deep else 0.02
                nn.init.normal_(parameter, std=scale)

    def hidden(self, ids: Tensor) -> Tensor:
        """The normed stream after the last layer, for (sequences, tokens) of ids."""
        x = self.embedding(ids)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        length = ids.shape[1]
        angles = (self.cosine[:length].to(x.dtype), self.sine[:length].to(x.dtype))
        for layer in self.layers:
            x = layer(x, angles)
        normed: Tensor = self.norm(x)
        return normed

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary, in float32."""
        return functional.linear(hidden, self.embedding.weight).float()

    def forward(self, ids: Tensor) -> Tensor:
        """Logits at every position."""
        return self.scores(self.hidden(ids))
