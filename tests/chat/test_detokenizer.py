"""Bytes to text: never half a character, and the same text however the bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.chat.detokenizer import Detokenizer
from tests.conftest import scaled

# Whole characters of every length, and bytes that are none.
PIECES = [b"a", "é".encode(), "€".encode(), "🦊".encode(), b"\xff", b"\xc3", b"\xe2\x82", b"\x80"]

texts = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@st.composite
def bytes_in_pieces(draw: st.DrawFn) -> list[bytes]:
    data = draw(st.one_of(texts, st.binary(max_size=30)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=10)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=scaled(500, 30_000), database=None, deadline=None)
@given(bytes_in_pieces())
def test_any_split_of_the_bytes_gives_the_text_of_the_whole(pieces: list[bytes]) -> None:
    made = Detokenizer()
    text = "".join(map(made.feed, pieces)) + made.flush()
    assert text == b"".join(pieces).decode("utf-8", "replace")


@settings(max_examples=scaled(300, 10_000), database=None, deadline=None)
@given(bytes_in_pieces())
def test_what_is_told_is_never_taken_back(pieces: list[bytes]) -> None:
    """At every moment the text is the beginning of what the whole will be."""
    made, told = Detokenizer(), ""
    whole = b"".join(pieces).decode("utf-8", "replace")
    for piece in pieces:
        told += made.feed(piece)
        assert whole.startswith(told)


@pytest.mark.parametrize("letter", ["é", "€", "🦊"])
def test_a_character_comes_with_its_last_byte(letter: str) -> None:
    made = Detokenizer()
    *firsts, last = letter.encode()
    assert [made.feed(bytes([byte])) for byte in firsts] == [""] * len(firsts)
    assert made.feed(bytes([last])) == letter


def test_whole_characters_are_not_held_back() -> None:
    assert Detokenizer().feed("añ€🦊".encode()) == "añ€🦊"


def test_a_character_that_is_never_completed_becomes_one_replacement() -> None:
    made = Detokenizer()
    assert made.feed("x🦊".encode()[:-1]) == "x"
    assert made.flush() == "\ufffd"
    assert made.flush() == ""


def test_after_the_end_it_begins_anew() -> None:
    made = Detokenizer()
    made.feed(b"\xe2\x82")
    made.flush()
    assert made.feed(b"\xac") == "\ufffd"
