"""States of sequences, out of their cells as bytes and back into them.

What is exported was computed under the adapters that are attached now, all of it, or it is
refused; what is imported leaves the sequence with exactly these tokens, or empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as List

from samovar.errors import InvalidRequest, OperationUnsupported, StateRejected
from samovar.native import library, packing
from samovar.native.cells import Cells
from samovar.native.codec import Codec
from samovar.native.context import Context
from samovar.native.interface import Piece, Range, StateKind
from samovar.native.piece import LlamaPiece
from samovar.native.sequences import Sequence


class Transfer:
    """Saves and restores the sequences of one context.

    `adapters` is the digest of those that are attached; whoever attaches others sets it.
    """

    def __init__(self, context: Context, cells: Cells, codec: Codec, adapters: bytes) -> None:
        self.kind = codec.kind
        self.adapters = adapters
        self._context = context
        self._cells = cells
        self._codec = codec
        self._vocabulary = context.model.vocabulary
        self._is_pool = context.options.layout == "pool"

    @property
    def namespace(self) -> bytes:
        """SHA-256 over what decides the bytes of a state besides the tokens."""
        digest = hashlib.sha256(self._context.model.fingerprint)
        digest.update(repr(self.describe()).encode())
        digest.update(self.adapters)
        return digest.digest()

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """What decides the bytes of a state besides the weights, the tokens and the adapters."""
        context = self._context
        options, header = context.options, context.model.header
        # Some models rotate by other factors in contexts longer than their original one.
        original = header.integer(header.of_arch("rope.scaling.original_context_length"))
        return {
            "model": context.model.description,
            "sample": context.model.fingerprint.hex(),
            "llama_cpp": library.describe().version,
            "state_version": library.describe().state_version,
            "kind": self.kind.value,
            "type_k": options.type_k,
            "type_v": options.type_v,
            "flash_attention": options.flash_attention,
            "full_window": options.full_window,
            "rope_freq_base": options.rope_freq_base,
            "rope_freq_scale": options.rope_freq_scale,
            "is_stretched": original is not None and context.context_length > original,
            "layout": repr(self._codec.layout),
        }

    def copy(self, source: int, target: int) -> None:
        """Make `target` what `source` is. The pool shares cells; lanes copy them, used ones only.

        Raises InvalidRequest for an empty source, and for one that is the target. Lanes go through
        the codec: OperationUnsupported where no state is proved to restore.
        """
        origin, copy = self._cells.sequences[source], self._cells.sequences[target]
        if source == target:
            raise InvalidRequest("source and target are the same sequence")
        if not origin.tokens:
            raise InvalidRequest(f"sequence {source} is empty; there is nothing to copy")
        if not self._is_pool:
            self._require_codec()
        logits = self._cells.logits(origin).copy() if origin.has_logits else None
        self._cells.remove(target)
        if self._is_pool:
            self._context.share(source, target)
        else:
            # llama.cpp would carry out a copy between lanes only in the next decode call, and
            # reading or writing either lane before that is undefined.
            whole = self._codec.export_whole(source)
            self._codec.import_whole(target, whole, len(origin.tokens))
        copy.reset(list(origin.tokens), origin.adapters)
        copy.mixed_from, copy.saved = origin.mixed_from, logits

    # ---- packed -------------------------------------------------------------------------------

    def pack(self, tokens: List[int], seq_id: int) -> bytes:
        """See Backend.kv_pack. Raises StateRejected unless `tokens` is what the sequence holds."""
        sequence = self._savable(seq_id)
        if list(tokens) != sequence.tokens:
            raise StateRejected(
                f"sequence {seq_id} holds {len(sequence.tokens)} other tokens than the"
                f" {len(tokens)} given; only what the KV holds can be packed"
            )
        rows, tail = memoryview(b""), b""
        if sequence.tokens and self.kind is StateKind.INDIVISIBLE:
            rows = memoryview(self._codec.export_whole(seq_id))
        elif sequence.tokens:
            rows = self._codec.export_ranges(seq_id, [(0, len(tokens))])[0].payload
            tail = self._codec.export_tail(seq_id)
        logits = None
        if sequence.has_logits and self.kind is not StateKind.DIVISIBLE:
            logits = self._cells.logits(sequence)
        packed = packing.Packed(self.kind, self.namespace, list(tokens), rows, tail, logits)
        return packing.pack(packed)

    def unpack(self, data: bytes, seq_id: int) -> list[int]:
        """See Backend.kv_unpack. On StateRejected the sequence is as it was, or empty."""
        self._require_codec()
        sequence = self._cells.sequences[seq_id]
        packed = packing.unpack(data, self.kind, self.namespace)
        self._vocabulary.check(packed.tokens)
        self._cells.require_room(0, len(packed.tokens), seq_id)
        count = len(packed.tokens)
        self._cells.remove(seq_id)
        if count and self.kind is StateKind.INDIVISIBLE:
            self._codec.import_whole(seq_id, bytes(packed.rows), count)
        elif count:
            rows = [Range(0, count, packed.rows)]
            self._codec.import_ranges(seq_id, packed.tokens, rows, packed.tail)
        sequence.reset(packed.tokens, self.adapters)
        if packed.logits is not None and len(packed.logits) == self._vocabulary.size:
            sequence.saved = packed.logits.copy()  # not a view that keeps all of `data` alive
        return list(packed.tokens)

    # ---- ranges -------------------------------------------------------------------------------

    def export_ranges(self, seq_id: int, bounds: List[tuple[int, int]]) -> list[Range]:
        """See Backend. Raises InvalidRequest for bounds outside of the sequence."""
        held = len(self._savable(seq_id).tokens)
        for start, end in bounds:
            if not 0 <= start < end <= held:
                raise InvalidRequest(f"no range {start} to {end} in a sequence of {held} tokens")
        return self._codec.export_ranges(seq_id, bounds)

    def export_tail(self, seq_id: int) -> bytes:
        """See Backend."""
        if not self._savable(seq_id).tokens:
            return b""
        if self.kind is StateKind.INDIVISIBLE:
            return self._codec.export_whole(seq_id)
        return self._codec.export_tail(seq_id)

    def import_ranges(
        self, seq_id: int, tokens: List[int], ranges: List[Range], tail: bytes
    ) -> None:
        """See Backend. Raises StateRejected; the sequence is then empty."""
        self._require_codec()
        sequence = self._cells.sequences[seq_id]
        self._vocabulary.check(tokens)
        self._cells.require_room(0, len(tokens), seq_id)
        is_whole = self.kind is StateKind.INDIVISIBLE
        if is_whole and (ranges or not tail or not tokens):
            raise StateRejected("this model's state is kept as a whole, without ranges")
        if not is_whole and (not ranges or ranges[-1].end != len(tokens)):
            raise StateRejected("the ranges do not cover the tokens from first to last")
        self._cells.remove(seq_id)
        if is_whole:
            self._codec.import_whole(seq_id, tail, len(tokens))
        else:
            self._codec.import_ranges(seq_id, tokens, ranges, tail)
        sequence.reset(list(tokens), self.adapters)

    # ---- pieces -------------------------------------------------------------------------------

    def new_piece(self, seq_id: int, tokens: List[int]) -> Piece | None:
        """See Backend. Raises InvalidRequest and InvalidToken."""
        self._require_codec()
        self._cells.sequences[seq_id]
        self._vocabulary.check(tokens)
        return self._codec.new_piece(seq_id, tokens) if tokens else None

    def import_piece(self, piece: Piece) -> None:
        """See Backend. Raises StateRejected; the sequence is then empty."""
        self._require_codec()
        if not isinstance(piece, LlamaPiece):
            raise StateRejected("the piece was made by another backend")
        sequence = self._cells.sequences[piece.seq_id]
        self._cells.require_room(0, len(piece.tokens), piece.seq_id)
        self._cells.remove(piece.seq_id)
        self._codec.import_piece(piece)
        sequence.reset(list(piece.tokens), self.adapters)

    def _require_codec(self) -> None:
        if self.kind is StateKind.NONE:
            raise OperationUnsupported("the state of this model cannot be saved and restored")

    def _savable(self, seq_id: int) -> Sequence:
        self._require_codec()
        sequence = self._cells.sequences[seq_id]
        if not sequence.was_computed_under(self.adapters):
            raise StateRejected(
                f"sequence {seq_id} was computed under other adapters than are applied now"
            )
        return sequence
