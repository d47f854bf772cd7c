"""The backend contract, operation by operation, on real files and on the backend without weights.

The helpers at the top are what the other tests of this folder use as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samovar.errors import (
    AdapterRejected,
    ContextOverflow,
    GrammarRejected,
    InvalidRequest,
    InvalidToken,
    ModelNotFound,
    NoLogits,
    OperationUnsupported,
    Overloaded,
    Released,
    StateRejected,
    TemplateMissing,
)
from samovar.native import state
from samovar.native.batch import Batch
from samovar.native.context import Context, ContextOptions
from samovar.native.interface import Backend, Row, Sampled, StateKind, Stepped
from samovar.native.llama import LlamaBackend, chunks
from samovar.native.model import Model
from samovar.native.weightless import EOS, WeightlessBackend
from samovar.types import SamplingParams
from tests.conftest import GENERATING_KINDS, Models

pytestmark = pytest.mark.native

# ---- helpers ------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "context_length": 512,
    "num_sequences": 4,
    "batch_size": 64,
    "micro_batch_size": 64,
    "threads": 1,
}

NOISE = {"F16": 0.25, "Q8_0": 1.5}
"""The largest difference that was measured, over all kinds of model, between logits of one text
computed in other company, in other cells or in other chunks; the logits themselves spread by 5."""


class Watcher:
    """A greedy sampler that keeps the logits it was shown last and the tokens it was told of."""

    params = SamplingParams()
    seed = 0

    def __init__(self) -> None:
        self.seen = np.empty(0, np.float32)
        self.accepted: list[int] = []

    def sample(self, logits: np.ndarray, position: int) -> Sampled:  # noqa: ARG002
        self.seen = logits.copy()
        return Sampled(int(logits.argmax()), is_eog=False)

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def close(self) -> None:
        """Nothing native here."""


@contextmanager
def opened(path: Path, **options: object) -> Iterator[tuple[LlamaBackend, Context]]:
    """A backend and its context, to look at the cells with."""
    model = Model(path)
    try:
        context = Context(model, ContextOptions(**(OPTIONS | options)))
    except BaseException:
        model.close()
        raise
    with LlamaBackend(model, context, state.probe(context), None) as backend:
        yield backend, context


def prompt(count: int, seed: int = 0) -> list[int]:
    """Tokens that every vocabulary here has."""
    return [int(t) for t in np.random.default_rng(seed).integers(5, 250, count)]


def put(backend: Backend, seq_id: int, tokens: Sequence[int], *, wants: bool = True) -> None:
    """Append to a sequence in the chunks that `prefill` would take."""
    start = len(backend.tokens(seq_id))
    end = start + len(tokens)
    for first, last in chunks(start, end, backend.batch_size):
        row = Row(seq_id, tokens[first - start : last - start], wants_logits=wants)
        assert isinstance(backend.step([row]), Stepped)


def logits_of(backend: Backend, seq_id: int = 0) -> np.ndarray:
    """A copy of the logits of the sequence's next token."""
    watcher = Watcher()
    backend.sample(seq_id, watcher)
    return watcher.seen


def forced(backend: Backend, seq_id: int, tokens: Sequence[int]) -> np.ndarray:
    """The logits now and after each of `tokens`, computed one by one."""
    seen = [logits_of(backend, seq_id)]
    for token in tokens:
        put(backend, seq_id, [token])
        seen.append(logits_of(backend, seq_id))
    return np.array(seen)


def greedy(backend: Backend, seq_id: int, count: int) -> list[int]:
    """The likeliest tokens, each computed before the next."""
    found = []
    for _ in range(count):
        token = int(logits_of(backend, seq_id).argmax())
        found.append(token)
        put(backend, seq_id, [token])
    return found


def prime(backend: Backend, seq_id: int = 0) -> None:
    """Bring logits back: take the last token away and compute it again."""
    tokens = backend.tokens(seq_id)
    assert backend.seq_rm_last(len(tokens), seq_id)
    put(backend, seq_id, tokens[-1:])


# ---- the backends that the contract is tried on -------------------------------------------------

Opener = Callable[..., Any]


@pytest.fixture(params=["lanes", "pool", "weightless"])
def kind_of_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend(kind_of_backend: str, models: Models) -> Iterator[Backend]:
    """Each implementation of the contract, in both layouts."""
    if kind_of_backend == "weightless":
        yield WeightlessBackend()
        return
    with opened(models(), layout=kind_of_backend) as (made, _):
        yield made


@pytest.fixture
def twin(kind_of_backend: str, models: Models) -> Iterator[Backend]:
    """Another one like `backend`, that nothing has happened to."""
    if kind_of_backend == "weightless":
        yield WeightlessBackend()
        return
    with opened(models(), layout=kind_of_backend) as (made, _):
        yield made


@pytest.fixture
def llama(models: Models) -> Iterator[LlamaBackend]:
    with opened(models()) as (made, _):
        yield made


@pytest.fixture
def spm(models: Models) -> Iterator[LlamaBackend]:
    """With a vocabulary that puts a first token before every text."""
    with opened(models(vocab="spm")) as (made, _):
        yield made


# ---- open ---------------------------------------------------------------------------------------


