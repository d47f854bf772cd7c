"""How a token is picked: llama.cpp's stages, then a draw of our own.

The stages run in the reference's order (its section 2.5): grammar, logit bias, then either
mirostat, or penalties, DRY, top-n-sigma, top-k, typical-p, top-p, min-p, XTC, infill and
temperature. What they leave are candidates. Without a temperature the likeliest is taken;
otherwise one is drawn with a number that depends on nothing but the seed and the position
(Philox), so that a pick is a function of (seed, position, logits, tokens so far) and a sequence
that is interrupted goes on as if it had not been. XTC draws from Philox too. Mirostat keeps
hidden state and draws from llama.cpp's own generator: repeatable from the start, not resumable.

A grammar is checked after the pick and its mask computed only when the pick is not allowed: with
no truncating stage the distribution is the same as masking first, and nearly so with one. Where it
leaves only one text to go on with, the tokens of that are known without any pick (`forced`).
"""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Sequence

import llama_cpp.llama_cpp as ll
import numpy as np

from samovar.errors import InvalidRequest, NativeError
from samovar.native import philox
from samovar.native.grammar import Grammars
from samovar.native.handle import Handle
from samovar.native.interface import Sampled
from samovar.native.matcher import Matcher
from samovar.native.vocabulary import Vocabulary
from samovar.types import SamplingParams

# llama_token_data: i32 id, f32 logit, f32 p
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])

_MAX_WINDOW = 2**16  # llama.cpp reserves the whole window of DRY and of the penalties


class Candidates:
    """The array that the stages narrow: made once per model and used by one sampler at a time."""

    def __init__(self, size: int) -> None:
        self._ids = np.arange(size, dtype=np.int32)
        self._data = np.zeros(size, _CANDIDATE)
        self._address = self._data.ctypes.data
        self.native = ll.llama_token_data_array()
        self.reference = ctypes.byref(self.native)

    def fill(self, logits: np.ndarray, *, only_possible: bool = False) -> None:
        """All tokens, in order, or all whose logit is not -inf."""
        ids: np.ndarray = self._ids
        if only_possible:
            ids = np.flatnonzero(logits > -np.inf)
            logits = logits[ids]
        self._data["id"][: len(ids)] = ids
        self._data["logit"][: len(ids)] = logits
        self._point(self._address, len(ids), is_sorted=False)

    def live(self) -> np.ndarray:
        """What is left of them: a view with the fields id, logit and p."""
        native = self.native
        offset = (ctypes.cast(native.data, ctypes.c_void_p).value or 0) - self._address
        start = offset // _CANDIDATE.itemsize
        return self._data[start : start + native.size]

    def drop_impossible(self) -> None:
        """Take out what has a logit of -inf: its probability of 0 upsets typical-p (0 * log 0)."""
        rows = self.live()
        possible = np.flatnonzero(rows["logit"] > -np.inf)
        # Field by field: whole records are copied five times as slowly.
        ids, logits = rows["id"][possible], rows["logit"][possible]
        self._data["id"][: len(ids)] = ids
        self._data["logit"][: len(ids)] = logits
        self._point(self._address, len(ids), is_sorted=False)

    def replace(self, rows: np.ndarray) -> None:
        """Keep only `rows`, which are sorted by logit, highest first."""
        self._data[: len(rows)] = rows
        self._point(self._address, len(rows), is_sorted=True)

    def _point(self, address: int, size: int, *, is_sorted: bool) -> None:
        native = self.native
        native.data = ctypes.cast(address, ll.llama_token_data_p)
        native.size = size
        native.selected = -1
        native.sorted = is_sorted


