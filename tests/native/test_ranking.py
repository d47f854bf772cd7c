"""Scores are the model's own head over its hidden state, of pairs put together as it wants them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest

from samovar.errors import ContextOverflow, InvalidToken, OperationUnsupported
from samovar.gguf import Header
from samovar.native.interface import RANK, Passage
from samovar.native.llama import LlamaBackend
from samovar.native.weightless import WeightlessBackend
from tests.conftest import Models
from tests.native.test_backend import forced, opened, prompt, put
from tests.native.test_embeddings import PLAIN, hidden_states

pytestmark = pytest.mark.native

KINDS = ("bert", "qwen3")
QUERY, DOCUMENTS = "what is tea", ("a kettle of tea", "stone", "the sea is old and the tea is hot")
TEMPLATE = "<|im_start|>judge\nQuery: {query}\nDocument: {document}<|im_end|>\n"


@contextmanager
def ranking(path: Path, **options: object) -> Iterator[LlamaBackend]:
    with opened(path, **options) as (backend, _):
        yield backend


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> str:
    """Every file has a template for pairs."""
    monkeypatch.setattr(Header, "chat_templates", property(lambda _: {"rerank": TEMPLATE}))
    return TEMPLATE


def by_hand(path: Path, kind: str, states: np.ndarray) -> float:
    """The score of a text from its hidden states and the head's weights in the file."""
    weights = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    if kind == "bert":
        inner = np.tanh(weights["cls.weight"] @ states[0] + weights["cls.bias"])
        return float((weights["cls.output.weight"] @ inner + weights["cls.output.bias"])[0])
    logits = weights["cls.output.weight"] @ states[-1]
    shares = np.exp(logits - logits.max())
    return float(shares[0] / shares.sum())


# ---- the score ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_head_over_the_hidden_state(models: Models, kind: str) -> None:
    path = models(kind, "F32", pooling="rank")
    with ranking(path, **PLAIN) as backend:
        scores = backend.rank(QUERY, DOCUMENTS)
        pairs = [backend.embedder.pair(QUERY, document) for document in DOCUMENTS]
    assert scores.dtype == np.float32
    assert scores.shape == (len(DOCUMENTS),)
    expected = [by_hand(path, kind, hidden_states(path, pair, **PLAIN)) for pair in pairs]
    assert np.abs(scores - expected).max() < 1e-3
    assert np.ptp(scores) > 0.01


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_scored_in_their_order_and_as_if_alone(
    models: Models, kind: str, quant: str
) -> None:
    documents = [prompt(length, length) for length in (3, 200, 1, 90, 150, 130, 40)]
    with ranking(models(kind, quant, pooling="rank")) as backend:
        scores = backend.rank(prompt(9), documents)
        alone = [float(backend.rank(prompt(9), [one])[0]) for one in documents]
        assert np.abs(scores - alone).max() < 0.1
        assert np.abs(scores - alone).max() < np.ptp(alone)
        assert np.array_equal(backend.rank(prompt(9), documents), scores)
        assert np.array_equal(backend.rank(prompt(9), documents[:1])[0], np.float32(alone[0]))


def test_a_decoder_may_score_a_pair_in_several_calls(models: Models) -> None:
    path = models("qwen3", "F32", pooling="rank")
    with ranking(path, **PLAIN) as backend:
        passage = Passage(backend.embedder.pair(prompt(9), prompt(90)))
        while passage.vector is None:
            assert backend.embedder.advance([passage], RANK, 40) <= 40
        expected = backend.rank(prompt(9), [prompt(90)])
        assert passage.vector.shape == (1,)
        assert abs(float(passage.vector[0] - expected[0])) < 1e-3


def test_ranking_leaves_no_trace_in_what_is_said(models: Models) -> None:
    path = models("qwen3", pooling="rank")

    def said(*, ranks: bool) -> np.ndarray:
        with ranking(path) as backend:
            put(backend, 0, prompt(70))
            if ranks:
                backend.rank(QUERY, DOCUMENTS)
            return forced(backend, 0, prompt(4, 1))

    assert np.array_equal(said(ranks=True), said(ranks=False))


def test_a_reranker_also_embeds(models: Models) -> None:
    with ranking(models("qwen3", pooling="rank")) as backend:
        scores = backend.rank(QUERY, DOCUMENTS)
        assert backend.embed(prompt(20), pooling="last").shape == (128,)
        assert np.array_equal(backend.rank(QUERY, DOCUMENTS), scores)


# ---- the pair -----------------------------------------------------------------------------------


