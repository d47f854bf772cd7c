"""Models: GGUF files with random weights that llama.cpp loads and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gguf import GGMLQuantizationType, PoolingType
from gguf.gguf_writer import GGUFValue

from modelmaker.chat_template import chat_template_text
from modelmaker.gguf_file import Entry, count, general, text, write
from modelmaker.kinds.bert import bert_plan
from modelmaker.kinds.gemma2 import gemma2_plan
from modelmaker.kinds.lfm2 import lfm2_plan
from modelmaker.kinds.llama import llama_plan
from modelmaker.kinds.mamba import mamba_plan
from modelmaker.kinds.qwen2 import qwen2_plan
from modelmaker.kinds.qwen3 import qwen3_plan
from modelmaker.plan import Order, Plan
from modelmaker.quantization import chunks, quantization_named, stored_type
from modelmaker.shape import TINY, Shape, shape_named
from modelmaker.tensor import Constant, Tensor
from modelmaker.vocabularies import vocabulary_for
from modelmaker.vocabulary import Vocabulary

KINDS: dict[str, Callable[[Order], Plan]] = {
    "llama": llama_plan,
    "qwen2": qwen2_plan,
    "qwen3": qwen3_plan,
    "gemma2": gemma2_plan,
    "lfm2": lfm2_plan,
    "mamba": mamba_plan,
    "bert": bert_plan,
}

POOLINGS = {
    "none": PoolingType.NONE,
    "mean": PoolingType.MEAN,
    "cls": PoolingType.CLS,
    "last": PoolingType.LAST,
    "rank": PoolingType.RANK,
}
"""How a model that gives embeddings makes one vector, or one score, of those of all tokens."""

RANKING = ("bert", "qwen3")
"""The kinds that can have a head for scores."""

NEVER = 0.05
"""A gain of special tokens with which they are never the likeliest."""

_BERT_CONTEXT = 512


def build_model(  # noqa: PLR0913 - each is one property of the file, all but two have a default
    path: str | Path,
    kind: str,
    *,
    quant: str | None = None,
    vocab: str | Path | Vocabulary | None = None,
    seed: int = 0,
    shape: str = TINY,
    context_length: int | None = None,
    chat_template: str | None = None,
    name: str | None = None,
    pooling: str | None = None,
    special_gain: float = NEVER,
    raw_bytes: bool = False,
) -> Path:
    """Write a model with random weights; the same arguments give the same bytes.

    kind: llama, qwen2, qwen3, gemma2, lfm2, mamba or bert.
    quant: F32, F16, Q8_0 or Q4_0 for the matrices; by default F16 for the tiny shape and Q8_0 for
        the others, whose quantised blocks are themselves random instead of being rounded numbers.
    vocab: "bpe", "spm" or "wpm" for a vocabulary made here, or the path of a GGUF file to copy it
        from, or one that was made elsewhere; by default wpm for bert and bpe for the rest.
    shape: tiny, or for llama also small, 1b or 1b-128k.
    chat_template: "chatml" or the text of a template; by default none, or the copied vocabulary's.
    pooling: mean, cls, last or none to write it into the file; by default mean for bert, and
        nothing for the rest, for which the user of llama.cpp chooses. rank makes a reranker of
        bert or qwen3: it gets a head that scores a query and a document.
    special_gain: strength of end-of-text and other special tokens in the output, see
        Vocabulary.row_gain; with 1.5 texts end after some 50 tokens, with 2 after some 10.
    raw_bytes: whether greedy text may hold bytes that are no printable UTF-8 by themselves.
    """
    sizes = _sizes(kind, shape)
    if context_length is not None and context_length < 1:
        raise ValueError(f"a context of {context_length} tokens holds nothing")
    direct = shape != TINY
    matrix_kind, file_type = quantization_named(quant or ("Q8_0" if direct else "F16"))
    words = vocabulary_for(vocab or _usual_vocabulary(kind), sizes.vocabulary_size)
    order = Order(
        shape=sizes,
        context_length=context_length or _usual_context(kind, sizes),
        vocabulary_size=words.size,
        row_gain=words.row_gain(special_gain, raw_bytes=raw_bytes),
        seed=seed,
        ranks=_ranks(kind, pooling),
    )
    plan = KINDS[kind](order)
    metadata = general(name or f"{kind} {shape} of noise", file_type)
    metadata |= _own_metadata(plan, pooling or _usual_pooling(kind)) | dict(words.metadata)
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = text(chat_template_text(chat_template))
    entries = [_entry(tensor, matrix_kind, seed, direct=direct) for tensor in plan.tensors]
    write(Path(path), plan.architecture, metadata, entries)
    return Path(path)


def _sizes(kind: str, shape: str) -> Shape:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}, expected one of {', '.join(KINDS)}")
    sizes = shape_named(shape)
    if shape != TINY and kind != "llama":
        raise ValueError(f"the shape {shape!r} is for llama only, not for {kind}")
    return sizes


def _usual_vocabulary(kind: str) -> str:
    return "wpm" if kind == "bert" else "bpe"


def _usual_context(kind: str, shape: Shape) -> int:
    return _BERT_CONTEXT if kind == "bert" else shape.context_length


def _ranks(kind: str, pooling: str | None) -> bool:
    if pooling == "rank" and kind not in RANKING:
        raise ValueError(f"no {kind} model ranks, only {' and '.join(RANKING)} do")
    return pooling == "rank"


def _usual_pooling(kind: str) -> str | None:
    return "mean" if kind == "bert" else None


def _own_metadata(plan: Plan, pooling: str | None) -> dict[str, GGUFValue]:
    """The metadata under the architecture's name."""
    found = dict(plan.metadata)
    if pooling is not None:
        if pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {pooling!r}, expected one of {', '.join(POOLINGS)}")
        found["pooling_type"] = count(int(POOLINGS[pooling]))
    return {f"{plan.architecture}.{key}": value for key, value in found.items()}


def _entry(tensor: Tensor, wanted: GGMLQuantizationType, seed: int, *, direct: bool) -> Entry:
    if isinstance(tensor, Constant):
        values = tensor.values
        data = [values.reshape(-1).view("u1")]
        return Entry(tensor.name, values.shape, GGMLQuantizationType.F32, data)
    kind = stored_type(tensor, wanted)
    made = chunks(tensor, kind, seed, direct=direct)
    return Entry(tensor.name, (tensor.rows, tensor.columns), kind, made)
