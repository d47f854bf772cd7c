"""Tensors that need others beside them.

llama.cpp loads some tensors only if they are there and then takes them for granted: without these
rules it follows a null pointer or asserts a width (the sources named are those of the llama.cpp
that llama-cpp-python 0.3.36 carries).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from samovar.gguf.checks.keys import refuse
from samovar.gguf.header import Header
from samovar.gguf.tensor import TensorInfo

BLOCK_TENSOR = re.compile(r"blk\.(\d+)\.(.+)")
# The convolutions of these are not complete without their bias (src/models/mamba-base.cpp).
CONVOLUTION_WITH_BIAS = frozenset({"falcon-h1", "granitehybrid", "nemotron_h", "nemotron_h_moe"})
INDEXER = ("attn_k.weight", "attn_q_b.weight", "proj.weight", "k_norm.weight")
# GLM 5.2 has a context as long as this, and an indexer in every fourth layer.
GLM_5_2_CONTEXT = 1 << 20

Layer = dict[str, TensorInfo]


def check_companions(header: Header) -> None:
    """Raises MalformedGGUF."""
    layers: dict[int, Layer] = {}
    for tensor in header.tensors:
        if match := BLOCK_TENSOR.fullmatch(tensor.name):
            layers.setdefault(int(match[1]), {})[match[2]] = tensor
    rule = RULES.get(header.architecture or "")
    for number, layer in layers.items():
        problem = _any_problem(layer) or (rule and rule(header, number, layer))
        if problem:
            raise refuse(header, f"layer {number} {problem}")


def _any_problem(layer: Layer) -> str | None:
    ups = ("ffn_up_exps.weight", "ffn_gate_up_exps.weight")
    if "ffn_down_exps.weight" in layer and not any(name in layer for name in ups):
        return f"has no {ups[0]}"
    # `build_ffn` (src/llama-graph.cpp) asserts it.
    for name, tensor in layer.items():
        stem = name.removesuffix(".weight")
        if tensor.type_name == "NVFP4" and {f"{stem}.scale", f"{stem}.bias"} <= layer.keys():
            return f"has both a scale and a bias for {name}, which is NVFP4"
    return None


def _convolution(_header: Header, _number: int, layer: Layer) -> str | None:
    if "ssm_conv1d.weight" in layer and "ssm_conv1d.bias" not in layer:
        return "has no ssm_conv1d.bias"
    return None


def _gated_rwkv(_header: Header, _number: int, layer: Layer) -> str | None:
    """The gate is a sixth row beside the five that are always mixed."""
    fused = layer.get("time_mix_lerp_fused.weight")
    has_gate = {"time_mix_g1.weight", "time_mix_g2.weight"} <= layer.keys()
    rows = 6 if has_gate else 5
    if fused is not None and fused.shape[-1] != rows:
        return f"mixes {fused.shape[-1]} rows, and has the tensors for {rows}"
    return None


def _rwkv6qwen2(_header: Header, _number: int, layer: Layer) -> str | None:
    # Its presence means RWKV 6 proper, which has tensors that this one does not.
    return "has a time_mix_first.weight" if "time_mix_first.weight" in layer else None


def _glm_dsa(header: Header, number: int, layer: Layer) -> str | None:
    missing = [name for name in INDEXER if f"indexer.{name}" not in layer]
    if missing and _has_indexer(header, number):
        return f"has no indexer.{missing[0]}"
    return None


def _has_indexer(header: Header, number: int) -> bool:
    flags = header.per_layer("attention.indexer.types")
    if flags:
        return number < len(flags) and bool(flags[number])
    drafting = header.integer(header.of_arch("nextn_predict_layers")) or 0
    if number >= (header.n_layer or 0) - drafting:
        return False
    return (header.n_ctx_train or 0) < GLM_5_2_CONTEXT or number < 2 or number % 4 == 2


def _laguna(header: Header, number: int, layer: Layer) -> str | None:
    gate, norm = layer.get("attn_gate.weight"), layer.get("attn_k_norm.weight")
    heads = header.per_layer("attention.head_count")
    if gate is None or norm is None or number >= len(heads):
        return None
    widths = (heads[number], heads[number] * norm.row_elements)
    return None if _rows(gate) in widths else f"has a gate of width {_rows(gate)}"


def _jina_bert_v2(header: Header, number: int, layer: Layer) -> str | None:
    up, widths = layer.get("ffn_up.weight"), header.per_layer("feed_forward_length")
    if up is None or number >= len(widths):
        return None
    fits = _rows(up) in (widths[number], 2 * widths[number])
    return None if fits else f"has {_rows(up)} rows in ffn_up.weight"


def _rows(tensor: TensorInfo) -> int:
    return tensor.shape[1] if len(tensor.shape) > 1 else 1


def _glm5_next(_header: Header, _number: int, layer: Layer) -> str | None:
    # Added to activations, where deepseek4 looks rows up in the tensor of that name.
    ape = layer.get("indexer_compressor_ape.weight")
    return (
        "has an indexer_compressor_ape that is not F32" if ape and ape.type_name != "F32" else None
    )


RULES: dict[str, Callable[[Header, int, Layer], str | None]] = {
    **dict.fromkeys(CONVOLUTION_WITH_BIAS, _convolution),
    "arwkv7": _gated_rwkv,
    "glm-dsa": _glm_dsa,
    "glm5-next": _glm5_next,
    "jina-bert-v2": _jina_bert_v2,
    "laguna": _laguna,
    "rwkv6qwen2": _rwkv6qwen2,
    "rwkv7": _gated_rwkv,
}
