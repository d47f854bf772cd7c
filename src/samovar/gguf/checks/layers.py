"""The tensors of each layer: all there, and of types that the layer can compute with."""

from __future__ import annotations

import re

from samovar.gguf.checks.companions import check_companions
from samovar.gguf.checks.keys import refuse
from samovar.gguf.header import Header
from samovar.gguf.memory import DELTA_ATTENTION, is_latent, kv_width
from samovar.gguf.show import shown
from samovar.gguf.stack import stack_of
from samovar.gguf.tensor import TENSOR_TYPES, TensorInfo

BLOCK = re.compile(r"blk\.(\d+)\.")

# Intermediate formats of products, never of weights: no kernel multiplies by them.
NOT_FOR_WEIGHTS = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
# The lookup tables that do hold whole numbers.
INTEGER_TENSORS = ("ffn_gate_tid2eid.weight",)
# What is added, multiplied element by element, or convolved with activations, which are F32: no
# kernel takes another type (`binary_op` in ggml/src/ggml-cpu/binary-ops.cpp, `ggml_ssm_conv` and
# `ggml_ssm_scan` in ops.cpp). Converters keep these in F32 whatever the rest is in.
ELEMENTWISE = re.compile(
    r".*(\.bias|norm(_key|_query|_conv)?\.weight|token_types\.weight|ssm_a|ssm_d"
    r"|conv1d(_[qkv])?\.weight|shortconv\.conv\.weight"
    r"|time_mix_lerp_fused\.weight)"
)


def check_layers(header: Header) -> None:
    """Raises MalformedGGUF."""
    _check_blocks(header)
    for tensor in header.tensors:
        _check_type(header, tensor)
    _check_projections(header)
    check_companions(header)


def _check_blocks(header: Header) -> None:
    layers = header.n_layer or 0
    found = {int(m[1]) for t in header.tensors if (m := BLOCK.match(t.name))}
    beyond = [number for number in found if number >= layers]
    if beyond:
        raise refuse(header, f"it says it has {layers} layers, and has tensors of {max(found) + 1}")
    drafting = header.integer(header.of_arch("nextn_predict_layers")) or 0
    missing = [n for n in range(layers - drafting) if n not in found]
    if missing and not _may_lack(header, missing):
        raise refuse(
            header, f"it says it has {layers} layers, and has no tensors of layer {missing[0]}"
        )


def _may_lack(header: Header, missing: list[int]) -> bool:
    if header.architecture == "hrm_text":
        # The stated count is of passes through a smaller number of layers.
        return True
    # Pruned models (deci) have layers with neither attention nor feed-forward.
    heads = header.per_layer("attention.head_count")
    widths = header.per_layer("feed_forward_length")
    count = min(len(heads), len(widths))
    return all(n < count and not heads[n] and not widths[n] for n in missing)


def _check_type(header: Header, tensor: TensorInfo) -> None:
    name, kind = shown(tensor.name), TENSOR_TYPES[tensor.type_id].name
    if kind in NOT_FOR_WEIGHTS and not tensor.name.endswith(INTEGER_TENSORS):
        raise refuse(header, f"the tensor {name} is of type {kind}, which weights cannot be")
    is_elementwise = len(tensor.shape) < 2 or ELEMENTWISE.fullmatch(tensor.name) is not None
    if is_elementwise and kind != "F32":
        raise refuse(header, f"the tensor {name} is of type {kind}, and must be F32")


def _check_projections(header: Header) -> None:
    """Keys and values must come in rows as long as the KV cache has them.

    Most architectures compare the tensors with the stated numbers themselves; where one does
    not, writing to the cache asserts it (`ggml_set_rows`).
    """
    stack = stack_of(header)
    if is_latent(header) or header.architecture in DELTA_ATTENTION:
        return
    rows = {t.name: t.shape[-1] for t in header.tensors if len(t.shape) == 2}
    for layer, has_kv in enumerate(stack.has_kv):
        for what, name in (("key", "attn_k"), ("value", "attn_v")):
            found = rows.get(f"blk.{layer}.{name}.weight")
            wanted = kv_width(header, layer, stack, what)
            if has_kv and found is not None and found != wanted:
                raise refuse(
                    header, f"layer {layer} makes {found} {what} elements, and should {wanted}"
                )
