"""Conversations through a real worker with the shipped model: text, reasoning, calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from samovar import models as built_in
from samovar.ipc import messages as ipc
from samovar.types import (
    Begun,
    Chat,
    Choice,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Grammar,
    Message,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolChoice,
)
from tests.chat.turns import tool
from tests.conftest import Models
from tests.worker.driven import REAL, Driven, driven

pytestmark = pytest.mark.native

WEATHER = tool("get_weather", {"city": {"type": "string", "description": "The city"}}, ["city"])
CLOCK = tool("get_time", {})
TOOLS = (WEATHER, CLOCK)
PARIS = "What is the weather in Paris?"
TWO = "How is the weather in London and in Rome?"
TOM = "Tom has 5 apples and gets 7 more. How many does he have?"
COLOURS = Grammar("choice", '["red", "green"]')


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def asked(question: str, *, request_id: str = "r", **more: Any) -> GenerateRequest:  # noqa: ANN401
    """A request of one question; some of `more` are of the conversation, the rest its own."""
    own = {name: more.pop(name) for name in list(more) if name not in Chat.__dataclass_fields__}
    messages = more.pop("messages", (user(question),))
    return GenerateRequest(
        request_id, "", chat=Chat(messages, **more), **{"max_tokens": 100, **own}
    )


@dataclass
class Answer:
    """What was told of one choice."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def take(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        self.tokens += event.tokens
        if isinstance(event, ToolCallDelta):
            assert event.call == len(self.calls)
            self.calls.append((event.name, event.arguments))
            return
        self.logprobs += event.logprobs
        if isinstance(event, TextDelta):
            self.text += event.text
        else:
            self.reasoning += event.text

    @property
    def said(self) -> tuple[str, str, list[tuple[str, str]]]:
        return self.text, self.reasoning, self.calls


def events_of(worker: Driven, request: GenerateRequest) -> list[Event]:
    """Everything that comes of a request, but that it begins, which is the first of it."""
    worker.submit(request)
    found: list[Event] = []
    while not found or not isinstance(found[-1], Finished | Failed):
        found += worker.hear(ipc.Output).events
    begun, end = found[0], found[-1]
    if isinstance(begun, Begun):
        del found[0]
        if isinstance(end, Finished):
            assert begun.prompt_tokens == end.usage.prompt_tokens
            assert begun.cached == end.usage.cached
    else:
        was_over = bool(request.generated)  # a complete answer is not computed again
        assert was_over or isinstance(end, Failed), "it did not say that it begins"
    return found


def answers(events: list[Event]) -> tuple[list[Answer], tuple[Choice, ...]]:
    """What was told of each choice, and how it ended."""
    end = events[-1]
    assert isinstance(end, Finished), end
    found = [Answer() for _ in end.choices]
    for event in events[:-1]:
        assert isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)
        found[event.choice].take(event)
    assert sum(len(one.tokens) for one in found) == end.usage.generated_tokens
    return found, end.choices


def answer(worker: Driven, request: GenerateRequest) -> tuple[Answer, Choice]:
    """The same of the only choice."""
    found, choices = answers(events_of(worker, request))
    return found[0], choices[0]


def failure(worker: Driven, request: GenerateRequest) -> Failed:
    (event,) = events_of(worker, request)
    assert isinstance(event, Failed)
    return event


def ask(worker: Driven, operation: str, **arguments: Any) -> Any:  # noqa: ANN401
    worker.say(ipc.Call(1, operation, arguments))
    reply = worker.hear(ipc.Answer)
    assert reply.code is None, reply
    return reply.value


def written(worker: Driven, tokens: list[int]) -> str:
    """The text of tokens, control tokens as they are called."""
    return b"".join(data for data, _ in ask(worker, "pieces", tokens=tokens)).decode()


@pytest.fixture(scope="module")
def worker() -> Iterator[Driven]:
    with driven(REAL) as process:
        path = built_in.path_of("samovar-mini")
        process.load(str(path), threads=1, context_length=1024, num_sequences=4)
        yield process


# ---- calls ---------------------------------------------------------------------------------------


def test_a_call_goes_out_and_its_result_comes_back(worker: Driven) -> None:
    told, choice = answer(worker, asked(PARIS, tools=TOOLS))
    assert told.said == ("", "", [("get_weather", '{"city": "Paris"}')])
    assert choice.reason == "tool_calls"
    name, arguments = told.calls[0]
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    results = (
        user(PARIS),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": json.dumps({"weather": "sunny"})},
    )
    told, choice = answer(worker, asked("", messages=results, tools=TOOLS))
    assert "sunny" in told.text
    assert not told.calls
    assert choice.reason == "stop"


