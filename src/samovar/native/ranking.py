"""A query and a document as one text, in the form in which a reranker wants to see them.

The form is llama-server's: the file's own `rerank` template where it has one, else the two texts
with the tokens around them that the vocabulary asks for (src/llama-vocab.cpp: BOS, EOS, SEP). Two
things differ. What somebody wrote into a query or a document is never read as a control token nor
as a placeholder, and both may be token ids.
"""

from __future__ import annotations

import re

import llama_cpp.llama_cpp as ll

from samovar.errors import OperationUnsupported
from samovar.gguf import Header
from samovar.native.interface import Text
from samovar.native.model import Model
from samovar.native.vocabulary import Vocabulary, encode

_PLACES = re.compile(r"(\{query\}|\{document\})")


def can_rank(header: Header) -> bool:
    """Whether the file has a head that makes scores: a classifier, or a projection to one number.

    A layer of the model's own width without the projection behind it (`cls` alone) is no score.
    """
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    width = shapes.get("cls.weight")
    return "cls.output.weight" in shapes or (width is not None and width[1:] in ((), (1,)))


def require_head(model: Model) -> None:
    """Raise OperationUnsupported unless the model can score a pair."""
    if not can_rank(model.header):
        raise OperationUnsupported(
            "this model has no head that scores texts; load a reranker, or embed the texts and"
            " compare their vectors"
        )


def pair(model: Model, query: Text, document: Text) -> list[int]:
    """The ids of a query and a document. Raises OperationUnsupported without a head."""
    require_head(model)
    template = model.header.chat_templates.get("rerank")
    if template is not None:
        return _filled(model.vocabulary, template, {"{query}": query, "{document}": document})
    return _surrounded(model.vocabulary, _ids(model.vocabulary, query), document)


def _filled(vocabulary: Vocabulary, template: str, texts: dict[str, Text]) -> list[int]:
    pieces = _PLACES.split(template)
    parts = [texts.get(piece, piece) for piece in pieces]
    written = [encode(part) for part in parts if isinstance(part, (str, bytes))]
    if len(written) == len(parts):
        controls = _controls(vocabulary)
        meant = sum(len(controls.findall(encode(p))) for p in pieces if p not in texts)
        whole = b"".join(written)
        if len(controls.findall(whole)) == meant:
            # In one go, because a word and the space before it may be one token.
            return vocabulary.tokenize(whole, add_special=False, parse_special=True)
    tokens: list[int] = []
    for piece, part in zip(pieces, parts, strict=True):
        tokens += _ids(vocabulary, part, parse_special=piece not in texts)
    return tokens


def _controls(vocabulary: Vocabulary) -> re.Pattern[bytes]:
    texts = sorted(vocabulary.control_texts, key=len, reverse=True)
    return re.compile(b"|".join(re.escape(text.encode()) for text in texts) or rb"(?!)")


def _surrounded(vocabulary: Vocabulary, query: list[int], document: Text) -> list[int]:
    """[BOS] query [EOS] [SEP] document [EOS], each if the vocabulary has it and wants it."""
    pointer = vocabulary.pointer
    bos, eos, sep = vocabulary.bos, vocabulary.eos, ll.llama_vocab_sep(pointer)
    sep = None if sep < 0 else sep
    end = [eos if eos is not None else sep] if ll.llama_vocab_get_add_eos(pointer) else []
    middle = [*end, sep] if ll.llama_vocab_get_add_sep(pointer) else end
    found = [bos if vocabulary.adds_bos else None, *query, *middle, *_ids(vocabulary, document)]
    return [token for token in [*found, *end] if token is not None]


def _ids(vocabulary: Vocabulary, text: Text, *, parse_special: bool = False) -> list[int]:
    if isinstance(text, (str, bytes)):
        return vocabulary.tokenize(text, add_special=False, parse_special=parse_special)
    vocabulary.check(text)
    return list(text)
