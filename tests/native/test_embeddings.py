"""Embeddings are the pooled hidden states of the model, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import (
    ContextOverflow,
    InvalidRequest,
    InvalidToken,
    NativeError,
    OperationUnsupported,
)
from samovar.gguf import Header
from samovar.native.context import Context, ContextOptions
from samovar.native.interface import Decoded
from samovar.native.llama import LlamaBackend
from samovar.native.model import Model
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


def hidden_states(path: Path, tokens: list[int]) -> np.ndarray:
    """What the model computes for each token, from a context that does not pool."""
    model = Model(path)
    options = ContextOptions(
        context_length=512,
        batch_size=512,
        micro_batch_size=512,
        threads=1,
        embeddings=True,
        pooling="none",
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


def test_a_model_that_ranks_gives_no_vector_of_its_own(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Header, "pooling", property(lambda _: "rank"))
    with embedding(models("bert")) as backend:
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
                    backend.embed(prompt(30 + token), pooling=POOLINGS[token % 3])
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