def test_two_calls_have_numbers(worker: Driven) -> None:
    told, _ = answer(worker, asked(TWO, tools=TOOLS))
    assert told.calls == [
        ("get_weather", '{"city": "London"}'),
        ("get_weather", '{"city": "Rome"}'),
    ]


def test_which_calls_there_are_is_chosen(worker: Driven) -> None:
    greeting = "Hello!"
    free, _ = answer(worker, asked(greeting, tools=TOOLS))
    assert free.text
    assert not free.calls
    told, choice = answer(
        worker, asked(greeting, tools=TOOLS, tool_choice=ToolChoice(name="get_time"))
    )
    assert (told.text, told.calls, choice.reason) == ("", [("get_time", "{}")], "tool_calls")
    told, _ = answer(worker, asked(greeting, tools=TOOLS, tool_choice=ToolChoice("required")))
    assert not told.text
    assert {name for name, _ in told.calls} <= {"get_weather", "get_time"}
    one = ToolChoice("required", is_parallel=False)
    assert len(answer(worker, asked(TWO, tools=TOOLS, tool_choice=one))[0].calls) == 1
    told, choice = answer(worker, asked(PARIS, tools=TOOLS, tool_choice=ToolChoice("none")))
    assert told.text
    assert not told.calls
    assert "<tool_call>" not in told.text
    assert choice.reason == "stop"


def test_without_tools_nothing_is_a_call(worker: Driven) -> None:
    told, _ = answer(worker, asked(PARIS))
    assert not told.calls


def test_a_schema_that_no_grammar_holds_leaves_free_calls_free(worker: Driven) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string", "pattern": "(?=x)"}}}
    function = {"name": "get_weather", "description": "Tells.", "parameters": parameters}
    odd = ({"type": "function", "function": function},)
    told, _ = answer(worker, asked(PARIS, tools=odd))
    assert [name for name, _ in told.calls] == ["get_weather"]
    told, _ = answer(worker, asked(PARIS, tools=odd, sampling=SamplingParams(grammar=COLOURS)))
    assert told.text in ("red", "green")
    refused = failure(worker, asked(PARIS, tools=odd, tool_choice=ToolChoice("required")))
    assert refused.code == "grammar_rejected"


# ---- reasoning -----------------------------------------------------------------------------------


def test_reasoning_comes_apart_from_the_answer(worker: Driven) -> None:
    told, choice = answer(worker, asked(TOM))
    assert told.reasoning.startswith("5 + ")
    assert told.text.startswith("Tom has")
    assert "think>" not in told.text + told.reasoning
    assert choice.reason == "stop"


def test_reasoning_is_turned_off_where_the_template_lets_it(worker: Driven) -> None:
    told, _ = answer(worker, asked(TOM, thinks=False))
    assert not told.reasoning
    assert told.text.startswith("Tom has")
    assert answer(worker, asked(TOM, thinks=True))[0].reasoning


@pytest.mark.parametrize("thinks", [False, None])
def test_a_demanded_call_without_reasoning_begins_at_once(
    worker: Driven,
    thinks: bool | None,  # noqa: FBT001
) -> None:
    (think,) = ask(worker, "tokenize", text="<think>", add_special=False, parse_special=True)
    eager = SamplingParams(logit_bias={think: 100.0})
    demand = {"tools": (CLOCK,), "tool_choice": ToolChoice("required"), "reasoning_tokens": 4}
    told, _ = answer(worker, asked(PARIS, thinks=thinks, sampling=eager, **demand))
    assert bool(told.reasoning) == (thinks is None)
    assert told.calls


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_reasoning_has_a_budget(worker: Driven, limit: int) -> None:
    told, _ = answer(worker, asked(TOM, reasoning_tokens=limit))
    free, _ = answer(worker, asked(TOM))
    assert free.reasoning.startswith(told.reasoning)
    assert bool(told.reasoning) == (limit > 1)  # the first token is the line break
    assert len(told.reasoning) < len(free.reasoning)
    assert told.text.startswith("Tom has")


def test_a_long_budget_changes_nothing(worker: Driven) -> None:
    told, choice = answer(worker, asked(TOM, reasoning_tokens=500))
    free, ended = answer(worker, asked(TOM))
    assert (told, choice.reason) == (free, ended.reason)


