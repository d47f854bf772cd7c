"""What an engine needs of a model, in our words: the backend contract and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from samovar.errors import SamovarError
from samovar.types import Grammar, SamplingParams

# ---- outcomes of a decode call ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decoded:
    """Every row was computed."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """There are not enough free cells. Nothing changed: retry with fewer rows, or free some."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """The call was interrupted. Every row was taken back; `lost` sequences had to be wiped."""

    timed_out: bool = False
    lost: tuple[int, ...] = ()


DECODED, NO_ROOM, ABORTED = Decoded(), NoRoom(), Aborted()


# ---- sampling -----------------------------------------------------------------------------------


class Logprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of one position, over the raw logits, before any sampling stage."""

    chosen: float
    top: tuple[tuple[int, float], ...]
    """(token, log-probability) of the likeliest tokens, likeliest first."""


class Sampled(msgspec.Struct, frozen=True):
    """A token that was picked."""

    token: int
    is_eog: bool
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class RowFailed:
    """This row was computed, but no token could be picked; its siblings are unharmed."""

    error: SamovarError


class Sampler(Protocol):
    """Picks tokens for one sequence."""

    params: SamplingParams
    seed: int
    warnings: tuple[str, ...]
    """What of its grammar could not be followed to the letter."""

    def sample(self, logits: np.ndarray, position: int) -> Sampled:
        """The token for `position`; the logits are not changed, nor is the sampler's history."""

    def accept(self, token: int) -> None:
        """The token is now part of the sequence."""

    def forced(self, limit: int) -> list[int]:
        """Tokens that the grammar leaves no choice about, in order, at most `limit`.

        Changes nothing: they are to be accepted one by one. Empty without a grammar.
        """

    def close(self) -> None:
        """Free what is native in it. Idempotent."""


# ---- steps --------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True):
    """What one sequence does in a step: compute `tokens`, then pick the next one if it samples."""

    seq_id: int
    tokens: Sequence[int]
    sampler: Sampler | None = None
    wants_logits: bool = True
    """Keep the logits after the last token, so that `sample` can use them later."""
    wants_each: bool = False
    """Have logits after every token, for `argmaxes`."""
    following: Sequence[int] = ()
    """Ids whose log-probabilities are wanted: the i-th as it follows on the i-th of `tokens`. As
    many as there are tokens, or fewer."""
    num_alternatives: int = 0
    """Of the likeliest tokens, with each of those."""


class Stepped(msgspec.Struct, frozen=True):
    """A step ran. One result per row, in order; None for rows without a sampler."""

    results: tuple[Sampled | RowFailed | None, ...]
    scores: tuple[tuple[Logprobs, ...], ...] = ()
    """For each row what its `following` asks; empty where no row asks anything."""


# ---- state --------------------------------------------------------------------------------------


class StateKind(Enum):
    """How the KV state of a model can be cut."""

    NONE = "none"
    """There is no state: an encoder."""
    DIVISIBLE = "divisible"
    """Attention only: any range of positions stands for itself."""
    DIVISIBLE_WITH_TAIL = "divisible+tail"
    """Attention rows in ranges, plus a small tail that is only valid at the position it was taken:
    recurrent state, or the cells of a sliding window."""
    INDIVISIBLE = "indivisible"
    """Only the whole state at one position."""


@dataclass(frozen=True, slots=True)
class Range:
    """KV rows of the positions `start` to `end` (excluded) of some sequence, as bytes."""

    start: int
    end: int
    payload: memoryview


class Piece(Protocol):
    """A sequence whose rows are put together outside of its cells, each at its place."""

    @property
    def seq_id(self) -> int:
        """For which it is."""

    @property
    def tokens(self) -> Sequence[int]:
        """What its rows are of."""

    def places(self, start: int, end: int) -> list[np.ndarray]:
        """Where the rows of the positions `start` to `end` (excluded) belong.

        Arrays of bytes, which together are as a Range's payload, in its order. They may be written
        by any thread. Raises StateRejected for positions that the piece has not.
        """


class Adapter(Protocol):
    """A loaded LoRA adapter."""

    @property
    def fingerprint(self) -> bytes:
        """Tells it from every other adapter."""


# ---- vectors and scores -------------------------------------------------------------------------

RANK = "rank"
"""The pooling that gives a score: the model's own head over the state of one token."""

Text = str | bytes | Sequence[int]
"""A text, or the ids of one."""


