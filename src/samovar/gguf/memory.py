"""What a model takes in memory, from its header: for a plan before anything is loaded.

The figures are those that llama.cpp allocates (src/llama-kv-cache.cpp, `n_embd_r` and `n_embd_s`
in src/llama-hparams.cpp). Its compute buffers are estimated: the logits are their largest part.
"""

from __future__ import annotations

from dataclasses import dataclass

from samovar.errors import InvalidRequest
from samovar.gguf.header import Header
from samovar.gguf.stack import Stack, stack_of
from samovar.gguf.tensor import TENSOR_TYPES, TensorType

# llama.cpp rounds the cells of a window up to this.
WINDOW_PADDING = 256
# What the states of recurrent layers are kept in.
STATE_BYTES = 4
# Rows of the width of the model that one token of a micro-batch keeps live.
ACTIVATION_FLOATS = 16

# The types that llama.cpp keeps KV in.
KV_TYPES: dict[str, TensorType] = {
    kind.name.lower(): kind
    for kind in TENSOR_TYPES.values()
    if kind.name in {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1"}
}
# They keep more beside KV: keys of an indexer, or compressed copies.
WITH_INDEX = frozenset(
    {
        "deepseek32",
        "deepseek4",
        "dots3note",
        "glm-dsa",
        "glm5-next",
        "hy_v4",
        "minimax-m3",
        "qwen4exp",
    }
)

# Kinds of recurrent layers; the others are those of Mamba.
RWKV = frozenset({"rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
SHORT_CONVOLUTION = frozenset({"lfm2", "lfm2moe"})
UNGROUPED = frozenset({"mamba", "jamba"})
DELTA_ATTENTION = frozenset({"bailingmoe3", "glm5-next", "kimi-k3", "kimi-linear"})


@dataclass(frozen=True, slots=True)
class KvBytes:
    """Bytes of KV and state.

    `full` is what one token takes in the layers that see the whole context, `windowed` what it
    takes in those that see the last `window` tokens, `state` what one sequence takes in recurrent
    layers, whatever its length (None where that is not known). `is_exact` is false where llama.cpp
    keeps more than this.
    """

    full: int
    windowed: int
    window: int
    state: int | None
    is_exact: bool

    def lane_bytes(self, num_cells: int, num_batch: int) -> int:
        """Bytes of one sequence of up to `num_cells` tokens, decoded `num_batch` at a time.

        Sliding-window layers keep the window and one batch. With llama.cpp's `swa_full` they keep
        every cell: `(full + windowed) * num_cells + state`.
        """
        cells = min(num_cells, self.window + num_batch)
        cells = -(-cells // WINDOW_PADDING) * WINDOW_PADDING
        return self.full * num_cells + self.windowed * cells + (self.state or 0)


def weights_bytes(header: Header) -> int:
    """Bytes of all tensors. llama.cpp maps them, so they are in memory as they are used."""
    return sum(tensor.num_bytes for tensor in header.tensors)


def kv_bytes_per_token(header: Header, type_k: str = "f16", type_v: str = "f16") -> KvBytes:
    """KV of one token with keys and values kept in these types (`f16`, `q8_0`, ...).

    Raises InvalidRequest for a type that KV cannot be kept in.
    """
    stack = stack_of(header)
    per_layer = [
        _layer_bytes(header, layer, stack, _kv_type(type_k), _kv_type(type_v))
        for layer in range(len(stack.has_kv))
    ]
    windowed = sum(b for b, w in zip(per_layer, stack.is_windowed, strict=True) if w)
    repeats = max(header.integer(header.of_arch("num_loops")) or 1, 1)
    return KvBytes(
        full=(sum(per_layer) - windowed) * repeats,
        windowed=windowed * repeats,
        window=stack.window,
        state=_state_bytes(header, stack),
        is_exact=header.architecture not in WITH_INDEX,
    )


@dataclass(frozen=True, slots=True)
class ContextShape:
    """What decides the size of a context."""

    length: int
    """Tokens of a lane, or of the pool that all sequences share."""
    lanes: int
    """1 for a pool."""
    batch: int
    """Tokens that are decoded at a time; of them the window's layers keep more than the window."""
    micro_batch: int
    type_k: str = "f16"
    type_v: str = "f16"


def context_bytes(header: Header, shape: ContextShape) -> int:
    """Bytes of a context: its cells, and about what computing in it takes."""
    kv = kv_bytes_per_token(header, shape.type_k, shape.type_v)
    cells = shape.lanes * kv.lane_bytes(shape.length, shape.batch)
    row = 4 * (ACTIVATION_FLOATS * (header.n_embd or 0) + (header.vocab_size or 0))
    return cells + row * min(shape.micro_batch, shape.length)


def _kv_type(name: str) -> TensorType:
    kind = KV_TYPES.get(name.lower())
    if kind is None:
        raise InvalidRequest(f"KV cannot be kept as {name}: use one of {', '.join(KV_TYPES)}")
    return kind


def kv_width(header: Header, layer: int, stack: Stack, what: str) -> int:
    """Elements of one token's `key` or `value` in a layer, all heads together."""
    pairs = header.per_layer("attention.head_count_kv") or header.per_layer("attention.head_count")
    heads = pairs[layer] if layer < len(pairs) else 0
    return heads * _head_size(header, what, "_swa" if stack.is_windowed[layer] else "")


def _layer_bytes(
    header: Header, layer: int, stack: Stack, type_k: TensorType, type_v: TensorType
) -> int:
    if not stack.has_kv[layer]:
        return 0
    keys = kv_width(header, layer, stack, "key")
    values = 0 if is_latent(header) else kv_width(header, layer, stack, "value")
    return _row_bytes(keys, type_k) + _row_bytes(values, type_v)


def _row_bytes(elements: int, kind: TensorType) -> int:
    return -(-elements // kind.block_elements) * kind.block_bytes


def _head_size(header: Header, what: str, suffix: str) -> int:
    key = header.of_arch(f"attention.{what}_length")
    stated = header.integer(key + suffix) or header.integer(key)
    heads = header.per_layer("attention.head_count")
    if stated is not None or not heads or not heads[0]:
        return stated or 0
    return (header.n_embd or 0) // heads[0]


def is_latent(header: Header) -> bool:
    """Latent attention (MLA) keeps one compressed row, from which both come."""
    sizes = [header.integer(header.of_arch(f"attention.{w}_length_mla")) for w in ("key", "value")]
    return all(sizes)


def _state_bytes(header: Header, stack: Stack) -> int | None:
    layers = sum(stack.is_recurrent)
    if not layers:
        return 0
    if header.architecture in WITH_INDEX:
        return None
    return layers * STATE_BYTES * _state_elements(header)


def _state_elements(header: Header) -> int:
    """Numbers that one recurrent layer keeps for one sequence: shifted inputs, then the state."""

    def read(suffix: str) -> int:
        return header.integer(header.of_arch(suffix)) or 0

    architecture, width = header.architecture or "", header.n_embd or 0
    heads = (header.per_layer("attention.head_count") or (0,))[0]
    taps = max(read("ssm.conv_kernel") - 1, 0)
    if architecture in RWKV:
        shifts = header.integer(header.of_arch("token_shift_count"))
        return width * ((2 if shifts is None else shifts) + read("wkv.head_size"))
    if architecture in SHORT_CONVOLUTION:
        return width * max(read("shortconv.l_cache") - 1, 0)
    if architecture in DELTA_ATTENTION:
        size = read("kda.head_dim")
        return (3 * (taps or 3) + size) * heads * size
    if architecture == "minimax-01":
        return _head_size(header, "key", "") ** 2 * heads
    inner, state = read("ssm.inner_size"), read("ssm.state_size")
    groups = 0 if architecture in UNGROUPED else read("ssm.group_count")
    return taps * (inner + 2 * groups * state) + state * inner