# ---- forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "allowed"),
    [
        (COLOURS, {"red", "green"}),
        (Grammar("regex", "(red|green)"), {"red", "green"}),
        ('root ::= "red" | "green"', {"red", "green"}),
        (Grammar("lark", 'start: "red" | "green"'), {"red", "green"}),
    ],
)
def test_a_form_holds_for_the_answer_and_not_for_reasoning(
    worker: Driven, grammar: str | Grammar, allowed: set[str]
) -> None:
    told, _ = answer(worker, asked(TOM, sampling=SamplingParams(grammar=grammar)))
    assert told.text in allowed
    assert told.reasoning.startswith("5 + ")
    told, _ = answer(worker, asked(TOM, thinks=False, sampling=SamplingParams(grammar=grammar)))
    assert told.text in allowed
    assert not told.reasoning
    told, _ = answer(
        worker, asked(TOM, reasoning_tokens=3, sampling=SamplingParams(grammar=grammar))
    )
    assert told.text in allowed
    assert told.reasoning


def test_json_by_a_schema(worker: Driven) -> None:
    schema = {
        "type": "object",
        "properties": {"apples": {"type": "integer"}},
        "required": ["apples"],
        "additionalProperties": False,
    }
    for grammar in (Grammar("json_schema", json.dumps(schema)), Grammar("json_object")):
        told, choice = answer(
            worker, asked(TOM, sampling=SamplingParams(grammar=grammar), max_tokens=300)
        )
        assert told.text.startswith("{")
        if grammar.kind == "json_schema":
            assert list(json.loads(told.text)) == ["apples"]
            assert choice.reason == "stop"


def test_a_form_and_tools_are_an_answer_of_the_form_or_calls(worker: Driven) -> None:
    form = SamplingParams(grammar=COLOURS)
    told, choice = answer(worker, asked(PARIS, tools=TOOLS, sampling=form))
    assert told.said == ("", "", [("get_weather", '{"city": "Paris"}')])
    assert choice.reason == "tool_calls"
    none = ToolChoice("none")
    told, _ = answer(worker, asked(PARIS, tools=TOOLS, tool_choice=none, sampling=form))
    assert told.text in ("red", "green")
    must = ToolChoice("required")
    told, _ = answer(worker, asked(PARIS, tools=TOOLS, tool_choice=must, sampling=form))
    assert told.calls


def test_what_is_wrong_with_a_form_is_said_of_what_was_sent(worker: Driven) -> None:
    refused = failure(worker, asked(TOM, sampling=SamplingParams(grammar=Grammar("regex", "[0-"))))
    assert refused.code == "grammar_rejected"
    assert "regular expression" in refused.message


# ---- continuing ----------------------------------------------------------------------------------


def test_an_answer_goes_on_where_it_broke_off(worker: Driven) -> None:
    full, _ = answer(worker, asked("What does a cow say?"))
    head = full.text[:5]
    begun = (user("What does a cow say?"), {"role": "assistant", "content": head})
    told, _ = answer(worker, asked("", messages=begun, continues_last=True))
    assert head + told.text == full.text


def test_reasoning_goes_on_where_it_broke_off(worker: Driven) -> None:
    begun = (user(TOM), {"role": "assistant", "content": "", "reasoning_content": "5 + 7 ="})
    told, _ = answer(worker, asked("", messages=begun, continues_last=True))
    assert told.reasoning.lstrip().startswith("12")
    assert told.text.startswith("Tom has")


def test_a_form_holds_behind_reasoning_that_goes_on(worker: Driven) -> None:
    begun = (user(TOM), {"role": "assistant", "content": "", "reasoning_content": "5 + 7 ="})
    form = SamplingParams(grammar=COLOURS)
    told, _ = answer(worker, asked("", messages=begun, continues_last=True, sampling=form))
    assert told.reasoning.lstrip().startswith("12")
    assert told.text in ("red", "green")


