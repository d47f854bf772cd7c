"""Checkpoints: all that training needs to go on as if it had never stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from training import modelfile, vocabulary
from training.model import Decoder
from training.shape import Shape

NAME = "checkpoint.pt"


@dataclass
class Progress:
    """How far training is: steps done, tokens seen, documents drawn, seconds spent."""

    step: int = 0
    tokens: int = 0
    position: int = 0
    seconds: float = 0.0


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state, which is there wholly or not at all, whenever the process dies."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> dict[str, Any]:
    """Read a state."""
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def model_in(path: Path) -> tuple[Decoder, Tokenizer]:
    """The model and its tokenizer, from a model file instead of a state."""
    file = modelfile.read(path)
    model = Decoder(file.shape)
    model.load_state_dict({name: torch.from_numpy(one) for name, one in file.weights.items()})
    return model.eval(), vocabulary.rebuilt(file.texts, file.merges)


def model_of(state: dict[str, Any]) -> tuple[Decoder, Tokenizer]:
    """The model and its tokenizer."""
    model = Decoder(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model.eval(), Tokenizer.from_str(state["tokenizer"])
