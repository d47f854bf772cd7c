"""What every dialect may tell of a model, whether it is loaded or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Capability = Literal["completion", "tools", "thinking", "insert", "embedding", "rerank"]
"""`completion`: it continues text, and answers where it has a template. `tools`, `thinking`: its
template speaks of them. `insert`: it fills in between two texts. `embedding`, `rerank`: its file
says that it was made for vectors, or for scores."""


@dataclass(frozen=True, slots=True)
class Infill:
    """The ids of the tokens around what is to be filled in between two texts."""

    prefix: int
    suffix: int
    middle: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its file describes it. Nothing here tells where the file lies."""

    name: str
    """Under which it is asked for."""
    modified: int = 0
    """Seconds since 1970: when the file was last changed, the newest one of a split model; what
    dialects give as the time of creation. 0: unknown."""
    size_bytes: int = 0
    """Of all files together."""
    digest: str = ""
    """64 hex digits. Changes with the model: made of the header, the size and samples of the
    weights, since reading all of a large file takes minutes; not what `sha256sum` says."""
    architecture: str = ""
    """`llama`, `qwen2` and so on; empty: unknown, as everything below may be."""
    num_params: int = 0
    """Weights, over all tensors."""
    params_label: str = ""
    """The same for people: `1.2B`."""
    quantization: str = ""
    """`Q4_K_M` and its like."""
    context_length: int | None = None
    """Tokens it was trained on; None: unknown. What it is served with is in `ipc.Ready`."""
    embedding_width: int | None = None
    """Numbers in one of its vectors."""
    capabilities: tuple[Capability, ...] = ()
    template: str | None = None
    """The source of its chat template, Jinja."""
    license: str | None = None
    """As far as the file says."""
    infill: Infill | None = None
    """How it is asked to fill in; None: it cannot."""
    problem: str | None = None
    """Why nothing else is known: the file is missing or broken."""

    @property
    def family(self) -> str:
        """What dialects call the family: the architecture."""
        return self.architecture

    @property
    def is_embedder(self) -> bool:
        """Whether it was made for vectors or scores, and not for text."""
        return "embedding" in self.capabilities or "rerank" in self.capabilities


def params_label(count: int) -> str:
    """A number of weights for people: `4.2M`, `1.2B`, `70.6B`; empty for none."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count) if count else ""
