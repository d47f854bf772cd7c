"""What a choice has said, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.output import Ending, Output, Said
from samovar.native.weightless import EOS
from tests.conftest import scaled
from tests.engine.builders import cut, request


def pieces(tokens: Sequence[int]) -> bytes:
    """A token is its byte."""
    return bytes(token for token in tokens if token < 256)


def output(*stop: str, stop_tokens: Sequence[int] = ()) -> Output:
    return Output(pieces, stop, stop_tokens)


def feed(made: Output, text: str | bytes) -> list[Said]:
    data = text.encode() if isinstance(text, str) else text
    return [made.feed(token, is_eog=False) for token in data]


def test_text_comes_as_soon_as_it_is_sure() -> None:
    assert [said.text for said in feed(output("abd"), "xabcx")] == ["x", "", "", "abc", "x"]


def test_half_a_character_is_held_back() -> None:
    assert [said.text for said in feed(output(), "é€")] == ["", "é", "", "", "€"]


def test_a_stop_string_ends_the_text_before_it() -> None:
    made = output("ab", "€")
    assert feed(made, "xxa")[-1] == Said("")
    assert feed(made, "b")[-1] == Said("", Ending("stop", "ab"))
    assert feed(output("€"), "x€")[-1] == Said("", Ending("stop", "€"))


def test_the_end_of_generation_says_what_was_held_back_and_nothing_of_itself() -> None:
    made = output("ab")
    feed(made, "xa")
    assert made.feed(EOS, is_eog=True) == Said("a", Ending("stop"))


def test_a_stop_token_is_named_and_says_nothing() -> None:
    made = output(stop_tokens=[ord("b"), EOS])
    assert feed(made, "ab") == [Said("a"), Said("", Ending("stop", ord("b")))]
    assert made.feed(EOS, is_eog=True) == Said("", Ending("stop", EOS))


def test_what_was_never_completed_is_a_replacement_character_at_the_end() -> None:
    made = output()
    assert feed(made, "x€".encode()[:-1])[-1] == Said("")
    assert made.flush() == "\ufffd"
    assert made.flush() == ""


@settings(max_examples=scaled(300, 10_000), database=None, deadline=None)
@given(
    st.lists(st.sampled_from([*b"ab", *"é".encode(), *"€".encode(), 0xFF, EOS]), max_size=30),
    st.lists(st.sampled_from(["a", "ab", "ba", "bb", "é", "aé", "\ufffd", "€b"]), max_size=4),
    st.sampled_from([(), (ord("b"),)]),
)
def test_a_choice_says_what_looking_at_the_whole_text_says(
    tokens: list[int], stop: list[str], stop_tokens: tuple[int, ...]
) -> None:
    made, text, ending = output(*stop, stop_tokens=stop_tokens), "", None
    for token in tokens:
        said = made.feed(token, is_eog=token == EOS)
        text += said.text
        ending = said.ending
        if ending is not None:
            break
    text += made.flush()
    asked = request("a", stop=tuple(stop), stop_tokens=stop_tokens)
    whole = cut(tokens, asked)
    assert text == whole.text
    assert (ending is not None) == (whole.reason == "stop")
    assert (ending.stop if ending else None) == whole.stop


@pytest.mark.parametrize("stop", ["é", "aé", "éa"])
def test_a_stop_string_may_lie_across_tokens(stop: str) -> None:
    texts = [said.text for said in feed(output(stop), f"b{stop}c")]
    assert "".join(texts) == "b"
