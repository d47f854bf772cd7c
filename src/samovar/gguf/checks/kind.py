"""What kind of file it is, and whether this build can serve that kind."""

from __future__ import annotations

from samovar.errors import MalformedGGUF, UnsupportedModel
from samovar.gguf.architectures import (
    BROKEN,
    DIFFUSION,
    DRAFTS,
    ENCODER_DECODER,
    KNOWN,
    SPEECH,
)
from samovar.gguf.checks.keys import text_key
from samovar.gguf.header import Header
from samovar.gguf.show import shown

# What llama.cpp's converters write as `general.type` beside `model`.
OTHER_TYPES = {
    "adapter": "is a LoRA adapter, not a model: load it onto the model it was made for",
    "mmproj": "is a multimodal projector, not a model: give the file of the language model",
    "imatrix": "is an importance matrix for quantising, not a model: give the model's file",
}

UNSERVED: tuple[tuple[frozenset[str], str], ...] = (
    (DIFFUSION, "is a diffusion language model, which fills in text instead of continuing it"),
    (ENCODER_DECODER, "is an encoder-decoder model"),
    (BROKEN, "is one that this build of llama.cpp cannot run"),
    (DRAFTS, "is a draft model, which only guesses ahead for another"),
    (SPEECH, "makes sound, not text"),
)


def check_kind(header: Header) -> None:
    """Raises UnsupportedModel for anything but a text or embedding model this build runs."""
    label = shown(header.path)
    architecture = check_architecture(header)
    for names, meaning in UNSERVED:
        if architecture in names:
            raise UnsupportedModel(
                f"{label} (architecture {architecture}) {meaning}: Samovar does not serve such "
                "models, use another"
            )
    if not header.tensors:
        raise UnsupportedModel(
            f"{label} has no tensors"
            + (", only a vocabulary" if header.is_vocab_only else "")
            + ": give the file with the model's weights"
        )


def check_architecture(header: Header) -> str:
    """The architecture; raises UnsupportedModel for one that this build does not know."""
    label = shown(header.path)
    _check_type(header, label)
    architecture = text_key(header, "general.architecture")
    if architecture is None:
        raise MalformedGGUF(f"{label} has no general.architecture: convert the model again")
    if architecture == "clip":
        raise UnsupportedModel(f"{label} {OTHER_TYPES['mmproj']}")
    if architecture not in KNOWN:
        raise UnsupportedModel(
            f"{label} has the architecture {shown(architecture)}, which this build of llama.cpp "
            "does not know (it may be too old for it): update Samovar, or use another model"
        )
    return architecture


def _check_type(header: Header, label: str) -> None:
    kind = text_key(header, "general.type")
    if header.is_adapter:
        kind = "adapter"
    meaning = OTHER_TYPES.get(kind or "model")
    if meaning is not None:
        raise UnsupportedModel(f"{label} {meaning}")
