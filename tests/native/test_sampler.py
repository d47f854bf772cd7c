"""Picking tokens: each stage against llama.cpp's own, and what a pick depends on."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import llama_cpp.llama_cpp as ll
import numpy as np
import pytest

from samovar.errors import InvalidRequest, NativeError
from samovar.native import philox
from samovar.native.context import ContextOptions
from samovar.native.grammar import Grammars
from samovar.native.llama import LlamaBackend
from samovar.native.sampler import Candidates, ChainSampler
from samovar.types import Grammar, SamplingParams
from tests.conftest import Models, scaled

PAST = [5, 9, 5, 7, 300, 5, 9, 5]


@pytest.fixture(scope="module")
def backend(models: Models) -> Iterator[LlamaBackend]:
    """A tiny model; only its vocabulary is looked at."""
    options = ContextOptions(context_length=256, threads=1)
    with LlamaBackend.open(models(), context=options, proves_state=False) as opened:
        yield opened


@pytest.fixture
def logits(backend: LlamaBackend) -> np.ndarray:
    """Scores of a spread that leaves every stage something to do."""
    rng = np.random.default_rng(3)
    return (rng.standard_normal(backend.vocabulary.size) * 2.5).astype(np.float32)


# ---- the stages --------------------------------------------------------------------------------


def _chain(stages: list[int]) -> int:
    chain: int = ll.llama_sampler_chain_init(ll.llama_sampler_chain_default_params())
    for stage in stages:
        ll.llama_sampler_chain_add(chain, stage)
    return chain


def _array(
    logits: np.ndarray, tokens: Iterable[int] | None = None
) -> tuple[ll.llama_token_data_array, object]:
    ids = range(len(logits)) if tokens is None else list(tokens)
    data = (ll.llama_token_data * len(ids))(*[(t, float(logits[t]), 0.0) for t in ids])
    return ll.llama_token_data_array(data, len(ids), selected=-1, sorted=False), data


def _native(
    stages: list[int],
    logits: np.ndarray,
    past: Sequence[int] = PAST,
    tokens: Iterable[int] | None = None,
) -> dict[int, float]:
    """What llama.cpp's own stages leave: token -> logit."""
    chain = _chain(stages)
    for token in past:
        ll.llama_sampler_accept(chain, token)
    array, data = _array(logits, tokens)
    ll.llama_sampler_apply(chain, ctypes.byref(array))
    left = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    ll.llama_sampler_free(chain)
    del data
    return left


def _left(
    backend: LlamaBackend,
    params: SamplingParams,
    logits: np.ndarray,
    past: Sequence[int] = PAST,
    word: int = philox.PICK,
) -> dict[int, float]:
    """What our stages leave of the same."""
    candidates = Candidates(backend.vocabulary.size)
    sampler = ChainSampler(
        backend.vocabulary, candidates, Grammars(backend.vocabulary), params, past
    )
    sampler.narrow(candidates, logits, 1, word)
    rows = candidates.live()
    return dict(zip(rows["id"].tolist(), rows["logit"].tolist(), strict=True))