@pytest.mark.parametrize("opens", [False, True])
def test_reasoning_that_the_template_does_not_show_goes_on_all_the_same(
    models: Models,
    opens: bool,  # noqa: FBT001
) -> None:
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    turns = "{% for m in messages %}" + turn + "{% endfor %}"
    head = "<|im_start|>assistant\n" + ("<think>\n" if opens else "{# <think> </think> #}")
    blind = turns + "{% if add_generation_prompt %}" + head + "{% endif %}"
    begun = [user("Hi"), {"role": "assistant", "content": "", "reasoning": "Let me"}]
    with driven(REAL) as process:
        process.load(str(models(chat_template=blind)), threads=1, context_length=256)
        text = written(process, ask(process, "render", messages=begun, continues_last=True))
        assert text.split("assistant\n")[1].split() == ["<think>", "Let", "me"]
        told, _ = answer(process, asked("", messages=tuple(begun), continues_last=True))
        assert told.reasoning


def test_a_form_holds_for_the_rest_of_an_answer(worker: Driven) -> None:
    begun = (user("Is grass red?"), {"role": "assistant", "content": "It is"})
    form = SamplingParams(grammar=Grammar("choice", '[" red", " green"]'))
    told, _ = answer(worker, asked("", messages=begun, continues_last=True, sampling=form))
    assert told.text in (" red", " green")


# ---- everything else of a request ----------------------------------------------------------------


def test_choices_each_have_their_reasoning(worker: Driven) -> None:
    drawn = asked(TOM, choices=3, sampling=SamplingParams(temperature=0.7, seed=5))
    found, choices = answers(events_of(worker, drawn))
    assert [choice.seed for choice in choices] == [5, 6, 7]
    assert all(one.reasoning for one in found)
    for number, one in enumerate(found):
        alone = replace(drawn, choices=1, sampling=SamplingParams(temperature=0.7, seed=5 + number))
        assert answer(worker, alone)[0].said == one.said


def test_choices_each_have_their_calls(worker: Driven) -> None:
    found, choices = answers(events_of(worker, asked(PARIS, tools=TOOLS, choices=2)))
    assert all(len(one.calls) == 1 for one in found)
    assert {choice.reason for choice in choices} == {"tool_calls"}


def test_scores_come_with_the_text(worker: Driven) -> None:
    told, _ = answer(worker, asked(TOM, sampling=SamplingParams(logprobs=1)))
    text = written(worker, [one.token for one in told.logprobs])
    said = text.removesuffix("<|im_end|>")  # which has a score as well, and no text
    assert said.split() == f"{told.reasoning} {told.text}".split()


def test_a_stop_string_ends_the_turn(worker: Driven) -> None:
    told, choice = answer(worker, asked(TOM, stop=("apples",)))
    assert told.text == "Tom has 17 "[: len(told.text)]
    assert (choice.reason, choice.stop) == ("stop", "apples")


def test_a_stop_string_counts_in_content_only(worker: Driven) -> None:
    whole, _ = answer(worker, asked(TOM))
    word = whole.reasoning.split()[0]
    told, choice = answer(worker, asked(TOM, stop=(word, "apples")))
    assert (told.reasoning, choice.stop) == (
        whole.reasoning,
        "apples" if word != "apples" else word,
    )
    assert told.text == whole.text[: whole.text.index("apples")]
    assert told.tokens == whole.tokens[: len(told.tokens)]
    assert len(told.tokens) < len(whole.tokens)
    called, ends = answers(events_of(worker, asked(PARIS, tools=TOOLS, stop=("Paris", "city"))))
    assert [name for name, _ in called[0].calls] == ["get_weather"]
    assert (ends[0].reason, ends[0].stop) == ("tool_calls", None)


def test_a_stop_string_ends_every_choice_and_answers_of_a_form(worker: Driven) -> None:
    sampling = SamplingParams(temperature=1.0, seed=5)
    whole, _ = answers(events_of(worker, asked(TOM, choices=2, sampling=sampling)))
    found, ends = answers(events_of(worker, asked(TOM, choices=2, sampling=sampling, stop=("a",))))
    for one, told, end in zip(whole, found, ends, strict=True):
        assert told.text == one.text.partition("a")[0]
        assert end.stop == ("a" if "a" in one.text else None)
    form = SamplingParams(grammar=Grammar("choice", '["red green", "red blue"]'))
    told, choice = answer(worker, asked(TOM, sampling=form, stop=(" ",)))
    assert (told.text, choice.reason, choice.stop) == ("red", "stop", " ")


def test_a_session_holds_the_conversation(worker: Driven) -> None:
    told, _ = answer(worker, asked(TOM, session="s"))
    held = ask(worker, "session_tokens", name="s")
    assert held[-len(told.tokens) :] == told.tokens
    refused = failure(worker, asked(TOM, session="s", continues=True))
    assert refused.code == "invalid_request"
    ask(worker, "end_session", name="s")


