"""Reads what is known of models from the headers of their files, and remembers it.

Reading and judging a header takes up to 0.1 s, and is done on another thread. What was
read is remembered for as long as the files are the same. A file that is missing or broken has
facts that say so; nothing here fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samovar import gguf
from samovar.api.facts import Capability, Infill, ModelFacts, params_label
from samovar.errors import SamovarError
from samovar.gguf.architectures import ENCODERS
from samovar.gguf.cursor import read_at
from samovar.gguf.header import identity_of
from samovar.gguf.show import shown

_MOST_REMEMBERED = 256  # models: of each a header without its vocabulary, some kilobytes
_SAMPLES = 32  # of the weights: what is made of another model differs in nearly all of them
_SAMPLE_BYTES = 2**12
_MOST_HEADER_BYTES = 2**26  # five times what a vocabulary of 262,144 tokens with merges takes
_MOST_ARRAY = 64  # elements of an array that is told as it is; vocabularies are not

Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read, and of which state of which files."""

    files: tuple[tuple[Path, Identity], ...]
    facts: ModelFacts
    metadata: Mapping[str, Any]

    def is_current(self) -> bool:
        """Whether the files are still those that were read."""
        return bool(self.files) and all(_identity(path) == was for path, was in self.files)


class FactsReader:
    """Facts of model files, read when they are asked for."""

    def __init__(self) -> None:
        self._known: dict[Path, _Known] = {}
        self._lock = asyncio.Lock()

    async def facts(self, name: str, file: Path) -> ModelFacts:
        """What is known of a file, under a name."""
        return replace((await self._get(file)).facts, name=name)

    async def metadata(self, file: Path, *, is_whole: bool = False) -> Mapping[str, Any]:
        """The metadata by key, as JSON can hold it. Empty for a file that cannot be read.

        Of long arrays, such as vocabularies, None, unless it is to be whole; then it is read anew.
        """
        if not is_whole:
            return (await self._get(file)).metadata
        async with self._lock:
            return await asyncio.to_thread(_whole, file)

    async def _get(self, file: Path) -> _Known:
        async with self._lock:  # one at a time: many at once would only wait for the same disk
            return await asyncio.to_thread(self._get_now, file)

    def _get_now(self, file: Path) -> _Known:
        known = self._known.pop(file, None)
        if known is None or not known.is_current():
            known = _read(file)
        self._known[file] = known
        if len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        return known


def _identity(file: Path) -> Identity | None:
    try:
        return identity_of(file.stat())
    except OSError:
        return None


def _read(file: Path) -> _Known:
    identity = _identity(file)
    try:
        header = gguf.read_header(file)
        gguf.check(header)
        files = tuple((part.path, part.identity) for part in header.parts)
        return _Known(files, _facts(header), _plain(header))
    except SamovarError as error:
        problem = str(error).replace(shown(file), file.name)  # where it lies is nobody's business
        modified = 0 if identity is None else identity[3] // 10**9
        facts = ModelFacts("", modified=modified, problem=problem)
        return _Known(() if identity is None else ((file, identity),), facts, {})


def _facts(header: gguf.Header) -> ModelFacts:
    infill = _infill(header)
    return ModelFacts(
        "",
        modified=max(part.identity[3] for part in header.parts) // 10**9,
        size_bytes=header.file_size,
        digest=_digest(header),
        architecture=header.architecture or "",
        num_params=header.num_params,
        params_label=params_label(header.num_params),
        quantization=header.quantization or "",
        context_length=header.n_ctx_train,
        embedding_width=header.integer(header.of_arch("embedding_length_out")) or header.n_embd,
        capabilities=_capabilities(header, can_insert=infill is not None),
        template=header.chat_template,
        license=header.text("general.license"),
        infill=infill,
    )


def _whole(file: Path) -> dict[str, Any]:
    try:
        return _plain(gguf.read_header(file), sys.maxsize)
    except SamovarError:
        return {}


