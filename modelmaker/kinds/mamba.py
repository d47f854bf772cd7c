"""mamba: selective state spaces, a state of fixed size and no attention at all."""

from __future__ import annotations

import numpy as np

from modelmaker.gguf_file import count, real
from modelmaker.kinds.transformer import LOGIT_GAIN
from modelmaker.plan import Order, Plan, embedding, projection
from modelmaker.tensor import Constant, Floats, Tensor, generator, noise, ones, signs

_TAPS = 4
_STATES = 16
_SLOWEST, _FASTEST = 0.002, 0.1
"""Range of step sizes: the slow channels still hold the first of several hundred tokens."""

_CONTROL_GAIN = 3.0
"""Size of the input and output vectors of the state, large since small steps make weak states."""

_DECAY = -np.arange(1, _STATES + 1, dtype=np.float32)
"""How fast each number of a channel's state fades, per unit of step size."""

_STEP_GAIN = 0.3
_OUTPUT_GAIN = 2.0


def mamba_plan(order: Order) -> Plan:
    """A mamba model; llama.cpp wants the inner width to be twice the width."""
    width = order.shape.width
    norm = signs("output_norm.weight", width, LOGIT_GAIN / width**0.5, order.seed)
    tensors: list[Tensor] = [embedding(order, 1.0, weak=True), norm]
    for layer in range(order.shape.layers):
        tensors += _block(f"blk.{layer}", order)
    metadata = {
        "context_length": count(order.context_length),
        "embedding_length": count(width),
        "block_count": count(order.shape.layers),
        "feed_forward_length": count(0),
        "attention.head_count": count(0),
        "attention.layer_norm_rms_epsilon": real(1e-5),
        "ssm.conv_kernel": count(_TAPS),
        "ssm.inner_size": count(2 * width),
        "ssm.state_size": count(_STATES),
        "ssm.time_step_rank": count(_rank(width)),
        "vocab_size": count(order.vocabulary_size),
    }
    return Plan("mamba", metadata, tensors)


def _rank(width: int) -> int:
    return width // 16


def _block(block: str, order: Order) -> list[Tensor]:
    width, seed = order.shape.width, order.seed
    inner, rank = 2 * width, _rank(width)
    return [
        ones(f"{block}.attn_norm.weight", width),
        projection(f"{block}.ssm_in", 2 * inner, width),
        noise(f"{block}.ssm_conv1d.weight", (inner, _TAPS), _TAPS**-0.5, seed),
        noise(f"{block}.ssm_conv1d.bias", (inner,), 0.1, seed),
        projection(f"{block}.ssm_x", rank + 2 * _STATES, inner, _CONTROL_GAIN),
        projection(f"{block}.ssm_dt", inner, rank, _STEP_GAIN),
        Constant(f"{block}.ssm_dt.bias", _step_bias(f"{block}.ssm_dt.bias", inner, seed)),
        Constant(f"{block}.ssm_a", np.tile(_DECAY, (inner, 1))),
        ones(f"{block}.ssm_d", inner),
        projection(f"{block}.ssm_out", width, inner, _OUTPUT_GAIN),
    ]


def _step_bias(name: str, size: int, seed: int) -> Floats:
    """Biases whose softplus, the step size, is spread evenly over the orders of magnitude."""
    bounds = np.log([_SLOWEST, _FASTEST])
    steps = np.exp(generator(seed, name).uniform(bounds[0], bounds[1], size))
    return np.log(np.expm1(steps)).astype(np.float32)
