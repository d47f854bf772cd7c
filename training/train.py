"""Training: python -m training.train --out DIR [--parts STEPS ...] [--start FILE.gguf].

The same command goes on from the last checkpoint, exactly: documents come from the seed by
number, and model, optimizers, position and random state are saved together. A run repeats bit for
bit on the same machine and number of threads. Each part has its own mixture of the corpus, and the
later ones begin with smaller learning rates.

With `--start` only the last part is trained, on the weights of a model file: those of a run whose
other parts are done, and whose checkpoint is not needed for it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training import checkpoint, vocabulary
from training.batches import IGNORED, Batch, Corpus
from training.corpus import mixture
from training.model import Decoder
from training.muon import Muon
from training.shape import Shape

_WARM_UP = 0.02
"""Share of the training in which the learning rate rises."""

_LEAST_WARM_UP_STEPS = 50
_ADAM_PEAK = 4e-3
"""The highest learning rate of what Muon does not train."""

_FLOOR = 0.03
"""Where the cosine ends, as a share of the peak."""

_SAVE_SECONDS = 120.0
"""What a kill may cost."""

_LOG_STEPS = 25


_PEAKS = (1.0, 0.4, 0.3, 0.3)
"""Each part begins with so much of the highest learning rate."""


def rate(progress: float, step: int, peak: float) -> float:
    """The learning rate of a part: a rise, then a cosine down. `progress` goes from 0 to 1."""
    rising = min(1.0, (step + 1) / _LEAST_WARM_UP_STEPS, 0.1 + progress / _WARM_UP)
    falling = _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * rising * falling


def optimizers_for(model: Decoder) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embeddings and the norms."""
    matrices = [one for one in model.layers.parameters() if one.ndim == 2]
    vectors = [one for one in model.parameters() if one.ndim != 2]
    groups = [
        {"params": [model.embedding.weight], "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, fused=True)
    return [Muon(matrices, lr=1.0, decay=0.05), adam]


def losses(model: Decoder, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Per predicted token: its loss, its weight and the row it stands in."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(batch.ids)
        wanted = batch.targets != IGNORED
        scores = model.scores(hidden[wanted])
    found = functional.cross_entropy(scores, batch.targets[wanted], reduction="none")
    return found, batch.weights[wanted], wanted.nonzero()[:, 0]


class Meter:
    """Mean loss per category since it was last read. `sums` are its whole state."""

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0], sums or {})

    def add(self, batch: Batch, found: Tensor, rows: Tensor) -> None:
        """Take the losses of a batch in."""
        size = len(batch.categories)
        sums = torch.zeros(size).index_add_(0, rows, found).tolist()
        counts = torch.bincount(rows, minlength=size).tolist()
        for category, total, count in zip(batch.categories, sums, counts, strict=True):
            for key in (category, "all"):
                self.sums[key][0] += total
                self.sums[key][1] += count

    def read(self) -> dict[str, float]:
        """The means, and a new beginning."""
        found = {key: round(a / b, 4) for key, (a, b) in sorted(self.sums.items()) if b}
        self.sums.clear()
        return found


class Training:
    """A run in its folder: made afresh, or as the checkpoint left it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path = folder / checkpoint.NAME
        self.log = folder / "log.jsonl"
        self.settings = settings
        self.meter = Meter()
        self.progress = checkpoint.Progress()
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings["seed"])
        saved = checkpoint.load(self.path) if self.path.exists() else None
        if saved is not None:
            self.model, self.tokenizer = checkpoint.model_of(saved)
        elif settings["start"] is not None:
            self.model, self.tokenizer = checkpoint.model_in(Path(settings["start"]))
            self.progress.step = sum(settings["parts"][:-1])
            self.progress.position = mixture.BEGINNINGS[-1]
        else:
            self.tokenizer = vocabulary.trained(settings["seed"])
            self.model = Decoder(Shape(self.tokenizer.get_vocab_size()))
        self.optimizers = optimizers_for(self.model)
        self.peaks = (settings["peak"], _ADAM_PEAK)
        self.corpus = Corpus(self.tokenizer, settings["seed"], self.model.shape.context)
        if saved is not None:
            self._restore(saved)
        self.corpus.position = self.progress.position

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["settings"] != self.settings:
            raise ValueError(
                f"{self.path} was made with {saved['settings']}; use those, or a new folder"
            )
        self.progress = checkpoint.Progress(**saved["progress"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.meter = Meter(saved["meter"])
        torch.set_rng_state(saved["random"])
        self._forget_after(self.progress.step)

    def _forget_after(self, step: int) -> None:
        """Drop what was logged after the checkpoint: it is about to be done again."""
        if self.log.exists():
            lines = self.log.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            self.log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    @property
    def length(self) -> int:
        """Steps of all parts."""
        return int(sum(self.settings["parts"]))

    def share_done(self) -> float:
        """From 0 to 1."""
        return float(self.progress.step / self.length)

    def rate(self, peak: float) -> float:
        """The learning rate of the next step."""
        step = self.progress.step
        for length, share in zip(self.settings["parts"], _PEAKS, strict=False):
            if step < length:
                return rate(step / length, step, share * peak)
            step -= length
        raise AssertionError("the training is over")

    def step(self) -> None:
        """One step of the optimizer."""
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(peak)
        batches = self.corpus.step(self.settings["tokens"])
        total = sum(float(batch.weights.sum()) for batch in batches)
        for batch in batches:
            found, weights, rows = losses(self.model, batch)
            torch.autograd.backward((found * weights).sum() / total)
            self.meter.add(batch, found.detach(), rows)
            self.progress.tokens += batch.ids.numel()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.position = self.corpus.position

    def run(self, save_seconds: float, pause: int | None = None) -> None:
        """Go on until the end, or until the step at which to pause; save now and then."""
        self.model.train()
        last_save = time.monotonic()
        while self.share_done() < 1 and self.progress.step != pause:
            started = time.monotonic()
            self.step()
            self.progress.seconds += time.monotonic() - started
            if self.progress.step % _LOG_STEPS == 0:
                self._report()
            if time.monotonic() - last_save > save_seconds:
                self.save()
                last_save = time.monotonic()
        self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "shape": asdict(self.model.shape),
            "model": self.model.state_dict(),
            "tokenizer": self.tokenizer.to_str(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
            "meter": dict(self.meter.sums),
            "settings": self.settings,
            "random": torch.get_rng_state(),
        }
        checkpoint.save(self.path, state)

    def _report(self) -> None:
        one = self.progress
        found = {
            "step": one.step,
            "tokens": one.tokens,
            "seconds": round(one.seconds, 1),
            "rate": round(self.optimizers[0].param_groups[0]["lr"], 7),
            "loss": self.meter.read(),
        }
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        speed = one.tokens / one.seconds
        sys.stdout.write(
            f"step {one.step}  {self.share_done():6.1%}  loss {found['loss']['all']:.4f}"
            f"  {speed:,.0f} tokens/s\n"
        )
        sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="training.train", description="Train samovar-mini.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--parts", type=int, nargs="+", default=[2500, 600, 300, 400], help="steps of each part"
    )
    parser.add_argument(
        "--start", metavar="FILE.gguf", help="train the last part only, on this file's weights"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=6144, help="tokens of a step")
    parser.add_argument(
        "--peak", type=float, default=0.02, help="the highest learning rate of Muon"
    )
    parser.add_argument("--save-seconds", type=float, default=_SAVE_SECONDS)
    parser.add_argument("--pause", type=int, help="stop after this step; the same command goes on")
    return parser.parse_args()


def main() -> None:
    """Train as the command line says."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    keys = ("parts", "start", "seed", "tokens", "peak")
    training = Training(given.out, {key: getattr(given, key) for key in keys})
    training.run(given.save_seconds, given.pause)


if __name__ == "__main__":
    main()
