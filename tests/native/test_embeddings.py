"""Embeddings are the pooled hidden states of the model, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from modelmaker.gguf_head import read_head
from samovar.errors import (
    ContextOverflow,
    DecodeTimeout,
    InvalidRequest,
    InvalidToken,
    NativeError,
    OperationUnsupported,
    OutOfMemory,
)
from samovar.native.batch import Batch
from samovar.native.context import Context, ContextOptions
from samovar.native.interface import Decoded, Passage
from samovar.native.llama import LlamaBackend
from samovar.native.model import Model
from samovar.native.weightless import WeightlessBackend
from tests.conftest import GENERATING_KINDS, Models
from tests.native.test_backend import forced, greedy, logits_of, opened, prompt, put

pytestmark = pytest.mark.native

POOLINGS = ("mean", "cls", "last")
KINDS = (*GENERATING_KINDS, "bert")

BY_HAND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


# What a text comes to depends, in its last bits, on what is in the same call. Plain attention and
# plain matrices keep that below 1e-4; flash attention and halves do not (see docs/embeddings.md).
PLAIN = {"flash_attention": "off", "type_k": "f32", "type_v": "f32"}
SOME = [1, 2, 90, 30, 17, 60, 8, 200, 44, 3, 128, 1, 77]


def hidden_states(path: Path, tokens: list[int], **more: str) -> np.ndarray:
    """What the model computes for each token, from a context that does not pool."""
    model = Model(path)
    length = max(512, len(tokens))
    options = ContextOptions(
        context_length=length,
        batch_size=length,
        micro_batch_size=length,
        threads=1,
        embeddings=True,
        pooling="none",
        **more,
    )
    context = Context(model, options)
    for position, token in enumerate(tokens):
        context.batch.add_one(0, token, position)
    assert context.decode(context.batch) == Decoded()
    states = np.array([context.embedding(row=row) for row in range(len(tokens))])
    context.close()
    model.close()
    return states


@contextmanager
def embedding(path: Path, **options: object) -> Iterator[LlamaBackend]:
    with opened(path, **options) as (backend, _):
        yield backend


# ---- the vector ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_is_the_pooling_of_the_hidden_states(
    models: Models, kind: str, quant: str, pooling: str
) -> None:
    path = models(kind, quant)
    for length in (1, 2, 90):
        tokens = prompt(length, length)
        expected = BY_HAND[pooling](hidden_states(path, tokens))
        with embedding(path) as backend:
            found = backend.embed(tokens, pooling=pooling)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-3
        assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_file_may_say_how_to_pool(models: Models, kind: str, pooling: str) -> None:
    with embedding(models(kind, pooling=pooling)) as backend:
        own = backend.embed(prompt(20))
        assert np.array_equal(own, backend.embed(prompt(20), pooling=pooling))


def test_a_file_that_does_not_say_is_pooled_by_its_last_token(models: Models) -> None:
    with embedding(models()) as backend:
        assert np.array_equal(backend.embed(prompt(20)), backend.embed(prompt(20), pooling="last"))


def test_a_model_that_ranks_gives_no_vector_of_its_own(models: Models) -> None:
    with embedding(models("bert", pooling="rank")) as backend:
        with pytest.raises(OperationUnsupported):
            backend.embed(prompt(20))
        assert backend.embed(prompt(20), pooling="cls").shape == (128,)


def test_an_encoder_looks_in_both_directions_and_a_generator_back_only(models: Models) -> None:
    with embedding(models("bert")) as backend:
        first = backend.embed([5, 6, 7], pooling="cls")
        assert not np.array_equal(backend.embed([5, 6, 8], pooling="cls"), first)
    with embedding(models()) as backend:
        first = backend.embed([5, 6, 7], pooling="cls")
        assert np.allclose(backend.embed([5, 6, 8], pooling="cls"), first, atol=1e-3)


# ---- many texts ---------------------------------------------------------------------------------


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in parts of the size of such a number (some models' are large)."""
    size = max(1.0, float(np.sqrt(np.mean(np.square(expected)))))
    return float(np.abs(found - expected).max()) / size


