"""Turns: every id in one delta, whatever the steps; what was told depends on the ids alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.chat.families import FAMILIES, NONE
from samovar.chat.shapes import Family
from samovar.chat.turn import PLAIN, Budget, Turn, TurnForm, shown_tokens
from samovar.types import (
    Event,
    ReasoningDelta,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
)
from tests.chat.turns import TOOLS
from tests.conftest import scaled

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"town": "Łódź <tool>"}}\n</tool_call>'
TEXTS = [
    f"<think>\nIt is raining, I think.\n</think>\n\nLet me look.\n{CALL}\n{CALL}",
    f"{CALL}",
    "<think>cut off in the mid",
    f"Words, then {CALL[:40]}",
    "Just words <think> and </think> of them <tool_call> no call",
    "<think>\n\n</think>\n\n  blanks   \n\n\n and more \n\n",
    "",
]
HERMES = FAMILIES["hermes"]
FORM = TurnForm(HERMES, tuple(TOOLS))


def cut(text: str, places: list[int]) -> list[str]:
    """A text in pieces: what the tokens are."""
    ends = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


def logprobs(token: int) -> TokenLogprobs:
    return TokenLogprobs(token, -float(token))


def told(turn: Turn, pieces: list[str], first: int, takes: set[int]) -> list[Event]:
    """What a turn tells of tokens whose texts are these; it is looked at after some of them."""
    events: list[Event] = []
    for number, piece in enumerate(pieces, first):
        turn.hear(number, piece, logprobs(number))
        if number in takes:
            events += turn.take()
    return events


def joined(events: list[Event]) -> list[tuple[str, str]]:
    """The events, neighbours of a kind as one, without those that say nothing."""
    found: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            found.append((f"{event.call} {event.name}", event.arguments))
        elif isinstance(event, TextDelta | ReasoningDelta) and event.text:
            kind = "text" if isinstance(event, TextDelta) else "reasoning"
            if found and found[-1][0] == kind:
                found[-1] = (kind, found[-1][1] + event.text)
            else:
                found.append((kind, event.text))
    return found


def ids(events: list[Event]) -> list[int]:
    return [
        token
        for event in events
        if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)
        for token in event.tokens
    ]


def whole(form: TurnForm, text: str) -> list[tuple[str, str]]:
    turn = form.begin("r", 0)
    turn.hear(0, text)
    turn.end("")
    return joined(turn.take())


places = st.lists(st.integers(0, 2000), max_size=40)
takes = st.sets(st.integers(0, 40))
forms = st.sampled_from(
    [FORM, PLAIN, TurnForm(HERMES), TurnForm(HERMES, tuple(TOOLS), starts_in_reasoning=True)]
)


@settings(max_examples=scaled(150, 3000), deadline=None)
@given(text=st.sampled_from(TEXTS), places=places, takes=takes, form=forms)
def test_every_id_is_told_once_in_order_and_the_same_is_told_of_any_pieces(
    text: str, places: list[int], takes: set[int], form: TurnForm
) -> None:
    pieces = cut(text, places)
    turn = form.begin("r", 0)
    events = told(turn, pieces, 0, takes)
    turn.end("")
    events += turn.take()
    assert ids(events) == list(range(len(pieces)))
    assert joined(events) == whole(form, text)


@settings(max_examples=scaled(150, 3000), deadline=None)
@given(text=st.sampled_from(TEXTS), places=places, at=st.integers(0, 41), form=forms)
def test_who_comes_later_and_drops_what_was_told_tells_the_rest(
    text: str, places: list[int], at: int, form: TurnForm
) -> None:
    pieces = cut(text, places)
    at = min(at, len(pieces))
    every = set(range(len(pieces)))
    one, other = form.begin("r", 0), form.begin("r", 0)
    told(one, pieces[:at], 0, every)
    told(other, pieces[:at], 0, set())
    other.take()
    rests = []
    for turn in (one, other):
        rest = told(turn, pieces[at:], at, every)
        turn.end("")
        rests.append([*rest, *turn.take()])
    assert joined(rests[0]) == joined(rests[1])
    assert ids(rests[0]) == ids(rests[1]) == list(range(at, len(pieces)))
    assert one.has_calls == other.has_calls


STOPS = [
    ("rain",),
    ("look", "Words"),
    ("et me", "me look.\n"),
    ("town", "tool"),
    ("\n\n",),
    ("zz",),
]


def stopped(
    form: TurnForm, pieces: list[str], stop: tuple[str, ...], takes: set[int]
) -> tuple[list[Event], Turn, int]:
    """What a turn tells until it comes to a stop string, and of how many tokens."""
    turn = form.begin("r", 0, stop)
    events: list[Event] = []
    count = 0
    for count, piece in enumerate(pieces, 1):
        events += told(turn, [piece], count - 1, takes)
        if turn.stop is not None:
            break
    turn.end("")
    return events + turn.take(), turn, count


def cut_at_a_stop(
    said: list[tuple[str, str]], stops: tuple[str, ...]
) -> tuple[list[tuple[str, str]], str | None]:
    """What may be told of all that was said, letter by letter."""
    found: list[tuple[str, str]] = []
    for kind, text in said:
        for end in range(1, len(text) + 1) if kind == "text" else ():
            ended = [stop for stop in stops if text[:end].endswith(stop)]
            if ended:
                stop = max(ended, key=len)
                before = text[: end - len(stop)]
                return [*found, *([(kind, before)] if before else [])], stop
        found.append((kind, text))
    return found, None


@settings(max_examples=scaled(200, 4000), deadline=None)
@given(
    text=st.sampled_from(TEXTS), places=places, takes=takes, form=forms, stop=st.sampled_from(STOPS)
)
def test_stop_strings_count_in_content_only_in_any_pieces(
    text: str, places: list[int], takes: set[int], form: TurnForm, stop: tuple[str, ...]
) -> None:
    events, turn, count = stopped(form, cut(text, places), stop, takes)
    assert ids(events) == list(range(count))
    assert (joined(events), turn.stop) == cut_at_a_stop(whole(form, text), stop)


def test_a_stop_string_across_tokens_is_found_with_the_one_that_completes_it() -> None:
    pieces = ["<think>stop here</think>", "Go on, st", "op ", "here", " and", " there"]
    events, turn, count = stopped(FORM, pieces, ("stop here",), set())
    assert (turn.stop, count) == ("stop here", 4)
    assert joined(events) == [("reasoning", "stop here"), ("text", "Go on, ")]


def test_content_that_was_held_back_comes_before_the_call_and_with_its_scores() -> None:
    turn = FORM.begin("r", 0, ("me see",))
    for token, text in enumerate(["Let", " me", CALL]):
        turn.hear(token, text, logprobs(token))
    turn.end("")
    text, call = turn.take()
    assert text == TextDelta("r", "Let me", (0, 1), 0, (logprobs(0), logprobs(1)))
    assert isinstance(call, ToolCallDelta)
    assert call.tokens == (2,)


def test_a_call_says_its_name_and_its_number() -> None:
    turn = FORM.begin("r", 3)
    turn.hear(0, CALL)
    turn.hear(1, CALL)
    turn.end("")
    calls = [event for event in turn.take() if isinstance(event, ToolCallDelta)]
    assert [(one.call, one.name, one.choice) for one in calls] == [
        (0, "get_weather", 3),
        (1, "get_weather", 3),
    ]
    assert turn.has_calls


def test_what_is_held_back_is_told_under_its_kind_once_it_is_sure() -> None:
    turn = FORM.begin("r", 0)
    turn.hear(1, "<thi")
    assert turn.take() == [TextDelta("r", "", (1,))]
    turn.hear(2, "nk>So ")
    turn.hear(3, "it")
    assert turn.take() == [ReasoningDelta("r", "So it", (2, 3))]
    turn.hear(4, "</thi")
    assert turn.take() == [ReasoningDelta("r", "", (4,))]
    turn.end("")
    assert turn.take() == [ReasoningDelta("r", "</thi", ())]


def test_log_probabilities_go_with_text_and_not_with_markers_and_calls() -> None:
    turn = FORM.begin("r", 0)
    for token, text in enumerate(["<think>", "So", "</think>", "A <", "b", CALL]):
        turn.hear(token, text, logprobs(token))
    turn.end("")
    scores = {type(event): event for event in turn.take()}
    assert [one.token for one in scores[ReasoningDelta].logprobs] == [1]  # type: ignore[union-attr]
    assert [one.token for one in scores[TextDelta].logprobs] == [3, 4]  # type: ignore[union-attr]


def test_without_a_family_everything_is_text_with_its_scores() -> None:
    turn = PLAIN.begin("r", 0)
    turn.hear(7, "<think>", logprobs(7))
    turn.hear(8, "", logprobs(8))
    assert turn.take() == [TextDelta("r", "<think>", (7, 8), 0, (logprobs(7), logprobs(8)))]
    turn.end("x")
    assert turn.take() == [TextDelta("r", "x", ())]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_reasoning_that_has_used_up_its_tokens_is_closed(limit: int) -> None:
    form = TurnForm(HERMES, budget=Budget(limit, (90, 91)), starts_in_reasoning=True)
    turn = form.begin("r", 0)
    for token in range(limit):
        assert not turn.forced()
        turn.hear(token, "so ")
    assert turn.forced() == (90, 91)
    turn.hear(90, "</think>")
    turn.hear(91, "\n\n")
    assert not turn.forced()
    turn.hear(5, "Yes")
    assert not turn.forced()


def test_a_marker_that_may_be_closing_reasoning_is_waited_for_but_not_for_ever() -> None:
    form = TurnForm(HERMES, budget=Budget(1, (90,)), starts_in_reasoning=True)
    turn = form.begin("r", 0)
    turn.hear(0, "so")
    turn.hear(1, "</")
    assert not turn.forced()
    for token in range(20):
        turn.hear(token, "<")
    assert turn.forced()


def test_an_answer_that_has_begun_has_no_reasoning_before_it() -> None:
    turn = TurnForm(HERMES, has_begun=True).begin("r", 0)
    turn.hear(0, "<think>x</think>")
    turn.end("")
    assert joined(turn.take()) == [("text", "<think>x</think>")]


def test_control_tokens_show_where_the_family_writes_them() -> None:
    tokens = {"<tool_call>": 1, "<|im_end|>": 2, "</think>": 3, '<|"|>': 4}
    assert shown_tokens(HERMES, tokens) == {1, 3}
    assert shown_tokens(FAMILIES["gemma4"], tokens) == {4}
    assert shown_tokens(NONE, tokens) == frozenset()
    assert shown_tokens(Family("none"), {}) == frozenset()
