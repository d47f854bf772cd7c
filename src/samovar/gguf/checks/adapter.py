"""LoRA adapters: pairs of low-rank matrices for tensors of a model.

llama.cpp reads the metadata of an adapter without looking at its types, which it asserts
(`llama_adapter_lora_init_impl`, src/llama-adapter.cpp).
"""

from __future__ import annotations

import re

from samovar.errors import AdapterRejected, LoadFailed
from samovar.gguf.checks.keys import number_key, text_key
from samovar.gguf.checks.layers import NOT_FOR_WEIGHTS
from samovar.gguf.checks.layout import check_layout
from samovar.gguf.header import Header
from samovar.gguf.show import shown
from samovar.gguf.tensor import TensorInfo

HALF = re.compile(r"(.+)\.lora_([ab])")
EMBEDDING = "token_embd.weight"
# Norms are passed over; no other tensor may be there.
IGNORED = "_norm.weight"
MAX_ALPHA = 1e9


def check_adapter(header: Header, base: Header | None = None) -> None:
    """Decides whether a file may be handed to llama.cpp as a LoRA adapter, of `base` if given.

    Raises AdapterRejected.
    """
    try:
        check_layout(header)
        kind, form = text_key(header, "general.type"), text_key(header, "adapter.type")
        architecture = text_key(header, "general.architecture")
        number_key(header, "adapter.lora.alpha", -MAX_ALPHA, MAX_ALPHA)
    except LoadFailed as error:
        raise AdapterRejected(str(error)) from error
    if kind != "adapter" or form != "lora":
        raise _rejected(header, "it is not an adapter: give a LoRA made by convert_lora_to_gguf")
    if base is not None and architecture != base.architecture:
        raise _rejected(
            header, f"it is for {architecture}, and the model is {base.architecture}: use its own"
        )
    _check_pairs(header, base)


def _rejected(header: Header, problem: str) -> AdapterRejected:
    return AdapterRejected(f"{shown(header.path)}: {shown(problem)}")


def _check_pairs(header: Header, base: Header | None) -> None:
    halves: dict[str, dict[str, TensorInfo]] = {}
    for tensor in header.tensors:
        match = HALF.fullmatch(tensor.name)
        if match is not None:
            halves.setdefault(match[1], {})[match[2]] = tensor
        elif not tensor.name.endswith(IGNORED):
            raise _rejected(
                header, f"{tensor.name} is not part of a LoRA adapter: convert it again"
            )
    if not halves:
        raise _rejected(header, "it changes no tensor: convert it again")
    targets = {tensor.name: tensor for tensor in base.tensors} if base is not None else None
    if targets is not None and EMBEDDING in halves and "output.weight" not in targets:
        # llama.cpp applies these halves to the output as well, where they do not fit.
        raise _rejected(header, "the model shares its embedding with its output: leave that out")
    for name, pair in halves.items():
        if len(pair) != 2:
            raise _rejected(header, f"{name} has only one of its two halves: convert it again")
        if problem := _pair_problem(name, pair["a"], pair["b"]):
            raise _rejected(header, f"{name} {problem}: convert it again")
        if targets is not None and not _fits(name, pair, targets.get(name)):
            raise _rejected(header, f"{name} does not fit the model: use the one it is made for")


def _pair_problem(name: str, a: TensorInfo, b: TensorInfo) -> str | None:
    if {a.type_name, b.type_name} & NOT_FOR_WEIGHTS:
        return "is of a type that weights cannot be"
    if len(a.shape) < 2 or len(b.shape) < 2:
        return "is not made of matrices"
    # Halves of an embedding are stored the other way round: its rows are looked up, not multiplied.
    rank = (a.shape[0] if name == EMBEDDING else a.shape[1], b.shape[0])
    return None if rank[0] == rank[1] else f"has halves of rank {rank[0]} and {rank[1]}"


def _fits(name: str, pair: dict[str, TensorInfo], target: TensorInfo | None) -> bool:
    if target is None or len(target.shape) < 2:
        return False
    first, second = pair["a"].shape, pair["b"].shape
    if any(_experts(half) != _experts(target.shape) for half in (first, second)):
        return False
    if name == EMBEDDING:
        return target.shape[:2] == (second[1], first[1])
    return target.shape[:2] == (first[0], second[1])


def _experts(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions beyond a matrix, which llama.cpp does not compare."""
    return tuple((*shape[2:], 1, 1)[:2])