Stage = Callable[[LlamaBackend], int]
STAGES: dict[str, tuple[dict[str, object], Stage]] = {
    "penalties": (
        {"repeat_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.1},
        lambda b: ll.llama_sampler_init_penalties(b.vocabulary.size, 64, 1.3, 0.2, 0.1),
    ),
    "dry": (
        {"dry_multiplier": 0.8, "dry_allowed_length": 1},
        lambda b: ll.llama_sampler_init_dry(b.vocabulary.pointer, 0.8, 1.75, 1, 64, None, 0),
    ),
    "top_n_sigma": (
        {"top_n_sigma": 1.5},
        lambda _: ll.llama_sampler_init_top_n_sigma(1.5),
    ),
    "top_k": ({"top_k": 17}, lambda _: ll.llama_sampler_init_top_k(17)),
    "typical_p": ({"typical_p": 0.7}, lambda _: ll.llama_sampler_init_typical(0.7, 1)),
    "top_p": ({"top_p": 0.8}, lambda _: ll.llama_sampler_init_top_p(0.8, 1)),
    "top_p keeps": (
        {"top_p": 0.01, "min_keep": 9},
        lambda _: ll.llama_sampler_init_top_p(0.01, 9),
    ),
    "min_p": ({"min_p": 0.1}, lambda _: ll.llama_sampler_init_min_p(0.1, 1)),
    "xtc": (
        {"xtc_probability": 1.0, "xtc_threshold": 0.05},
        lambda _: ll.llama_sampler_init_xtc(1.0, 0.05, 1, 1),
    ),
    "infill": ({"infill": True}, lambda b: ll.llama_sampler_init_infill(b.vocabulary.pointer)),
    "temperature": ({"temperature": 0.6}, lambda _: ll.llama_sampler_init_temp(0.6)),
    "dynamic temperature": (
        {"temperature": 0.9, "dynatemp_range": 0.5},
        lambda _: ll.llama_sampler_init_temp_ext(0.9, 0.5, 1.0),
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_leaves_what_llama_cpp_leaves(
    backend: LlamaBackend, logits: np.ndarray, name: str
) -> None:
    settings, make = STAGES[name]
    params = SamplingParams(**{"temperature": 1.0, **settings, "dry_sequence_breakers": ()})
    expected = _native([make(backend)], logits)
    found = _left(backend, params, logits)
    assert found == pytest.approx(expected)
    changed = {t for t in found if found[t] != logits[t]}
    assert len(found) < len(logits) or changed, "the stage did nothing"


BREAKERS = ("\n", ":", "g")


def _native_dry(backend: LlamaBackend) -> int:
    texts = (ctypes.c_char_p * len(BREAKERS))(*[text.encode() for text in BREAKERS])
    pointer = backend.vocabulary.pointer
    return ll.llama_sampler_init_dry(pointer, 0.8, 1.75, 1, 64, texts, len(texts))


def test_sequence_breakers_break_as_in_llama_cpp(backend: LlamaBackend) -> None:
    logits = np.zeros(backend.vocabulary.size, np.float32)
    past = backend.tokenize("xgzbqxgzb", add_special=False)
    params = SamplingParams(dry_multiplier=0.8, dry_allowed_length=1, temperature=1.0)
    whole = dataclasses.replace(params, dry_sequence_breakers=())
    broken = dataclasses.replace(params, dry_sequence_breakers=BREAKERS)
    assert _left(backend, broken, logits, past) == pytest.approx(
        _native([_native_dry(backend)], logits, past)
    )
    assert _left(backend, whole, logits, past) != _left(backend, broken, logits, past)


@pytest.mark.parametrize("seed", range(scaled(10, 60)))
def test_all_stages_together_leave_what_llama_cpp_leaves(backend: LlamaBackend, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, pointer = backend.vocabulary.size, backend.vocabulary.pointer
    logits = (rng.standard_normal(size) * rng.uniform(0.3, 6)).astype(np.float32)
    bias = {int(token): float(rng.normal()) for token in rng.integers(size, size=5)}
    entries = (ll.llama_logit_bias * len(bias))(*bias.items())
    past = rng.integers(60, size=100).tolist()
    expected = _native(
        [
            ll.llama_sampler_init_logit_bias(size, len(bias), entries),
            ll.llama_sampler_init_penalties(size, 50, 1.2, 0.1, 0.3),
            ll.llama_sampler_init_dry(pointer, 0.5, 1.6, 2, 90, None, 0),
            ll.llama_sampler_init_top_n_sigma(2.5),
            ll.llama_sampler_init_top_k(60),
            ll.llama_sampler_init_typical(0.95, 2),
            ll.llama_sampler_init_top_p(0.97, 2),
            ll.llama_sampler_init_min_p(0.01, 2),
            ll.llama_sampler_init_temp_ext(0.8, 0.3, 1.2),
        ],
        logits,
        past,
    )
    params = SamplingParams(
        logit_bias=bias,
        repeat_penalty=1.2,
        frequency_penalty=0.1,
        presence_penalty=0.3,
        penalty_last_n=50,
        dry_multiplier=0.5,
        dry_base=1.6,
        dry_penalty_last_n=90,
        dry_sequence_breakers=(),
        top_n_sigma=2.5,
        top_k=60,
        typical_p=0.95,
        top_p=0.97,
        min_p=0.01,
        min_keep=2,
        temperature=0.8,
        dynatemp_range=0.3,
        dynatemp_exponent=1.2,
    )
    assert _left(backend, params, logits, past) == pytest.approx(expected)


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_picks_what_llama_cpp_picks(
    backend: LlamaBackend, logits: np.ndarray, mirostat: int
) -> None:
    stages = [ll.llama_sampler_init_temp(0.9)]
    if mirostat == 1:
        stages.append(ll.llama_sampler_init_mirostat(backend.vocabulary.size, 5, 4.0, 0.2, 100))
    else:
        stages.append(ll.llama_sampler_init_mirostat_v2(5, 4.0, 0.2))
    params = SamplingParams(
        temperature=0.9,
        mirostat=mirostat,
        mirostat_tau=4.0,
        mirostat_eta=0.2,
        seed=2**32 * 9 + 5,  # llama.cpp's seeds have 32 bits
        top_k=1,
        xtc_probability=1.0,
        repeat_penalty=9.0,
    )
    sampler = backend.new_sampler(params, PAST)
    chain = _chain(stages)
    for position in range(40):
        array, data = _array(logits)
        ll.llama_sampler_apply(chain, ctypes.byref(array))
        expected = array.data[array.selected].id
        assert sampler.sample(logits, position).token == expected
        sampler.accept(expected)
        del data
    ll.llama_sampler_free(chain)


@pytest.mark.parametrize("how", ["bias", "grammar"])
def test_what_is_forbidden_leaves_the_stages_as_if_it_did_not_exist(
    backend: LlamaBackend, logits: np.ndarray, how: str
) -> None:
    # llama.cpp's typical-p, given a probability of 0, sorts by a NaN.
    forbidden = set(np.argsort(-logits)[:200].tolist())
    kept = [token for token in range(len(logits)) if token not in forbidden]
    expected = _native([ll.llama_sampler_init_typical(0.6, 1)], logits, tokens=kept)
    params = SamplingParams(temperature=1.0, typical_p=0.6)
    if how == "bias":
        bias = dict.fromkeys(forbidden, -math.inf)
        found = _left(backend, dataclasses.replace(params, logit_bias=bias), logits)
    else:
        masked = np.where(np.isin(np.arange(len(logits)), kept), logits, np.float32(-math.inf))
        found = _left(backend, params, masked, word=philox.PICK_MASKED)
    assert found == pytest.approx(expected)
    assert 1 < len(found) < len(kept)


def test_xtc_keeps_as_many_as_asked(backend: LlamaBackend) -> None:
    logits = np.full(backend.vocabulary.size, -20, np.float32)
    logits[:4] = 5
    xtc = SamplingParams(xtc_probability=1.0, xtc_threshold=0.1, top_k=4, temperature=1.0)
    assert len(_left(backend, xtc, logits)) == 1
    assert len(_left(backend, dataclasses.replace(xtc, min_keep=2), logits)) == 4
    assert len(_left(backend, dataclasses.replace(xtc, xtc_threshold=0.51), logits)) == 4


def test_xtc_takes_part_as_often_as_asked(backend: LlamaBackend) -> None:
    logits = np.full(backend.vocabulary.size, -20, np.float32)
    logits[[7, 9]] = 5, 4
    params = SamplingParams(xtc_probability=0.3, temperature=0.0, seed=1)
    picks = [backend.new_sampler(params).sample(logits, p).token for p in range(1000)]
    assert set(picks) == {7, 9}
    assert 240 < picks.count(9) < 360


def test_the_stages_stand_in_the_references_order(backend: LlamaBackend) -> None:
    everything = SamplingParams(
        logit_bias={1: 1.0},
        repeat_penalty=1.1,
        dry_multiplier=1,
        top_n_sigma=1,
        top_k=5,
        typical_p=0.9,
        top_p=0.9,
        min_p=0.1,
        infill=True,
        temperature=0.7,
    )
    assert backend.new_sampler(everything).stages == (
        *("logit_bias", "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p"),
        *("min_p", "infill", "temperature"),
    )
    assert backend.new_sampler(SamplingParams()).stages == ()
    mirostat = dataclasses.replace(everything, mirostat=2)
    assert backend.new_sampler(mirostat).stages == ("logit_bias", "temperature", "mirostat")


# ---- what a pick depends on --------------------------------------------------------------------

SPREAD = SamplingParams(temperature=1.3, top_k=200, top_p=0.99, repeat_penalty=1.2, seed=42)


def _picks(backend: LlamaBackend, params: SamplingParams, logits: np.ndarray) -> list[int]:
    sampler = backend.new_sampler(params, PAST)
    return [sampler.sample(logits, position).token for position in range(40)]


def test_a_seed_decides_and_another_decides_otherwise(
    backend: LlamaBackend, logits: np.ndarray
) -> None:
    other = dataclasses.replace(SPREAD, seed=43)
    assert _picks(backend, SPREAD, logits) == _picks(backend, SPREAD, logits)
    assert _picks(backend, SPREAD, logits) != _picks(backend, other, logits)


def test_without_a_seed_one_is_drawn_and_reported(
    backend: LlamaBackend, logits: np.ndarray
) -> None:
    sampler = backend.new_sampler(dataclasses.replace(SPREAD, seed=None))
    again = backend.new_sampler(dataclasses.replace(SPREAD, seed=sampler.seed))
    assert sampler.seed != backend.new_sampler(dataclasses.replace(SPREAD, seed=None)).seed
    assert [sampler.sample(logits, p).token for p in range(20)] == [
        again.sample(logits, p).token for p in range(20)
    ]


def test_a_pick_depends_on_its_position_and_not_on_other_picks(
    backend: LlamaBackend, logits: np.ndarray
) -> None:
    forward = _picks(backend, SPREAD, logits)
    sampler = backend.new_sampler(SPREAD, PAST)
    backward = [sampler.sample(logits, position).token for position in reversed(range(40))]
    assert forward == backward[::-1]
    assert len(set(forward)) > 5


def test_only_the_tokens_so_far_matter_not_how_they_were_told(
    backend: LlamaBackend, logits: np.ndarray
) -> None:
    told, accepting, restarted = (backend.new_sampler(SPREAD, start) for start in (PAST, [], [1]))
    for token in PAST:
        accepting.accept(token)
    restarted.restart_history(PAST)
    found = [[s.sample(logits, p).token for p in range(20)] for s in (told, accepting, restarted)]
    assert found[0] == found[1] == found[2]
    fresh = backend.new_sampler(SPREAD)
    assert [fresh.sample(logits, p).token for p in range(20)] != found[0]


def test_samplers_do_not_leak_into_each_other(backend: LlamaBackend, logits: np.ndarray) -> None:
    a, b = SPREAD, SamplingParams(temperature=0.8, min_p=0.02, presence_penalty=2.0, seed=7)
    alone = _picks(backend, a, logits), _picks(backend, b, logits)
    samplers = backend.new_sampler(a, PAST), backend.new_sampler(b, PAST)
    mixed: tuple[list[int], list[int]] = ([], [])
    for position in range(40):
        for sampler, picks in zip(samplers, mixed, strict=True):
            picks.append(sampler.sample(logits, position).token)
    assert mixed == alone


def test_the_logits_are_not_changed(backend: LlamaBackend, logits: np.ndarray) -> None:
    before = logits.copy()
    logits.flags.writeable = False
    _picks(backend, dataclasses.replace(SPREAD, logit_bias={3: 5.0}), logits)
    assert np.array_equal(before, logits)


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_repeats_itself_from_the_start(
    backend: LlamaBackend, logits: np.ndarray, mirostat: int
) -> None:
    params = SamplingParams(temperature=1.0, mirostat=mirostat, seed=5)
    runs = []
    for _ in range(2):
        sampler = backend.new_sampler(params)
        run = []
        for position in range(30):
            run.append(sampler.sample(logits, position).token)
            sampler.accept(run[-1])
        runs.append(run)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 3


def test_draws_follow_the_probabilities(backend: LlamaBackend) -> None:
    logits = np.full(backend.vocabulary.size, -np.inf, np.float32)
    logits[10:20] = np.log(np.arange(1, 11, dtype=np.float32))
    sampler = backend.new_sampler(SamplingParams(temperature=1.0, seed=1))
    count = scaled(4_000, 30_000)
    drawn = [sampler.sample(logits, position).token for position in range(count)]
    found = np.bincount(drawn, minlength=20)[10:20]
    expected = np.arange(1, 11) / 55 * count
    assert found.sum() == count
    assert ((found - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


# ---- greedy ------------------------------------------------------------------------------------


def test_without_temperature_the_seed_does_not_matter(
    backend: LlamaBackend, logits: np.ndarray
) -> None:
    for temperature in (0.0, -1.0):
        for seed in (1, 2):
            params = SamplingParams(temperature=temperature, seed=seed, top_k=40, min_p=0.1)
            assert set(_picks(backend, params, logits)) == {int(logits.argmax())}


def test_greedy_is_greedy_among_what_the_stages_left(
    backend: LlamaBackend, logits: np.ndarray
) -> None:
    best = int(logits.argmax())
    logits[best] = 30.0
    banned = SamplingParams(logit_bias={best: -math.inf})
    second = int(np.argsort(-logits)[1])
    assert _picks(backend, banned, logits)[0] == second
    xtc = SamplingParams(xtc_probability=1.0, xtc_threshold=0.1, temperature=0.0)
    logits[second] = 29.5
    assert _picks(backend, xtc, logits)[0] == second


def test_ignore_eos_forbids_every_end(backend: LlamaBackend, logits: np.ndarray) -> None:
    ends = list(backend.vocabulary.eog_tokens)
    logits[ends] = 50.0
    assert _picks(backend, SamplingParams(), logits)[0] in ends
    for temperature in (0.0, 1.0):
        params = SamplingParams(ignore_eos=True, temperature=temperature, seed=1)
        assert not set(_picks(backend, params, logits)) & set(ends)


TEMPERATURES = pytest.mark.parametrize("temperature", [0.0, 1.0])


@TEMPERATURES
def test_no_end_is_picked_before_so_many_tokens_were_accepted(
    backend: LlamaBackend, logits: np.ndarray, temperature: float
) -> None:
    ends = list(backend.vocabulary.eog_tokens)
    logits[ends] = 50.0
    params = SamplingParams(min_tokens=3, temperature=temperature, top_k=40, seed=1)
    sampler = backend.new_sampler(params, [*PAST, *ends])  # what was there does not count
    for position in range(3):
        picked = sampler.sample(logits, position).token
        assert picked not in ends
        sampler.accept(picked)
    assert sampler.sample(logits, 3).token in ends


def test_what_is_forbidden_early_leaves_the_stages_as_if_it_did_not_exist(
    backend: LlamaBackend, logits: np.ndarray
) -> None:
    ends = list(backend.vocabulary.eog_tokens)
    logits[ends] = 50.0
    early = SamplingParams(min_tokens=1, temperature=1.0, typical_p=0.6, seed=2)
    banned = dataclasses.replace(early, min_tokens=0, ignore_eos=True)
    assert _picks(backend, early, logits) == _picks(backend, banned, logits)


@TEMPERATURES
def test_a_grammar_goes_on_while_it_is_too_early_to_end(
    backend: LlamaBackend, logits: np.ndarray, temperature: float
) -> None:
    ends = list(backend.vocabulary.eog_tokens)
    logits[ends] = 50.0
    params = SamplingParams(
        grammar="root ::= [a-z]*", min_tokens=4, temperature=temperature, seed=1
    )
    sampler = backend.new_sampler(params)
    for position in range(4):
        picked = sampler.sample(logits, position).token
        assert picked not in ends
        assert backend.detokenize([picked]).isalpha()
        sampler.accept(picked)
    assert sampler.sample(logits, 4).token in ends


@TEMPERATURES
def test_a_grammar_that_can_only_end_ends_however_early_it_is(
    backend: LlamaBackend, logits: np.ndarray, temperature: float
) -> None:
    params = SamplingParams(
        grammar='root ::= "ab"', min_tokens=100, temperature=temperature, seed=1
    )
    sampler = backend.new_sampler(params)
    said = b""
    for position in range(3):
        sampled = sampler.sample(logits, position)
        if sampled.is_eog:
            break
        sampler.accept(sampled.token)
        said += backend.detokenize([sampled.token])
    assert said == b"ab"
    assert sampled.is_eog


def test_forced_tokens_count_as_generated(backend: LlamaBackend, logits: np.ndarray) -> None:
    ends = list(backend.vocabulary.eog_tokens)
    logits[ends] = 50.0
    grammar = 'root ::= "hello there" [a-z]*'
    forced = backend.new_sampler(SamplingParams(grammar=grammar)).forced(100)
    assert len(forced) > 2
    rest = b"hello there"[len(backend.detokenize(forced)) :]
    said = forced + backend.tokenize(rest, add_special=False)
    for least, is_over in ((len(said), True), (len(said) + 1, False)):
        sampler = backend.new_sampler(SamplingParams(grammar=grammar, min_tokens=least))
        for token in said:
            sampler.accept(token)
        assert (sampler.sample(logits, 9).token in ends) is is_over


def test_what_a_grammar_does_not_hold_is_told_by_its_sampler(backend: LlamaBackend) -> None:
    nearly = SamplingParams(grammar=Grammar("json_schema", '{"not": {"type": "null"}}'))
    assert any("`not`" in warning for warning in backend.new_sampler(nearly).warnings)
    exact = SamplingParams(grammar=Grammar("json_object"))
    assert backend.new_sampler(exact).warnings == ()
    assert backend.new_sampler(SamplingParams()).warnings == ()


# ---- the window --------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "penalised"), [(2, False), (3, True), (64, True), (-1, True)])
def test_penalties_see_the_last_tokens_and_no_more(
    backend: LlamaBackend, window: int, *, penalised: bool
) -> None:
    logits = np.zeros(backend.vocabulary.size, np.float32)
    logits[7] = 1.0
    params = SamplingParams(presence_penalty=5.0, penalty_last_n=window)
    sampler = backend.new_sampler(params, [7, 1, 2])
    assert (sampler.sample(logits, 0).token != 7) is penalised


# ---- log-probabilities -------------------------------------------------------------------------


def test_logprobs_are_those_of_the_raw_logits(backend: LlamaBackend, logits: np.ndarray) -> None:
    wide = logits.astype(np.float64)
    expected = wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()
    params = dataclasses.replace(SPREAD, logprobs=5, logit_bias={1: 9.0})
    sampled = backend.new_sampler(params).sample(logits, 3)
    assert sampled.logprobs is not None
    assert sampled.logprobs.chosen == pytest.approx(expected[sampled.token], abs=2e-6)
    best = np.argsort(-expected, kind="stable")[:5]
    assert [t for t, _ in sampled.logprobs.top] == best.tolist()
    assert [p for _, p in sampled.logprobs.top] == pytest.approx(expected[best], abs=2e-6)


@pytest.mark.parametrize("count", [0, 1, 32])
def test_as_many_alternatives_as_asked(
    backend: LlamaBackend, logits: np.ndarray, count: int
) -> None:
    sampled = backend.new_sampler(SamplingParams(logprobs=count)).sample(logits, 0)
    assert sampled.logprobs is not None
    assert len(sampled.logprobs.top) == count


def test_alternatives_that_are_as_likely_come_by_their_number(backend: LlamaBackend) -> None:
    logits = np.zeros(backend.vocabulary.size, np.float32)
    logits[[9, 4, 300]] = 1
    sampled = backend.new_sampler(SamplingParams(logprobs=6)).sample(logits, 0)
    assert sampled.logprobs is not None
    tokens = [token for token, _ in sampled.logprobs.top]
    assert tokens[:3] == [4, 9, 300]
    assert tokens[3:] == sorted(tokens[3:])


# ---- in a backend ------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(backend: LlamaBackend) -> None:
    params = dataclasses.replace(SPREAD, xtc_probability=0.3, presence_penalty=0.5)
    prompt = backend.tokenize("The quick brown fox jumps over")
    backend.seq_rm(0)
    backend.configure_sampler(params)
    backend.prefill(prompt)
    whole = [backend.decode_one().token for _ in range(30)]
    for taken in (1, 13, 29):
        backend.clear_sampler()
        backend.seq_rm(0)
        backend.prefill(prompt + whole[:taken])
        backend.configure_sampler(params)
        assert [backend.decode_one().token for _ in range(30 - taken)] == whole[taken:]
    backend.clear_sampler()
    backend.seq_rm(0)


# ---- what cannot be ----------------------------------------------------------------------------


EVERY_STAGE = {
    "greedy": {"temperature": 0.0},
    "draw": {},
    "penalties": {"repeat_penalty": 1.2},
    "top_k": {"top_k": 40},
    "typical_p": {"typical_p": 0.9},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.1},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "xtc": {"xtc_probability": 1.0},
    "infill": {"infill": True},
    "dynatemp": {"dynatemp_range": 0.5},
    "mirostat": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "grammar": {"grammar": "root ::= [a-z]+"},
}


@pytest.mark.parametrize("name", EVERY_STAGE)
def test_logits_that_are_no_numbers_are_an_error(
    backend: LlamaBackend, logits: np.ndarray, name: str
) -> None:
    params = SamplingParams(**{"temperature": 1.0, "seed": 1, **EVERY_STAGE[name]})
    sampler = backend.new_sampler(params)
    one_nan, one_infinity = logits.copy(), logits.copy()
    one_nan[100], one_infinity[100] = math.nan, math.inf
    for bad in (one_nan, one_infinity, np.full_like(logits, math.nan), logits * -math.inf):
        with pytest.raises(NativeError), np.errstate(invalid="ignore"):
            sampler.sample(bad, 0)
    assert sampler.sample(logits, 0).token >= 0


@pytest.mark.parametrize("name", EVERY_STAGE)
def test_forbidding_every_token_is_the_callers_mistake(
    backend: LlamaBackend, logits: np.ndarray, name: str
) -> None:
    bias = dict.fromkeys(range(backend.vocabulary.size), -math.inf)
    params = SamplingParams(
        **{"temperature": 1.0, "seed": 1, "logit_bias": bias, **EVERY_STAGE[name]}
    )
    with pytest.raises(InvalidRequest, match="no token can be picked"):
        backend.new_sampler(params).sample(logits, 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_that_must_end_and_may_not_is_the_callers_mistake(
    backend: LlamaBackend, logits: np.ndarray, temperature: float
) -> None:
    params = SamplingParams(grammar='root ::= ""', ignore_eos=True, temperature=temperature)
    with pytest.raises(InvalidRequest, match="no token can be picked"):
        backend.new_sampler(params).sample(logits, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", 1.5),
        ("top_k", 2**40),
        ("top_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", -1),
        ("repeat_penalty", 0),
        ("frequency_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("penalty_last_n", -2),
        ("dry_multiplier", -1),
        ("dry_allowed_length", -1),
        ("xtc_probability", 2),
        ("xtc_threshold", -1),
        ("mirostat", 3),
        ("mirostat_tau", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "x"),
        ("logprobs", 33),
        ("logprobs", -1),
        ("min_keep", -1),
        ("dynatemp_range", -0.5),
        ("logit_bias", {"a": 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", {1: 1e300}),
        ("logit_bias", {1: "much"}),
        ("logit_bias", {1: True}),
        ("logit_bias", {True: 1.0}),
        ("logit_bias", [(1, 1.0)]),
        ("ignore_eos", 1),
        ("infill", "yes"),
        ("grammar", b"root"),
        ("dry_sequence_breakers", "abc"),
        ("dry_sequence_breakers", (1,)),
        ("dry_sequence_breakers", ("\ud800",)),
        ("dry_sequence_breakers", ("a\x00",)),
        ("dry_sequence_breakers", ("a",) * 100),
    ],
)
def test_values_that_no_sampler_can_honour_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=field):
        SamplingParams(**{field: value})


NUMBERS = [
    field.name
    for field in dataclasses.fields(SamplingParams)
    if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
] + ["seed", "logprobs"]


@pytest.mark.parametrize("field", NUMBERS)
def test_every_number_must_be_one_and_in_reason(field: str) -> None:
    assert len(NUMBERS) > 20
    for value in (True, "1", [1], math.nan, 1e30, 10**40, -(10**40), 1j, np.float32(1)):
        with pytest.raises(InvalidRequest, match=field):
            SamplingParams(**{field: value})


def test_a_bias_for_a_token_that_is_not_there_is_refused(backend: LlamaBackend) -> None:
    with pytest.raises(InvalidRequest, match="logit_bias"):
        backend.new_sampler(SamplingParams(logit_bias={backend.vocabulary.size: 1.0}))


# ---- Philox ------------------------------------------------------------------------------------


def test_the_generator_is_the_published_one() -> None:
    # Random123's known answers for philox4x64-10; numpy advances the counter before it generates.
    zero = np.random.Philox(key=0, counter=2**256 - 1).random_raw(4)
    assert [hex(int(word)) for word in zero] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]


def test_numbers_are_even_and_differ_by_seed_position_and_word() -> None:
    keys = [(s, p, w) for s in (0, 1, 2**64 - 1) for p in range(200) for w in range(4)]
    numbers = [philox.uniform(*key) for key in keys]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 1 for number in numbers)
    assert abs(np.mean(numbers) - 0.5) < 0.02
