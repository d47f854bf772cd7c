"""What tokenizing does to bytes, whatever they are, and what it costs at most."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_cpp.llama_cpp as ll
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmaker.gguf_file import general, text, write
from modelmaker.vocabularies import vocabulary_for
from samovar.errors import InvalidRequest, Released
from samovar.native.model import Model, ModelOptions
from samovar.native.vocabulary import MAX_TEXT_BYTES, Vocabulary
from tests.conftest import ROOT, Models, scaled, shared_vocabularies

REAL = shared_vocabularies()
OWN = ("own", "spm", "wpm")
MARKUP = "<think>"

hypothetical = settings(
    max_examples=scaled(40, 300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@functools.lru_cache(maxsize=16)
def _open(path: Path) -> Model:
    return Model(path, ModelOptions(vocab_only=True))


def _path(models: Models, vocab: str | Path) -> Path:
    return (
        vocab if isinstance(vocab, Path) else models.vocabulary(None if vocab == "own" else vocab)
    )


@pytest.fixture(params=[*OWN, *REAL], ids=lambda p: getattr(p, "stem", p))
def vocabulary(request: pytest.FixtureRequest, models: Models) -> Vocabulary:
    """Every vocabulary there is."""
    return _open(_path(models, request.param)).vocabulary


def _of_kind(models: Models, kind: str) -> list[Vocabulary]:
    opened = [_open(_path(models, vocab)).vocabulary for vocab in (*OWN, *REAL)]
    return [vocabulary for vocabulary in opened if vocabulary.kind == kind]


def _in_a_child(code: str, *arguments: object, seconds: float = 280) -> str:
    """What Python code prints in a process of its own, which must survive it."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-800:]
    return done.stdout.decode()


# ---- bytes that are no text --------------------------------------------------------------------

NOT_UTF8 = (
    b"\xff",
    b"\x80",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\xa6",
    b"\xc0\x80",  # overlong
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xf4\x90\x80\x80",  # beyond U+10FFFF
    b"\xf7\xbf\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xe2 ",
    b"\xf0 \x80",
    b"\xe2\x96\x81\xe2\x96",  # what SentencePiece writes for a space, and half of it
)
MOSTLY_NOT_UTF8 = st.lists(
    st.one_of(st.binary(max_size=6), st.sampled_from([*NOT_UTF8, b"tea ", b"\x00", b"\n"]))
).map(b"".join)


@hypothetical
@given(data=MOSTLY_NOT_UTF8)
def test_what_is_not_utf8_is_read_as_replacement_characters(models: Models, data: bytes) -> None:
    readable = data.decode("utf-8", "replace")
    for vocab in (*OWN, *REAL):
        vocabulary = _open(_path(models, vocab)).vocabulary
        tokens = vocabulary.tokenize(data, add_special=False)
        assert tokens == vocabulary.tokenize(readable, add_special=False)
        if vocabulary.kind == "bpe":
            assert vocabulary.detokenize(tokens) == readable.encode()
        if vocabulary.kind == "spm" and data:
            assert vocabulary.detokenize(tokens) == f" {readable}".replace("\u2581", " ").encode()


SURVIVE = """
import sys
from samovar.native.model import Model, ModelOptions
for path in sys.argv[2:]:
    vocabulary = Model(path, ModelOptions(vocab_only=True)).vocabulary
    for data in eval(sys.argv[1]):
        for add in (True, False):
            for parse in (True, False):
                ids = vocabulary.tokenize(data, add_special=add, parse_special=parse)
                vocabulary.detokenize(ids, special=True)
print("alive")
"""


def test_no_bytes_end_the_process(models: Models) -> None:
    texts = [b"tea" + data + b"pot" for data in NOT_UTF8] + [
        b"\xf4\x90\x80\x80" * 300,
        b"\x00" * 99,
    ]
    paths = [_path(models, vocab) for vocab in (*OWN, *REAL)]
    assert _in_a_child(SURVIVE, repr(texts), *paths) == "alive\n"


