"""Conversations with functions: one is called, two are, none is needed, or a result came back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from training.corpus.document import Conversation, Message, Tool, assistant, user
from training.corpus.draw import Draw
from training.corpus.toolbox import FUNCTIONS, Arguments, Function, invented, unusual


def offered(draw: Draw, *needed: Function) -> list[Tool]:
    """Definitions of the needed functions among others, in random order."""
    names = {function.name for function in needed}
    # Two functions that add, or that both answer "where is", would leave the choice open.
    others = [one for one in FUNCTIONS if one.name not in names]
    chosen = [*needed, *draw.some(others, draw.weighted((0, 1, 2), (3, 4, 3)))]
    is_described = draw.chance(0.3)
    return [one.definition(is_described=is_described) for one in draw.some(chosen, len(chosen))]


Request = tuple[Function, Arguments, str]
"""A function, its arguments and a way to ask."""


def _request(draw: Draw) -> Request:
    """Function and arguments together are on the draw's side."""
    return _on_this_side(draw, lambda: _chosen(draw))


def _unusual_request(draw: Draw) -> Request:
    """The same with an unusual word for one of the arguments, which must be a text."""

    def make() -> tuple[Function, Arguments]:
        function, arguments = _chosen(draw)
        while not (texts := function.free_texts):
            function, arguments = _chosen(draw)
        key = draw.one(texts)
        usual, word = arguments[key], unusual(draw)
        if usual[0].isupper():
            word = word.capitalize()
        return function, {**arguments, key: word}

    return _on_this_side(draw, make)


def _chosen(draw: Draw) -> tuple[Function, Arguments]:
    function = draw.one(FUNCTIONS) if draw.chance(0.65) else invented(draw)
    return function, function.arguments(draw)


def _on_this_side(draw: Draw, make: Callable[[], tuple[Function, Arguments]]) -> Request:
    function, arguments = draw.fresh(make, lambda made: (made[0].name, tuple(made[1].items())))
    return function, arguments, draw.one(function.asking).format(**arguments)


def call_message(calls: list[tuple[str, Arguments]]) -> Message:
    """The model's message that makes these calls."""
    made = [
        {"type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def _expected(calls: list[tuple[str, Arguments]]) -> str:
    return json.dumps([{"name": name, "arguments": given} for name, given in calls])


def _told(result: Arguments) -> Message:
    return {"role": "tool", "content": json.dumps(result)}


def call(draw: Draw) -> Conversation:
    """A request that one of the functions serves; the last message is the call."""
    return _called(draw, _request(draw))


def unusual_call(draw: Draw) -> Conversation:
    """The same with a word in the request that is met nowhere else, and can only be copied."""
    return _called(draw, _unusual_request(draw))


def _called(draw: Draw, request: Request) -> Conversation:
    function, arguments, asking = request
    calls = [(function.name, arguments)]
    messages = [user(asking), call_message(calls)]
    return Conversation("tool call", messages, _expected(calls), offered(draw, function))


def answer(draw: Draw) -> Conversation:
    """A call with the function's result and the answer made of it."""
    return _answered(draw, _request(draw))


def unusual_answer(draw: Draw) -> Conversation:
    """The same with a word in the request that is met nowhere else."""
    return _answered(draw, _unusual_request(draw))


def _answered(draw: Draw, request: Request) -> Conversation:
    function, arguments, asking = request
    result = function.result(draw, arguments)
    text = function.answer.format(**{**arguments, **result})
    messages: list[Message] = [
        user(asking), call_message([(function.name, arguments)]), _told(result), assistant(text),
    ]  # fmt: skip
    tools = offered(draw, function)
    if draw.chance(0.4):
        more, given, again = _request(draw)
        if not any(tool["function"]["name"] == more.name for tool in tools):
            tools.append(more.definition(is_described=False))
        calls = [(more.name, given)]
        messages += [user(again), call_message(calls)]
        return Conversation("tool call", messages, _expected(calls), tools)
    return Conversation("tool answer", messages, text, tools)


def two_calls(draw: Draw) -> Conversation:
    """One request about two cities, or two things: two calls of a function."""
    function = draw.one([one for one in FUNCTIONS if one.name in _PAIRED])
    (key,) = function.parameters

    def make() -> tuple[Any, ...]:
        first, second = (function.arguments(draw)[key] for _ in range(2))
        return (function.name, first, second)

    _, first, second = draw.fresh(make)
    if first == second:
        return call(draw)
    calls = [(function.name, {key: first}), (function.name, {key: second})]
    asking = draw.one(_PAIRED[function.name]).format(first, second)
    return Conversation(
        "tool call", [user(asking), call_message(calls)], _expected(calls), offered(draw, function)
    )


_PAIRED = {
    "get_weather": ("What is the weather in {} and {}?", "Tell me the weather in {} and in {}."),
    "get_time": ("What time is it in {} and {}?", "Tell me the time in {} and in {}."),
    "find_person": ("Where are {} and {}?", "Find {} and {}."),
}


def no_call(draw: Draw, inner: Callable[[Draw], Conversation]) -> Conversation:
    """Functions are there, but the user only talks."""
    talk = inner(draw)
    return Conversation(
        "tool none", talk.messages, talk.expected, offered(draw, draw.one(FUNCTIONS))
    )
