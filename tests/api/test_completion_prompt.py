"""Prompts that are said again with scores: which part of the text each token is."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.api.openai.chat_output import Head
from samovar.api.openai.completion_output import CompletionEncoder, CompletionForm
from samovar.api.openai.completion_prompt import told_prompt
from samovar.types import Choice, Event, Finished, PromptScores, TextDelta, TokenLogprobs, Usage
from tests.conftest import scaled

BOS = 0


@settings(max_examples=scaled(200, 5000), deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    places=st.lists(st.integers(0, 80), max_size=12),
    has_start=st.booleans(),
    has_blank=st.booleans(),
)
def test_the_parts_of_all_tokens_are_the_text(
    text: str, places: list[int], *, has_start: bool, has_blank: bool
) -> None:
    data = (" " if has_blank else "").encode() + text.encode()
    ends = sorted({0, len(data), *(place % len(data) for place in places)})
    cut = [data[a:b] for a, b in pairwise(ends)]
    pieces = {BOS: b"<s>", **dict(enumerate(cut, 1))}
    tokens = [*([BOS] if has_start else []), *range(1, len(cut) + 1)]
    told = told_prompt(text, tokens, pieces, {BOS})
    assert "".join(told.part(i, i + 1) for i in range(len(tokens))) == text
    begun = 0 if has_start else None
    for at, token in enumerate(tokens):
        before = b"".join(pieces[one] for one in tokens[:at] if one != BOS)
        sure = len(before.decode("utf-8", "ignore")) - has_blank
        assert told.offsets[at] == (begun if token == BOS else max(0, sure))


def test_a_token_that_is_part_of_a_character_is_where_the_character_is() -> None:
    pieces = {1: b"a\xc3", 2: b"\xa9", 3: b"b", BOS: b"<s>"}
    told = told_prompt("a\u00e9b", (BOS, 1, 2, 3), pieces, {BOS})
    assert told.offsets == (0, 0, 1, 2, 3)
    scores = [TokenLogprobs(token, -1.0, ((token, -1.0),)) for token in (1, 2, 3)]
    found = told.logprobs(0, scores, pieces)
    assert found.tokens == ["<s>", "a\ufffd", "\ufffd", "b"]
    assert found.token_logprobs == [None, -1.0, -1.0, -1.0]
    assert found.top_logprobs == [None, {"a\ufffd": -1.0}, {"\ufffd": -1.0}, {"b": -1.0}]
    assert found.text_offset == [0, 0, 1, 2]


def test_a_stream_tells_a_prompt_as_its_scores_come_and_one_without_any_too() -> None:
    pieces = {1: b"one", 2: b" two", 3: b" three", 4: b"!"}
    told = (
        told_prompt("one two three", (1, 2, 3), pieces, ()),
        told_prompt("one", (1,), pieces, ()),
    )
    form = CompletionForm(("a", "b"), echoes=("one two three", "one"), pieces=pieces, prompts=told)
    encoder = CompletionEncoder(Head("id", 1, "m"), form)
    end = (Choice("length", 0),)
    events: list[Event] = [
        PromptScores("a", 1, (TokenLogprobs(2, -2.0),)),
        PromptScores("a", 2, (TokenLogprobs(3, -3.0),)),
        TextDelta("b", "!", (4,), 0, (TokenLogprobs(4, -4.0),)),
        TextDelta("a", "!", (4,), 0, (TokenLogprobs(4, -5.0),)),
        Finished("b", end, Usage(1, 1)),
        Finished("a", end, Usage(3, 1)),
    ]
    lines = b"".join(map(encoder.feed, events)).decode().split("\n\n")
    found = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
    said = [
        (one["index"], one["text"], one["logprobs"] and one["logprobs"]["token_logprobs"])
        for one in found
    ]
    assert said == [
        (0, "one two", [None, -2.0]),
        (0, " three", [-3.0]),
        (1, "one", [None]),
        (1, "!", [-4.0]),
        (0, "!", [-5.0]),
        (1, "", None),
        (0, "", None),
    ]
    offsets = [one["logprobs"]["text_offset"] for one in found if one["logprobs"]]
    assert offsets == [[0, 3], [7], [0], [3], [13]]
