"""The backend on llama.cpp: a model, its context, and one bookkeeping over both.

Every id, length, position and sequence is checked before it crosses into native code, where most
mistakes end the process. What can go wrong is either an outcome (`NoRoom`, `Aborted`, a removal
that is refused) or a typed error, and none of them leaves a sequence half changed: it is as it
was, or empty.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Callable, Mapping
from collections.abc import Sequence as List
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from samovar.errors import (
    AdapterRejected,
    DecodeTimeout,
    InvalidRequest,
    NoLogits,
    OperationUnsupported,
    Overloaded,
    SamovarError,
    StateRejected,
    TemplateMissing,
)
from samovar.native import checks, library, packing, state
from samovar.native.adapter import LoraAdapter
from samovar.native.context import Context, ContextOptions
from samovar.native.embedder import Embedder
from samovar.native.grammar import Grammars
from samovar.native.interface import (
    Aborted,
    Adapter,
    Decoded,
    NoRoom,
    Range,
    Row,
    RowFailed,
    Sampled,
    Sampler,
    StateKind,
    Stepped,
)
from samovar.native.model import Model, ModelOptions
from samovar.native.sampler import Candidates, ChainSampler
from samovar.native.sequences import Sequence, Sequences
from samovar.native.vocabulary import Vocabulary
from samovar.types import SamplingParams

GREEDY = SamplingParams()


class Segment(Protocol):
    """A stretch of rendered prompt text."""

    @property
    def text(self) -> str:
        """What it says."""

    @property
    def parse_special(self) -> bool:
        """Whether control tokens written in it are meant as such."""


Renderer = Callable[[Mapping[str, Any]], List[Segment]]
"""A chat request to text, split where special tokens may and may not be parsed."""


class LlamaBackend:
    """A GGUF model that computes: the `Backend` contract over llama.cpp.

    open ──prefill, step, import──> sequences grow ──seq_rm, close──> gone

    One thread owns it; `abort` alone may be called from others. `renderer` turns chat requests
    into text and comes from whoever opens the backend, because templates are not native.
    """

    def __init__(
        self, model: Model, context: Context, codec: state.Codec, renderer: Renderer | None
    ) -> None:
        self.model = model
        self.vocabulary: Vocabulary = model.vocabulary
        self.context_length = context.context_length
        self.num_sequences = context.num_sequences
        self.batch_size = context.batch_size
        self.state_kind = codec.kind
        self._context = context
        self._codec = codec
        self._renderer = renderer
        self._sequences = Sequences(context.num_sequences)
        self._candidates = Candidates(self.vocabulary.size)
        self._grammars = Grammars(self.vocabulary)
        self._embedder = Embedder(model, context.options)
        self._sampler: ChainSampler | None = None
        self._sampler_revision = -1  # of sequence 0, when the sampler last saw its tokens
        self._adapters: list[tuple[LoraAdapter, float]] = []
        self._adapters_digest = _digest_adapters([])
        self._is_pool = context.options.layout == "pool"

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        model: ModelOptions | None = None,
        context: ContextOptions | None = None,
        renderer: Renderer | None = None,
        proves_state: bool = True,
    ) -> LlamaBackend:
        """Load a file and make its context; the seed's `init`. Frees the model if that fails.

        `proves_state` finds out how the state can be cut, and proves it, with two small decode
        calls; without it the state counts as having none of the operations that save it.
        """
        loaded = Model(path, model)
        try:
            made = Context(loaded, context)
            try:
                codec = state.probe(made) if proves_state else state.Codec(made, StateKind.NONE)
            except BaseException:
                made.close()
                raise
        except BaseException:
            loaded.close()
            raise
        return cls(loaded, made, codec, renderer)

    def close(self) -> None:
        """Free samplers, adapters, contexts and the model, in that order. Idempotent."""
        if self._sampler is not None:
            self._sampler.close()
        self._embedder.close()
        self._context.close()
        for adapter, _ in self._adapters:
            adapter.close()
        self.model.close()

    def __enter__(self) -> LlamaBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use_renderer(self, renderer: Renderer | None) -> None:
        """Choose what renders chat requests from now on."""
        self._renderer = renderer

    # ---- text ---------------------------------------------------------------------------------

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """See Backend. Raises InvalidRequest for text over the limit of one call."""
        return self.vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: List[int]) -> bytes:
        """See Backend. Raises InvalidToken."""
        return self.vocabulary.detokenize(tokens)

    def apply_chat_template(self, request: Mapping[str, Any]) -> list[int]:
        """See Backend. Special tokens are parsed only in what the template itself wrote.

        `request` holds messages, and may hold system, tools and add_generation_prompt. Raises
        TemplateMissing, TemplateError, InvalidRequest.
        """
        if self._renderer is None:
            raise TemplateMissing(
                "this model file carries no chat template; send a plain prompt instead"
            )
        return self.tokenize_segments(self._renderer(request))

    def tokenize_segments(self, segments: List[Segment]) -> list[int]:
        """The ids of a rendered prompt, with BOS where the vocabulary wants it and none is there.

        An end token that the vocabulary adds to finished texts is left out: the answer follows.
        """
        tokens: list[int] = []
        for index, segment in enumerate(segments):
            tokens += self._tokenize_segment(segment, is_first=index == 0)
        bos = self.vocabulary.bos
        if self.vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    def _tokenize_segment(self, segment: Segment, *, is_first: bool) -> list[int]:
        def tokenize(text: str) -> list[int]:
            return self.vocabulary.tokenize(
                text, add_special=False, parse_special=segment.parse_special
            )

        if is_first or self.vocabulary.kind != "spm":
            return tokenize(segment.text)
        # SentencePiece puts a space before every text it is given; a line break in front of the
        # segment takes that space, and both are cut off again.
        lead, ids = tokenize("\n"), tokenize("\n" + segment.text)
        return ids[len(lead) :] if ids[: len(lead)] == lead else tokenize(segment.text)

    # ---- one sequence -------------------------------------------------------------------------

    def prefill(self, tokens: List[int]) -> None:
        """See Backend. Long prompts are computed in chunks of the fixed grid of `batch_size`.

        Raises InvalidToken, ContextOverflow, Overloaded (the pool is full) and DecodeTimeout; the
        chunks before the failing one stay.
        """
        if not tokens:
            return
        self._check_rows([Row(0, tokens)])
        start = len(self._sequences[0].tokens)
        end = start + len(tokens)
        for first, last in chunks(start, end, self.batch_size):
            self._run([Row(0, tokens[first - start : last - start], wants_logits=last == end)])

    def decode_one(self) -> Sampled:
        """See Backend. The end of generation is computed into the KV like any other token.

        Raises NoLogits unless the last call on sequence 0 left some, and ContextOverflow when its
        room is used up; the sampler has then not moved.
        """
        sequence = self._sequences.require_logits(0)
        self._require_room(len(sequence.tokens), 1, 0)
        sampler = self._decode_sampler()
        if sequence.revision != self._sampler_revision:
            sampler.restart_history(sequence.tokens)
        sampled = sampler.sample(self._logits(sequence), len(sequence.tokens))
        self._run([Row(0, [sampled.token])])
        sampler.accept(sampled.token)
        self._sampler_revision = sequence.revision
        return sampled

    def set_grammar(self, grammar: str | None) -> None:
        """See Backend. The new sampler is greedy under this grammar, as the seed's is."""
        if grammar is not None:
            self._install(SamplingParams(grammar=grammar))

    def configure_sampler(self, params: SamplingParams | None) -> None:
        """See Backend. Raises GrammarRejected or InvalidRequest, and keeps the old one then."""
        if params is not None:
            self._install(params)

    def clear_sampler(self) -> None:
        """See Backend."""
        if self._sampler is not None:
            self._sampler.close()
        self._sampler = None
        self._sampler_revision = -1

    @property
    def seed(self) -> int:
        """The seed of `decode_one`'s sampler: the one that was asked for, or the one drawn."""
        return self._decode_sampler().seed

    def _install(self, params: SamplingParams) -> None:
        made = self.new_sampler(params)
        self.clear_sampler()
        self._sampler = made

    def _decode_sampler(self) -> ChainSampler:
        if self._sampler is None:
            self._sampler = self.new_sampler(GREEDY)
        return self._sampler

    # ---- steps --------------------------------------------------------------------------------

    def step(self, rows: List[Row]) -> Stepped | NoRoom | Aborted:
        """See Backend. Rows should ascend by sequence: llama.cpp cuts other orders into pieces.

        Raises InvalidRequest (a sequence twice, no tokens, more tokens than `batch_size`),
        InvalidToken and ContextOverflow before anything is computed.
        """
        if not rows:
            return Stepped(())
        checks.check_total(self._check_rows(rows), self.batch_size)
        outcome = self._compute(rows)
        if not isinstance(outcome, Decoded):
            return outcome
        return Stepped(tuple(self._sample_row(row) for row in rows))

    def sample(self, seq_id: int, sampler: Sampler) -> Sampled:
        """See Backend. Raises NoLogits. The sampler is not told of the token (`accept`)."""
        sequence = self._sequences.require_logits(seq_id)
        return sampler.sample(self._logits(sequence), len(sequence.tokens))

    def new_sampler(self, params: SamplingParams, tokens: List[int] = ()) -> ChainSampler:
        """See Backend. Raises GrammarRejected, InvalidRequest."""
        return ChainSampler(self.vocabulary, self._candidates, self._grammars, params, tokens)

    def abort(self) -> None:
        """See Backend."""
        self._context.abort()

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
        """Compute rows that are checked; every outcome but success is an error."""
        outcome = self._compute(rows)
        if isinstance(outcome, NoRoom):
            raise Overloaded("the cells of the context are full; close a sequence and try again")
        if isinstance(outcome, Aborted):
            why = "took longer than its deadline" if outcome.timed_out else "was aborted"
            raise DecodeTimeout(f"a decode call {why} and was taken back; try again")

    def _compute(self, rows: List[Row]) -> Decoded | NoRoom | Aborted:
        self._keep_logits({row.seq_id for row in rows})
        batch = self._context.batch
        batch.clear()
        logits_rows: dict[int, int] = {}
        for row in rows:
            seq_id, tokens = row.seq_id, row.tokens
            position = len(self._sequences[seq_id].tokens)
            wants = row.wants_logits or row.sampler is not None
            if len(tokens) == 1 and wants:
                last = batch.add_one(seq_id, tokens[0], position)
            else:
                last = batch.add(seq_id, tokens, position, wants_logits=wants)
            if wants:
                logits_rows[seq_id] = last
        try:
            outcome = self._context.decode(batch)
        except BaseException:  # a signal's, too: it may have been computed by then
            if self._context.handle.is_open:
                self._take_back(rows)
            raise
        if isinstance(outcome, Decoded):
            for row in rows:
                sequence = self._sequences[row.seq_id]
                sequence.extend(list(row.tokens), self._adapters_digest)
                sequence.forget_logits()
            self._sequences.set_rows(logits_rows)
        elif isinstance(outcome, Aborted):
            return Aborted(outcome.timed_out, lost=self._take_back(rows))
        return outcome

    def _keep_logits(self, stepping: set[int]) -> None:
        """Copy the logits of sequences that sit this batch out: it will overwrite them."""
        for sequence in self._sequences.logits_owners(besides=stepping):
            sequence.saved = self._logits(sequence).copy()
            sequence.row = None

    def _take_back(self, rows: List[Row]) -> tuple[int, ...]:
        """After an interrupted call: cut each row's sequence back, or wipe it and name it."""
        for row in rows:
            self._sequences[row.seq_id].row = None  # the call had begun to overwrite it
        if len(rows) > 1 and (self.model.is_recurrent or self.model.is_hybrid):
            # llama.cpp gathers the recurrent states of the rows in neighbouring cells and moves
            # others out of their way, layer by layer: cut short, any of them may be torn.
            return tuple(filter(self._lose, range(self.num_sequences)))
        kept = {row.seq_id: len(self._sequences[row.seq_id].tokens) for row in rows}
        return tuple(s for s, held in kept.items() if not self._truncate(s, held) and self._lose(s))

    def _lose(self, seq_id: int) -> bool:
        """Empty a sequence whose cells cannot be trusted. False when there was nothing to lose."""
        held = len(self._sequences[seq_id].tokens)
        self._context.remove(seq_id, -1)
        self._sequences[seq_id].reset()
        return held > 0

    def _truncate(self, seq_id: int, length: int) -> bool:
        """Make the cells end before `length`. False when llama.cpp cannot, or lost some of them."""
        context = self._context
        if length == 0:
            return context.remove(seq_id, -1)
        if context.last_position(seq_id) >= length:
            context.remove(seq_id, length)
        return context.last_position(seq_id) == length - 1 and self._window_reaches(seq_id, length)

    def _window_reaches(self, seq_id: int, length: int) -> bool:
        """Whether every cell that the token at `length` will look at is still there."""
        window = self.model.window
        if not window:
            return True
        return self._context.first_position(seq_id) <= max(0, length - window + 1)

    def _logits(self, sequence: Sequence) -> np.ndarray:
        if sequence.row is not None:
            return self._context.logits(sequence.row)
        if sequence.saved is None:
            raise NoLogits("the logits of this sequence are gone")
        return sequence.saved

    # ---- checks -------------------------------------------------------------------------------

    def _check_rows(self, rows: List[Row]) -> int:
        """Check rows; returns how many tokens they have together."""
        if not self._context.has_memory:
            raise OperationUnsupported("this model is an encoder: it embeds and cannot generate")
        return checks.check_rows(rows, self._sequences, self.vocabulary.size, self.context_length)

    def _require_room(self, held: int, count: int, seq_id: int) -> None:
        checks.check_room(held, count, seq_id, self.context_length)

    # ---- cells --------------------------------------------------------------------------------

    def tokens(self, seq_id: int) -> list[int]:
        """See Backend. A copy."""
        return list(self._sequences[seq_id].tokens)

    def logits(self, seq_id: int) -> np.ndarray:
        """A copy of the logits of the sequence's next token. Raises NoLogits."""
        return self._logits(self._sequences.require_logits(seq_id)).copy()

    def has_logits(self, seq_id: int) -> bool:
        """See Backend."""
        return self._sequences[seq_id].has_logits

    def seq_rm(self, seq_id: int, start: int = 0) -> bool:
        """See Backend. Only recurrent and sliding-window state refuses, and only to be cut."""
        sequence = self._sequences[seq_id]
        held = len(sequence.tokens)
        if not 0 <= start <= held:
            raise InvalidRequest(f"cannot remove from position {start} of a sequence of {held}")
        if start == held:
            return True
        if start and not (
            self._window_reaches(seq_id, start) and self._context.remove(seq_id, start)
        ):
            return False
        if not start:
            self._context.remove(seq_id, -1)
            sequence.reset()
            return True
        sequence.truncate(start)
        return True

    def seq_rm_last(self, num_tokens: int, seq_id: int = 0) -> bool:
        """See Backend. `num_tokens` is the present length; raises InvalidRequest for another."""
        held = len(self._sequences[seq_id].tokens)
        if not 0 < num_tokens <= held:
            raise InvalidRequest(f"num_tokens must be between 1 and {held}, the present length")
        return self.seq_rm(seq_id, num_tokens - 1)

    def seq_cp(self, source: int, target: int) -> None:
        """See Backend. The pool shares cells; lanes copy them, used ones only."""
        origin, copy = self._sequences[source], self._sequences[target]
        if source == target:
            raise InvalidRequest("source and target are the same sequence")
        if not origin.tokens:
            raise InvalidRequest(f"sequence {source} is empty; there is nothing to copy")
        logits = self._logits(origin).copy() if origin.has_logits else None
        self.seq_rm(target)
        if self._is_pool:
            self._context.share(source, target)
        else:
            # llama.cpp would carry out a copy between lanes only in the next decode call, and
            # reading or writing either lane before that is undefined.
            whole = self._codec.export_whole(source)
            self._codec.import_whole(target, whole, len(origin.tokens))
        copy.reset(list(origin.tokens), origin.adapters)
        copy.mixed_from, copy.saved = origin.mixed_from, logits

    # ---- state --------------------------------------------------------------------------------

    @property
    def namespace(self) -> bytes:
        """SHA-256 over what decides the bytes of a state besides the tokens."""
        options, header = self._context.options, self.model.header
        # Some models rotate by other factors in contexts longer than their original one.
        original = header.integer(header.of_arch("rope.scaling.original_context_length"))
        about = (
            library.describe().version,
            library.describe().state_version,
            options.type_k,
            options.type_v,
            options.flash_attention,
            options.full_window,
            options.rope_freq_base,
            options.rope_freq_scale,
            original is not None and self.context_length > original,
            repr(self._codec.layout),
        )
        digest = hashlib.sha256(self.model.fingerprint)
        digest.update(repr(about).encode())
        digest.update(self._adapters_digest)
        return digest.digest()

    def kv_pack(self, tokens: List[int], seq_id: int = 0) -> bytes:
        """See Backend. Raises StateRejected unless `tokens` is what the sequence holds."""
        sequence = self._savable(seq_id)
        if list(tokens) != sequence.tokens:
            raise StateRejected(
                f"sequence {seq_id} holds {len(sequence.tokens)} other tokens than the"
                f" {len(tokens)} given; only what the KV holds can be packed"
            )
        rows, tail = memoryview(b""), b""
        if sequence.tokens and self.state_kind is StateKind.INDIVISIBLE:
            rows = memoryview(self._codec.export_whole(seq_id))
        elif sequence.tokens:
            rows = self._codec.export_ranges(seq_id, [(0, len(tokens))])[0].payload
            tail = self._codec.export_tail(seq_id)
        logits = None
        if sequence.has_logits and self.state_kind is not StateKind.DIVISIBLE:
            logits = self._logits(sequence)
        packed = packing.Packed(self.state_kind, self.namespace, list(tokens), rows, tail, logits)
        return packing.pack(packed)

    def kv_unpack(self, data: bytes, seq_id: int = 0) -> list[int]:
        """See Backend. All or nothing: on StateRejected the sequence is as it was, or empty."""
        self._require_codec()
        sequence = self._sequences[seq_id]
        packed = packing.unpack(data, self.state_kind, self.namespace)
        self.vocabulary.check(packed.tokens)
        self._require_room(0, len(packed.tokens), seq_id)
        count = len(packed.tokens)
        self.seq_rm(seq_id)
        if count and self.state_kind is StateKind.INDIVISIBLE:
            self._codec.import_whole(seq_id, bytes(packed.rows), count)
        elif count:
            self._codec.import_ranges(seq_id, [Range(0, count, packed.rows)], packed.tail)
        sequence.reset(packed.tokens, self._adapters_digest)
        if packed.logits is not None and len(packed.logits) == self.vocabulary.size:
            sequence.saved = packed.logits.copy()  # not a view that keeps all of `data` alive
        return list(packed.tokens)

    def export_ranges(self, seq_id: int, bounds: List[tuple[int, int]]) -> list[Range]:
        """See Backend. Raises InvalidRequest for bounds outside of the sequence."""
        held = len(self._savable(seq_id).tokens)
        for start, end in bounds:
            if not 0 <= start < end <= held:
                raise InvalidRequest(f"no range {start} to {end} in a sequence of {held} tokens")
        return self._codec.export_ranges(seq_id, bounds)

    def export_tail(self, seq_id: int) -> bytes:
        """See Backend."""
        return self._codec.export_tail(seq_id) if self._savable(seq_id).tokens else b""

    def import_ranges(
        self, seq_id: int, tokens: List[int], ranges: List[Range], tail: bytes = b""
    ) -> None:
        """See Backend. Raises StateRejected; the sequence is then empty."""
        self._require_codec()
        sequence = self._sequences[seq_id]
        self.vocabulary.check(tokens)
        self._require_room(0, len(tokens), seq_id)
        if not ranges or ranges[-1].end != len(tokens):
            raise StateRejected("the ranges do not cover the tokens from first to last")
        self.seq_rm(seq_id)
        self._codec.import_ranges(seq_id, ranges, tail)
        sequence.reset(list(tokens), self._adapters_digest)

    def _require_codec(self) -> None:
        if self.state_kind is StateKind.NONE:
            raise OperationUnsupported("the state of this model cannot be saved and restored")

    def _savable(self, seq_id: int) -> Sequence:
        self._require_codec()
        sequence = self._sequences[seq_id]
        if not sequence.was_computed_under(self._adapters_digest):
            raise StateRejected(
                f"sequence {seq_id} was computed under other adapters than are applied now"
            )
        return sequence

    # ---- the rest -----------------------------------------------------------------------------

    def embed(self, tokens: List[int], *, pooling: str | None = None) -> np.ndarray:
        """See Backend. Raises InvalidToken, ContextOverflow, InvalidRequest."""
        return self._embedder.embed(tokens, pooling=pooling)

    def load_adapter(self, path: str | Path) -> LoraAdapter:
        """See Backend. Raises ModelNotFound, AdapterRejected."""
        return LoraAdapter(self.model, path)

    def unload_adapter(self, adapter: Adapter) -> None:
        """See Backend. An attached adapter is detached first: freeing it attached would dangle."""
        lora = _own(adapter)
        rest = [(a, scale) for a, scale in self._adapters if a is not lora]
        if len(rest) != len(self._adapters):
            self.apply_adapters(rest)
        lora.close()

    def apply_adapters(self, adapters: List[tuple[Adapter, float]]) -> None:
        """See Backend. Logits computed under another set are dropped with it.

        Raises Released for an adapter that was unloaded, AdapterRejected for one of another model.
        """
        loras = [(_own(adapter), float(scale)) for adapter, scale in adapters]
        if any(lora.model is not self.model for lora, _ in loras):
            raise AdapterRejected("an adapter was loaded for another model; load it for this one")
        if not all(math.isfinite(scale) for _, scale in loras):
            raise InvalidRequest("the scale of an adapter must be a finite number")
        digest = _digest_adapters(loras)
        handles = [(lora.handle, scale) for lora, scale in loras]
        self._context.set_adapters(handles)
        self._embedder.set_adapters(handles)
        if digest != self._adapters_digest:
            for sequence in self._sequences:
                sequence.forget_logits()
        self._adapters, self._adapters_digest = loras, digest


def chunks(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Cut positions start to end where the grid of `size` does.

    The grid is absolute, so a prompt that continues a restored prefix is cut as it would have been
    from the start: chunk bounds move the last bits of the logits.
    """
    bounds = [start, *range((start // size + 1) * size, end, size), end]
    return list(itertools.pairwise(bounds))


def _own(adapter: Adapter) -> LoraAdapter:
    if not isinstance(adapter, LoraAdapter):
        raise InvalidRequest("adapters come from load_adapter")
    return adapter


def _digest_adapters(adapters: List[tuple[LoraAdapter, float]]) -> bytes:
    digest = hashlib.sha256()
    for adapter, scale in adapters:
        digest.update(adapter.fingerprint + struct.pack("<d", scale))
    return digest.digest()