@dataclass(slots=True, eq=False)
class Passage:
    """Tokens that become one vector or one score, and how far that has come."""

    tokens: Sequence[int]
    num_computed: int = 0
    vector: np.ndarray | None = None
    """float32, of the width of the model's embeddings or of length 1; None: not finished."""
    partial: np.ndarray | None = None
    """What the computed tokens came to: for whoever computes the rest."""

    @property
    def num_remaining(self) -> int:
        """Tokens that are not computed."""
        return len(self.tokens) - self.num_computed


class Embedder(Protocol):
    """Makes vectors and scores of passages, one decode call at a time.

    Its cells are its own: nothing of it shows in what the sequences of the backend say.
    """

    batch_size: int
    """Most tokens of one call, unless a passage that cannot be cut is longer."""
    longest: int
    """Tokens of the longest passage."""
    can_cut: bool
    """Whether a passage may be computed in several calls. Known once something was prepared."""

    def pooling_of(self, pooling: str | None) -> str:
        """The pooling that is meant: None is the file's own, else `last`.

        Raises InvalidRequest for one that makes no vector, and OperationUnsupported where the file
        wants scores, which are no vectors.
        """

    def pair(self, query: Text, document: Text) -> list[int]:
        """The ids of a query and a document as the model wants to see them, to be scored.

        Raises OperationUnsupported unless the model has a head for scores.
        """

    def prepare(self, pooling: str, length: int) -> None:
        """Take the memory that passages of such a length need, so that `advance` need not.

        Raises OutOfMemory and ContextOverflow.
        """

    def advance(self, passages: Sequence[Passage], pooling: str, limit: int) -> int:
        """Compute about `limit` tokens of passages that are not finished, the first ones first.

        Where the model reads forwards only, the first of them may be computed in part, and is
        gone on with as long as it stays the first; elsewhere it is computed whole, however long.
        Returns how many tokens were computed. Raises DecodeTimeout; nothing is finished then, and
        parts are computed again.
        """


# ---- the contract -------------------------------------------------------------------------------