class ChainSampler:
    """Picks tokens for one sequence with llama.cpp's stages and a Philox draw.

    `sample` changes nothing; `accept` tells it what became part of the sequence. The history that
    penalties and DRY look at begins with the tokens given here, prompt included; the grammar and
    `min_tokens` look at accepted ones only. Until that many were accepted no end of generation is
    picked, unless the grammar is complete and can only end: then ending wins. Raises
    GrammarRejected and InvalidRequest.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        candidates: Candidates,
        grammars: Grammars,
        params: SamplingParams,
        tokens: Sequence[int] = (),
    ) -> None:
        self.params = params
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self._vocabulary = vocabulary
        self._candidates = candidates
        self._num_accepted = 0
        self._matcher: Matcher | None = None
        self.warnings: tuple[str, ...] = ()
        """What in the grammar is not followed to the letter."""
        if params.grammar is not None:
            compiled = grammars.compile(params.grammar)
            self._matcher, self.warnings = compiled.start(), compiled.warnings
        self._chains = [
            Chain(vocabulary, stages) for stages in _stages(vocabulary, params, self.seed)
        ]
        self._with_history = [chain for chain in self._chains if chain.has_history]
        self._is_argmax = params.temperature <= 0 and not any(c.moves_peak for c in self._chains)
        self._is_argmax = self._is_argmax and params.xtc_probability == 0
        self._forbidden = _forbidden(vocabulary, params)
        self._bans = frozenset(self._forbidden)
        self._takes_peak = self._is_argmax and not (
            self._matcher is not None or params.min_tokens > 0 or params.logprobs is not None
        )
        """Whether it is the likeliest token unless that is forbidden, and no more is asked."""
        self.restart_history(tokens)

    @property
    def stages(self) -> tuple[str, ...]:
        """The native stages that are there, in order."""
        return tuple(name for chain in self._chains for name in chain.names)

    def sample(self, logits: np.ndarray, position: int) -> Sampled:
        """Pick the token for `position`. `logits`: float32, one per token; not changed.

        Raises InvalidRequest if the grammar and the logit bias leave no token, and NativeError if
        the logits do not.
        """
        peak = int(logits.argmax())  # of numbers and a NaN: the NaN
        if not math.isfinite(logits.item(peak)):
            raise NativeError("the model produced logits that are no numbers")
        if self._takes_peak and peak not in self._bans:
            return Sampled(peak, self._vocabulary.is_eog(peak))
        token: int | None = peak
        if not self._is_argmax or self._bars_ends or peak in self._bans:
            token = self._pick(self._without_ends(logits), position, philox.PICK)
        if self._matcher is not None and (token is None or not self._matcher.allows(token)):
            masked = np.where(self._allowed(self._matcher), logits, np.float32(-np.inf))
            token = self._pick(masked, position, philox.PICK_MASKED)
        if token is None:
            raise InvalidRequest(
                "no token can be picked here: the logit bias (ignore_eos is one) forbids all that"
                " the grammar or the vocabulary has"
            )
        report = self.params.logprobs
        scores = None if report is None else philox.logprobs(logits, token, report)
        return Sampled(token, self._vocabulary.is_eog(token), scores)

    def accept(self, token: int) -> None:
        """The token is now part of the sequence. Raises InvalidToken if the grammar forbids it."""
        if self._matcher is not None:
            self._matcher.consume(token)
        self._num_accepted += 1
        if self._with_history:
            self._remember(token)

    def forced(self, limit: int) -> list[int]:
        """See Sampler. Empty where every token is to be scored, and from a token on that is banned.

        Never an end of generation.
        """
        if self._matcher is None or self.params.logprobs is not None:
            return []
        tokens = self._matcher.forced(limit)
        bias = self.params.logit_bias
        banned = (at for at, token in enumerate(tokens) if bias.get(token) == -np.inf)
        return tokens[: next(banned, len(tokens))]

    def restart_history(self, tokens: Sequence[int]) -> None:
        """Let the penalties and DRY look at the end of `tokens` and at nothing before."""
        if not self._with_history:
            return
        for chain in self._with_history:
            chain.reset()
        params = self.params
        window = max(_window(params.penalty_last_n), _window(params.dry_penalty_last_n))
        for token in tokens[max(0, len(tokens) - window) :]:
            self._remember(token)

    def close(self) -> None:
        """Free the native stages. Idempotent."""
        for chain in self._chains:
            chain.close()

    def _remember(self, token: int) -> None:
        for chain in self._with_history:
            chain.accept(token)

    @property
    def _bars_ends(self) -> bool:
        """Whether it is too early for an end of generation."""
        return self._num_accepted < self.params.min_tokens

    def _without_ends(self, logits: np.ndarray) -> np.ndarray:
        if not self._bars_ends:
            return logits
        barred = logits.copy()
        barred[list(self._vocabulary.eog_tokens)] = -np.inf
        return barred

    def _without_forbidden(self, logits: np.ndarray) -> np.ndarray:
        if not self._forbidden:
            return logits
        rest = logits.copy()
        rest[self._forbidden] = -np.inf
        return rest

    def _allowed(self, matcher: Matcher) -> np.ndarray:
        """What the grammar allows; without the ends while they are barred and there is more."""
        mask = matcher.mask()
        if self._bars_ends:
            longer = mask.copy()
            longer[list(self._vocabulary.eog_tokens)] = False
            return longer if longer.any() else mask
        return mask

    def _pick(self, logits: np.ndarray, position: int, word: int) -> int | None:
        if self._is_argmax:
            logits = self._without_forbidden(logits)
            token = int(logits.argmax())
            return token if logits[token] > -np.inf else None
        candidates = self._candidates
        self.narrow(candidates, logits, position, word)
        rows = candidates.live()
        if not len(rows):
            return None
        if candidates.native.selected >= 0:  # mirostat picks by itself
            return int(rows["id"][candidates.native.selected])
        if self.params.temperature <= 0:
            return int(rows["id"][rows["logit"].argmax()])
        return _draw(rows, philox.uniform(self.seed, position, word))

    def narrow(
        self, candidates: Candidates, logits: np.ndarray, position: int, word: int = philox.PICK
    ) -> None:
        """Fill the candidates with `logits` and let every stage but the draw take its part."""
        bias, cutting, shaping = self._chains
        drops = bool(self._forbidden) or self._bars_ends or word == philox.PICK_MASKED
        # The stage of the bias is quick only while all candidates are there, in order.
        candidates.fill(self._without_forbidden(logits), only_possible=drops and not bias.names)
        bias.apply(candidates)
        if drops and bias.names:
            candidates.drop_impossible()
        if not candidates.native.size:  # llama.cpp's stages assert that there is something
            return
        cutting.apply(candidates)
        if self.params.xtc_probability > 0 and not self.params.mirostat:
            self._exclude_top(candidates, philox.uniform(self.seed, position, word + philox.XTC))
        shaping.apply(candidates)

    def _exclude_top(self, candidates: Candidates, number: float) -> None:
        """XTC: sometimes drop all candidates above the threshold but the least likely of them.

        As llama.cpp's stage (llama-sampler.cpp, llama_sample_xtc_apply), but for the draw.
        """
        threshold = self.params.xtc_threshold
        rows = candidates.live()
        if number >= self.params.xtc_probability or threshold > 0.5 or len(rows) < 2:
            return
        rows = rows[np.argsort(-rows["logit"], kind="stable")]
        above = int(np.count_nonzero(philox.softmax(rows["logit"]) >= threshold))
        if above > 1 and len(rows) - (above - 1) >= self.params.min_keep:
            rows = rows[above - 1 :]
        candidates.replace(rows)


def _draw(rows: np.ndarray, number: float) -> int:
    index = philox.draw(rows["logit"], number)
    if index is None:
        raise NativeError("the sampling stages left no token with a probability")
    return int(rows["id"][index])


# ---- the native stages --------------------------------------------------------------------------


class Chain:
    """Some of llama.cpp's stages, applied in order."""

    def __init__(self, vocabulary: Vocabulary, stages: list[tuple[str, int]]) -> None:
        _ = vocabulary.pointer  # stages point into the vocabulary: not after the model is closed
        pointer = ll.llama_sampler_chain_init(ll.llama_sampler_chain_default_params())
        for _name, stage in stages:
            ll.llama_sampler_chain_add(pointer, stage)
        self.handle = Handle(pointer, ll.llama_sampler_free, "sampler")
        self.handle.watch(self)
        self.names = [name for name, _ in stages]
        self.moves_peak = not _KEEP_PEAK.issuperset(self.names)
        """Whether the likeliest token may be another one afterwards."""
        self.has_history = not _HISTORY.isdisjoint(self.names)

    def apply(self, candidates: Candidates) -> None:
        """Narrow the candidates."""
        if self.names:
            ll.llama_sampler_apply(self.handle.pointer, candidates.reference)

    def accept(self, token: int) -> None:
        """Let the stages that have a history see the token."""
        ll.llama_sampler_accept(self.handle.pointer, token)

    def reset(self) -> None:
        """Forget the history."""
        ll.llama_sampler_reset(self.handle.pointer)

    def close(self) -> None:
        """Free the stages. Idempotent."""
        self.handle.close()


