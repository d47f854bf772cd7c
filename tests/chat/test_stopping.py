"""Stop strings: the same one is found and the same text passes however it comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.chat.stopping import Passed, StopStrings
from tests.conftest import scaled


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Letter by letter: the first stop that is complete, of two that end together the longer."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end - len(stop)], stop
    return text, None


def passed(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    """All that passes, and what ended it."""
    made, text, stop = StopStrings(stops), "", None
    for piece in pieces:
        result = made.feed(piece)
        text += result.text
        assert stop is None or (result.text, result.stop) == ("", stop)
        stop = result.stop
    return text + made.flush(), stop


@st.composite
def texts_in_pieces(draw: st.DrawFn) -> list[str]:
    text = draw(st.text("ab", max_size=30))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=scaled(500, 30_000), database=None, deadline=None)
@given(texts_in_pieces(), st.lists(st.text("ab", min_size=1, max_size=6), max_size=5))
def test_any_split_of_a_text_gives_what_the_whole_gives(
    pieces: list[str], stops: list[str]
) -> None:
    assert passed(pieces, stops) == naive("".join(pieces), stops)


@settings(max_examples=scaled(200, 10_000), database=None, deadline=None)
@given(texts_in_pieces(), st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=5))
def test_no_more_is_held_back_than_may_become_a_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    made, whole, told = StopStrings(stops), "", ""
    for piece in pieces:
        whole += piece
        result = made.feed(piece)
        told += result.text
        if result.stop is not None:
            return
        held = whole[len(told) :]
        assert whole == told + held
        assert not held or any(stop.startswith(held) for stop in stops)


OVERLAPPING = [
    pytest.param(["abc", "b"], "xabcx", "xa", "b", id="the shorter one inside is complete first"),
    pytest.param(["abc", "bc"], "xabcx", "x", "abc", id="of two that end together the longer one"),
    pytest.param(["ab", "abc"], "xabcx", "x", "ab", id="the beginning of another one"),
    pytest.param(["aab"], "aaab", "a", "aab", id="one that begins again within itself"),
    pytest.param(["abab"], "ababab", "", "abab", id="one that overlaps itself"),
    pytest.param(["bb", "ab"], "aabb", "a", "ab", id="two that overlap"),
    pytest.param(["a", "a"], "ba", "b", "a", id="the same one twice"),
    pytest.param([".*"], "x.*", "x", ".*", id="what means something in a pattern"),
    pytest.param(["\n\n"], "x\n\ny", "x", "\n\n", id="newlines"),
    pytest.param(["zz"], "xyz", "xyz", None, id="half of one at the end"),
]


@pytest.mark.parametrize(("stops", "text", "told", "stop"), OVERLAPPING)
def test_of_stop_strings_that_overlap(
    stops: list[str], text: str, told: str, stop: str | None
) -> None:
    assert passed([text], stops) == (told, stop)
    assert passed(list(text), stops) == (told, stop)


def test_after_a_stop_string_everything_is_swallowed() -> None:
    made = StopStrings(["x"])
    assert made.feed("axb") == Passed("a", "x")
    assert made.feed("more") == Passed("", "x")
    assert made.flush() == ""


def test_without_stop_strings_everything_passes_at_once() -> None:
    made = StopStrings()
    assert made.feed("anything") == Passed("anything")
    assert made.flush() == ""
