"""The backend on llama.cpp: a model, its context, and one bookkeeping over both.

Every id, length, position and sequence is checked before it crosses into native code, where most
mistakes end the process. What can go wrong is either an outcome (`NoRoom`, `Aborted`, a removal
that is refused) or a typed error, and none of them leaves a sequence half changed: it is as it
was, or empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from collections.abc import Sequence as List
from pathlib import Path
from typing import Any

import numpy as np

from samovar.errors import (
    AdapterRejected,
    DecodeTimeout,
    InvalidRequest,
    NativeError,
    Overloaded,
    SamovarError,
    TemplateMissing,
)
from samovar.native import checks, state
from samovar.native.adapter import LoraAdapter, digest
from samovar.native.cells import Cells
from samovar.native.codec import Codec
from samovar.native.context import Context, ContextOptions
from samovar.native.embedder import LlamaEmbedder
from samovar.native.grammar import Grammars
from samovar.native.interface import (
    Aborted,
    Adapter,
    Decoded,
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
from samovar.native.model import Model, ModelOptions
from samovar.native.sampler import Candidates, ChainSampler
from samovar.native.scoring import scored
from samovar.native.segments import Renderer, Segment, tokenize_segments
from samovar.native.transfer import Transfer
from samovar.native.vocabulary import Vocabulary
from samovar.types import Grammar, SamplingParams

GREEDY = SamplingParams()


class LlamaBackend:
    """A GGUF model that computes: the `Backend` contract over llama.cpp.

    open ──prefill, step, import──> sequences grow ──seq_rm, close──> gone

    One thread owns it; `abort` alone may be called from others. `renderer` turns chat requests
    into text and comes from whoever opens the backend, because templates are not native.
    """

    def __init__(
        self, model: Model, context: Context, codec: Codec, renderer: Renderer | None
    ) -> None:
        self.model = model
        self.vocabulary: Vocabulary = model.vocabulary
        self.context_length = context.context_length
        self.num_sequences = context.num_sequences
        self.batch_size = context.batch_size
        self.vocabulary_size = self.vocabulary.size
        shares_cells = context.options.layout == "pool" and not model.is_recurrent
        self.num_cells = context.num_cells if shares_cells else None
        self.state_kind = codec.kind
        self._context = context
        self._renderer = renderer
        self._cells = Cells(context)
        self._sequences = self._cells.sequences
        self._transfer = Transfer(context, self._cells, codec, digest([]))
        self._candidates = Candidates(self.vocabulary.size)
        self._grammars = Grammars(self.vocabulary)
        self.embedder = LlamaEmbedder(model, context.options)
        self._sampler: ChainSampler | None = None
        self._sampler_revision = -1  # of sequence 0, when the sampler last saw its tokens
        self._adapters: list[tuple[LoraAdapter, float]] = []

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
                codec = state.probe(made) if proves_state else Codec(made, StateKind.NONE)
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
        self.embedder.close()
        self._context.close()
        for adapter, _ in self._adapters:
            adapter.close()
        self.model.close()

    def __enter__(self) -> LlamaBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """See Backend."""
        return self.vocabulary.control_tokens

    def use_renderer(self, renderer: Renderer | None) -> None:
        """Choose what renders chat requests from now on."""
        self._renderer = renderer

    # ---- text ---------------------------------------------------------------------------------

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """See Backend. Raises InvalidRequest for text over the limit of one call."""
        return self.vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special)

    def require_fits(self, text: str | bytes, length: int) -> None:
        """See Backend."""
        self.vocabulary.require_fits(text, length)

    def detokenize(self, tokens: List[int], *, special: bool = False) -> bytes:
        """See Backend. Raises InvalidToken."""
        return self.vocabulary.detokenize(tokens, special=special)

    def is_eog(self, token: int) -> bool:
        """See Backend. Raises InvalidToken."""
        self.vocabulary.check([token])
        return self.vocabulary.is_eog(token)

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
        """The ids of a rendered prompt, with BOS where the vocabulary wants it."""
        return tokenize_segments(self.vocabulary, segments)

    # ---- one sequence -------------------------------------------------------------------------

    def prefill(self, tokens: List[int]) -> None:
        """See Backend. Long prompts are computed in chunks of the fixed grid of `batch_size`.

        Raises InvalidToken, ContextOverflow, Overloaded (the pool is full) and DecodeTimeout; the
        chunks before the failing one stay.
        """
        if not tokens:
            return
        self._cells.check_rows([Row(0, tokens)])
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
        self._cells.require_room(len(sequence.tokens), 1, 0)
        sampler = self._decode_sampler()
        if sequence.revision != self._sampler_revision:
            sampler.restart_history(sequence.tokens)
        sampled = sampler.sample(self._cells.logits(sequence), len(sequence.tokens))
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
        checks.check_total(self._cells.check_rows(rows), self.batch_size)
        outcome = self._cells.compute(rows, self._transfer.adapters)
        if not isinstance(outcome, Decoded):
            return outcome
        results = tuple([self._sample_row(row) for row in rows])
        return scored(rows, results, self._context.logits)

    def sample(self, seq_id: int, sampler: Sampler) -> Sampled:
        """See Backend. Raises NoLogits. The sampler is not told of the token (`accept`)."""
        sequence = self._sequences.require_logits(seq_id)
        return sampler.sample(self._cells.logits(sequence), len(sequence.tokens))

    def argmaxes(self, seq_id: int, tokens: List[int]) -> list[int]:
        """See Backend. Raises InvalidRequest for more tokens than one decode call takes."""
        row = Row(seq_id, tokens, wants_each=True)
        checks.check_total(self._cells.check_rows([row]), self.batch_size)
        self._run([row])
        last = self._sequences.require_logits(seq_id).row
        assert last is not None
        first = last - len(tokens) + 1
        return [self._likeliest(self._context.logits(at)) for at in range(first, last + 1)]

    @staticmethod
    def _likeliest(logits: np.ndarray) -> int:
        token = int(logits.argmax())  # of a NaN, if there is one
        if not np.isfinite(logits[token]):
            raise NativeError("the model produced logits that are no numbers")
        return token

    def new_sampler(self, params: SamplingParams, tokens: List[int] = ()) -> ChainSampler:
        """See Backend. Raises GrammarRejected, InvalidRequest."""
        return ChainSampler(self.vocabulary, self._candidates, self._grammars, params, tokens)

    def compile_grammar(self, grammar: str | Grammar) -> None:
        """See Backend. Raises OperationUnsupported for a vocabulary without an end token."""
        self._grammars.compile(grammar)

    def abort(self) -> None:
        """See Backend."""
        self._context.abort()
        self.embedder.abort()

    def _sample_row(self, row: Row) -> Sampled | RowFailed | None:
        if row.sampler is None:
            return None
        sequence = self._sequences.all[row.seq_id]
        try:
            sampled = row.sampler.sample(self._cells.logits(sequence), len(sequence.tokens))
            row.sampler.accept(sampled.token)
        except SamovarError as error:
            return RowFailed(error)
        return sampled

    def _run(self, rows: List[Row]) -> None:
        """Compute rows that are checked; every outcome but success is an error."""
        outcome = self._cells.compute(rows, self._transfer.adapters)
        if isinstance(outcome, NoRoom):
            raise Overloaded("the cells of the context are full; close a sequence and try again")
        if isinstance(outcome, Aborted):
            why = "took longer than its deadline" if outcome.timed_out else "was aborted"
            raise DecodeTimeout(f"a decode call {why} and was taken back; try again")

    # ---- cells --------------------------------------------------------------------------------

    def tokens(self, seq_id: int) -> list[int]:
        """See Backend. A copy."""
        return list(self._sequences[seq_id].tokens)

    def logits(self, seq_id: int) -> np.ndarray:
        """A copy of the logits of the sequence's next token. Raises NoLogits."""
        return self._cells.logits(self._sequences.require_logits(seq_id)).copy()

    def has_logits(self, seq_id: int) -> bool:
        """See Backend."""
        return self._sequences[seq_id].has_logits

    def set_logits(self, seq_id: int, logits: np.ndarray) -> None:
        """See Backend."""
        self._cells.set_logits(seq_id, logits)

    def seq_rm(self, seq_id: int, start: int = 0) -> bool:
        """See Backend. Only recurrent and sliding-window state refuses, and only to be cut."""
        return self._cells.remove(seq_id, start)

    def seq_rm_last(self, num_tokens: int, seq_id: int = 0) -> bool:
        """See Backend. `num_tokens` is the present length; raises InvalidRequest for another."""
        held = len(self._sequences[seq_id].tokens)
        if not 0 < num_tokens <= held:
            raise InvalidRequest(f"num_tokens must be between 1 and {held}, the present length")
        return self.seq_rm(seq_id, num_tokens - 1)

    def seq_cp(self, source: int, target: int) -> None:
        """See Backend. The pool shares cells; lanes copy them, used ones only."""
        self._transfer.copy(source, target)

    # ---- state --------------------------------------------------------------------------------

    @property
    def namespace(self) -> bytes:
        """SHA-256 over what decides the bytes of a state besides the tokens."""
        return self._transfer.namespace

    def describe_state(self) -> dict[str, str | int | float | bool | None]:
        """See Backend."""
        return self._transfer.describe()

    def describe_grid(self) -> str:
        """See Backend."""
        options = self._context.options
        return f"{self.batch_size} tokens in {options.micro_batch_size}, {options.threads} threads"

    @property
    def weights_paths(self) -> tuple[Path, ...]:
        """See Backend."""
        return tuple(part.path for part in self.model.header.parts)

    def kv_pack(self, tokens: List[int], seq_id: int = 0) -> bytes:
        """See Backend. Raises StateRejected unless `tokens` is what the sequence holds."""
        return self._transfer.pack(tokens, seq_id)

    def kv_unpack(self, data: bytes, seq_id: int = 0) -> list[int]:
        """See Backend. All or nothing: on StateRejected the sequence is as it was, or empty."""
        return self._transfer.unpack(data, seq_id)

    def export_ranges(self, seq_id: int, bounds: List[tuple[int, int]]) -> list[Range]:
        """See Backend. Raises InvalidRequest for bounds outside of the sequence."""
        return self._transfer.export_ranges(seq_id, bounds)

    def export_tail(self, seq_id: int) -> bytes:
        """See Backend."""
        return self._transfer.export_tail(seq_id)

    def import_ranges(
        self, seq_id: int, tokens: List[int], ranges: List[Range], tail: bytes = b""
    ) -> None:
        """See Backend. Raises StateRejected; the sequence is then empty."""
        self._transfer.import_ranges(seq_id, tokens, ranges, tail)

    def new_piece(self, seq_id: int, tokens: List[int]) -> Piece | None:
        """See Backend."""
        return self._transfer.new_piece(seq_id, tokens)

    def import_piece(self, piece: Piece) -> None:
        """See Backend. Raises StateRejected; the sequence is then empty."""
        self._transfer.import_piece(piece)

    # ---- the rest -----------------------------------------------------------------------------

    def embed(self, tokens: List[int], *, pooling: str | None = None) -> np.ndarray:
        """See Backend. Raises InvalidToken, ContextOverflow, InvalidRequest."""
        return self.embedder.embed(tokens, pooling=pooling)

    def embed_many(self, texts: List[List[int]], *, pooling: str | None = None) -> np.ndarray:
        """See Backend. Raises what `embed` does, before anything is computed."""
        return self.embedder.embed_many(texts, pooling=pooling)

    def rank(self, query: Text, documents: List[Text]) -> np.ndarray:
        """See Backend. The pair is put together as llama-server does it (see ranking)."""
        return self.embedder.rank(query, documents)

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
        for _, scale in loras:
            checks.check_scale(scale)
        applied = digest(loras)
        handles = [(lora.handle, scale) for lora, scale in loras]
        self._context.set_adapters(handles)
        if applied != self._transfer.adapters:
            self._cells.forget_logits()
        self._adapters, self._transfer.adapters = loras, applied
        self.embedder.set_adapters(handles)


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