_HISTORY = frozenset({"penalties", "dry"})
_KEEP_PEAK = frozenset({"top_n_sigma", "top_k", "top_p", "min_p", "temperature"})


def _stages(
    vocabulary: Vocabulary, params: SamplingParams, seed: int
) -> list[list[tuple[str, int]]]:
    """The native stages: the bias, those before XTC, those after it.

    Each is present only if it does something.
    """
    bias = _bias(vocabulary, params)
    if params.mirostat:
        return [bias, _mirostat(vocabulary, params, seed & 0xFFFFFFFF), []]
    cutting = _history(vocabulary, params) + _truncation(params)
    return [bias, cutting, _shaping(vocabulary, params)]


def _forbidden(vocabulary: Vocabulary, params: SamplingParams) -> list[int]:
    """Not a matter of the bias stage: without a candidate for them, greedy stays an argmax."""
    ends = vocabulary.eog_tokens if params.ignore_eos else ()
    return [*ends, *(token for token, add in params.logit_bias.items() if add == -np.inf)]


def _bias(vocabulary: Vocabulary, params: SamplingParams) -> list[tuple[str, int]]:
    for token in params.logit_bias:
        if not 0 <= token < vocabulary.size:
            raise InvalidRequest(
                f"logit_bias names token {token}; use ids from 0 to {vocabulary.size - 1}"
            )
    bias = {token: add for token, add in params.logit_bias.items() if add > -np.inf}
    if not bias:
        return []
    entries = (ll.llama_logit_bias * len(bias))(*bias.items())
    return [("logit_bias", ll.llama_sampler_init_logit_bias(vocabulary.size, len(bias), entries))]


