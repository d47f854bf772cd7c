"""Turns of an assistant as templates write them, and what a parser makes of text in pieces."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from samovar import gguf, models
from samovar.chat.parser import Call, Content, Parser, Piece, Reasoning
from samovar.chat.shapes import Family
from samovar.chat.template import Template

FOLDER = Path(__file__).parents[3] / "shared" / "templates"
MINI = "samovar-mini"
NAMES = [MINI, *sorted(path.stem for path in FOLDER.glob("*.jinja"))]


def tool(name: str, properties: dict[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    """A function as OpenAI's clients send it."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": "Tells.", "parameters": schema}
    return {"type": "function", "function": function}


# One name is the beginning of the others.
TOOLS = [
    tool(
        "get_weather",
        {
            "town": {"type": "string", "description": "Where"},
            "days": {"type": "integer", "description": "How many"},
            "more": {"type": "object", "description": "What else", "properties": {}},
            "exact": {"type": "boolean", "description": "How"},
        },
        ["town"],
    ),
    tool("get_time", {}),
    tool("get", {}),
]


@dataclass(frozen=True)
class Case:
    """What an assistant says in one turn."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """The same as a message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": f"abcdefgh{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
                for number, (name, arguments) in enumerate(self.calls)
            ]
        return message


def call(name: str, **arguments: object) -> tuple[str, str]:
    """A call as a case has it."""
    return name, json.dumps(arguments)


_VISBY = call("get_weather", town="Visby", days=3)
CASES = {
    "one call": Case(calls=(_VISBY,)),
    "two calls": Case(calls=(_VISBY, call("get_time"))),
    "text and call": Case("Let me see.", calls=(_VISBY,)),
    "reasoning and call": Case(reasoning="It may rain.\n\nOr not.", calls=(_VISBY,)),
    "empty arguments": Case(calls=(call("get_time"),)),
    "unicode": Case(calls=(call("get_weather", town='a "b" é\n漢 \U0001f600 \\ <b> </parameter'),)),
    "nested": Case(
        calls=(
            call(
                "get_weather",
                town="x",
                exact=False,
                more={"a": [1, {"b": "}]"}, None, True, 1.5], "c": {}},
            ),
        )
    ),
    "answer": Case("A little drizzle.\n\nYes."),
    "reasoning and answer": Case("Drizzle.", "Hm.\n\nWell."),
}

# What ends a turn is no part of what a parser is given.
_ENDS = (
    "<EOS>", "<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "<seed:eos>", "[e~[", "<turn|>",
    "<|return|>", "<|call|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>\n",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip


@cache
def source(name: str) -> str:
    """The template's Jinja text."""
    if name != MINI:
        return (FOLDER / f"{name}.jinja").read_text()
    path = models.path_of(MINI)
    assert path is not None
    template = gguf.read_header(path).chat_template
    assert template is not None
    return template


@cache
def template(name: str) -> Template:
    """A template by the name of its model."""
    return Template(source(name), bos_token="<BOS>", eos_token="<EOS>")


def turn(made: Template, case: Case) -> tuple[str, str]:
    """What stands before a turn, and the turn as the template writes it."""
    asked = {"role": "user", "content": "QUESTION"}
    full, plain = (
        made.render([asked, said.message], TOOLS, add_generation_prompt=False)
        for said in (case, Case("Q"))
    )
    prompt = made.render([asked], TOOLS)
    size = 0
    for one, other, third in zip(prompt, plain, full, strict=False):
        if not one == other == third:
            break
        size += 1
    while size < len(prompt) and full[size - 1] not in ">]\n":  # within a marker
        size -= 1
    text = full[size:]
    ends = [text.find(end) for end in _ENDS if end in text]
    return full[:size], text[: min(ends, default=len(text))]


def pieces(
    family: Family,
    chunks: Iterable[str],
    *,
    tools: list[dict[str, Any]] | None = TOOLS,
    starts_in_reasoning: bool = False,
) -> list[Piece]:
    """All that a parser tells, neighbours of a kind joined."""
    parser = Parser(family, tools=tools, starts_in_reasoning=starts_in_reasoning)
    told: list[Piece] = []
    for chunk in chunks:
        told += parser.feed(chunk)
    return merged([*told, *parser.flush()])


def merged(told: Iterable[Piece]) -> list[Piece]:
    """Neighbours of a kind joined."""
    result: list[Piece] = []
    for piece in told:
        last = result[-1] if result else None
        if isinstance(piece, Call) or type(last) is not type(piece):
            result.append(piece)
        elif isinstance(last, Content):
            result[-1] = Content(last.text + piece.text)
        elif isinstance(last, Reasoning):
            result[-1] = Reasoning(last.text + piece.text)
    return result


def splits(text: str, count: int) -> Iterable[list[str]]:
    """The text whole, character by character, and in random chunks."""
    yield [text]
    yield list(text)
    for seed in range(count):
        rng = random.Random(seed)
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 12)))
        yield [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def comparable(piece: Piece) -> tuple[object, ...]:
    """Calls by the values of their arguments."""
    if isinstance(piece, Call):
        return ("call", piece.name, json.loads(piece.arguments))
    return (type(piece).__name__, piece.text)
