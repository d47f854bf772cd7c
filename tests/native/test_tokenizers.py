"""Text to ids and back: against recorded ids of real vocabularies, and against itself."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samovar.errors import ContextOverflow, InvalidRequest, InvalidToken
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import MAX_TEXT_BYTES, Vocabulary
from tests.conftest import ROOT, Models, scaled, shared_vocabularies

REAL = shared_vocabularies()
COVERING = [path for path in REAL if "bert" not in path.name]
SEPARATOR = "\n__ggml_vocab_test__\n"

Open = Callable[[Path], Vocabulary]


@functools.lru_cache(maxsize=16)
def _open(path: Path) -> Model:
    return Model(path, ModelOptions(vocab_only=True))


@pytest.fixture(params=["own", "spm", *COVERING], ids=lambda p: getattr(p, "stem", p))
def vocabulary(request: pytest.FixtureRequest, models: Models) -> Vocabulary:
    """Every vocabulary whose pieces cover a text byte for byte."""
    if isinstance(request.param, Path):
        return _open(request.param).vocabulary
    return _open(models.vocabulary(None if request.param == "own" else "spm")).vocabulary


# ---- recorded ids ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
def test_recorded_texts_give_the_recorded_ids(path: Path) -> None:
    texts = path.with_name(path.name + ".inp").read_text("utf-8").split(SEPARATOR)[:-1]
    lines = path.with_name(path.name + ".out").read_text("utf-8").splitlines()
    assert len(texts) == len(lines) > 40
    vocabulary = _open(path).vocabulary
    for text, line in zip(texts, lines, strict=True):
        assert vocabulary.tokenize(text, add_special=False) == list(map(int, line.split())), text


# ---- there and back ----------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=" \t\n\r'.,019aàé中😀\u200d\ufeff\u00a0<|>_", max_size=60),
    st.lists(st.sampled_from(["the", " quick", "  ", "\n\n", "don't", "12345", "🦙"])).map("".join),
)


def normalised(vocabulary: Vocabulary, text: str) -> bytes:
    """What a vocabulary makes of a text before it cuts it: SentencePiece puts a space in front."""
    data = text.encode()
    return b" " + data if vocabulary.kind == "spm" and data else data


@settings(
    max_examples=scaled(150, 500),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=TEXTS)
def test_text_comes_back_as_the_vocabulary_normalises_it(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.tokenize(text, add_special=False)
    assert vocabulary.detokenize(tokens, special=True) == normalised(vocabulary, text)


@settings(
    max_examples=scaled(50, 150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_pieces_concatenate(vocabulary: Vocabulary, data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, vocabulary.size - 1), max_size=12)
    a, b = data.draw(ids), data.draw(ids)
    assert vocabulary.detokenize(a + b) == vocabulary.detokenize(a) + vocabulary.detokenize(b)


def test_control_tokens_are_hidden_unless_asked_for(vocabulary: Vocabulary) -> None:
    controls = [token for token in (vocabulary.bos, vocabulary.eos) if token is not None]
    assert vocabulary.detokenize(controls) == b""
    assert vocabulary.detokenize(controls, special=True)


def test_text_that_is_not_utf8_is_tokenized_all_the_same(vocabulary: Vocabulary) -> None:
    for data in (b"\xff\xfe", b"a\x00b", b"\xc3(", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"):
        tokens = vocabulary.tokenize(data, add_special=False)
        assert tokens
        assert all(0 <= token < vocabulary.size for token in tokens)
    assert vocabulary.tokenize("\udcff") == vocabulary.tokenize(b"\xff")


def test_an_empty_text_has_no_tokens_of_its_own(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize("", add_special=False) == []


def test_special_tokens_are_parsed_only_when_asked(vocabulary: Vocabulary) -> None:
    eos = vocabulary.eos
    assert eos is not None
    text = vocabulary.text(eos)
    assert vocabulary.tokenize(text, add_special=False, parse_special=True)[-1] == eos
    assert eos not in vocabulary.tokenize(text, add_special=False)


# ---- refusals ----------------------------------------------------------------------------------


def test_ids_outside_of_the_vocabulary_are_refused(vocabulary: Vocabulary) -> None:
    for token in (-1, vocabulary.size, 2**31):
        with pytest.raises(InvalidToken, match=str(vocabulary.size - 1)):
            vocabulary.detokenize([token])


def test_text_beyond_the_limit_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidRequest, match="split it"):
        vocabulary.tokenize(b"a" * (MAX_TEXT_BYTES + 1))


def test_half_a_surrogate_pair_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidRequest, match="UTF-8"):
        vocabulary.tokenize("\ud800")


def test_what_cannot_fit_is_refused_without_tokenizing_it(vocabulary: Vocabulary) -> None:
    text = b"word " * 12_000_000
    with pytest.raises(ContextOverflow, match="at least"):
        vocabulary.require_fits(text, 4096)
    vocabulary.require_fits(text, len(text))
    vocabulary.require_fits(b"short", 1)


# ---- what could take the process down ----------------------------------------------------------

FUZZ = """
import random, sys
from samovar.native.model import Model, ModelOptions
rng = random.Random(7)
vocabulary = Model(sys.argv[1], ModelOptions(vocab_only=True)).vocabulary
texts = [vocabulary.text(t).encode() for t in range(0, vocabulary.size, vocabulary.size // 100)]
for _ in range(int(sys.argv[2])):
    parts = [rng.randbytes(rng.randrange(12)), rng.choice(texts), b" " * rng.randrange(9)]
    rng.shuffle(parts)
    for special in (True, False):
        ids = vocabulary.tokenize(b"".join(parts), add_special=special, parse_special=special)
        vocabulary.detokenize(ids)
print("alive")
"""


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
def test_random_bytes_take_nothing_down(path: Path) -> None:
    command = [sys.executable, "-c", FUZZ, str(path), str(scaled(500, 5_000))]
    done = subprocess.run(command, capture_output=True, timeout=280, check=False, cwd=ROOT)
    assert done.stdout == b"alive\n", done.stderr.decode()


LARGE = """
import sys
from samovar.native.model import Model, ModelOptions
vocabulary = Model(sys.argv[1], ModelOptions(vocab_only=True)).vocabulary
data = (sys.argv[3].encode() * int(sys.argv[2]))[: int(sys.argv[2])]
ids = vocabulary.tokenize(data, add_special=False)
assert vocabulary.detokenize(ids).lstrip(b" ") == data
print(len(ids))
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("text", ["the quick brown fox. ", "a"], ids=["prose", "one letter"])
@pytest.mark.parametrize("path", COVERING, ids=lambda p: p.stem)
def test_a_very_long_text_is_tokenized(path: Path, text: str) -> None:
    size = scaled(300_000, 60 * 10**6)
    command = [sys.executable, "-c", LARGE, str(path), str(size), text]
    done = subprocess.run(command, capture_output=True, timeout=1100, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert size / 200 < int(done.stdout) <= size