def test_a_prompt_can_be_only_computed(worker: Driven) -> None:
    told, choice = answer(worker, asked(TOM, prefill_only=True))
    assert (told.tokens, choice.reason) == ([], "stop")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (asked("", messages=({"role": "user"},)), "invalid_request"),
        (asked("x", family="klingon"), "invalid_request"),
        (asked("x", variables={"messages": []}), "invalid_request"),
        (asked("x", tool_choice=ToolChoice("required")), "invalid_request"),
        (asked("x", tools=TOOLS, tool_choice=ToolChoice(name="other")), "invalid_request"),
        (asked("word " * 3000), "context_length_exceeded"),
    ],
)
def test_what_cannot_be_rendered_fails_alone(
    worker: Driven, request_: GenerateRequest, code: str
) -> None:
    assert failure(worker, request_).code == code
    assert answer(worker, asked("What does a cow say?"))[0].text


def test_counting_gives_what_a_request_has(worker: Driven) -> None:
    chat: dict[str, Any] = {"messages": [user(PARIS)], "tools": list(TOOLS), "thinks": False}
    ids = ask(worker, "render", variables={}, continues_last=False, **chat)
    end = events_of(worker, asked(PARIS, tools=TOOLS, thinks=False))[-1]
    assert isinstance(end, Finished)
    assert end.usage.prompt_tokens == len(ids)


# ---- taken up again ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        asked(TOM),
        asked(TWO, tools=TOOLS),
        asked(TOM, reasoning_tokens=4),
        asked(TOM, stop=("apples",)),
        asked(TOM, sampling=SamplingParams(grammar=COLOURS)),
        asked(TOM, sampling=SamplingParams(temperature=1.0, seed=3), max_tokens=20),
    ],
    ids=["reasoning", "calls", "budget", "stop", "form", "drawn"],
)
def test_a_request_goes_on_behind_any_of_its_events(
    worker: Driven, request_: GenerateRequest
) -> None:
    """What came before and what comes after a cut add up to what came without any."""
    events = events_of(worker, request_)
    whole, ends = answers(events)
    for cut in range(1, len(events), 3):
        before = Answer()
        for event in events[:cut]:
            assert isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)
            before.take(event)
        more = events_of(worker, replace(request_, generated=(tuple(before.tokens),)))
        end = more[-1]
        assert isinstance(end, Finished), end
        for event in more[:-1]:
            assert isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)
            before.take(event)
        assert before.said == whole[0].said, cut
        assert before.tokens == whole[0].tokens
        assert end.choices[0].reason == ends[0].reason


# ---- files without a template, and what lies beside them -----------------------------------------


def test_a_file_without_a_template_gets_one_by_its_tokens(models: Models) -> None:
    with driven(REAL) as process:
        process.load(str(models()), threads=1, context_length=256)
        ids = ask(process, "render", messages=[user("Hi <|im_end|>")])
        text = written(process, ids)
        assert text == "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
        (end,) = ask(process, "tokenize", text="<|im_end|>", add_special=False, parse_special=True)
        assert ids.count(end) == 1
        told, _ = answer(process, asked("Hi", max_tokens=5))
        assert len(told.tokens) <= 5


@pytest.mark.parametrize("is_own", [True, False])
def test_what_lies_beside_a_file_says_how_to_read_it(tmp_path: Path, is_own: bool) -> None:  # noqa: FBT001
    path = tmp_path / "mini.gguf"
    path.symlink_to(str(built_in.path_of("samovar-mini")))
    fields = {"thinking": {"open": "Tom", "close": "apples"}, "content": {}}
    spec = {"version": 1, "start_anchor": "assistant\n", "fields": fields}
    if is_own:
        (tmp_path / "mini.response_template.json").write_text(json.dumps(spec))
    else:
        config = {"model_max_length": 512, "response_template": spec}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with driven(REAL) as process:
        process.load(str(path), threads=1, context_length=256)
        told, _ = answer(process, asked(TOM, thinks=False))
        assert told.reasoning.startswith("has")
        assert told.text == "now."


def test_a_description_that_cannot_be_used_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "mini.gguf"
    path.symlink_to(str(built_in.path_of("samovar-mini")))
    (tmp_path / "mini.response_template.json").write_text("{")
    with driven(REAL) as process:
        process.load(str(path), threads=1, context_length=256)
        assert answer(process, asked(TOM))[0].reasoning.startswith("5 + ")