def _mirostat(vocabulary: Vocabulary, params: SamplingParams, seed: int) -> list[tuple[str, int]]:
    stages = []
    if params.temperature > 0:
        stages.append(("temperature", ll.llama_sampler_init_temp(params.temperature)))
    tau, eta = params.mirostat_tau, params.mirostat_eta
    if params.mirostat == 1:
        last = ll.llama_sampler_init_mirostat(vocabulary.size, seed, tau, eta, 100)
    else:
        last = ll.llama_sampler_init_mirostat_v2(seed, tau, eta)
    return [*stages, ("mirostat", last)]


def _history(vocabulary: Vocabulary, params: SamplingParams) -> list[tuple[str, int]]:
    stages = []
    penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
    window = _window(params.penalty_last_n)
    if penalties != (1.0, 0.0, 0.0) and window:
        stage = ll.llama_sampler_init_penalties(vocabulary.size, window, *penalties)
        stages.append(("penalties", stage))
    window = _window(params.dry_penalty_last_n)
    if params.dry_multiplier > 0 and window:
        breakers = [text.encode() for text in params.dry_sequence_breakers if text]
        stage = ll.llama_sampler_init_dry(
            vocabulary.pointer,
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            window,
            (ctypes.c_char_p * max(1, len(breakers)))(*breakers),
            len(breakers),
        )
        stages.append(("dry", stage))
    return stages


def _window(last: int) -> int:
    return _MAX_WINDOW if last < 0 else min(last, _MAX_WINDOW)


def _truncation(params: SamplingParams) -> list[tuple[str, int]]:
    keep = max(1, params.min_keep)
    stages = []
    if params.top_n_sigma > 0:
        stages.append(("top_n_sigma", ll.llama_sampler_init_top_n_sigma(params.top_n_sigma)))
    if params.top_k > 0:
        stages.append(("top_k", ll.llama_sampler_init_top_k(params.top_k)))
    if params.typical_p < 1:
        stages.append(("typical_p", ll.llama_sampler_init_typical(params.typical_p, keep)))
    if params.top_p < 1:
        stages.append(("top_p", ll.llama_sampler_init_top_p(params.top_p, keep)))
    if params.min_p > 0:
        stages.append(("min_p", ll.llama_sampler_init_min_p(params.min_p, keep)))
    return stages


def _shaping(vocabulary: Vocabulary, params: SamplingParams) -> list[tuple[str, int]]:
    stages = []
    if params.infill:
        stages.append(("infill", ll.llama_sampler_init_infill(vocabulary.pointer)))
    if params.temperature > 0 and params.dynatemp_range > 0:
        args = (params.temperature, params.dynatemp_range, params.dynatemp_exponent)
        stages.append(("temperature", ll.llama_sampler_init_temp_ext(*args)))
    elif params.temperature > 0 and params.temperature != 1:
        stages.append(("temperature", ll.llama_sampler_init_temp(params.temperature)))
    return stages
