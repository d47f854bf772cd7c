"""Whether all parts agree: python -m training.selfcheck CHECKPOINT [--count N].

Exports the checkpoint and proves: the same weights where the file is read back; through llama.cpp
the same ids for thousands of texts, the same logits as PyTorch within the noise of float32, and
the same greedy text from the F16 file over many prompts. Measures what quantising costs. Ends with
status 1 where something differs.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from samovar.types import SamplingParams
from training import checkpoint
from training.corpus.document import Conversation, prompt_text, segments
from training.corpus.mixture import documents
from training.engine import Engine, opened
from training.exams import surprise
from training.export import QUANTS, export
from training.model import Decoder

_NOISE = 1e-2
"""Measured: 4e-4 within 1,200 tokens, 3e-3 at the end of the context, of logits around ten. A
mistake in the layout of a matrix or in the angles moves them by whole numbers."""

_LONGEST_ANSWER = 100
"""Tokens that are compared."""

_ODD_TEXTS = (
    "", " ", "  a  b ", "\n\n x\r\n", "It's we'll I'M", "12345 3.14", "é ü 漢字 🙂", "a_b-c(d)[e]",
    "\t\ttab", '{"a": [1, 2], "b": {"c": null}}', "<think>\nx\n</think>\n\ny", "<|im_start|>user\n",
)  # fmt: skip


def ids_that_differ(engine: Engine, tokenizer: Tokenizer, count: int) -> int:
    """Over corpus texts whole and in segments, and over odd ones."""
    texts = list(_ODD_TEXTS)
    for document in documents(7, count):
        made = [segment.text for segment in segments(document)]
        texts += ["".join(made), *made]
    return sum(
        engine.encode(text) != tokenizer.encode(text, add_special_tokens=False).ids
        for text in texts
    )


def largest_difference(engine: Engine, model: Decoder, tokenizer: Tokenizer, count: int) -> float:
    """Of logits, over held-out documents up to the whole context."""
    largest = 0.0
    longest: list[int] = []
    for document in documents(7, count, held_out=True):
        text = "".join(segment.text for segment in segments(document))
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        longest += ids
        largest = max(largest, _difference(engine, model, ids[:300]))
    while len(longest) < model.shape.context:
        longest += longest
    return max(largest, _difference(engine, model, longest[: model.shape.context]))


def _difference(engine: Engine, model: Decoder, ids: list[int]) -> float:
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0].numpy()
    return float(np.abs(ours - engine.scores(ids)).max())


def prompts(count: int) -> list[str]:
    """Held-out prompts of all kinds."""
    found = (
        prompt_text(one)
        for one in documents(9, 3 * count, held_out=True)
        if isinstance(one, Conversation)
    )
    return [text for text in found if len(text) < 4000][:count]


def rounded(model: Decoder) -> Decoder:
    """The model as llama.cpp computes it from an F16 file.

    Matrices are in F16 there, and so is what each of them is multiplied with; sums are in float32.
    """
    made = copy.deepcopy(model)
    for matrix in (one for one in made.parameters() if one.ndim == 2):
        matrix.data = matrix.data.half().float()
    for module in made.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, given: (given[0].half().float(),))
    made.norm.register_forward_hook(lambda _module, _given, found: found.half().float())
    return made


def texts_that_differ(
    engine: Engine, models: dict[str, Decoder], tokenizer: Tokenizer, count: int
) -> Counter[str]:
    """How many greedy answers to held-out prompts are not those of each of the models."""
    ends = [tokenizer.token_to_id(text) for text in ("<|im_end|>", "<|endoftext|>")]
    found: Counter[str] = Counter()
    for text in prompts(count):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        written = engine.generate(text, SamplingParams(), _LONGEST_ANSWER)
        for name, model in models.items():
            found[name] += not _writes(model, ids, written, ends)
    return found


def _writes(model: Decoder, ids: list[int], written: list[int], ends: list[int]) -> bool:
    """Whether the model writes these greedily: whether, after each, it chooses the next."""
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([ids + written]))[0, len(ids) - 1 :]
        chosen = model.scores(hidden).argmax(-1).tolist()
    is_ended = len(written) == _LONGEST_ANSWER or chosen[-1] in ends
    return chosen[:-1] == written and is_ended


def weights_that_differ(path: Path, model: Decoder) -> int:
    """Of a file in F32, read back."""
    again, _ = checkpoint.model_in(path)
    ours = model.state_dict()
    return sum(not torch.equal(one, ours[name]) for name, one in again.state_dict().items())


def perplexity(path: Path, count: int) -> float:
    """Of a file, over held-out documents."""
    with opened(path) as engine:
        found = surprise(engine, range(count))
    return math.exp(found.nats / found.tokens)


def check(path: Path, count: int) -> bool:
    """Run every comparison and say what it found."""
    model, tokenizer = checkpoint.model_of(checkpoint.load(path))
    with tempfile.TemporaryDirectory() as folder:
        files = {quant: Path(folder) / f"{quant}.gguf" for quant in QUANTS}
        for quant, file in files.items():
            export(path, file, quant)
        weights = weights_that_differ(files["f32"], model)
        with opened(files["f32"], is_exact=True) as engine:
            ids = ids_that_differ(engine, tokenizer, 10 * count)
            noise = largest_difference(engine, model, tokenizer, min(count, 20))
        with opened(files["f16"], is_exact=True) as engine:
            models = {"rounding as llama.cpp does": rounded(model), "in float32": model}
            texts = texts_that_differ(engine, models, tokenizer, count)
        losses = {quant: perplexity(file, count) for quant, file in files.items()}
    sys.stdout.write(f"weights that F32 read back has otherwise: {weights}\n")
    sys.stdout.write(f"texts with other ids: {ids}\n")
    sys.stdout.write(f"largest difference of a logit in F32: {noise:.2g}\n")
    for name in models:
        sys.stdout.write(f"greedy answers in F16 unlike PyTorch {name}: {texts[name]} of {count}\n")
    for quant, value in losses.items():
        change = value / losses["f16"] - 1
        sys.stdout.write(f"perplexity in {quant.upper()}: {value:.4f} ({change:+.3%} of F16)\n")
    is_same = weights == 0 and ids == 0 and texts["rounding as llama.cpp does"] == 0
    return is_same and noise < _NOISE


def main() -> int:
    """Check as the command line says."""
    parser = argparse.ArgumentParser(prog="training.selfcheck", description=check.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    return 0 if check(given.checkpoint, given.count) else 1


if __name__ == "__main__":
    sys.exit(main())