def test_open_says_what_the_context_really_has(models: Models) -> None:
    options = ContextOptions(
        context_length=300, num_sequences=3, batch_size=40, micro_batch_size=8, threads=1
    )
    with LlamaBackend.open(models(), context=options) as backend:
        assert backend.context_length >= 300
        assert (backend.num_sequences, backend.batch_size) == (3, 40)
        backend.prefill(prompt(backend.context_length))
        assert len(backend.tokens(0)) == backend.context_length


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", StateKind.DIVISIBLE),
        ("qwen2", StateKind.DIVISIBLE),
        ("gemma2", StateKind.DIVISIBLE_WITH_TAIL),
        ("lfm2", StateKind.DIVISIBLE_WITH_TAIL),
        ("mamba", StateKind.INDIVISIBLE),
        ("bert", StateKind.NONE),
    ],
)
def test_open_finds_out_the_kind_of_state(models: Models, kind: str, expected: StateKind) -> None:
    with opened(models(kind)) as (backend, context):
        assert backend.state_kind is expected
        if context.has_memory:  # the proof left nothing behind
            assert [context.last_position(s) for s in range(4)] == [-1] * 4


def test_open_without_a_proof_saves_no_state(models: Models) -> None:
    options = ContextOptions(**OPTIONS)
    with LlamaBackend.open(models(), context=options, proves_state=False) as backend:
        assert backend.state_kind is StateKind.NONE
        backend.prefill([1, 2])
        with pytest.raises(OperationUnsupported):
            backend.kv_pack([1, 2])


def test_open_frees_the_model_when_the_context_fails(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Context] = []

    def fail(context: Context) -> state.Codec:
        made.append(context)
        raise RuntimeError

    monkeypatch.setattr(state, "probe", fail)
    with pytest.raises(RuntimeError):
        LlamaBackend.open(models(), context=ContextOptions(**OPTIONS))
    assert not made[0].handle.is_open
    assert not made[0].model.handle.is_open


def test_open_of_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        LlamaBackend.open(tmp_path / "none.gguf")


def test_open_refuses_more_sequences_than_rows_in_a_batch() -> None:
    with pytest.raises(InvalidRequest, match="num_sequences"):
        ContextOptions(num_sequences=8, batch_size=4, micro_batch_size=4)


def test_open_makes_room_for_every_sequence_in_the_batch_of_a_short_context(
    models: Models,
) -> None:
    with opened(models(), context_length=2, num_sequences=8) as (backend, _):
        assert isinstance(backend.step([Row(s, [s + 5]) for s in range(8)]), Stepped)


def test_open_refuses_a_context_longer_than_the_positions_that_a_model_knows(
    models: Models,
) -> None:
    with pytest.raises(InvalidRequest, match="512 positions"):
        LlamaBackend.open(models("bert"), context=ContextOptions(context_length=1024))


