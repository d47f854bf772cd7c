"""The corpus: the same from a seed, right in every answer, apart from what is held out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

import pytest

from samovar.chat.messages import plain_messages, plain_tools
from tests.training.conftest import both_sides, conversations, exchanges, made
from training import scoring
from training.corpus import (
    mixture,
    questions,
    schemas,
    stories,
    talk,
    tools,
    words,
)
from training.corpus.document import (
    DIVIDER,
    END,
    START,
    Document,
    Story,
    prompt_text,
    segments,
    template,
)
from training.corpus.draw import Draw, is_held_out

# ---- the stream ---------------------------------------------------------------------------------


def test_a_seed_gives_the_same_documents_in_any_order() -> None:
    assert [mixture.document(3, number) for number in reversed(range(50))] == list(
        reversed(made()[:50])
    )
    assert mixture.document(4, 0) != mixture.document(3, 0)


def test_every_category_occurs_on_both_sides() -> None:
    assert {one.category for one in made()} == {one.category for one in made(held_out=True)}


def test_text_is_plain_ascii_and_its_formats_are_filled_in() -> None:
    for one in both_sides():
        text = mixture.words_of(one)
        assert text.isascii()
        assert not re.search(r"\{[a-z_]+\}", text), text


def test_articles_fit_their_nouns() -> None:
    for one in both_sides():
        if one.category in ("story", "story request", "reading", "question"):
            assert not re.search(r"\b[Aa] [aeiou]", mixture.words_of(one)), one
            assert not re.search(r"\b[Aa]n [^aeiou]", mixture.words_of(one)), one


def test_sentences_begin_with_capitals() -> None:
    for one in both_sides():
        if isinstance(one, Story):
            assert all(part[0].isupper() for part in re.split(r'(?<=[.!?]) (?=[^"])', one.text))


# ---- what is held out ---------------------------------------------------------------------------


def test_a_draw_stays_on_its_side() -> None:
    for side in (False, True):
        draw = Draw("x", held_out=side)
        drawn = [draw.fresh(lambda d=draw: (d.number(0, 99), d.number(0, 99))) for _ in range(200)]
        assert {is_held_out(pair) for pair in drawn} == {side}


def test_a_side_without_combinations_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no combination"):
        Draw("x").fresh(lambda: next(n for n in range(1000) if is_held_out(n)))


def _calls(documents: Iterable[Document]) -> set[str]:
    return {
        json.dumps(call)
        for one in conversations(documents)
        for message in one.messages
        if len(message.get("tool_calls", ())) == 1
        for call in message["tool_calls"]
    }


def _belongings(documents: Iterable[Document]) -> set[tuple[str, ...]]:
    texts = (question for question, _ in exchanges(documents))
    return {
        found for text in texts for found in re.findall(r"([A-Z]\w+) has an? \w+ (\w+)\.", text)
    }


def _facts(documents: Iterable[Document]) -> set[str]:
    return {
        one.messages[0]["content"] for one in conversations(documents) if one.category == "question"
    }


def _objects(documents: Iterable[Document]) -> set[str]:
    return {one.expected for one in conversations(documents) if one.category == "json"}


@pytest.mark.parametrize("combinations", [_calls, _belongings, _facts, _objects])
def test_nothing_held_out_is_trained_on(
    combinations: Callable[[Iterable[Document]], set[object]],
) -> None:
    trained, held_out = combinations(made()), combinations(made(held_out=True))
    assert held_out
    assert not trained & held_out


@pytest.mark.parametrize("first", mixture.BEGINNINGS[1:])
def test_the_later_parts_keep_to_their_side_of_the_line(first: int) -> None:
    documents = [mixture.document(1, first + number) for number in range(1500)]
    assert documents != [mixture.document(1, number) for number in range(1500)]
    for combinations in (_calls, _belongings, _facts, _objects):
        assert not combinations(documents) & combinations(made(held_out=True))


def test_of_several_people_everything_is_asked() -> None:
    for number in range(100):
        one = questions.readings(Draw(str(number)))
        text, answers = one.messages[0]["content"], one.messages[1]["content"]
        assert text.count("?") == answers.count(".") >= 2
        assert one.expected == answers


def test_who_it_is_is_asked_of_several() -> None:
    for number in range(100):
        question = questions.who(Draw(str(number))).messages[0]["content"]
        assert question.count(".") >= 2
        assert "Who " in question
        assert question.count("?") == 1


def test_casts_of_stories_are_held_out() -> None:
    for side in (False, True):
        for number in range(100):
            who = stories.cast(Draw(str(number), held_out=side))
            assert is_held_out((who.hero, who.thing, who.place)) is side


# ---- right answers ------------------------------------------------------------------------------


def test_readings_are_answered_from_their_text() -> None:
    for number in range(500):
        one = questions.reading(Draw(str(number)))
        question, answer = (message["content"] for message in one.messages)
        told = [part for part in re.split(r"(?<=\.)\s", question) if part.endswith(".")]
        name = next(name for name in words.NAMES if re.search(rf"\b{name}\b", answer))
        about = [part for part in told if re.search(rf"\b{name}\b", part)]
        assert len(about) == 1
        assert one.expected in about[0]


def test_what_is_remembered_was_told() -> None:
    for number in range(200):
        one = talk.memory(Draw(str(number)), mixture.short)
        told = " ".join(str(m["content"]) for m in one.messages[:-1] if m["role"] == "user")
        assert scoring.says(told, one.expected)
        assert scoring.says(one.messages[-1]["content"], one.expected)


def test_nothing_is_remembered_that_was_not_told() -> None:
    for number in range(100):
        one = talk.not_told(Draw(str(number)), mixture.short)
        assert "My name" not in str(one.messages)
        assert one.messages[-1]["content"].startswith("You have not told me")


# ---- functions and JSON -------------------------------------------------------------------------


def test_every_call_fits_the_definition_of_its_function() -> None:
    checked = 0
    for one in conversations(both_sides()):
        defined = {tool["function"]["name"]: tool["function"] for tool in one.tools}
        assert len(defined) == len(one.tools)
        for message in one.messages:
            for call in message.get("tool_calls", ()):
                checked += 1
                function = call["function"]
                schema = defined[function["name"]]["parameters"]
                assert scoring.fits(function["arguments"], schema)
    assert checked > 300


def test_arguments_stand_in_the_request() -> None:
    for number in range(300):
        one = tools.call(Draw(str(number)))
        for call in json.loads(one.expected):
            for value in call["arguments"].values():
                assert str(value) in one.messages[0]["content"]


def test_an_unusual_argument_stands_in_the_request_and_the_call_is_on_its_side() -> None:
    kinds = set()
    for number in range(600):
        one = tools.unusual_call(Draw(str(number)))
        (call,) = json.loads(one.expected)
        arguments = call["arguments"]
        assert all(str(value) in one.messages[0]["content"] for value in arguments.values())
        assert not is_held_out((call["name"], tuple(arguments.items())))
        kinds.add(arguments.get("kind"))
    assert is_held_out(("play_music", (("kind", "rock"),)))
    assert len(kinds) > 10
    assert "rock" not in kinds


def test_a_right_call_counts_and_a_wrong_one_does_not() -> None:
    one = tools.call(Draw("1"))
    whole = template().render(one.messages, one.tools, add_generation_prompt=False)
    reply = whole.removeprefix(prompt_text(one)).removesuffix(f"{END}\n")
    assert scoring.is_right_call(one, reply)
    assert not scoring.is_right_call(one, reply.replace('"name"', '"nam"', 1))
    assert not scoring.is_right_call(one, reply.replace("}}", "}"))


def test_every_object_fits_its_schema_and_its_text() -> None:
    for number in range(300):
        one = schemas.structured(Draw(str(number)))
        value = json.loads(one.expected)
        assert scoring.fits(value, scoring.schema_in(one))
        assert list(value) == scoring.schema_in(one)["required"]
        told = " ".join(message["content"] for message in one.prompt)
        for item in value.values():
            parts = item if isinstance(item, list) else [item]
            assert all(isinstance(part, bool) or scoring.says(told, str(part)) for part in parts)


@pytest.mark.parametrize(
    "wrong", [None, [], {}, {"name": 1}, {"name": "a", "more": 1}, {"name": "a", "age": True}]
)
def test_what_does_not_fit_is_seen(wrong: object) -> None:
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["name"]}
    assert scoring.fits({"name": "a", "age": 3}, schema)
    assert not scoring.fits(wrong, schema)


def test_stories_use_known_words() -> None:
    text = stories.told(Draw("new"), stories.cast(Draw("new")), stories.PLOTS[0])
    assert scoring.non_words(text) == []
    assert scoring.non_words("The cat was blorf.") == ["blorf"]


# ---- text ---------------------------------------------------------------------------------------


def test_segments_are_the_rendered_text() -> None:
    for one in made()[:500]:
        text = "".join(segment.text for segment in segments(one))
        if isinstance(one, Story):
            assert text == one.text + DIVIDER
        elif one.may_think:
            tools_sent = one.tools or None
            assert text == template().render(one.messages, tools_sent, add_generation_prompt=False)
        else:
            assert text == prompt_text(one) + one.messages[-1]["content"] + END


def test_training_meets_each_prompt_as_inference_renders_it() -> None:
    for one in conversations(made()[:800]):
        cut = segments(one)
        for at, message in enumerate(one.messages):
            if message["role"] != "assistant" or not one.may_think:
                continue
            turn = sum(other["role"] == "assistant" for other in one.messages[:at])
            learnt = [number for number, segment in enumerate(cut) if segment.is_learnt]
            before = "".join(segment.text for segment in cut[: learnt[turn]])
            sent = plain_messages(one.messages[:at])
            assert before == template().render(sent, plain_tools(one.tools or None))


def test_only_what_the_assistant_writes_is_learnt() -> None:
    for one in conversations(made()[:500]):
        for segment in segments(one):
            if segment.is_learnt:
                assert segment.text.endswith(END)
                assert START not in segment.text
                assert "<tool_response>" not in segment.text


def test_reasoning_is_shown_in_the_last_answer_only() -> None:
    question, thought = (
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "why"},
    )
    text = template().render([question, thought, question, thought], add_generation_prompt=False)
    assert text.count("<think>\nwhy\n</think>\n\nb") == 1
    assert text.endswith(f"<think>\nwhy\n</think>\n\nb{END}\n")
    closed = template().render([question], enable_thinking=False)
    assert closed.endswith(f"{START}assistant\n<think>\n\n</think>\n\n")


def test_inline_reasoning_of_earlier_turns_is_left_out() -> None:
    question = {"role": "user", "content": "a"}
    reply = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nb"}
    assert "why" not in template().render([question, reply, question])


def test_results_of_two_calls_share_a_turn() -> None:
    result = {"role": "tool", "content": "{}"}
    calls = tools.call_message([("a", {}), ("b", {"x": 1})])
    text = template().render([{"role": "user", "content": "q"}, calls, result, result])
    assert text.count(f"{START}user") == 2
    assert '</tool_call>\n<tool_call>\n{"name": "b", "arguments": {"x": 1}}\n</tool_call>' in text
    assert text.count("<tool_response>\n{}\n</tool_response>") == 2