def _plain(header: gguf.Header, most: int = _MOST_ARRAY) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in header.metadata.items():
        ref = header.array_ref(key)
        if ref is None:
            found[key] = value.value
        elif ref.count > most:
            found[key] = None
        else:
            array = header.array(key)
            found[key] = list(array) if isinstance(array, gguf.StringArray) else array.tolist()
    return found


# ---- the digest ----------------------------------------------------------------------------------


def _digest(header: gguf.Header) -> str:
    digest = hashlib.sha256()
    for part in header.parts:
        _digest_part(part, digest)
    return digest.hexdigest()


def _digest_part(part: gguf.Part, digest: hashlib._Hash) -> None:
    digest.update(f"{part.file_size}:{part.data_offset};".encode())
    weights = max(0, part.file_size - part.data_offset)
    step = max(_SAMPLE_BYTES, weights // _SAMPLES)
    try:
        descriptor = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # it went just now, and will be read again
    try:
        digest.update(read_at(descriptor, 0, min(part.data_offset, _MOST_HEADER_BYTES)))
        for offset in range(0, weights, step):
            digest.update(read_at(descriptor, part.data_offset + offset, _SAMPLE_BYTES))
    finally:
        os.close(descriptor)


# ---- what it can do ------------------------------------------------------------------------------

_TAG = re.compile(r"\{[{%]")
_TOOLS = re.compile(r"\btools\b")
_REASONING = re.compile(
    r"<(\w+:)?think>|\[THINK\]|<\|channel\|?>|<\|START_THINKING\|>|<\|think\|>|<\|inner_prefix\|>"
    r"|\b(enable_thinking|reasoning_content|reasoning_effort)\b"
)
_INFILL: tuple[tuple[tuple[str, str], frozenset[bytes]], ...] = tuple(
    (
        (f"tokenizer.ggml.fim_{new}_token_id", f"tokenizer.ggml.{old}_token_id"),
        frozenset(f"<{form}>".encode() for form in (f"|fim_{old}|", f"fim-{old}", f"fim_{old}")),
    )
    for new, old in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle"))
)
"""Of each token: the keys that name it, and how it is written where none does. llama.cpp looks for
the same (src/llama-vocab.cpp)."""


def _capabilities(header: gguf.Header, *, can_insert: bool) -> tuple[Capability, ...]:
    """What the file was made for. What its template speaks of is guessed from its words."""
    if header.pooling == "rank":
        return ("rerank",)
    if header.pooling in ("mean", "cls", "last") or header.architecture in ENCODERS:
        return ("embedding",)
    found: list[Capability] = ["completion"]
    template = header.chat_template or ""
    tags = "".join(piece.partition("}")[0] for piece in _TAG.split(template)[1:])
    if _TOOLS.search(tags):
        found.append("tools")
    if _REASONING.search(template):
        found.append("thinking")
    if can_insert:
        found.append("insert")
    return tuple(found)


def _infill(header: gguf.Header) -> Infill | None:
    ids = [_first(*map(header.integer, keys)) for keys, _ in _INFILL]
    if None in ids and "tokenizer.ggml.tokens" in header.metadata:
        _look_up(header, ids)
    prefix, suffix, middle = ids
    if prefix is None or suffix is None or middle is None:
        return None
    return Infill(prefix, suffix, middle)


def _first(*numbers: int | None) -> int | None:
    return next((number for number in numbers if number is not None), None)


def _look_up(header: gguf.Header, ids: list[int | None]) -> None:
    """Fill in the ids that no key names, from how their tokens are written."""
    try:
        texts = header.strings("tokenizer.ggml.tokens").raws()
    except (KeyError, SamovarError):
        return
    for i, (_, forms) in enumerate(_INFILL):
        if ids[i] is None:
            ids[i] = next((token for token, text in enumerate(texts) if text in forms), None)