def test_replacement_characters_count_towards_the_limit(models: Models) -> None:
    (vocabulary, *_) = _of_kind(models, "bpe")
    with pytest.raises(InvalidRequest, match="split it"):
        vocabulary.tokenize(b"\xff" * (MAX_TEXT_BYTES // 2))


# ---- what a vocabulary changes -----------------------------------------------------------------


def test_a_sentencepiece_vocabulary_reads_its_space_mark_as_a_space(models: Models) -> None:
    for vocabulary in _of_kind(models, "spm"):
        tokens = vocabulary.tokenize("a\u2581b", add_special=False)
        assert vocabulary.detokenize(tokens) == b" a b"
    for vocabulary in _of_kind(models, "bpe"):
        tokens = vocabulary.tokenize("a\u2581b", add_special=False)
        assert vocabulary.detokenize(tokens) == "a\u2581b".encode()


@pytest.mark.parametrize(
    ("vocab", "expected"), [("own", b"tea<think>pot"), ("spm", b" tea<think> pot")]
)
def test_markup_is_recognised_in_any_text(models: Models, vocab: str, expected: bytes) -> None:
    vocabulary = _open(_path(models, vocab)).vocabulary
    (markup,) = vocabulary.tokenize(MARKUP, add_special=False)
    for parse in (True, False):
        tokens = vocabulary.tokenize(f"tea{MARKUP}pot", add_special=False, parse_special=parse)
        assert markup in tokens
        assert vocabulary.detokenize(tokens) == expected


def test_control_tokens_written_out_stay_text(vocabulary: Vocabulary) -> None:
    controls = {token for token in range(vocabulary.size) if vocabulary.piece(token) == b""}
    for name in vocabulary.control_texts:
        for around in ("{}", "x{}y", " {} ", "\n{}\n", "{0}{0}{0}"):
            tokens = vocabulary.tokenize(around.format(name), add_special=False)
            assert not controls.intersection(tokens), around.format(name)
    for name in vocabulary.control_texts[:50]:
        assert vocabulary.tokenize(name, add_special=False, parse_special=True)[-1] in controls


def test_a_closed_model_answers_released(models: Models) -> None:
    model = Model(models.vocabulary(), ModelOptions(vocab_only=True))
    model.close()
    vocabulary = model.vocabulary
    for use in (
        lambda: vocabulary.tokenize("tea"),
        lambda: vocabulary.detokenize([1]),
        lambda: vocabulary.is_eog(1),
        lambda: vocabulary.text(1),
        lambda: vocabulary.eog_tokens,
        lambda: vocabulary.control_texts,
        lambda: vocabulary.bos,
    ):
        with pytest.raises(Released):
            use()


# ---- long texts --------------------------------------------------------------------------------

WORDS = (
    *("the", "Hello", "don't", "we'LL", "42", "3.14", "2024-01-02", "foo_bar", "CamelCase"),
    *("http://x.y/z?a=b", "x=y+z;", "/*c*/", "###", "<think>", "</think>", "<|im_start|>", "<s>"),
    *("na\u00efve", "\u041f\u0440\u0438\u0432\u0435\u0442", "\u6f22\u5b57\u304b\u306a"),
    *("\ud55c\uad6d\uc5b4", "\u0e2a\u0e27\u0e31\u0e2a", "\u0939\u093f\u0928\u094d\u0926\u0940"),
    *("\U0001f999", "\u2014", "\u201cso\u201d", "\uff12\uff10", "a\u0301", "\u00a0", "\u00b2"),
)
GAPS = (
    *([" "] * 9 + ["\n"] * 3),
    *("\n\n", "  ", "\t", ". ", "\u3002", "\n\u3000\u3000", " \n", "\r\n", ".\n", "\u3002\n"),
    *("   ", "\u3000", "\n ", "\n\n\n", "/\n", "!\n/"),
)


def _mixed_text(seed: int) -> str:
    rng = np.random.default_rng(seed)
    words, gaps = rng.integers(len(WORDS), size=3000), rng.integers(len(GAPS), size=3000)
    return "".join(WORDS[w] + GAPS[g] for w, g in zip(words, gaps, strict=True))


def _whole(vocabulary: Vocabulary, data: bytes, *, add: bool, parse: bool) -> list[int]:
    """The ids by llama.cpp itself, in one call."""
    ids = np.empty(len(data) + 8, np.int32)
    target = ids.ctypes.data_as(ll.llama_token_p)
    count = ll.llama_tokenize(vocabulary.pointer, data, len(data), target, len(ids), add, parse)
    return ids[:count].tolist()


@pytest.mark.parametrize("seed", range(scaled(2, 10)))
def test_a_long_text_has_the_ids_that_llama_cpp_gives_it_whole(
    vocabulary: Vocabulary, seed: int
) -> None:
    long = _mixed_text(seed)
    assert len(long.encode()) > 2 * 8192
    for add, parse in ((True, True), (True, False), (False, True), (False, False)):
        expected = _whole(vocabulary, long.encode(), add=add, parse=parse)
        assert vocabulary.tokenize(long, add_special=add, parse_special=parse) == expected


# Names that llama.cpp gives to ways of splitting a text, most of them with std::regex.
SPLITS = ("default", "deepseek-v3", "gpt-4o", "tekken", "falcon", "bloom", "minimax-m2", "qwen2")


def _vocabulary_that_splits(folder: Path, split: str) -> Path:
    path = folder / f"{split}.gguf"
    words = dict(vocabulary_for("bpe", 512).metadata) | {"tokenizer.ggml.pre": text(split)}
    write(path, "llama", general("vocabulary", None) | words, [])
    return path


@pytest.mark.parametrize("split", SPLITS)
def test_every_way_of_splitting_gives_the_ids_of_the_whole(tmp_path: Path, split: str) -> None:
    vocabulary = Model(
        _vocabulary_that_splits(tmp_path, split), ModelOptions(vocab_only=True)
    ).vocabulary
    long = _mixed_text(7)
    expected = _whole(vocabulary, long.encode(), add=False, parse=False)
    assert vocabulary.tokenize(long, add_special=False) == expected


def test_a_word_of_any_length_leaves_the_stack_alone(tmp_path: Path) -> None:
    # llama.cpp by itself recurses once per character: 38,000 of them end the process.
    paths = [_vocabulary_that_splits(tmp_path, split) for split in SPLITS]
    texts = [letter.encode() * scaled(45_000, 1_000_000) for letter in ("a", "!", "\u6f22", "\n")]
    code = SURVIVE.replace("(True, False)", "(False,)").replace(
        "special=True)", "special=True) == data or exit(str(path))"
    )
    file = tmp_path / "texts"
    file.write_text(repr(texts))
    code = code.replace("eval(sys.argv[1])", "eval(open(sys.argv[1]).read())")
    assert _in_a_child(code, file, *paths) == "alive\n"


@pytest.mark.parametrize("vocab", ["own", "spm"])
def test_special_tokens_take_time_by_their_number_and_not_its_square(
    models: Models, vocab: str
) -> None:
    # All of it in one call to llama.cpp takes more than a minute.
    code = """
import sys, time
from samovar.native.model import Model, ModelOptions
vocabulary = Model(sys.argv[1], ModelOptions(vocab_only=True)).vocabulary
text = "<think>" * 140_000
started = time.process_time()
ids = vocabulary.tokenize(text, add_special=False)
assert time.process_time() - started < 15, time.process_time() - started
assert len(ids) == 140_000 and len(set(ids)) == 1
"""
    _in_a_child(code, _path(models, vocab))


MEASURED = """
import json, resource, sys, time
from samovar.native.model import Model, ModelOptions
vocabulary = Model(sys.argv[1], ModelOptions(vocab_only=True)).vocabulary
size = int(sys.argv[2])
data = (sys.argv[3].encode() * (size // len(sys.argv[3].encode()) + 1))[:size]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.monotonic()
count = len(vocabulary.tokenize(data, add_special=False))
seconds = time.monotonic() - started
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"tokens": count, "seconds": seconds, "bytes": (after - before) * 1024}))
"""
PROSE = "The quick brown fox, 42 samovars, some tea; na\u00efve caf\u00e9 \u2014 and so on.\n"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("letters", [PROSE, "a"], ids=["prose", "one letter"])
@pytest.mark.parametrize(
    "vocab",
    ["own", "spm", *(path for path in REAL if scaled(0, 1) and "bert" not in path.name)],
    ids=lambda vocab: getattr(vocab, "stem", vocab),
)
def test_tokenizing_takes_memory_in_proportion(
    models: Models, vocab: str | Path, letters: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = scaled(1, 60) * 10**6
    path = _path(models, vocab)
    figures = json.loads(_in_a_child(MEASURED, path, size, letters, seconds=1100))
    if scaled(0, 1):
        with capsys.disabled():
            sys.stdout.write(f"\n{path.stem}, {size} bytes: {figures} ")
    # An id is 8 bytes in a list and 28 as a number; a byte of a SentencePiece text takes 50.
    per_byte = 110 if _open(path).vocabulary.kind == "spm" else 40
    assert figures["bytes"] < 64 * 2**20 + per_byte * size, figures


# ---- from several threads ----------------------------------------------------------------------


def test_threads_that_ask_for_pieces_at_once_get_their_own(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grammars are compiled and text is written on other threads than the one that computes."""
    expected = _pieces(_open(_path(models, "own")).vocabulary)
    native = ll.llama_token_to_piece

    def and_let_others_run(*arguments: object) -> int:
        length = int(native(*arguments))
        time.sleep(0)
        return length

    monkeypatch.setattr(ll, "llama_token_to_piece", and_let_others_run)
    for _ in range(scaled(3, 100)):
        vocabulary = Model(_path(models, "own"), ModelOptions(vocab_only=True)).vocabulary
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(_pieces, vocabulary) for _ in range(4)]
        assert all(pieces.result() == expected for pieces in asked)


def _pieces(vocabulary: Vocabulary) -> list[bytes]:
    return [vocabulary.piece(token) for token in range(200)]
