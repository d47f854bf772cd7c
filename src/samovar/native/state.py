"""What kind of state a model has: found out from a blob, then proved.

`probe` exports a few tokens, puts them together, imports them, and compares the next logits. What
fails the proof is treated as indivisible, and what fails that as having no state to save.
"""

from __future__ import annotations

import logging
import math

import numpy as np

from samovar.errors import NativeError, StateRejected
from samovar.native.blob import PARTIAL
from samovar.native.codec import Codec
from samovar.native.context import Context
from samovar.native.interface import Decoded, Range, StateKind
from samovar.native.shape import Shape, find_shape

__all__ = ["Codec", "inspect", "probe"]

logger = logging.getLogger(__name__)

_TOKENS = (1, 2, 3, 4, 5)  # of the proof: some to export, in two ranges, and one that tells
_TOKENS_WHOLE = (1, 2)  # where there is no room for them


def inspect(context: Context, seq_id: int, tokens: list[int]) -> tuple[StateKind, Shape | None]:
    """What kind of state a sequence of these tokens has, from its blobs alone."""
    shape = find_shape(_blob(context, seq_id, 0), _blob(context, seq_id, PARTIAL), tokens)
    return (StateKind.INDIVISIBLE if shape is None else shape.kind), shape


def _blob(context: Context, seq_id: int, flags: int) -> np.ndarray:
    buffer = np.empty(context.state_size(seq_id, flags), np.uint8)
    written = context.read_state(seq_id, buffer, flags)
    return buffer[:written]


def probe(context: Context) -> Codec:
    """Find out the kind of state, and prove it, on an empty context that is left empty.

    The proof costs two small decode calls: four tokens are computed, exported in two ranges,
    imported as one, and the next token's logits must come out as before. If they do not, or there
    is no room for so many, the model's state is treated as indivisible; if whole states fail too,
    as none.
    """
    room = min(context.context_length, context.batch_size)
    if not context.has_memory or context.context_length < len(_TOKENS_WHOLE):
        return Codec(context, StateKind.NONE)
    is_short = room < len(_TOKENS)
    size = context.model.vocabulary.size
    tokens = [token % size for token in (_TOKENS_WHOLE if is_short else _TOKENS)]
    try:
        _decode(context, tokens[:-1], 0)
        kind, shape = inspect(context, 0, tokens[:-1])
        return _first_proven(context, StateKind.INDIVISIBLE if is_short else kind, shape, tokens)
    finally:
        context.clear()


def _first_proven(
    context: Context, kind: StateKind, shape: Shape | None, tokens: list[int]
) -> Codec:
    codecs = [Codec(context, StateKind.INDIVISIBLE, shape), Codec(context, StateKind.NONE)]
    if kind is not StateKind.INDIVISIBLE:
        codecs.insert(0, Codec(context, kind, shape))
    saved = [_export_all(codec, len(tokens) - 1) for codec in codecs[:-1]]
    expected = _decode(context, tokens[-1:], len(tokens) - 1)
    for codec, state in zip(codecs, saved, strict=False):
        if _round_trips(context, codec, state, tokens, expected):
            return codec
        logger.warning("saved state of kind %s does not restore with this model", codec.kind.value)
    return codecs[-1]


def _export_all(codec: Codec, count: int) -> tuple[list[Range], bytes]:
    if codec.layout is None:
        return [], codec.export_whole(0)
    return codec.export_ranges(0, [(0, 1), (1, count)]), codec.export_tail(0)


def _round_trips(
    context: Context,
    codec: Codec,
    state: tuple[list[Range], bytes],
    tokens: list[int],
    expected: np.ndarray,
) -> bool:
    context.clear()
    ranges, rest = state
    try:
        if codec.layout is None:
            codec.import_whole(0, rest, len(tokens) - 1)
        else:
            codec.import_ranges(0, tokens[:-1], ranges, rest)
            again = _export_all(codec, len(tokens) - 1)
            if again != state:
                return False
        found = _decode(context, tokens[-1:], len(tokens) - 1)
    except (StateRejected, NativeError):
        return False
    return bool(np.array_equal(found, expected))


def _decode(context: Context, tokens: list[int], position: int) -> np.ndarray:
    batch = context.batch
    batch.clear()
    row = batch.add(0, tokens, position, wants_logits=True)
    # No deadline: the first call after loading may have to read all weights from a slow disk.
    if not isinstance(context.decode(batch, math.inf), Decoded):
        raise NativeError("a decode call of a few tokens did not succeed")
    return context.logits(row).copy()