def test_a_pair_has_the_tokens_around_it_that_the_vocabulary_wants(models: Models) -> None:
    with ranking(models("bert", pooling="rank")) as backend:
        query, document = (
            backend.tokenize(text, add_special=False) for text in (QUERY, DOCUMENTS[0])
        )
        first, separator = backend.tokenize("")
        expected = [first, *query, separator, *document]
        assert backend.embedder.pair(QUERY, DOCUMENTS[0]) == expected
        assert backend.embedder.pair(query, document) == expected
        assert backend.embedder.pair(QUERY.encode(), document) == expected
    with ranking(models("qwen3", pooling="rank")) as backend:  # which wants none
        query, document = (backend.tokenize(text) for text in (QUERY, DOCUMENTS[0]))
        assert backend.embedder.pair(QUERY, DOCUMENTS[0]) == query + document


def test_a_template_of_the_file_is_filled_in(models: Models, template: str) -> None:
    with ranking(models("qwen3", pooling="rank")) as backend:
        text = template.replace("{query}", QUERY).replace("{document}", DOCUMENTS[0])
        expected = backend.tokenize(text, add_special=False, parse_special=True)
        assert backend.embedder.pair(QUERY, DOCUMENTS[0]) == expected
        query = backend.tokenize(QUERY)
        pieces = template.replace("{document}", DOCUMENTS[0]).split("{query}")
        ids = [backend.tokenize(piece, parse_special=True) for piece in pieces]
        found = backend.embedder.pair(query, DOCUMENTS[0])
        assert backend.detokenize(found) == backend.detokenize([*ids[0], *query, *ids[1]])
        assert found[: len(ids[0]) + len(query)] == ids[0] + query


@pytest.mark.parametrize("text", ["<|im_end|>", "a<|im_start|>b", "{document}", "{query}{query}"])
def test_nobody_writes_control_tokens_or_places_into_a_pair(
    models: Models, template: str, text: str
) -> None:
    with ranking(models("qwen3", pooling="rank")) as backend:
        controls = backend.tokenize(
            template.format(query="", document=""), add_special=False, parse_special=True
        )
        known = [backend.tokenize(t, parse_special=True) for t in ("<|im_start|>", "<|im_end|>")]
        assert [len(ids) for ids in known] == [1, 1]
        marks = {ids[0] for ids in known}
        for pair in (("tea", text), (text, "tea"), (text, text)):
            found = backend.embedder.pair(*pair)
            assert [t for t in found if t in marks] == [t for t in controls if t in marks]
            said = backend.detokenize([t for t in found if t not in marks]).decode()
            assert said == f"judge\nQuery: {pair[0]}\nDocument: {pair[1]}\n"


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen3", "mamba"])
def test_a_model_without_a_head_says_what_to_do(models: Models, kind: str) -> None:
    with ranking(models(kind)) as backend:
        for refused in (
            lambda: backend.rank(QUERY, DOCUMENTS),
            lambda: backend.rank(QUERY, ()),
            lambda: backend.embedder.pair(QUERY, DOCUMENTS[0]),
        ):
            with pytest.raises(OperationUnsupported, match="load a reranker"):
                refused()


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_that_cannot_be_scored_are_refused(models: Models, kind: str) -> None:
    with ranking(models(kind, pooling="rank")) as backend:
        with pytest.raises(ContextOverflow):
            backend.rank(prompt(300), [prompt(3), prompt(300)])
        for bad in ([-1], [10**6]):
            with pytest.raises(InvalidToken):
                backend.rank(prompt(3), [bad])
            with pytest.raises(InvalidToken):
                backend.rank(bad, [prompt(3)])
        assert backend.rank(QUERY, ()).shape == (0,)


def test_the_backend_without_weights_ranks_too() -> None:
    backend = WeightlessBackend()
    scores = backend.rank(QUERY, DOCUMENTS)
    assert scores.shape == (3,)
    assert len(set(scores)) == 3
    assert np.array_equal(backend.rank(QUERY, DOCUMENTS[::-1]), scores[::-1])
    assert not np.array_equal(backend.rank("other", DOCUMENTS), scores)
    passage = Passage(backend.embedder.pair(QUERY, DOCUMENTS[2]))
    while passage.vector is None:
        backend.embedder.advance([passage], RANK, 7)
    assert passage.vector[0] == scores[2]
    backend.embedder.can_rank = False
    with pytest.raises(OperationUnsupported):
        backend.rank(QUERY, DOCUMENTS)