class Backend(Protocol):
    """A model that computes. One thread owns it; only `abort` may be called from others.

    The operations of the first group carry the reference's names and work on sequence 0 unless
    told otherwise; those of the second are what an engine drives. Both share one bookkeeping:
    position i of a sequence holds token i of `tokens(seq_id)`, at all times.
    """

    state_kind: StateKind
    context_length: int
    num_sequences: int
    batch_size: int
    num_cells: int | None
    """Cells that all sequences share; None: each has `context_length` of its own (lanes), or the
    length of a sequence costs no cells (recurrent models)."""
    vocabulary_size: int

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """The tokens that are no text, by what they are called."""

    @property
    def embedder(self) -> Embedder:
        """Vectors and scores a call at a time."""

    def close(self) -> None:
        """Free everything. Idempotent, never raises."""

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Text to ids."""

    def require_fits(self, text: str | bytes, length: int) -> None:
        """Raise ContextOverflow for a text that cannot be so few tokens, without tokenizing it."""

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """Ids to bytes, piece by piece; control tokens as nothing, or `special` as their text."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Append tokens to sequence 0 and leave logits for what follows. Empty: no effect."""

    def decode_one(self) -> Sampled:
        """Pick a token from sequence 0's logits and compute it: it is in the KV on return."""

    def kv_pack(self, tokens: Sequence[int], seq_id: int = 0) -> bytes:
        """The state of a sequence, with its tokens, as bytes that prove themselves."""

    def kv_unpack(self, data: bytes, seq_id: int = 0) -> list[int]:
        """Replace a sequence by a packed state; returns its tokens.

        A divisible state brings no logits: take the last token away and prefill it again. Other
        states, which cannot be cut there, bring theirs.
        """

    def seq_rm_last(self, num_tokens: int, seq_id: int = 0) -> bool:
        """Remove position `num_tokens - 1` and all after it. False: refused, nothing changed."""

    def is_eog(self, token: int) -> bool:
        """Whether a token ends generation."""

    def apply_chat_template(self, request: Mapping[str, Any]) -> list[int]:
        """Render messages with the model's template and tokenize them."""

    def embed(self, tokens: Sequence[int], *, pooling: str | None = None) -> np.ndarray:
        """One vector for the tokens: float32, `embedding_width` long. Leaves no trace."""

    def embed_many(
        self, texts: Sequence[Sequence[int]], *, pooling: str | None = None
    ) -> np.ndarray:
        """One vector for each text: float32, (number of texts, width), in their order.

        As many texts as fit are computed in one call; what else is in it changes only last bits.
        """

    def rank(self, query: Text, documents: Sequence[Text]) -> np.ndarray:
        """How well each document answers the query: one float32 each, higher is better.

        What a score means is the model's own business. Raises OperationUnsupported for models
        without a head for scores.
        """

    def set_grammar(self, grammar: str | None) -> None:
        """Constrain `decode_one`. None: no effect. On failure the sampler in use stays."""

    def configure_sampler(self, params: SamplingParams | None) -> None:
        """Choose how `decode_one` picks. None: no effect."""

    def clear_sampler(self) -> None:
        """Back to greedy. Idempotent."""

    def load_adapter(self, path: str) -> Adapter:
        """Load a LoRA file; it takes part once it is applied."""

    def unload_adapter(self, adapter: Adapter) -> None:
        """Detach and free an adapter. Freeing it twice is allowed."""

    def apply_adapters(self, adapters: Sequence[tuple[Adapter, float]]) -> None:
        """Replace the attached set by (adapter, scale) pairs; an empty one detaches all."""

    def step(self, rows: Sequence[Row]) -> Stepped | NoRoom | Aborted:
        """Compute a set of rows in one batch, then sample where asked. At most one per sequence."""

    def argmaxes(self, seq_id: int, tokens: Sequence[int]) -> list[int]:
        """Compute tokens of a sequence and give the likeliest next id after each of them.

        For checking guesses. Raises Overloaded when there is no room, and DecodeTimeout.
        """

    def sample(self, seq_id: int, sampler: Sampler) -> Sampled:
        """Pick from the logits that a sequence has; several samplers may look at the same ones."""

    def new_sampler(self, params: SamplingParams, tokens: Sequence[int] = ()) -> Sampler:
        """An independent sampler that has seen `tokens`."""

    def compile_grammar(self, grammar: str | Grammar) -> None:
        """Have a grammar ready for the samplers to come; from any thread.

        Raises GrammarRejected, and Overloaded if too many are being compiled.
        """

    def has_logits(self, seq_id: int) -> bool:
        """Whether the sequence's next token can be sampled as it stands."""

    def logits(self, seq_id: int) -> np.ndarray:
        """A copy of what follows the sequence's last token: float32, one per id of the vocabulary.

        Raises NoLogits.
        """

    def set_logits(self, seq_id: int, logits: np.ndarray) -> None:
        """Say what follows the last token of a sequence that was imported.

        Raises StateRejected for another number of logits, and for some that are no numbers.
        """

    def tokens(self, seq_id: int) -> list[int]:
        """The tokens whose KV the sequence holds."""

    def seq_rm(self, seq_id: int, start: int = 0) -> bool:
        """Remove positions from `start` on. False: refused, nothing changed."""

    def seq_cp(self, source: int, target: int) -> None:
        """Make `target` a copy of `source`; its logits come along."""

    def export_ranges(self, seq_id: int, bounds: Sequence[tuple[int, int]]) -> list[Range]:
        """The KV rows of each (start, end)."""

    def export_tail(self, seq_id: int) -> bytes:
        """The tail at the sequence's present end.

        Empty for divisible models, and the whole state for indivisible ones.
        """

    def import_ranges(
        self, seq_id: int, tokens: Sequence[int], ranges: Sequence[Range], tail: bytes = b""
    ) -> None:
        """Replace a sequence by ranges that cover `tokens` from the start, without a gap.

        An indivisible state has no ranges: its tail is all of it. Raises StateRejected; the
        sequence is then empty, or as it was.
        """

    def new_piece(self, seq_id: int, tokens: Sequence[int]) -> Piece | None:
        """Room for the rows of all `tokens`, of which nothing is in the cells before the import.

        None: states of this kind are imported by ranges only, or too many pieces are there.
        """

    def import_piece(self, piece: Piece) -> None:
        """Replace the sequence that a piece was made for by it. All of its places were written.

        The places must not be written any more. Raises StateRejected; the sequence is then empty,
        or as it was.
        """

    def describe_state(self) -> dict[str, str | int | float | bool | None]:
        """What decides the bytes of a state besides weights, tokens and adapters, readably."""

    def describe_grid(self) -> str:
        """How a prompt is cut and computed: with another grid, other last bits come out."""

    @property
    def weights_paths(self) -> tuple[Path, ...]:
        """The files of the weights, in order; none: there are no weights."""

    def abort(self) -> None:
        """Interrupt the decode call that is running, from any thread."""