@pytest.mark.parametrize("name", ["rope_freq_base", "rope_freq_scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_open_refuses_rotations_that_make_no_numbers(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=name):
        ContextOptions(**{name: value})


def test_open_refuses_more_cells_than_there_are_numbers_for(models: Models) -> None:
    options = ContextOptions(context_length=2**30, num_sequences=4, check_memory=False)
    with pytest.raises(InvalidRequest, match="fewer sequences"):
        LlamaBackend.open(models("mamba"), context=options)


# ---- close --------------------------------------------------------------------------------------


def test_close_twice_is_allowed(backend: Backend) -> None:
    backend.prefill([1, 2, 3])
    backend.close()
    backend.close()


@dataclass
class Remains:
    """What somebody still holds of a backend that was closed."""

    backend: Backend
    sampler: Any
    adapter: Any
    adapter_path: str
    packed: bytes
    ranges: list[Any]


_AFTER_CLOSE: dict[str, Callable[[Remains], object]] = {
    "tokenize": lambda r: r.backend.tokenize("text"),
    "detokenize": lambda r: r.backend.detokenize([200]),
    "prefill": lambda r: r.backend.prefill([5]),
    "decode_one": lambda r: r.backend.decode_one(),
    "kv_pack": lambda r: r.backend.kv_pack(r.backend.tokens(0)),
    "kv_unpack": lambda r: r.backend.kv_unpack(r.packed),
    "seq_rm": lambda r: r.backend.seq_rm(0),
    "seq_rm_last": lambda r: r.backend.seq_rm_last(3),
    "seq_cp": lambda r: r.backend.seq_cp(0, 1),
    "embed": lambda r: r.backend.embed([5]),
    "configure_sampler": lambda r: r.backend.configure_sampler(SamplingParams(temperature=1)),
    "set_grammar": lambda r: r.backend.set_grammar('root ::= "a"'),
    "load_adapter": lambda r: r.backend.load_adapter(r.adapter_path),
    "apply_adapters": lambda r: r.backend.apply_adapters([(r.adapter, 1.0)]),
    "step": lambda r: r.backend.step([Row(0, [5])]),
    "sample": lambda r: r.backend.sample(0, r.sampler),
    "new_sampler": lambda r: r.backend.new_sampler(SamplingParams()),
    "export_ranges": lambda r: r.backend.export_ranges(0, [(0, 2)]),
    "import_ranges": lambda r: r.backend.import_ranges(1, [5, 6], r.ranges),
    "import_piece": lambda r: r.backend.import_piece(r.backend.new_piece(1, [5, 6])),
}


@pytest.fixture
def remains(backend: Backend, models: Models) -> Remains:
    path = str(models.adapter(models()))
    adapter = backend.load_adapter(path)
    backend.prefill([5, 6, 7])
    sampler = backend.new_sampler(SamplingParams())
    packed, ranges = backend.kv_pack([5, 6, 7]), backend.export_ranges(0, [(0, 2)])
    return Remains(backend, sampler, adapter, path, packed, ranges)


@pytest.mark.parametrize("operation", _AFTER_CLOSE)
def test_close_lets_every_operation_answer_released(remains: Remains, operation: str) -> None:
    remains.backend.close()
    with pytest.raises(Released):
        _AFTER_CLOSE[operation](remains)


def test_close_leaves_what_has_no_native_part(remains: Remains) -> None:
    backend = remains.backend
    backend.close()
    backend.abort()
    backend.clear_sampler()
    backend.unload_adapter(remains.adapter)
    remains.sampler.close()
    assert backend.tokens(0) == [5, 6, 7]
    assert backend.step([]) == Stepped(())


def test_close_of_a_model_waits_for_its_contexts(models: Models) -> None:
    model = Model(models())
    context = Context(model, ContextOptions(**OPTIONS))
    backend = LlamaBackend(model, context, state.probe(context), None)
    model.close()
    backend.prefill([5, 6])  # the weights are still there
    with pytest.raises(Released):
        Context(model, ContextOptions(**OPTIONS))
    with pytest.raises(Released):
        backend.tokenize("text")
    backend.close()


# ---- tokenize, detokenize -----------------------------------------------------------------------


def test_tokenize_adds_the_first_token_and_parses_no_specials(spm: LlamaBackend) -> None:
    vocabulary = spm.vocabulary
    assert vocabulary.adds_bos
    assert vocabulary.eos is not None
    text = f"to be {vocabulary.text(vocabulary.eos)} or"
    tokens = spm.tokenize(text)
    assert tokens[0] == vocabulary.bos
    assert not set(tokens[1:]) & {vocabulary.bos, vocabulary.eos}
    assert spm.detokenize(tokens).strip() == text.encode()


def test_tokenize_parses_specials_only_where_it_is_asked_to(llama: LlamaBackend) -> None:
    vocabulary = llama.vocabulary
    assert vocabulary.eos is not None
    text = vocabulary.text(vocabulary.eos)
    assert llama.tokenize(text, add_special=False, parse_special=True) == [vocabulary.eos]
    assert vocabulary.eos not in llama.tokenize(text, add_special=False)


def test_tokenize_takes_empty_text_and_any_bytes(backend: Backend) -> None:
    assert backend.tokenize("", add_special=False) == []
    assert backend.tokenize(b"\xff\x80 text\x00", add_special=False)


def test_detokenize_gives_the_bytes_of_each_token_by_itself(backend: Backend) -> None:
    tokens = backend.tokenize("the house by the river, again and again")
    for cut in range(len(tokens)):
        left, right = backend.detokenize(tokens[:cut]), backend.detokenize(tokens[cut:])
        assert left + right == b"the house by the river, again and again"


def test_detokenize_hides_control_tokens(llama: LlamaBackend) -> None:
    bos, eos = llama.vocabulary.bos, llama.vocabulary.eos
    assert bos is not None
    assert eos is not None
    assert llama.detokenize([bos, eos]) == b""


@pytest.mark.parametrize("token", [-1, 100_000, 2**31])
def test_detokenize_refuses_an_id_outside_of_the_vocabulary(backend: Backend, token: int) -> None:
    with pytest.raises(InvalidToken):
        backend.detokenize([5, token])


# ---- prefill ------------------------------------------------------------------------------------


def test_prefill_appends_and_leaves_logits(backend: Backend, twin: Backend) -> None:
    backend.prefill([5, 6, 7])
    backend.prefill([8, 9])
    assert backend.tokens(0) == [5, 6, 7, 8, 9]
    assert backend.has_logits(0)
    twin.prefill([5, 6, 7])
    put(twin, 0, [8, 9])
    assert np.array_equal(logits_of(backend), logits_of(twin))


def test_prefill_of_nothing_has_no_effect(backend: Backend) -> None:
    backend.prefill([])
    assert backend.tokens(0) == []
    assert not backend.has_logits(0)
    backend.prefill([5])
    before = logits_of(backend)
    backend.prefill([])
    assert np.array_equal(logits_of(backend), before)


def test_prefill_cuts_where_a_prompt_from_the_start_would_be_cut(
    llama: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, sizes = Context.decode, []

    def decode_and_tell(context: Context, batch: Batch) -> object:
        sizes.append(len(batch))
        return decode(context, batch)

    monkeypatch.setattr(Context, "decode", decode_and_tell)
    for count in (40, 100, 52, 1):
        llama.prefill(prompt(count))
    assert sizes == [40, 24, 64, 12, 52, 1]


def test_a_prefix_on_the_grid_goes_on_to_the_same_bits(llama: LlamaBackend, models: Models) -> None:
    tokens = prompt(200)
    llama.prefill(tokens)
    with opened(models()) as (other, _):
        other.prefill(tokens[:100])  # in the middle of a chunk
        assert other.seq_rm(0, 64)
        other.prefill(tokens[64:])
        assert np.array_equal(logits_of(other), logits_of(llama))


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_prefill_of_every_kind_keeps_position_and_tokens_together(
    models: Models, kind: str
) -> None:
    with opened(models(kind)) as (backend, context):
        backend.prefill(prompt(150))
        assert context.last_position(0) == 149
        backend.decode_one()
        assert context.last_position(0) == len(backend.tokens(0)) - 1 == 150


def test_prefill_checks_the_room_that_is_left_not_its_own_length(backend: Backend) -> None:
    length = backend.context_length
    backend.prefill(prompt(length - 2))
    with pytest.raises(ContextOverflow):
        backend.prefill([5, 6, 7])
    assert len(backend.tokens(0)) == length - 2
    backend.prefill([5, 6])
    assert len(backend.tokens(0)) == length


@pytest.mark.parametrize("token", [-1, 100_000, 2**31 - 1])
def test_prefill_refuses_an_id_outside_of_the_vocabulary(backend: Backend, token: int) -> None:
    backend.prefill([5, 6])
    before = logits_of(backend)
    with pytest.raises(InvalidToken):
        backend.prefill([7] * 100 + [token])
    assert backend.tokens(0) == [5, 6]
    assert np.array_equal(logits_of(backend), before)


def test_prefill_into_full_cells_is_overloaded_and_can_be_repeated(models: Models) -> None:
    with opened(models(), layout="pool", context_length=256) as (backend, _):
        put(backend, 1, prompt(150))
        with pytest.raises(Overloaded):
            backend.prefill(prompt(200, 1))
        held = len(backend.tokens(0))  # the chunks that did fit
        backend.seq_rm(1)
        backend.prefill(prompt(200, 1)[held:])
        assert backend.tokens(0) == prompt(200, 1)


def test_prefill_of_an_encoder_is_not_possible(models: Models) -> None:
    with opened(models("bert")) as (backend, _), pytest.raises(OperationUnsupported):
        backend.prefill([5])


# ---- decode_one ---------------------------------------------------------------------------------


def test_decode_one_has_its_token_in_the_kv_on_return(backend: Backend, twin: Backend) -> None:
    backend.prefill([5, 6, 7])
    expected = int(logits_of(backend).argmax())
    sampled = backend.decode_one()
    assert sampled.token == expected
    assert backend.tokens(0) == [5, 6, 7, expected]
    twin.prefill([5, 6, 7])
    put(twin, 0, [expected])
    assert np.array_equal(logits_of(backend), logits_of(twin))


def test_decode_one_computes_the_end_of_generation_too(models: Models) -> None:
    with opened(models()) as (backend, context):
        eos = backend.vocabulary.eos
        assert eos is not None
        backend.configure_sampler(SamplingParams(logit_bias={eos: 1000.0}))
        backend.prefill([5])
        assert backend.decode_one() == Sampled(eos, is_eog=True)
        assert backend.tokens(0) == [5, eos]
        assert context.last_position(0) == 1


def test_decode_one_says_when_the_weightless_model_ends() -> None:
    backend = WeightlessBackend(end_bias=1000)
    backend.prefill([5])
    assert backend.decode_one() == Sampled(EOS, is_eog=True)
    assert backend.tokens(0) == [5, EOS]


def test_decode_one_refuses_without_logits(backend: Backend) -> None:
    with pytest.raises(NoLogits):
        backend.decode_one()
    backend.prefill([5, 6])
    backend.seq_rm_last(2)
    with pytest.raises(NoLogits):
        backend.decode_one()
    backend.step([Row(0, [6], wants_logits=False)])
    with pytest.raises(NoLogits):
        backend.decode_one()


def test_decode_one_takes_the_logits_of_its_own_sequence(backend: Backend, twin: Backend) -> None:
    backend.prefill([5, 6, 7])
    for token in prompt(5):
        backend.step([Row(1, [token]), Row(2, [token, 9])])
    twin.prefill([5, 6, 7])
    assert backend.decode_one() == twin.decode_one()
    assert backend.decode_one() == twin.decode_one()


def test_decode_one_and_step_on_the_same_sequence_go_on_from_each_other(
    backend: Backend, twin: Backend
) -> None:
    backend.prefill([5, 6, 7])
    first = backend.decode_one().token
    backend.step([Row(0, [20]), Row(3, [30, 31])])
    second = backend.decode_one().token
    backend.step([Row(3, [32]), Row(0, [21])])
    assert backend.tokens(0) == [5, 6, 7, first, 20, second, 21]
    assert backend.tokens(3) == [30, 31, 32]
    put(twin, 0, backend.tokens(0))
    assert np.allclose(logits_of(backend), logits_of(twin), atol=NOISE["F16"])


def test_decode_one_in_a_full_context_picks_nothing(backend: Backend) -> None:
    backend.configure_sampler(SamplingParams(temperature=1.0, seed=1))
    backend.prefill(prompt(backend.context_length - 1))
    backend.decode_one()
    before = logits_of(backend)
    with pytest.raises(ContextOverflow):
        backend.decode_one()
    assert len(backend.tokens(0)) == backend.context_length
    assert np.array_equal(logits_of(backend), before)


# ---- kv_pack, kv_unpack (more in test_state) ----------------------------------------------------


def test_kv_pack_and_kv_unpack_bring_a_sequence_back(backend: Backend) -> None:
    tokens = prompt(65)
    backend.prefill(tokens)
    expected = forced(backend, 0, [5, 6])
    backend.seq_rm(0, 65)
    packed = backend.kv_pack(tokens)
    backend.seq_rm(0)
    backend.prefill([9, 9])
    assert backend.kv_unpack(packed) == tokens
    assert backend.tokens(0) == tokens
    assert not backend.has_logits(0)
    prime(backend)
    assert np.array_equal(forced(backend, 0, [5, 6]), expected)


def test_kv_pack_of_an_empty_sequence_unpacks_to_one(backend: Backend) -> None:
    packed = backend.kv_pack([])
    backend.prefill([5, 6])
    assert backend.kv_unpack(packed) == []
    assert backend.tokens(0) == []
    backend.prefill([5])


@pytest.mark.parametrize("other", [[], [5, 6], [5, 6, 8], [5, 6, 7, 8]])
def test_kv_pack_refuses_tokens_that_the_kv_does_not_hold(
    backend: Backend, other: list[int]
) -> None:
    backend.prefill([5, 6, 7])
    with pytest.raises(StateRejected):
        backend.kv_pack(other)


def test_kv_unpack_refuses_what_is_no_packed_state(backend: Backend) -> None:
    backend.prefill([5, 6])
    for data in (b"", b"x" * 200, backend.kv_pack([5, 6])[:-1]):
        with pytest.raises(StateRejected):
            backend.kv_unpack(data)
    assert backend.tokens(0) == [5, 6]
    assert backend.has_logits(0)


# ---- seq_rm_last --------------------------------------------------------------------------------


def test_seq_rm_last_takes_the_present_length_and_removes_one(backend: Backend) -> None:
    backend.prefill([5, 6, 7])
    before = logits_of(backend)
    assert backend.seq_rm_last(3)
    assert backend.tokens(0) == [5, 6]
    assert not backend.has_logits(0)
    backend.prefill([7])
    assert np.allclose(logits_of(backend), before, atol=NOISE["F16"])


def test_seq_rm_last_of_a_shorter_length_cuts_there(backend: Backend) -> None:
    backend.prefill([5, 6, 7, 8, 9])
    assert backend.seq_rm_last(3)
    assert backend.tokens(0) == [5, 6]


def test_seq_rm_last_of_the_only_token_empties_the_sequence(backend: Backend) -> None:
    backend.prefill([5])
    assert backend.seq_rm_last(1)
    assert backend.tokens(0) == []


@pytest.mark.parametrize("length", [-1, 0, 4])
def test_seq_rm_last_refuses_a_length_that_is_not_there(backend: Backend, length: int) -> None:
    backend.prefill([5, 6, 7])
    with pytest.raises(InvalidRequest):
        backend.seq_rm_last(length)
    assert backend.tokens(0) == [5, 6, 7]


# ---- apply_chat_template ------------------------------------------------------------------------


@dataclass
class Piece:
    text: str
    parse_special: bool = False


def control(text: str) -> Piece:
    """Text that a template wrote itself."""
    return Piece(text, parse_special=True)


def test_apply_chat_template_parses_specials_only_in_what_the_template_wrote(
    llama: LlamaBackend,
) -> None:
    vocabulary = llama.vocabulary
    eos = vocabulary.eos
    assert eos is not None
    end = vocabulary.text(eos)
    pieces = [control("user: "), Piece(f"hello {end}"), control(end)]
    requests: list[object] = []
    llama.use_renderer(lambda request: requests.append(request) or pieces)
    tokens = llama.apply_chat_template({"messages": [{"role": "user", "content": "hello"}]})
    assert requests == [{"messages": [{"role": "user", "content": "hello"}]}]
    assert tokens.count(eos) == 1
    assert tokens[-1] == eos
    assert llama.detokenize(tokens) == f"user: hello {end}".encode()


@pytest.mark.parametrize("begins", ["with it", "without it"])
def test_apply_chat_template_begins_with_one_first_token(spm: LlamaBackend, begins: str) -> None:
    bos = spm.vocabulary.bos
    assert bos is not None
    begin = [control(spm.vocabulary.text(bos))] if begins == "with it" else []
    spm.use_renderer(lambda _: [*begin, Piece("hello")])
    tokens = spm.apply_chat_template({"messages": []})
    assert tokens[0] == bos
    assert tokens.count(bos) == 1


def test_apply_chat_template_without_a_template_is_a_failure_of_its_own(
    llama: LlamaBackend,
) -> None:
    with pytest.raises(TemplateMissing):
        llama.apply_chat_template({"messages": [{"role": "user", "content": "hello"}]})


def test_apply_chat_template_of_the_weightless_backend_writes_one_line_per_message() -> None:
    backend = WeightlessBackend()
    tokens = backend.apply_chat_template({"messages": [{"role": "user", "content": "hello"}]})
    assert backend.detokenize(tokens) == b"user: hello\nassistant:"
    with pytest.raises(InvalidRequest):
        backend.apply_chat_template({"messages": "hello"})


# ---- embed (more in test_embeddings) ------------------------------------------------------------


def test_embed_gives_the_same_vector_each_time(backend: Backend) -> None:
    first = backend.embed([5, 6, 7])
    assert first.dtype == np.float32
    assert first.ndim == 1
    backend.embed([9, 9, 9, 9])
    assert np.array_equal(backend.embed([5, 6, 7]), first)
    assert not np.array_equal(backend.embed([5, 6, 8]), first)


def test_embed_leaves_no_trace_in_generation_nor_the_other_way_round(
    backend: Backend, twin: Backend
) -> None:
    expected = twin.embed([8, 9])
    backend.prefill([5, 6, 7])
    before = logits_of(backend)
    assert np.array_equal(backend.embed([8, 9]), expected)
    assert backend.tokens(0) == [5, 6, 7]
    assert np.array_equal(logits_of(backend), before)
    twin.prefill([5, 6, 7])
    assert [backend.decode_one() for _ in range(5)] == [twin.decode_one() for _ in range(5)]


def test_embed_refuses_what_has_no_vector(backend: Backend) -> None:
    with pytest.raises(InvalidToken):
        backend.embed([])
    for token in (-1, 100_000):
        with pytest.raises(InvalidToken):
            backend.embed([5, token])
    with pytest.raises(ContextOverflow):
        backend.embed(prompt(backend.context_length + 1))


@pytest.mark.parametrize("pooling", ["none", "rank", "sum", ""])
def test_embed_refuses_a_pooling_that_does_not_make_one_vector(
    backend: Backend, pooling: str
) -> None:
    with pytest.raises(InvalidRequest):
        backend.embed([5, 6], pooling=pooling)


# ---- set_grammar, configure_sampler, clear_sampler ----------------------------------------------

DIGITS = 'root ::= [0-9] [0-9] [0-9] "."'


def test_set_grammar_binds_what_decode_one_picks(llama: LlamaBackend) -> None:
    llama.set_grammar(DIGITS)
    llama.prefill(llama.tokenize("a number"))
    start = len(llama.tokens(0))
    while not llama.decode_one().is_eog:
        assert len(llama.tokens(0)) < start + 10
    text = llama.detokenize(llama.tokens(0)[start:]).decode()
    assert text[:3].isdigit()
    assert text[3:] == "."


def test_set_grammar_of_nothing_changes_nothing(backend: Backend, twin: Backend) -> None:
    for each in (backend, twin):
        each.configure_sampler(SamplingParams(temperature=1.0, seed=7))
        each.prefill([5, 6])
    backend.set_grammar(None)
    assert [backend.decode_one() for _ in range(6)] == [twin.decode_one() for _ in range(6)]


def test_set_grammar_keeps_the_sampler_in_use_when_it_fails(
    backend: Backend, twin: Backend
) -> None:
    for each in (backend, twin):
        each.configure_sampler(SamplingParams(temperature=1.0, seed=7))
        each.prefill([5, 6])
    with pytest.raises(GrammarRejected):
        backend.set_grammar("root ::= (")
    assert [backend.decode_one() for _ in range(6)] == [twin.decode_one() for _ in range(6)]


def test_configure_sampler_with_a_seed_repeats_itself(backend: Backend, twin: Backend) -> None:
    for each in (backend, twin):
        each.configure_sampler(SamplingParams(temperature=1.0, seed=3))
        each.prefill([5, 6, 7])
    drawn = [backend.decode_one().token for _ in range(12)]
    assert drawn == [twin.decode_one().token for _ in range(12)]
    backend.seq_rm(0)
    backend.configure_sampler(SamplingParams(temperature=1.0, seed=4))
    backend.prefill([5, 6, 7])
    assert drawn != [backend.decode_one().token for _ in range(12)]


def test_configure_sampler_of_nothing_changes_nothing(backend: Backend, twin: Backend) -> None:
    for each in (backend, twin):
        each.configure_sampler(SamplingParams(temperature=1.0, seed=3))
        each.prefill([5])
    backend.configure_sampler(None)
    assert [backend.decode_one() for _ in range(6)] == [twin.decode_one() for _ in range(6)]


def test_configure_sampler_keeps_the_sampler_in_use_when_it_fails(llama: LlamaBackend) -> None:
    eos = llama.vocabulary.eos
    assert eos is not None
    llama.configure_sampler(SamplingParams(logit_bias={eos: 1000.0}))
    with pytest.raises(InvalidRequest):
        llama.configure_sampler(SamplingParams(logit_bias={100_000: 1.0}))
    with pytest.raises(GrammarRejected):
        llama.configure_sampler(SamplingParams(grammar="root ::= ("))
    llama.prefill([5])
    assert llama.decode_one().token == eos


def test_configure_sampler_gives_the_penalties_what_step_put_there(llama: LlamaBackend) -> None:
    llama.configure_sampler(SamplingParams(repeat_penalty=1e6))
    llama.prefill([5, 6])
    likeliest = int(logits_of(llama).argmax())
    llama.seq_rm(0)
    put(llama, 0, [likeliest, 5, 6])
    assert logits_of(llama).max() > 0
    again = int(logits_of(llama).argmax())
    put(llama, 0, [again])  # not by decode_one, and yet it counts as said
    for _ in range(5):
        assert llama.decode_one().token not in (likeliest, again, 5, 6)


def test_clear_sampler_goes_back_to_greedy(backend: Backend) -> None:
    backend.configure_sampler(SamplingParams(temperature=100.0, seed=1))
    backend.clear_sampler()
    backend.clear_sampler()
    backend.prefill([5, 6, 7])
    for _ in range(4):
        expected = int(logits_of(backend).argmax())
        assert backend.decode_one().token == expected


# ---- load_adapter, unload_adapter, apply_adapters (more in test_adapters) -----------------------


def test_load_adapter_attaches_nothing_yet(backend: Backend, models: Models) -> None:
    backend.prefill([5, 6, 7])
    before = logits_of(backend)
    backend.load_adapter(str(models.adapter(models())))
    assert np.array_equal(logits_of(backend), before)
    put(backend, 1, [5, 6, 7])
    assert np.array_equal(logits_of(backend, 1), before)


def test_load_adapter_refuses_what_is_no_adapter(llama: LlamaBackend, models: Models) -> None:
    with pytest.raises(ModelNotFound):
        llama.load_adapter("none.gguf")
    with pytest.raises(AdapterRejected):
        llama.load_adapter(models())


def test_unload_adapter_twice_is_allowed(backend: Backend, models: Models) -> None:
    adapter = backend.load_adapter(str(models.adapter(models())))
    backend.unload_adapter(adapter)
    backend.unload_adapter(adapter)


def test_apply_adapters_changes_what_comes_next(backend: Backend, models: Models) -> None:
    adapter = backend.load_adapter(str(models.adapter(models())))
    backend.prefill([5, 6, 7])
    before = logits_of(backend)
    backend.apply_adapters([(adapter, 1.0)])
    assert not backend.has_logits(0)
    backend.seq_rm(0)
    backend.prefill([5, 6, 7])
    assert np.abs(logits_of(backend) - before).max() > 1


def test_apply_adapters_refuses_one_that_was_unloaded(backend: Backend, models: Models) -> None:
    adapter = backend.load_adapter(str(models.adapter(models())))
    backend.unload_adapter(adapter)
    with pytest.raises(Released):
        backend.apply_adapters([(adapter, 1.0)])
    backend.prefill([5])


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_apply_adapters_refuses_a_scale_that_is_no_number(
    backend: Backend, models: Models, scale: float
) -> None:
    adapter = backend.load_adapter(str(models.adapter(models())))
    backend.prefill([5, 6])
    with pytest.raises(InvalidRequest):
        backend.apply_adapters([(adapter, scale)])
    backend.decode_one()


# ---- step, sample (more in test_step) -----------------------------------------------------------


def test_step_computes_rows_and_then_samples(backend: Backend) -> None:
    watcher = Watcher()
    outcome = backend.step([Row(1, [5, 6], watcher), Row(3, [7])])
    assert isinstance(outcome, Stepped)
    assert outcome.results == (Sampled(int(logits_of(backend, 1).argmax()), is_eog=False), None)
    assert (backend.tokens(1), backend.tokens(3)) == ([5, 6], [7])
    assert watcher.accepted == [outcome.results[0].token]
    assert backend.has_logits(1)
    assert backend.has_logits(3)


def test_step_of_no_rows_touches_nothing(backend: Backend) -> None:
    backend.prefill([5, 6])
    before = logits_of(backend)
    assert backend.step([]) == Stepped(())
    assert np.array_equal(logits_of(backend), before)


def test_step_keeps_no_logits_where_nobody_wants_them(backend: Backend) -> None:
    backend.step([Row(0, [5, 6], wants_logits=False), Row(1, [7])])
    assert not backend.has_logits(0)
    assert backend.has_logits(1)
    with pytest.raises(NoLogits):
        backend.sample(0, Watcher())


REFUSED_STEPS: dict[str, tuple[type[Exception], list[Row]]] = {
    "a sequence twice": (InvalidRequest, [Row(1, [5]), Row(0, [5]), Row(1, [6])]),
    "no tokens": (InvalidRequest, [Row(1, [5]), Row(0, [])]),
    "a sequence below zero": (InvalidRequest, [Row(1, [5]), Row(-1, [5])]),
    "a sequence that the context does not have": (InvalidRequest, [Row(1, [5]), Row(4, [5])]),
    "llama.cpp's own limit of sequences": (InvalidRequest, [Row(255, [5]), Row(256, [5])]),
    "more tokens than a batch": (InvalidRequest, [Row(1, [5] * 40), Row(0, [6] * 40)]),
    "an id outside of the vocabulary": (InvalidToken, [Row(1, [5]), Row(0, [5, 100_000])]),
    "an id below zero": (InvalidToken, [Row(1, [5]), Row(0, [-1])]),
}


@pytest.mark.parametrize("what", REFUSED_STEPS)
def test_step_refuses_a_bad_set_before_anything_is_computed_or_sampled(
    backend: Backend, what: str
) -> None:
    backend.prefill([5, 6])
    before = logits_of(backend)
    error, rows = REFUSED_STEPS[what]
    watcher = Watcher()
    with pytest.raises(error):
        backend.step([Row(row.seq_id, row.tokens, watcher) for row in rows])
    assert watcher.seen.size == 0
    assert [backend.tokens(s) for s in range(4)] == [[5, 6], [], [], []]
    assert np.array_equal(logits_of(backend), before)


def test_step_checks_the_room_of_each_sequence(backend: Backend) -> None:
    put(backend, 1, prompt(backend.context_length - 1), wants=False)
    with pytest.raises(ContextOverflow):
        backend.step([Row(0, [5]), Row(1, [5, 6])])
    assert backend.tokens(0) == []
    assert len(backend.tokens(1)) == backend.context_length - 1


_BY_SEQUENCE: dict[str, Callable[[Backend, int], object]] = {
    "tokens": lambda b, s: b.tokens(s),
    "has_logits": lambda b, s: b.has_logits(s),
    "sample": lambda b, s: b.sample(s, Watcher()),
    "seq_rm": lambda b, s: b.seq_rm(s),
    "seq_rm_last": lambda b, s: b.seq_rm_last(1, s),
    "seq_cp from": lambda b, s: b.seq_cp(s, 1),
    "seq_cp to": lambda b, s: b.seq_cp(0, s),
    "kv_pack": lambda b, s: b.kv_pack([5], s),
    "kv_unpack": lambda b, s: b.kv_unpack(b.kv_pack([5, 6]), s),
    "export_ranges": lambda b, s: b.export_ranges(s, [(0, 1)]),
    "export_tail": lambda b, s: b.export_tail(s),
    "import_ranges": lambda b, s: b.import_ranges(s, [5], b.export_ranges(0, [(0, 1)])),
    "new_piece": lambda b, s: b.new_piece(s, [5]),
}


@pytest.mark.parametrize("operation", _BY_SEQUENCE)
@pytest.mark.parametrize("seq_id", [-1, 4, 256, 2**31])
def test_no_operation_reaches_a_sequence_that_is_not_there(
    backend: Backend, operation: str, seq_id: int
) -> None:
    backend.prefill([5, 6])
    before = logits_of(backend)
    with pytest.raises(InvalidRequest):
        _BY_SEQUENCE[operation](backend, seq_id)
    assert backend.tokens(0) == [5, 6]
    assert np.array_equal(logits_of(backend), before)


def test_sample_lets_several_samplers_look_at_the_same_logits(backend: Backend) -> None:
    backend.prefill([5, 6, 7])
    first = backend.new_sampler(SamplingParams(temperature=1.0, seed=1))
    other = backend.new_sampler(SamplingParams(temperature=1.5, seed=2))
    drawn = backend.sample(0, first)
    backend.sample(0, other)
    other.accept(backend.sample(0, other).token)
    assert backend.sample(0, first) == drawn
    assert backend.tokens(0) == [5, 6, 7]


def test_seq_rm_refuses_a_start_outside_of_the_sequence(backend: Backend) -> None:
    backend.prefill([5, 6])
    for start in (-1, 3, 2**31):
        with pytest.raises(InvalidRequest):
            backend.seq_rm(0, start)
    assert backend.tokens(0) == [5, 6]


def test_seq_rm_of_what_is_not_there_succeeds_and_keeps_the_logits(backend: Backend) -> None:
    assert backend.seq_rm(2)
    backend.prefill([5, 6])
    assert backend.seq_rm(0, 2)
    assert backend.has_logits(0)


@pytest.mark.parametrize(("source", "target"), [(0, 0), (1, 0), (1, 2)])
def test_seq_cp_refuses_itself_and_empty_sources(
    backend: Backend, source: int, target: int
) -> None:
    backend.prefill([5, 6])
    with pytest.raises(InvalidRequest):
        backend.seq_cp(source, target)
    assert backend.tokens(0) == [5, 6]


BAD_BOUNDS = [(-1, 2), (0, 4), (2, 2), (2, 1), (3, 4)]


@pytest.mark.parametrize("bounds", BAD_BOUNDS)
def test_export_ranges_refuses_bounds_outside_of_the_sequence(
    backend: Backend, bounds: tuple[int, int]
) -> None:
    backend.prefill([5, 6, 7])
    with pytest.raises(InvalidRequest):
        backend.export_ranges(0, [(0, 1), bounds])


def test_import_ranges_refuses_gaps_and_foreign_sizes(backend: Backend) -> None:
    backend.prefill([5, 6, 7, 8])
    first, second, third = backend.export_ranges(0, [(0, 1), (1, 2), (2, 4)])
    wrong = [
        ([5, 6, 7, 8], [first, third]),
        ([5, 6, 7, 8], [second, third]),
        ([5, 6, 7, 8], [first, second]),
        ([5, 6], [first, second, third]),
        ([5, 6, 7, 8], [first, second, type(third)(2, 4, third.payload[:-1])]),
        ([5, 6, 7, 8], []),
    ]
    for tokens, ranges in wrong:
        with pytest.raises(StateRejected):
            backend.import_ranges(1, tokens, ranges)
        assert backend.tokens(1) == []
    backend.import_ranges(1, [5, 6, 7, 8], [first, second, third])
    assert backend.tokens(1) == [5, 6, 7, 8]


def test_import_ranges_checks_tokens_and_room_first(backend: Backend) -> None:
    backend.prefill([5, 6])
    ranges = backend.export_ranges(0, [(0, 2)])
    with pytest.raises(InvalidToken):
        backend.import_ranges(0, [5, 100_000], ranges)
    with pytest.raises(ContextOverflow):
        backend.import_ranges(0, [5] * (backend.context_length + 1), ranges)
    assert backend.tokens(0) == [5, 6]
    assert backend.has_logits(0)
