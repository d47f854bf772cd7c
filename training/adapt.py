"""A LoRA adapter that makes the model end its answers in rhymes.

python -m training.adapt CHECKPOINT OUT.gguf [--steps N]: frozen weights, and to some matrices of
each layer an addition of low rank, trained on the same corpus with rhymes after the answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer
from torch import Tensor, nn

from training import checkpoint
from training.batches import Batch, Corpus
from training.corpus import mixture
from training.layout import TENSOR_NAMES
from training.model import Decoder
from training.rhymes import rhymed
from training.train import losses

NAME = "samovar-mini-rhymes"
RANK = 8
ALPHA = 16.0
_PEAK = 3e-3
"""The learning rate at the start; it falls in a line."""

PARTS = ("value", "output", "gate", "up", "down")
"""Not query and key: their rows stand in another order in a model file."""


class Adapted(nn.Module):
    """A frozen matrix with an addition: x B A scaled by alpha / rank."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """The product with the changed matrix."""
        change = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        found: Tensor = self.base(x) + change * (ALPHA / RANK)
        return found


def adapted(model: Decoder) -> list[tuple[str, Adapted]]:
    """Freeze the model and put adapters in; their names in a model file."""
    model.requires_grad_(requires_grad=False)
    found = []
    for number, layer in enumerate(model.layers):
        for part in PARTS:
            changed = Adapted(getattr(layer, part))
            setattr(layer, part, changed)
            found.append((f"blk.{number}.{TENSOR_NAMES[part]}.weight", changed))
    return found


def train(model: Decoder, tokenizer: Tokenizer, steps: int, seed: int) -> list[tuple[str, Adapted]]:
    """Train the adapters; the model keeps them."""
    torch.manual_seed(seed)
    parts = adapted(model)
    weights = [one for _, part in parts for one in (part.down, part.up)]
    optimizer = torch.optim.AdamW(weights, lr=_PEAK, weight_decay=0.0)
    corpus = Corpus(tokenizer, seed, model.shape.context, change=rhymed)
    # The part that the model was last trained on: the others would teach it their manner again.
    corpus.position = mixture.BEGINNINGS[-1]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _PEAK * (1 - step / steps)
        batches = corpus.step(2048)
        loss = sum(_learn(model, batch, batches) for batch in batches)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 25 == 0:
            sys.stdout.write(f"step {step + 1}  loss {loss:.4f}\n")
            sys.stdout.flush()
    return parts


def _learn(model: Decoder, batch: Batch, batches: list[Batch]) -> float:
    """Add the gradients of one batch of a step; its part of the loss."""
    total = sum(float(one.weights.sum()) for one in batches)
    found, weights, _ = losses(model, batch)
    loss = (found * weights).sum() / total
    torch.autograd.backward(loss)
    return float(loss.detach())


def export(parts: list[tuple[str, Adapted]], target: Path) -> None:
    """Write the adapter as GGUF in F16, under another name until it is whole."""
    part = target.with_name(f".{target.name}.part")
    writer = GGUFWriter(part, "llama")
    writer.add_type("adapter")
    writer.add_name(NAME)
    writer.add_license("MIT")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, one in parts:
        for half, values in (("a", one.down), ("b", one.up)):
            writer.add_tensor(f"{name}.lora_{half}", values.detach().half().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(target)


def main() -> None:
    """Adapt as the command line says."""
    parser = argparse.ArgumentParser(prog="training.adapt", description="Train an adapter.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    state: dict[str, Any] = checkpoint.load(given.checkpoint)
    model, tokenizer = checkpoint.model_of(state)
    export(train(model, tokenizer, given.steps, given.seed), given.out)
    sys.stdout.write(f"{given.out} {given.out.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
