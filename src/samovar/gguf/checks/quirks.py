"""What single architectures of llama.cpp assert, or divide by.

Without these rules a file of that architecture with such a value ends the process; the sources
named are those of the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from samovar.gguf.checks.keys import refuse
from samovar.gguf.header import INTEGERS, Header
from samovar.gguf.memory import is_latent
from samovar.gguf.stack import FULL_ATTENTION_INTERVALS, stack_of


class Bound(NamedTuple):
    """A whole number of some architectures must be in [low, high]; `needed` if it must be there."""

    suffix: str
    low: int
    high: int
    architectures: frozenset[str]
    needed: bool = False


def _of(*names: str) -> frozenset[str]:
    return frozenset(names)


# The kinds of expert gating are numbered 0 to 4 (src/llama-hparams.h), and 0, which is also what
# silence means, is no kind of its own: `build_moe_ffn` in src/llama-graph.cpp aborts. Most
# architectures put their own in its place; these do not.
GATING = "expert_gating_func"
MAX_GATING = 4
GATING_STATED = _of(
    "bailingmoe2",
    "bailingmoe3",
    "deepseek32",
    "dots1",
    "dots3note",
    "exaone-moe",
    "hy_v4",
    "kimi-k3",
    "kimi-linear",
    "lfm2moe",
    "minimax-m2",
    "minimax-m3",
    "smallthinker",
)
RWKV = _of("rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7")
DELTA_NET = _of("qwen35", "qwen35moe", "qwen3next", "qwen4exp")
# Positions in three dimensions (`GGML_ROPE_TYPE_IMROPE`, `GGML_ROPE_TYPE_MROPE`).
MULTI_ROPE = DELTA_NET - {"qwen3next"} | _of("paddleocr", "qwen2vl", "qwen3vl", "qwen3vlmoe")
# They use such positions if the file states the sections.
MAYBE_MULTI_ROPE = MULTI_ROPE | _of("bailingmoe3", "glm4", "glm4moe", "hunyuan_vl")

BOUNDS: tuple[Bound, ...] = (
    # A remainder by it (load_arch_hparams of these).
    Bound("full_attention_interval", 1, 512, frozenset(FULL_ATTENTION_INTERVALS)),
    # Divisions by them, or the assertions of load_arch_hparams and load_arch_tensors.
    Bound("attention.output_group_count", 1, 1 << 12, _of("deepseek4"), needed=True),
    Bound("experts_per_group", 1, 1 << 10, _of("grovemoe"), needed=True),
    Bound("interleave_moe_layer_step", 1, 512, _of("ernie4_5-moe"), needed=True),
    Bound("hyper_connection.count", 4, 4, _of("glm5-next"), needed=True),
    Bound("ssm.group_count", 0, 0, _of("plamo2"), needed=True),
    Bound("wkv.head_size", 1, 1 << 12, RWKV, needed=True),
    Bound("hrm.layers_per_stack", 1, 512, _of("hrm_text"), needed=True),
    Bound("hrm.h_cycles", 1, 512, _of("hrm_text"), needed=True),
    Bound("hrm.l_cycles", 1, 512, _of("hrm_text"), needed=True),
    # Their graphs assert the number of shifted inputs; the default is 2.
    Bound("token_shift_count", 2, 2, _of("rwkv6", "rwkv7")),
    Bound("token_shift_count", 1, 1, _of("rwkv6qwen2", "arwkv7"), needed=True),
    # A loop of that many rounds (ggml/src/ggml.c asserts that there is one).
    Bound("hyper_connection.sinkhorn_iterations", 1, 1000, _of("deepseek4", "glm5-next")),
    # Views as long as these.
    Bound("attention.indexer.top_k", 1, 1 << 20, _of("minimax-m3", "glm5-next")),
    Bound("attention.indexer.block_size", 1, 256, _of("minimax-m3"), needed=True),
    # An empty rotation never ends.
    Bound("rope.dimension_count", 2, 1 << 14, _of("minimax-m3")),
    # The graph takes windowed input whether or not the file states a window.
    Bound("attention.sliding_window", 1, 1 << 22, _of("afmoe"), needed=True),
    # Without a window the scale of long positions is 0, which src/llama-graph.cpp asserts against.
    Bound("attention.sliding_window", 1, 1 << 22, _of("llama4")),
)


def check_quirks(header: Header, layers: int, width: int) -> None:
    """Raises MalformedGGUF. The layers and the width have been checked before."""
    architecture = header.architecture or ""
    for bound in BOUNDS:
        if architecture in bound.architectures:
            _check_bound(header, bound)
    _check_gating(header)
    _check_sections(header)
    _check_latent(header)
    rule = RULES.get(architecture)
    if rule is not None and not rule(header, layers, width):
        raise refuse(header, f"the numbers that shape a {architecture} do not fit together")


def _number(header: Header, suffix: str) -> int:
    return header.integer(header.of_arch(suffix)) or 0


def _check_bound(header: Header, bound: Bound) -> None:
    key = header.of_arch(bound.suffix)
    if key not in header.metadata:
        if bound.needed:
            raise refuse(header, f"{key} is missing")
        return
    value = header.integer(key)
    if value is None:
        raise refuse(header, f"{key} is of type {header.metadata[key].label}, not uint32")
    if not bound.low <= value <= bound.high:
        raise refuse(header, f"{key} is {value}, outside {bound.low} to {bound.high}")


def _check_gating(header: Header) -> None:
    kind = _number(header, GATING)
    stated = header.architecture in GATING_STATED and header.n_expert > 0
    if not stated <= kind <= MAX_GATING:
        raise refuse(header, f"{header.of_arch(GATING)} is {kind}, not a kind of gating")


def _check_sections(header: Header) -> None:
    """`ggml_compute_forward_rope` asserts that the sections fit and are not all empty."""
    key = header.of_arch("rope.dimension_sections")
    ref = header.array_ref(key)
    is_whole = ref is not None and ref.element_type in INTEGERS and bool(ref.data)
    sections = [int(x) for x in header.numbers(key)] if is_whole else []
    if header.architecture in MULTI_ROPE and not any(sections[:3]):
        raise refuse(header, f"{key} is missing or empty")
    size = _number(header, "attention.key_length") or (header.n_embd or 0) // (header.n_head or 1)
    if is_latent(header):
        # Only the rotated part of a latent key is handed to the rotation.
        size = _number(header, "rope.dimension_count") or size
    if header.architecture not in MAYBE_MULTI_ROPE or not sections:
        return
    if min(sections) < 0 or sum(sections) > size:
        raise refuse(header, f"{key} does not fit a head of {size} elements")


def _check_latent(header: Header) -> None:
    """Latent attention (MLA) keeps the compressed row and the rotated part as one key."""
    if not is_latent(header):
        return
    size = _number(header, "attention.key_length_mla")
    row = _number(header, "attention.key_length")
    rotated = header.integer(header.of_arch("rope.dimension_count"))
    rotated = row if rotated is None else rotated
    fits = row in (_number(header, "attention.kv_lora_rank") + rotated, size)
    if not fits or rotated >= size:
        raise refuse(
            header,
            f"a latent key of {row} elements ({rotated} rotated) does not fit heads of {size}",
        )


def _deepseek4(header: Header, _layers: int, _width: int) -> bool:
    heads, groups = header.n_head or 0, _number(header, "attention.output_group_count")
    sizes = {_number(header, f"attention.{what}_length") for what in ("key", "value")}
    # One shared key-value head: the compressed row.
    pairs = header.per_layer("attention.head_count_kv")
    return heads % groups == 0 and len(sizes) == 1 and set(pairs) == {1}


def _dots3note(header: Header, _layers: int, _width: int) -> bool:
    row = _number(header, "attention.key_length_swa")
    rank = _number(header, "attention.kv_lora_rank_swa")
    # The first layer without a window has nothing to share an indexer with.
    whole = [n for n, windowed in enumerate(stack_of(header).is_windowed) if not windowed]
    indexers = header.per_layer("attention.indexer.types")
    has_first = bool(whole and whole[0] < len(indexers) and indexers[whole[0]])
    return row == rank + _number(header, "rope.dimension_count") and has_first


def _glm5_next(header: Header, _layers: int, _width: int) -> bool:
    pool = _number(header, "attention.indexer.kpool")
    return pool > 1 and _number(header, "attention.indexer.top_k") % pool == 0


def _hrm_text(header: Header, layers: int, _width: int) -> bool:
    passes = _number(header, "hrm.h_cycles") * (_number(header, "hrm.l_cycles") + 1)
    return _number(header, "hrm.layers_per_stack") * passes == layers


def _hy_v4(header: Header, _layers: int, _width: int) -> bool:
    return is_latent(header)


def _bailingmoe3(header: Header, _layers: int, _width: int) -> bool:
    bound = header.number(header.of_arch("kda.gate_lower_bound"))
    safe = header.get(header.of_arch("kda.safe_gate"))
    return safe is not False and (bound is None or bound < 0)


def _twice_as_wide(header: Header, _layers: int, width: int) -> bool:
    return _number(header, "ssm.inner_size") == 2 * width


def _delta_net(header: Header, _layers: int, _width: int) -> bool:
    heads = _number(header, "ssm.time_step_rank")
    return _number(header, "ssm.inner_size") == heads * _number(header, "ssm.state_size")


def _qwen4exp(header: Header, layers: int, width: int) -> bool:
    ratios = header.per_layer("attention.compress_ratios")
    heads = (_number(header, "ple.ngram_size") - 1) * _number(header, "ple.heads_per_ngram")
    fits = heads <= 0 or heads * _number(header, "embedding_length_per_layer_input") == width
    return _delta_net(header, layers, width) and max(ratios, default=0) <= 1024 and fits


def _rwkv(header: Header, _layers: int, width: int) -> bool:
    size = _number(header, "wkv.head_size")
    return width % size == 0 and header.n_head_kv in (None, 0, width // size)


def _rwkv_grouped(header: Header, _layers: int, width: int) -> bool:
    return width % _number(header, "wkv.head_size") == 0


def _minicpm3(header: Header, _layers: int, _width: int) -> bool:
    heads = header.per_layer("attention.head_count")
    return (header.per_layer("attention.head_count_kv") or heads) == heads


RULES: dict[str, Callable[[Header, int, int], bool]] = {
    "arwkv7": _rwkv_grouped,
    "bailingmoe3": _bailingmoe3,
    "deepseek4": _deepseek4,
    "dots3note": _dots3note,
    "glm5-next": _glm5_next,
    "granitehybrid": _twice_as_wide,
    "hrm_text": _hrm_text,
    "hy_v4": _hy_v4,
    "jamba": _twice_as_wide,
    "minicpm3": _minicpm3,
    "qwen35": _delta_net,
    "qwen35moe": _delta_net,
    "qwen3next": _delta_net,
    "qwen4exp": _qwen4exp,
    "rwkv6": _rwkv,
    "rwkv6qwen2": _rwkv_grouped,
    "rwkv7": _rwkv_grouped,
}
