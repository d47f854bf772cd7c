"""Which layers of a model keep KV, which of those only for a window, which are recurrent.

The rules are those of `load_arch_hparams` (src/models/*.cpp) and `create_memory`
(src/llama-model.cpp) of the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from samovar.gguf.architectures import DIFFUSION, ENCODERS, HYBRID, RECURRENT
from samovar.gguf.header import MAX_LAYERS, Header
from samovar.gguf.values import ValueType

PATTERN = "attention.sliding_window_pattern"


class WindowRule(NamedTuple):
    """When an architecture has sliding-window layers, and which.

    Of every `period` layers the last (or the first) sees everything, the others a window; the file
    may state another period, or a flag for each layer, which it must where `period` is None.
    `on` is `always`, or `positive`: if the file states a window above 0. `tokens` is the window
    where the file states none, `fixed` whether it is that whatever the file states.
    """

    period: int | None
    on: Literal["always", "positive"] = "always"
    dense_first: bool = False
    tokens: int = 0
    fixed: bool = False


WINDOW_RULES: dict[str, WindowRule] = {
    "afmoe": WindowRule(4, "positive"),
    "cohere2": WindowRule(4),
    "cohere2moe": WindowRule(4, dense_first=True),
    "deepseek4": WindowRule(0),
    "dots3note": WindowRule(None),
    "exaone-moe": WindowRule(4),
    "gemma-embedding": WindowRule(6),
    "gemma2": WindowRule(2, tokens=4096),
    "gemma3": WindowRule(6, "positive"),
    "gemma3n": WindowRule(5),
    "gemma4": WindowRule(None),
    "gpt-oss": WindowRule(2),
    "granite_swa": WindowRule(None),
    "laguna": WindowRule(4, "positive", dense_first=True),
    "llama4": WindowRule(4, tokens=8192, fixed=True),
    "maple": WindowRule(None),
    "mellum": WindowRule(4, "positive"),
    "mimo2": WindowRule(None),
    "modern-bert": WindowRule(3, "positive", dense_first=True),
    "muse-glimmer": WindowRule(4),
    "olmo2": WindowRule(4, "positive"),
    "plamo3": WindowRule(8, "positive"),
    "smallthinker": WindowRule(4, "positive", dense_first=True, tokens=4096, fixed=True),
    "spark2_5": WindowRule(None),
    "step35": WindowRule(None),
}
# Every layer that is not recurrent has the window.
WINDOW_ON_ATTENTION = frozenset({"lfm2"})
# The one size of this architecture that has windows.
EXAONE4_LAYERS = 64

# Recurrent where a layer has no key-value heads.
RECURRENT_WITHOUT_HEADS = frozenset(
    {
        "bailingmoe3",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
# All but every n-th layer are recurrent; n if the file does not state it.
FULL_ATTENTION_INTERVALS = {
    "minimax-01": 8,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen3next": 4,
    "qwen4exp": 4,
}
# Layers from this one on use the KV of earlier ones.
GEMMA3N_LAYERS_WITH_KV = 20


@dataclass(frozen=True, slots=True)
class Stack:
    """For each layer, the drafting ones aside: does it keep KV, in a window only, recurrent state.

    `window` is the length of the windows in tokens, 0 without them.
    """

    has_kv: tuple[bool, ...]
    is_windowed: tuple[bool, ...]
    is_recurrent: tuple[bool, ...]
    window: int


def stack_of(header: Header) -> Stack:
    """Empty for a header without a sensible number of layers."""
    drafting = header.integer(header.of_arch("nextn_predict_layers")) or 0
    layers = (header.n_layer or 0) - drafting
    if not 0 < layers <= MAX_LAYERS:
        return Stack((), (), (), 0)
    is_recurrent = tuple(_is_recurrent(header, n) for n in range(layers))
    return Stack(
        has_kv=tuple(_has_kv(header, n, is_recurrent=is_recurrent[n]) for n in range(layers)),
        is_windowed=_windowed(header, is_recurrent),
        is_recurrent=is_recurrent,
        window=window_of(header),
    )


def window_rule(header: Header) -> WindowRule | None:
    """The rule that applies to this model, None if it has no sliding windows."""
    architecture, stated = header.architecture or "", header.sliding_window
    if architecture in WINDOW_ON_ATTENTION and stated:
        return WindowRule(0)
    if architecture == "exaone4" and header.n_layer == EXAONE4_LAYERS:
        return WindowRule(4, tokens=4096)
    rule = WINDOW_RULES.get(architecture)
    if rule is None or (rule.on == "positive" and not stated):
        return None
    return None if architecture == "llama4" and stated == 0 else rule


def window_of(header: Header) -> int:
    """Tokens that a sliding-window layer sees, 0 for a model without such layers."""
    rule = window_rule(header)
    if rule is None:
        return 0
    stated = header.sliding_window
    return rule.tokens if rule.fixed or stated is None else stated


def _windowed(header: Header, is_recurrent: tuple[bool, ...]) -> tuple[bool, ...]:
    rule, layers = window_rule(header), len(is_recurrent)
    if rule is None:
        return (False,) * layers
    if header.architecture in WINDOW_ON_ATTENTION:
        return tuple(not recurrent for recurrent in is_recurrent)
    flags = _flags(header, layers)
    if flags is not None:
        return flags
    period = header.integer(header.of_arch(PATTERN))
    period = (rule.period or 0) if period is None else period
    dense = 0 if rule.dense_first else period - 1
    return tuple(period == 0 or n % period != dense for n in range(layers))


def _flags(header: Header, layers: int) -> tuple[bool, ...] | None:
    ref = header.array_ref(header.of_arch(PATTERN))
    if ref is None or ref.element_type is ValueType.STRING or ref.data is None:
        return None
    flags = [bool(x) for x in header.numbers(header.of_arch(PATTERN))][:layers]
    return tuple(flags + [False] * (layers - len(flags)))


def _is_recurrent(header: Header, layer: int) -> bool:
    architecture = header.architecture or ""
    if architecture in RECURRENT or architecture == "falcon-h1":
        return True
    if architecture in RECURRENT_WITHOUT_HEADS:
        widths = header.per_layer("feed_forward_length")
        is_mlp = architecture.startswith("nemotron") and bool(_at(widths, layer))
        return not _at(header.per_layer("attention.head_count_kv"), layer) and not is_mlp
    if architecture in FULL_ATTENTION_INTERVALS:
        flags = header.per_layer("attention.recurrent_layers")
        if flags:
            return bool(_at(flags, layer))
        interval = header.integer(header.of_arch("full_attention_interval"))
        interval = FULL_ATTENTION_INTERVALS[architecture] if interval is None else interval
        return not interval or (layer + 1) % interval != 0
    return False


def _has_kv(header: Header, layer: int, *, is_recurrent: bool) -> bool:
    architecture = header.architecture or ""
    if architecture in ENCODERS | DIFFUSION | RECURRENT:
        return False
    if architecture == "falcon-h1":
        return True
    if architecture == "gemma3n":
        return layer < GEMMA3N_LAYERS_WITH_KV
    if architecture == "gemma4":
        shared = header.integer(header.of_arch("attention.shared_kv_layers")) or 0
        return layer < (header.n_layer or 0) - shared
    if architecture.startswith("nemotron_h") and _at(
        header.per_layer("feed_forward_length"), layer
    ):
        return False
    return architecture not in HYBRID or not is_recurrent


def _at(values: tuple[int, ...], index: int) -> int:
    return values[index] if index < len(values) else 0
