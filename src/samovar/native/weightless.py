"""A backend without weights whose next token depends on every KV cell behind it.

Cell i is a digest of all cells before it and of token i; the logits are drawn from a digest of
all cells. A cell that is missing, stale, from elsewhere or in the wrong place changes what comes
next, so "the cache is right" is one property: the same text with it and without. Thousands of
steps take a second, and outcomes that llama.cpp produces once a year can be asked for.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samovar.errors import (
    ContextOverflow,
    DecodeTimeout,
    GrammarRejected,
    InvalidRequest,
    NativeError,
    OperationUnsupported,
    Overloaded,
    Released,
    SamovarError,
    StateRejected,
)
from samovar.native import checks, packing, philox
from samovar.native.interface import (
    Aborted,
    Adapter,
    NoRoom,
    Piece,
    Range,
    Row,
    RowFailed,
    Sampled,
    Sampler,
    StateKind,
    Stepped,
    Text,
)
from samovar.native.scoring import scored
from samovar.native.sequences import Sequence, Sequences
from samovar.native.weightless_embedder import WeightlessEmbedder
from samovar.types import Grammar, SamplingParams

BOS, EOS = 256, 257
VOCABULARY_SIZE = 258
CELL_BYTES = 16
_NO_LOGITS = np.empty(0, np.float32)


@dataclass(eq=False, slots=True)
class WeightlessAdapter:
    """An adapter that changes every cell computed under it."""

    fingerprint: bytes
    is_open: bool = True


class WeightlessPiece:
    """Cells that are put together, each in a place of its own; those not written fit no text."""

    def __init__(self, seq_id: int, tokens: List[int]) -> None:
        self.seq_id = seq_id
        self.tokens = tuple(tokens)
        self.rows = np.zeros((len(tokens), CELL_BYTES), np.uint8)

    def places(self, start: int, end: int) -> list[np.ndarray]:
        """See Piece."""
        if not 0 <= start < end <= len(self.tokens):
            raise StateRejected(f"no range {start} to {end} in a piece of {len(self.tokens)}")
        return list(self.rows[start:end])


class WeightlessSampler:
    """Greedy, or one Philox draw under a temperature; nothing else."""

    def __init__(self, params: SamplingParams) -> None:
        if params.grammar is not None:
            raise GrammarRejected("the weightless backend has no grammars")
        self.params = params
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self.warnings: tuple[str, ...] = ()
        self.accepted: list[int] = []

    def sample(self, logits: np.ndarray, position: int) -> Sampled:
        """See Sampler."""
        report = self.params.logprobs
        token: int | None = int(logits.argmax())
        if self.params.temperature > 0:
            number = philox.uniform(self.seed, position, philox.PICK)
            token = philox.draw(logits / self.params.temperature, number)
        assert token is not None  # the logits are finite
        scores = None if report is None else philox.logprobs(logits, token, report)
        return Sampled(token, token == EOS, scores)

    def accept(self, token: int) -> None:
        """See Sampler."""
        self.accepted.append(token)

    def forced(self, limit: int) -> list[int]:  # noqa: ARG002 - there are no grammars
        """See Sampler."""
        return []

    def close(self) -> None:
        """See Sampler."""


class WeightlessBackend:
    """The `Backend` contract over digests. Byte tokens 0 to 255, BOS 256, EOS 257.

    `fail_next` queues outcomes for the decode calls to come: NoRoom, Aborted or an exception.
    `end_bias` is added to the logit of EOS.
    """

    def __init__(
        self,
        *,
        state_kind: StateKind = StateKind.DIVISIBLE,
        context_length: int = 512,
        num_sequences: int = 4,
        num_cells: int | None = None,
        batch_size: int = 64,
        end_bias: float = 0.0,
    ) -> None:
        self.state_kind = state_kind
        self.context_length = context_length
        self.num_sequences = num_sequences
        self.batch_size = batch_size
        self.num_cells = num_cells
        self.vocabulary_size = VOCABULARY_SIZE
        self.calls = 0
        """Decode calls that ran."""
        self._num_cells = context_length * num_sequences if num_cells is None else num_cells
        self._end_bias = end_bias
        self._sequences = Sequences(num_sequences)
        self._cells: list[list[bytes]] = [[] for _ in range(num_sequences)]
        self._sampler: Sampler = WeightlessSampler(SamplingParams())
        self._adapters: list[tuple[Adapter, float]] = []
        self._faults: deque[NoRoom | Aborted | Exception] = deque()
        self._each: list[np.ndarray] = []
        """Logits behind every token of the last decode call; none where nobody asked."""
        self._is_closed = False
        self.embedder = WeightlessEmbedder(
            context_length,
            batch_size,
            range(VOCABULARY_SIZE),
            self._open_adapters,
            self._next_fault,
        )

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """See Backend: none that has a name."""
        return {}

    def fail_next(self, *outcomes: NoRoom | Aborted | Exception) -> None:
        """Let the next decode calls end like this, one each."""
        self._faults.extend(outcomes)

    def close(self) -> None:
        """See Backend."""
        self._is_closed = True

    # ---- text ---------------------------------------------------------------------------------

    def tokenize(
        self,
        text: str | bytes,
        *,
        add_special: bool = True,
        parse_special: bool = False,  # noqa: ARG002 - there are no specials in text
    ) -> list[int]:
        """See Backend: BOS and the bytes."""
        self._require_open()
        data = text.encode() if isinstance(text, str) else text
        return [BOS, *data] if add_special else list(data)

    def require_fits(self, text: str | bytes, length: int) -> None:
        """See Backend: a byte is a token."""
        if len(text) > length:
            raise ContextOverflow(f"the text does not fit into {length} tokens; shorten it")

    def detokenize(
        self,
        tokens: List[int],
        *,
        special: bool = False,  # noqa: ARG002 - control tokens have no text
    ) -> bytes:
        """See Backend."""
        self._require_open()
        checks.check_tokens(tokens, VOCABULARY_SIZE)
        return bytes(token for token in tokens if token < BOS)

    def is_eog(self, token: int) -> bool:
        """See Backend."""
        return token == EOS

    def apply_chat_template(self, request: Mapping[str, Any]) -> list[int]:
        """See Backend: one `role: content` line per message, then `assistant:`."""
        messages = request.get("messages")
        if not isinstance(messages, list):
            raise InvalidRequest("messages must be a list")
        lines = [f"{message['role']}: {message['content']}\n" for message in messages]
        return self.tokenize("".join(lines) + "assistant:")

    # ---- one sequence -------------------------------------------------------------------------

    def prefill(self, tokens: List[int]) -> None:
        """See Backend."""
        if tokens:
            checks.check_rows(
                [Row(0, tokens)], self._sequences, VOCABULARY_SIZE, self.context_length
            )
        for start in range(0, len(tokens), self.batch_size):
            self._run([Row(0, tokens[start : start + self.batch_size])])

    def decode_one(self) -> Sampled:
        """See Backend."""
        sequence = self._sequences.require_logits(0)
        checks.check_room(len(sequence.tokens), 1, 0, self.context_length)
        sampled = self.sample(0, self._sampler)
        self._run([Row(0, [sampled.token])])
        self._sampler.accept(sampled.token)
        return sampled

    def set_grammar(self, grammar: str | None) -> None:
        """See Backend: refused."""
        if grammar is not None:
            self._sampler = self.new_sampler(SamplingParams(grammar=grammar))

    def configure_sampler(self, params: SamplingParams | None) -> None:
        """See Backend."""
        if params is not None:
            self._sampler = self.new_sampler(params)

    def clear_sampler(self) -> None:
        """See Backend."""
        self._sampler = WeightlessSampler(SamplingParams())

    # ---- steps --------------------------------------------------------------------------------

    def step(self, rows: List[Row]) -> Stepped | NoRoom | Aborted:
        """See Backend."""
        if not rows:
            return Stepped(())
        total = checks.check_rows(rows, self._sequences, VOCABULARY_SIZE, self.context_length)
        checks.check_total(total, self.batch_size)
        outcome = self._compute(rows)
        if outcome is not None:
            return outcome
        results = tuple(self._sample_row(row) for row in rows)
        return scored(rows, results, self._each.__getitem__)

    def sample(self, seq_id: int, sampler: Sampler) -> Sampled:
        """See Backend."""
        self._require_open()
        sequence = self._sequences.require_logits(seq_id)
        assert sequence.saved is not None
        return sampler.sample(sequence.saved, len(sequence.tokens))

    def argmaxes(self, seq_id: int, tokens: List[int]) -> list[int]:
        """See Backend."""
        found = []
        checks.check_rows(
            [Row(seq_id, tokens)], self._sequences, VOCABULARY_SIZE, self.context_length
        )
        for token in tokens:
            self._run([Row(seq_id, [token])])
            saved = self._sequences[seq_id].saved
            assert saved is not None
            found.append(int(saved.argmax()))
        return found

    def new_sampler(
        self,
        params: SamplingParams,
        tokens: List[int] = (),  # noqa: ARG002 - no stage has a history
    ) -> WeightlessSampler:
        """See Backend."""
        self._require_open()
        return WeightlessSampler(params)

    def compile_grammar(self, grammar: str | Grammar) -> None:
        """See Backend: refused."""
        self.new_sampler(SamplingParams(grammar=grammar))

    def abort(self) -> None:
        """See Backend: nothing runs long enough to be interrupted; queue an Aborted instead."""

    def _sample_row(self, row: Row) -> Sampled | RowFailed | None:
        if row.sampler is None:
            return None
        try:
            sampled = self.sample(row.seq_id, row.sampler)
            row.sampler.accept(sampled.token)
        except SamovarError as error:
            return RowFailed(error)
        return sampled

    def _run(self, rows: List[Row]) -> None:
        outcome = self._compute(rows)
        if isinstance(outcome, NoRoom):
            raise Overloaded("the cells are full")
        if isinstance(outcome, Aborted):
            raise DecodeTimeout("the decode call was interrupted")

    def _compute(self, rows: List[Row]) -> NoRoom | Aborted | None:
        self._require_open()
        self._each.clear()
        if self._faults:
            return self._fail(self._faults.popleft(), rows)
        used = self._num_used() + sum(len(row.tokens) for row in rows)
        if used > self._num_cells:
            return NoRoom()
        self.calls += 1
        for row in rows:
            self._extend(row)
        return None

    def _num_used(self) -> int:
        """Cells in use; copies of a sequence share theirs, as in llama.cpp's pool."""
        if self.num_cells is None:
            return sum(map(len, self._cells))
        return len({id(cell) for cells in self._cells for cell in cells})

    def _fail(self, fault: NoRoom | Aborted | Exception, rows: List[Row]) -> NoRoom | Aborted:
        if isinstance(fault, NoRoom):
            return fault
        for row in rows:
            self._sequences[row.seq_id].forget_logits()
        if isinstance(fault, Exception):
            raise fault
        for seq_id in fault.lost:
            self.seq_rm(seq_id)
        return fault

    def _extend(self, row: Row) -> None:
        cells = self._cells[row.seq_id]
        sequence = self._sequences[row.seq_id]
        if len(cells) != len(sequence.tokens):
            raise NativeError("the cells of a sequence are not its tokens")
        running = hashlib.blake2b(b"".join(cells), digest_size=CELL_BYTES)
        for token in row.tokens:
            about = running.digest() + token.to_bytes(4, "little") + self._adapters_digest
            cell = hashlib.blake2b(about, digest_size=CELL_BYTES).digest()
            cells.append(cell)
            running.update(cell)
            self._each.append(self._logits(running.digest()) if row.following else _NO_LOGITS)
        sequence.extend(row.tokens, self._adapters_digest)
        if row.wants_logits or row.sampler is not None:
            sequence.saved = self._logits(running.digest())

    def _logits(self, digest: bytes) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        logits = generator.standard_normal(VOCABULARY_SIZE, np.float32) * np.float32(3)
        logits[EOS] += np.float32(self._end_bias)
        return logits

    def _require_open(self) -> None:
        if self._is_closed:
            raise Released("this backend was closed; open another one")

    # ---- cells --------------------------------------------------------------------------------

    def tokens(self, seq_id: int) -> list[int]:
        """See Backend."""
        return list(self._sequences[seq_id].tokens)

    def has_logits(self, seq_id: int) -> bool:
        """See Backend."""
        return self._sequences[seq_id].has_logits

    def logits(self, seq_id: int) -> np.ndarray:
        """See Backend."""
        saved = self._sequences.require_logits(seq_id).saved
        assert saved is not None  # there are no rows of batches here
        return saved.copy()

    def set_logits(self, seq_id: int, logits: np.ndarray) -> None:
        """See Backend."""
        if len(logits) != VOCABULARY_SIZE or not np.isfinite(logits.max()):
            raise StateRejected("saved logits are of another vocabulary, or no numbers")
        self._sequences[seq_id].saved = np.array(logits, np.float32)

    def seq_rm(self, seq_id: int, start: int = 0) -> bool:
        """See Backend. Only divisible state can be cut."""
        sequence = self._sequences[seq_id]
        held = len(sequence.tokens)
        if not 0 <= start <= held:
            raise InvalidRequest(f"cannot remove from position {start} of a sequence of {held}")
        if start == held:
            return True
        self._require_open()
        if start and self.state_kind is not StateKind.DIVISIBLE:
            return False
        del self._cells[seq_id][start:]
        if start:
            sequence.truncate(start)
        else:
            sequence.reset()
        return True

    def seq_rm_last(self, num_tokens: int, seq_id: int = 0) -> bool:
        """See Backend."""
        held = len(self._sequences[seq_id].tokens)
        if not 0 < num_tokens <= held:
            raise InvalidRequest(f"num_tokens must be between 1 and {held}, the present length")
        return self.seq_rm(seq_id, num_tokens - 1)

    def seq_cp(self, source: int, target: int) -> None:
        """See Backend."""
        origin, copy = self._sequences[source], self._sequences[target]
        if source == target or not origin.tokens:
            raise InvalidRequest("copy a sequence that is not empty to another one")
        self._require_open()
        self.seq_rm(target)
        self._cells[target] = list(self._cells[source])
        copy.reset(list(origin.tokens), origin.adapters)
        copy.mixed_from, copy.saved = origin.mixed_from, origin.saved

    # ---- state --------------------------------------------------------------------------------

    @property
    def namespace(self) -> bytes:
        """What besides the tokens decides the cells."""
        return hashlib.sha256(b"weightless" + self._adapters_digest).digest()

    def describe_state(self) -> dict[str, str | int | float | bool | None]:
        """See Backend."""
        return {"model": "weightless", "kind": self.state_kind.value}

    def describe_grid(self) -> str:
        """See Backend."""
        return f"{self.batch_size} tokens"

    @property
    def weights_paths(self) -> tuple[Path, ...]:
        """See Backend."""
        return ()

    def kv_pack(self, tokens: List[int], seq_id: int = 0) -> bytes:
        """See Backend."""
        sequence = self._savable(seq_id)
        if list(tokens) != sequence.tokens:
            raise StateRejected("the sequence holds other tokens than these")
        rows = memoryview(b"".join(self._cells[seq_id]))
        divisible = self.state_kind is StateKind.DIVISIBLE
        logits = None if divisible else sequence.saved
        tail = self.export_tail(seq_id)
        return packing.pack(
            packing.Packed(self.state_kind, self.namespace, list(tokens), rows, tail, logits)
        )

    def kv_unpack(self, data: bytes, seq_id: int = 0) -> list[int]:
        """See Backend."""
        self._require_codec()
        sequence = self._sequences[seq_id]
        packed = packing.unpack(data, self.state_kind, self.namespace)
        count = len(packed.tokens)
        checks.check_room(0, count, seq_id, self.context_length)
        self.seq_rm(seq_id)
        self._restore(seq_id, packed.tokens, bytes(packed.rows), packed.tail)
        sequence.saved = packed.logits
        return list(packed.tokens)

    def export_ranges(self, seq_id: int, bounds: List[tuple[int, int]]) -> list[Range]:
        """See Backend. A row is its cell."""
        held = len(self._savable(seq_id).tokens)
        cells = self._cells[seq_id]
        self._require_ranges()
        if any(not 0 <= start < end <= held for start, end in bounds):
            raise InvalidRequest(f"a range is not inside of a sequence of {held} tokens")
        return [Range(a, b, memoryview(b"".join(cells[a:b]))) for a, b in bounds]

    def export_tail(self, seq_id: int) -> bytes:
        """See Backend. The tail is a digest of all cells: valid at one position only."""
        self._savable(seq_id)
        if self.state_kind is StateKind.INDIVISIBLE:
            return b"".join(self._cells[seq_id])
        return self._tail(seq_id)

    def import_ranges(
        self, seq_id: int, tokens: List[int], ranges: List[Range], tail: bytes = b""
    ) -> None:
        """See Backend. Refuses gaps, rows of another size, and a tail of another position."""
        self._require_codec()
        checks.check_tokens(tokens, VOCABULARY_SIZE)
        checks.check_room(0, len(tokens), seq_id, self.context_length)
        self.seq_rm(seq_id)
        if self.state_kind is StateKind.INDIVISIBLE:
            if ranges or not tail or not tokens:
                raise StateRejected("this state is kept as a whole, without ranges")
            self._restore(seq_id, list(tokens), tail, b"")
            return
        position = 0
        for piece in ranges:
            if piece.start != position or len(piece.payload) != CELL_BYTES * (
                piece.end - piece.start
            ):
                raise StateRejected("the ranges leave a gap or have rows of another size")
            position = piece.end
        if position != len(tokens):
            raise StateRejected("the ranges do not cover the tokens")
        self._restore(seq_id, list(tokens), b"".join(r.payload for r in ranges), tail)

    def new_piece(self, seq_id: int, tokens: List[int]) -> WeightlessPiece | None:
        """See Backend: of divisible states."""
        self._require_codec()
        self._sequences[seq_id]
        checks.check_tokens(tokens, VOCABULARY_SIZE)
        is_divisible = self.state_kind is StateKind.DIVISIBLE
        return WeightlessPiece(seq_id, tokens) if is_divisible and tokens else None

    def import_piece(self, piece: Piece) -> None:
        """See Backend."""
        self._require_codec()
        if not isinstance(piece, WeightlessPiece):
            raise StateRejected("the piece was made by another backend")
        checks.check_room(0, len(piece.tokens), piece.seq_id, self.context_length)
        self.seq_rm(piece.seq_id)
        self._restore(piece.seq_id, list(piece.tokens), piece.rows.tobytes(), b"")

    def _restore(self, seq_id: int, tokens: list[int], rows: bytes, tail: bytes) -> None:
        cells = [rows[i : i + CELL_BYTES] for i in range(0, len(rows), CELL_BYTES)]
        if len(cells) != len(tokens):
            raise StateRejected("there is not one row per token")
        if self._num_used() + len(cells) > self._num_cells:
            raise StateRejected("the cells are full")
        self._cells[seq_id] = cells
        if tail != self._tail(seq_id):
            self._cells[seq_id] = []
            raise StateRejected("the tail was taken at another position or of other tokens")
        self._sequences[seq_id].reset(tokens, self._adapters_digest)

    def _tail(self, seq_id: int) -> bytes:
        if self.state_kind is not StateKind.DIVISIBLE_WITH_TAIL or not self._cells[seq_id]:
            return b""
        return hashlib.sha256(b"".join(self._cells[seq_id])).digest()

    def _require_codec(self) -> None:
        self._require_open()
        if self.state_kind is StateKind.NONE:
            raise OperationUnsupported("this state cannot be saved")

    def _require_ranges(self) -> None:
        if self.state_kind is StateKind.INDIVISIBLE:
            raise StateRejected("the state is indivisible: it has no ranges")

    def _savable(self, seq_id: int) -> Sequence:
        self._require_codec()
        sequence = self._sequences[seq_id]
        if not sequence.was_computed_under(self._adapters_digest):
            raise StateRejected("the sequence was computed under other adapters")
        return sequence

    # ---- the rest -----------------------------------------------------------------------------

    def embed(self, tokens: List[int], *, pooling: str | None = None) -> np.ndarray:
        """See Backend: 16 numbers in [0, 1) that depend on every token."""
        vector: np.ndarray = self.embed_many([tokens], pooling=pooling)[0]
        return vector

    def embed_many(self, texts: List[List[int]], *, pooling: str | None = None) -> np.ndarray:
        """See Backend."""
        return self.embedder.embed_many(texts, pooling=pooling)

    def rank(self, query: Text, documents: List[Text]) -> np.ndarray:
        """See Backend: a number in [0, 1) that depends on every token of the pair."""
        return self.embedder.rank(query, documents)

    def _open_adapters(self) -> bytes:
        self._require_open()
        return self._adapters_digest

    def _next_fault(self) -> NoRoom | Aborted | Exception | None:
        return self._faults.popleft() if self._faults else None

    def load_adapter(self, path: str) -> WeightlessAdapter:
        """See Backend: the path itself is the adapter."""
        self._require_open()
        return WeightlessAdapter(hashlib.sha256(str(path).encode()).digest())

    def unload_adapter(self, adapter: Adapter) -> None:
        """See Backend."""
        rest = [(a, scale) for a, scale in self._adapters if a is not adapter]
        if len(rest) != len(self._adapters):
            self.apply_adapters(rest)
        if isinstance(adapter, WeightlessAdapter):
            adapter.is_open = False

    def apply_adapters(self, adapters: List[tuple[Adapter, float]]) -> None:
        """See Backend."""
        self._require_open()
        for adapter, scale in adapters:
            if isinstance(adapter, WeightlessAdapter) and not adapter.is_open:
                raise Released("this adapter was unloaded; load it again before using it")
            checks.check_scale(scale)
        before = self._adapters_digest
        self._adapters = list(adapters)
        if self._adapters_digest != before:
            for sequence in self._sequences:
                sequence.forget_logits()

    @property
    def _adapters_digest(self) -> bytes:
        digest = hashlib.sha256()
        for adapter, scale in self._adapters:
            digest.update(adapter.fingerprint + repr(scale).encode())
        return digest.digest()