def texts_of(lengths: list[int]) -> list[list[int]]:
    return [prompt(length, seed) for seed, length in enumerate(lengths)]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_texts_give_what_each_of_them_gives_alone(
    models: Models, kind: str, pooling: str
) -> None:
    path, texts = models(kind, "F32"), texts_of(SOME)
    with embedding(path, **PLAIN) as backend:
        found = backend.embed_many(texts, pooling=pooling)
        alone = np.array([backend.embed(text, pooling=pooling) for text in texts])
        assert found.dtype == np.float32
        assert distance(found, alone) < 1e-3
        assert np.array_equal(backend.embed_many(texts, pooling=pooling), found)
    for text, vector in zip(texts, found, strict=True):
        assert distance(vector, BY_HAND[pooling](hidden_states(path, text, **PLAIN))) < 1e-3


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", ["bert", "llama", "mamba"])
def test_company_moves_last_bits_and_no_direction(models: Models, kind: str, quant: str) -> None:
    texts = texts_of(SOME)
    with embedding(models(kind, quant)) as backend:
        found = backend.embed_many(texts, pooling="mean")
        alone = np.array([backend.embed(text, pooling="mean") for text in texts])
    for one, other in zip(found, alone, strict=True):
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_texts_share_decode_calls(
    models: Models, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    calls: list[int] = []

    def counted(context: Context, batch: Batch) -> object:
        calls.append(len(batch))
        return decode(context, batch)

    decode = Context.decode
    with embedding(models(kind)) as backend:
        monkeypatch.setattr(Context, "decode", counted)
        backend.embed_many(texts_of([8] * 64))
        assert calls == [512]
        backend.embed_many(texts_of([300, 200, 300, 12, 200]))
        assert calls[1:] == [512, 500]  # the first text and all that fit behind it


def test_no_texts_are_no_vectors(models: Models) -> None:
    with embedding(models()) as backend:
        assert backend.embed_many([]).shape == (0, 128)


def test_one_bad_text_stops_all_before_anything_is_computed(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedding(models("bert")) as backend:
        with monkeypatch.context() as patched:
            patched.setattr(Context, "decode", failing)
            for bad, error in (([], InvalidToken), ([10**6], InvalidToken)):
                with pytest.raises(error):
                    backend.embed_many([[5], bad])
            with pytest.raises(ContextOverflow):
                backend.embed_many([[5], prompt(513)])
        assert backend.embed_many([[5], [6]]).shape == (2, 128)


def test_contexts_are_kept_and_grow_only_when_they_must(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def noted(model: Model, options: ContextOptions) -> Context:
        made.append(options.context_length)
        return Context(model, options)

    monkeypatch.setattr("samovar.native.embedder.Context", noted)
    with embedding(models(), context_length=1600) as backend:
        for length in (5, 512, 40, 513, 1024, 3, 1600, 1600):
            backend.embed_many([prompt(length)] * 2)
        assert made == [512, 1024, 1600]
        backend.embed(prompt(5), pooling="cls")
        assert made[3:] == [512]


@pytest.mark.parametrize("length", [63, 64, 65, 129, 300])
@pytest.mark.parametrize("kind", ["bert", "llama", "mamba"])
def test_a_context_may_have_any_length(models: Models, kind: str, length: int) -> None:
    with embedding(models(kind), context_length=length) as backend:
        texts = texts_of([length, 1, length // 2])
        assert np.isfinite(backend.embed_many(texts, pooling="mean")).all()
        with pytest.raises(ContextOverflow):
            backend.embed(prompt(length + 1))


def test_what_does_not_fit_into_memory_is_refused_and_nothing_else_is(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedding(models(), context_length=1600) as backend:
        first = backend.embed(prompt(20))
        with monkeypatch.context() as patched:
            patched.setattr("samovar.native.memory.available_bytes", lambda: 1000)
            with pytest.raises(OutOfMemory, match="embed 1024 tokens"):
                backend.embed(prompt(600))
        assert np.array_equal(backend.embed(prompt(20)), first)
        assert np.isfinite(backend.embed(prompt(600))).all()


def test_an_interrupted_call_leaves_nothing_behind(models: Models) -> None:
    with embedding(models()) as backend:
        expected = backend.embed_many(texts_of(SOME))
        is_over = Event()

        def interrupt() -> None:
            while not is_over.is_set():
                backend.abort()

        thread = Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(DecodeTimeout):
                backend.embed_many(texts_of(SOME))
        finally:
            is_over.set()
            thread.join()
        assert np.array_equal(backend.embed_many(texts_of(SOME)), expected)


@pytest.mark.parametrize("kind", ["bert", "llama", "gemma2", "lfm2", "mamba"])
def test_a_text_without_numbers_fails_and_spoils_no_other(
    models: Models, tmp_path: Path, kind: str
) -> None:
    path, texts = tmp_path / "damaged.gguf", texts_of([40, 60, 9])
    path.write_bytes(models(kind, "F32").read_bytes())
    embeddings = read_head(path).tensors["token_embd.weight"]
    with path.open("r+b") as file:
        file.seek(embeddings.start + 300 * embeddings.row_bytes)
        file.write(np.full(embeddings.row_bytes // 4, np.nan, np.float32).tobytes())
    with embedding(path, **PLAIN) as backend:
        expected = backend.embed_many(texts, pooling="mean")
        for bad in ([300] * 70, [*prompt(100), 300]):
            with pytest.raises(NativeError, match="no numbers"):
                backend.embed_many([*texts, bad], pooling="mean")
            assert np.array_equal(backend.embed_many(texts, pooling="mean"), expected)


# ---- in several calls ---------------------------------------------------------------------------


def finished(backend: LlamaBackend, tokens: list[int], pooling: str, limit: int) -> np.ndarray:
    """The vector of a text that is computed in calls of `limit` tokens."""
    passage = Passage(tokens)
    while passage.vector is None:
        assert 0 < backend.embedder.advance([passage], pooling, limit) <= limit
    return passage.vector


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_text_may_be_computed_in_several_calls(models: Models, kind: str, pooling: str) -> None:
    path, tokens = models(kind, "F32"), prompt(600)
    expected = BY_HAND[pooling](hidden_states(path, tokens, **PLAIN))
    with embedding(path, context_length=1600, **PLAIN) as backend:
        for limit in (512, 100):
            found = finished(backend, tokens, pooling, limit)
            assert distance(found, expected) < 1e-3
        assert distance(backend.embed(tokens, pooling=pooling), expected) < 1e-3


def test_an_encoder_sees_a_text_whole_whatever_the_limit(models: Models) -> None:
    with embedding(models("bert")) as backend:
        passage = Passage(prompt(300))
        assert backend.embedder.advance([passage], "mean", 10) == 300
        assert np.array_equal(passage.vector, backend.embed(prompt(300), pooling="mean"))


def test_what_is_half_computed_survives_only_its_own_turn(models: Models) -> None:
    path = models(quant="F32")
    with embedding(path, **PLAIN) as backend:
        alone = [backend.embed(prompt(90, seed), pooling="mean") for seed in (0, 1)]
        one, two = Passage(prompt(90, 0)), Passage(prompt(90, 1))
        backend.embedder.advance([one], "mean", 40)
        while two.vector is None:
            backend.embedder.advance([two], "mean", 40)  # takes the cells of the first
        while one.vector is None:
            backend.embedder.advance([one], "mean", 40)
        for found, expected in zip((one.vector, two.vector), alone, strict=True):
            assert distance(found, expected) < 1e-3


def test_what_was_begun_under_other_adapters_begins_anew(models: Models) -> None:
    path = models(quant="F32")
    with embedding(path, **PLAIN) as backend:
        adapter = backend.load_adapter(models.adapter(path))
        backend.apply_adapters([(adapter, 1.0)])
        expected = backend.embed(prompt(90), pooling="mean")
        backend.apply_adapters([])
        passage = Passage(prompt(90))
        backend.embedder.advance([passage], "mean", 40)
        backend.apply_adapters([(adapter, 1.0)])
        while passage.vector is None:
            backend.embedder.advance([passage], "mean", 40)
        assert distance(passage.vector, expected) < 1e-3


def test_what_was_begun_goes_on_when_its_adapters_are_back(models: Models) -> None:
    with embedding(models()) as backend:
        adapter = backend.load_adapter(models.adapter(models()))
        passage, calls = Passage(prompt(90)), 0
        while passage.vector is None:
            backend.apply_adapters([(adapter, 1.0)])
            backend.apply_adapters([])
            backend.embedder.advance([passage], "last", 40)
            calls += 1
        assert calls == 3


def test_the_backend_without_weights_embeds_in_any_company_and_any_cut() -> None:
    backend = WeightlessBackend()
    texts = [[7], [8, 9] * 30, [7], [1] * 64]
    found = backend.embed_many(texts)
    assert found.shape == (4, 16)
    assert np.array_equal(found, [backend.embed(text) for text in texts])
    assert np.array_equal(found[0], found[2])
    for pooling in POOLINGS:
        expected = backend.embed(texts[1], pooling=pooling)
        passage = Passage(texts[1])
        while passage.vector is None:
            backend.embedder.advance([passage], pooling, 7)
        assert np.array_equal(passage.vector, expected)
    backend.apply_adapters([(backend.load_adapter("some"), 1.0)])
    assert not np.array_equal(backend.embed_many(texts), found)
    assert backend.embed_many([]).shape == (0, 16)


# ---- no trace -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_text_does_not_show_in_the_next(models: Models, kind: str, pooling: str) -> None:
    with embedding(models(kind)) as backend:
        first = backend.embed(prompt(60), pooling=pooling)
        backend.embed(prompt(90, 1), pooling=pooling)
        backend.embed(prompt(3, 2), pooling=pooling)
        assert np.array_equal(backend.embed(prompt(60), pooling=pooling), first)
    with embedding(models(kind)) as backend:
        backend.embed(prompt(90, 1), pooling=pooling)
        assert np.array_equal(backend.embed(prompt(60), pooling=pooling), first)


@pytest.mark.parametrize("layout", ["lanes", "pool"])
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_generation_goes_on_as_if_nothing_had_been_embedded(
    models: Models, kind: str, layout: str
) -> None:
    def generated(*, embeds: bool) -> np.ndarray:
        with embedding(models(kind), layout=layout) as backend:
            for seq_id in (0, 2):
                put(backend, seq_id, prompt(70, seq_id))
            found = []
            for token in prompt(8, 4):
                if embeds:
                    texts = texts_of([30 + token, 1, 60])
                    backend.embed_many(texts, pooling=POOLINGS[token % 3])
                    backend.embedder.advance([Passage(prompt(60))], POOLINGS[token % 3], 20)
                found += [logits_of(backend, 0), logits_of(backend, 2)]
                put(backend, 0, [token])
            return np.array(found)

    assert np.array_equal(generated(embeds=True), generated(embeds=False))


def test_embedding_does_not_see_what_was_generated(models: Models) -> None:
    with embedding(models()) as backend:
        expected = backend.embed(prompt(20))
        put(backend, 0, prompt(60, 1))
        greedy(backend, 0, 5)
        assert np.array_equal(backend.embed(prompt(20)), expected)


def test_the_vector_is_a_copy(models: Models) -> None:
    with embedding(models()) as backend:
        first = backend.embed(prompt(20))
        kept = first.copy()
        backend.embed(prompt(20, 1))
        assert np.array_equal(first, kept)
        first[:] = 0
        assert np.array_equal(backend.embed(prompt(20)), kept)


# ---- long texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "lfm2", "mamba", "gemma2"])
def test_a_longer_text_than_before_is_made_room_for(models: Models, kind: str) -> None:
    with embedding(models(kind), context_length=1600) as backend:
        short = backend.embed(prompt(500))
        for length in (600, 1600):  # beyond the first context, and up to the limit
            long = backend.embed(prompt(length))
            assert np.array_equal(backend.embed(prompt(length)), long)
        assert np.abs(backend.embed(prompt(500)) - short).max() < 0.1  # chunks of another size
        with pytest.raises(ContextOverflow):
            backend.embed(prompt(1601))


def test_a_context_that_could_not_be_made_is_forgotten(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedding(models(), context_length=1600) as backend:
        first = backend.embed(prompt(20))
        with monkeypatch.context() as patched:
            patched.setattr("samovar.native.embedder.Context", failing)
            with pytest.raises(MemoryError):
                backend.embed(prompt(600))
        assert np.array_equal(backend.embed(prompt(20)), first)


def failing(*_: object) -> Context:
    raise MemoryError


def test_an_encoder_embeds_up_to_the_positions_that_it_knows(models: Models) -> None:
    with embedding(models("bert"), context_length=512) as backend:
        assert np.isfinite(backend.embed(prompt(512))).all()
        with pytest.raises(ContextOverflow):
            backend.embed(prompt(513))
    with embedding(models("bert"), context_length=300) as backend:
        assert np.isfinite(backend.embed(prompt(300))).all()
        with pytest.raises(ContextOverflow):
            backend.embed(prompt(301))


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_embedded_is_refused(models: Models, kind: str) -> None:
    with embedding(models(kind)) as backend:
        for tokens in ([], [-1], [5, 10**6]):
            with pytest.raises(InvalidToken):
                backend.embed(tokens)
        for pooling in ("none", "rank", "max"):
            with pytest.raises(InvalidRequest):
                backend.embed([5], pooling=pooling)
        assert backend.embed([5]).shape == (128,)


# ---- with adapters ------------------------------------------------------------------------------


def test_adapters_work_on_embeddings_too(models: Models) -> None:
    with embedding(models()) as backend:
        plain = backend.embed(prompt(20))
        adapter = backend.load_adapter(models.adapter(models()))
        backend.apply_adapters([(adapter, 1.0)])
        changed = backend.embed(prompt(20))
        assert np.abs(changed - plain).max() > 0.1
        assert not np.array_equal(backend.embed(prompt(20), pooling="mean"), changed)
        backend.apply_adapters([])
        assert np.array_equal(backend.embed(prompt(20)), plain)


def test_a_context_made_later_has_the_adapters_of_now(models: Models) -> None:
    adapter_path = models.adapter(models())
    with embedding(models()) as backend:
        backend.apply_adapters([(backend.load_adapter(adapter_path), 1.0)])
        early = backend.embed(prompt(20))
    with embedding(models()) as backend:
        plain = backend.embed(prompt(20))
        adapter = backend.load_adapter(adapter_path)
        backend.apply_adapters([(adapter, 1.0)])
        assert np.array_equal(backend.embed(prompt(20)), early)
        backend.unload_adapter(adapter)
        assert np.array_equal(backend.embed(prompt(20)), plain)
        put(backend, 0, prompt(20))
        assert len(forced(backend, 0, [5])) == 2


def test_a_context_that_took_no_adapters_is_not_used(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedding(models()) as backend:
        backend.apply_adapters([(backend.load_adapter(models.adapter(models())), 1.0)])

        def refuse(_context: Context, _adapters: object) -> None:
            raise NativeError("no adapters today")

        with monkeypatch.context() as patched:
            patched.setattr(Context, "set_adapters", refuse)
            with pytest.raises(NativeError):
                backend.embed(prompt(20))
        adapted = backend.embed(prompt(20))
        backend.apply_adapters([])
        assert not np.array_equal(backend.embed(prompt(20)), adapted)
