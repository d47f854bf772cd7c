"""What a model writes, taken apart: what is a call, what stays text, what is held back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.chat.families import FAMILIES, NONE
from samovar.chat.parser import Call, Content, Parser, Piece, Reasoning
from samovar.chat.shapes import Family
from tests.chat.turns import TOOLS, comparable, pieces, tool
from tests.conftest import scaled

BAR = "\uff5c"


def said(text: str) -> tuple[str, str]:
    return ("Content", text)


def thought(text: str) -> tuple[str, str]:
    return ("Reasoning", text)


def called(name: str, **arguments: object) -> tuple[object, ...]:
    return ("call", name, arguments)


VISBY = called("get_weather", town="Visby")
JSON_VISBY = '{"name": "get_weather", "arguments": {"town": "Visby"}}'

VECTORS = [
    # ---- reasoning
    ("hermes", "<think>\na\n\nb\n</think>\n\nc\n", [thought("a\n\nb"), said("c\n")]),
    ("hermes", "<think></think>c", [said("c")]),
    ("hermes", "</think>\n\nc", [said("c")]),
    ("hermes", "<think>a", [thought("a")]),
    ("hermes", "<think>a</thin", [thought("a</thin")]),
    ("hermes", "<think>a <tool_call> b</think>c", [thought("a <tool_call> b"), said("c")]),
    ("hermes", f"<tool_call>{JSON_VISBY}</tool_call><think>a</think>", [VISBY, thought("a")]),
    ("mistral-think", "[THINK]a[/THINK]b", [thought("a"), said("b")]),
    # ---- what counts as a call
    ("hermes", f"<tool_call>{JSON_VISBY}", [VISBY]),
    ("hermes", f"<tool_call>\n{JSON_VISBY}\n</tool_", [VISBY]),
    ("hermes", f"<tool_call>{JSON_VISBY}\n{JSON_VISBY}</tool_call>", [VISBY, VISBY]),
    ("hermes", f"<tool_call>[{JSON_VISBY}, {JSON_VISBY}]</tool_call>", [VISBY, VISBY]),
    ("hermes", f"<tool_call>{JSON_VISBY}</tool_call> Done.", [VISBY, said("Done.")]),
    (
        "hermes",
        '<tool_call>{"arguments": "{\\"town\\": \\"Visby\\"}", "name": "get_weather"}</tool_call>',
        [VISBY],
    ),
    (
        "hermes",
        '<tool_call>{"type": "function", "function": {"name": "get_time"}}</tool_call>',
        [called("get_time")],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"town": "a\nb"}}</tool_call>',
        [called("get_weather", town="a\nb")],
    ),
    ("hermes", '<tool_call>{"name": "get"}</tool_call>', [called("get")]),
    # ---- what is none
    ("hermes", f"<tool_call>no <tool_call>{JSON_VISBY}", [said("<tool_call>no"), VISBY]),
    ("hermes", f"<tool_call>{JSON_VISBY}, and", [VISBY, said(", and")]),
    # ---- JSON without a marker
    ("llama3", '{"name": "get_weather", "parameters": {"town": "Visby"}}', [VISBY]),
    ("llama3", '<|python_tag|>{"name": "get", "parameters": {}}', [called("get")]),
    ("llama3", '{"name": "get"}; {"name": "get_time"}', [called("get"), called("get_time")]),
    # ---- JSON behind a name
    ("mistral", '[TOOL_CALLS]get_weather[ARGS]{"town": "Visby"}', [VISBY]),
    (
        "mistral",
        "[TOOL_CALLS]get[CALL_ID]abc[ARGS]{}[TOOL_CALLS]get_time[ARGS]{}",
        [called("get"), called("get_time")],
    ),
    (
        "kimi",
        "<|tool_call_begin|>get:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
        [called("get")],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>b<|end|><|start|>assistant<|channel|>commentary to=functions.get "
        "<|constrain|>json<|message|>{}<|call|>",
        [thought("a"), said("b"), called("get")],
    ),
    ("harmony", "<|channel|>final<|message|>{}", [said("{}")]),
    # ---- tags
    (
        "qwen-xml",
        "<tool_call>\n<function=get_weather>\n<parameter=town>\nEnd it with </parameter>.\n"
        "</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        [called("get_weather", town="End it with </parameter>.", days=3)],
    ),
    (
        "qwen-xml",
        "<function=get_weather><parameter=exact>True</parameter><parameter=more>"
        "{'a': None}</parameter><parameter=days>many</parameter></function>",
        [called("get_weather", exact=True, more={"a": None}, days="many")],
    ),
    (
        "qwen-xml",
        "<function=get_weather><parameter=town>3</parameter><parameter=new>3</parameter></function>",
        [called("get_weather", town="3", new=3)],
    ),
    ("qwen-xml", "<tool_call>\n<function=get>\n</function>", [called("get")]),
    (
        "deepseek-v3.2",
        f'<{BAR}DSML{BAR}function_calls>\n<{BAR}DSML{BAR}invoke name="get_weather">\n'
        f'<{BAR}DSML{BAR}parameter name="days" string="true">3</{BAR}DSML{BAR}parameter>\n'
        f'<{BAR}DSML{BAR}parameter name="town" string="false">[3]</{BAR}DSML{BAR}parameter>\n'
        f"</{BAR}DSML{BAR}invoke>\n</{BAR}DSML{BAR}function_calls>",
        [called("get_weather", days="3", town=[3])],
    ),
    (
        "minicpm",
        '<function name="get_weather"><param name="town"><![CDATA[a<b]]></param></function>',
        [called("get_weather", town="a<b")],
    ),
    # ---- notations of their own
    (
        "lfm2",
        "<|tool_call_start|>[get_weather(town='it\\'s \"x\"\nb', days=-3, exact=True, "
        "more={'a': [1.5, (None,)]}), get()]<|tool_call_end|>Well.",
        [
            called(
                "get_weather", town='it\'s "x"\nb', days=-3, exact=True, more={"a": [1.5, [None]]}
            ),
            called("get"),
            said("Well."),
        ],
    ),
    (
        "gemma4",
        '<|tool_call>call:get_weather{days:3,more:{a:[<|"|>}"<|"|>,None,true],b:{}},town:<|"|>x'
        '<|"|>}<tool_call|><|tool_response>',
        [called("get_weather", days=3, more={"a": ['}"', None, True], "b": {}}, town="x")],
    ),
]

PLAIN = [
    ("hermes", "Put it in <think> and </think>."),
    ("hermes", '<tool_call>{"name": "sing"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "get"'),
    ("hermes", "<tool_call>{'name': 'get'}"),
    ("hermes", '<tool_call>{"name": "get", "arguments": 3}'),
    ("hermes", '<tool_call>{"name": "get", "arguments": {"x": NaN}}'),
    ("hermes", "The tag <tool_call> opens."),
    ("hermes", "a <tool_cal"),
    ("llama3", '{"name": "Ann", "age": 3}'),
    ("llama3", f"Like {JSON_VISBY}"),
    ("mistral", "[TOOL_CALLS]get_[ARGS]{}"),
    ("qwen-xml", "<tool_call>\n<function=get>\nno"),
    ("lfm2", "<|tool_call_start|>[sing()]<|tool_call_end|>"),
    ("lfm2", "<|tool_call_start|>[get(os.x)]"),
]


@pytest.mark.parametrize(("family", "text", "expected"), VECTORS)
def test_what_a_text_is_taken_for(family: str, text: str, expected: list[Any]) -> None:
    for chunks in ([text], list(text), [text[:7], text[7:]]):
        assert list(map(comparable, pieces(FAMILIES[family], chunks))) == expected


@pytest.mark.parametrize(("family", "text"), PLAIN)
def test_what_is_no_call_is_text(family: str, text: str) -> None:
    for chunks in ([text], list(text), [text[:7], text[7:]]):
        assert pieces(FAMILIES[family], chunks) == [Content(text)]


def test_arguments_in_json_stay_as_they_were_written() -> None:
    arguments = '{ "town":"Visb\\u0079",\n"days" : 1.50e+1}'
    text = f'<tool_call>{{"name": "get_weather", "arguments": {arguments}}}</tool_call>'
    assert pieces(FAMILIES["hermes"], [text]) == [Call("get_weather", arguments)]


def test_without_tools_calls_are_text() -> None:
    text = f"<tool_call>{JSON_VISBY}</tool_call>"
    assert pieces(FAMILIES["hermes"], text, tools=None) == [Content(text)]
    assert pieces(FAMILIES["llama3"], JSON_VISBY, tools=[]) == [Content(JSON_VISBY)]


def test_a_turn_may_begin_within_reasoning() -> None:
    text = "\na\n</think>\n\nb"
    told = pieces(FAMILIES["hermes"], text, starts_in_reasoning=True)
    assert told == [Reasoning("a"), Content("b")]


def test_no_family_leaves_everything_alone_and_holds_nothing() -> None:
    parser = Parser(NONE, tools=TOOLS, starts_in_reasoning=False)
    assert parser.feed(" <think>\n") == [Content(" <think>\n")]
    assert parser.flush() == []


def test_a_union_with_text_stays_text_but_for_null() -> None:
    tools = [
        tool(
            "put",
            {
                "a": {"type": ["string", "null"]},
                "b": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/text"}]},
                "c": {"enum": ["1", "2"]},
            },
        )
    ]
    tools[0]["function"]["parameters"]["$defs"] = {"text": {"type": "string"}}
    text = "<function=put><parameter={}>null</parameter><parameter={}>3</parameter></function>"
    told = [
        *pieces(FAMILIES["qwen-xml"], text.format("a", "b"), tools=tools),
        *pieces(FAMILIES["qwen-xml"], text.format("b", "c"), tools=tools),
    ]
    assert [json.loads(piece.arguments) for piece in told if isinstance(piece, Call)] == [
        {"a": None, "b": "3"},
        {"b": "null", "c": "3"},
    ]


def test_schemas_that_refer_to_themselves_come_to_an_end() -> None:
    knot = {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    tools = [tool("put", {"a": knot})]
    tools[0]["function"]["parameters"]["$defs"] = {"a": knot, "b": knot}
    text = "<function=put><parameter=a>3</parameter></function>"
    assert pieces(FAMILIES["qwen-xml"], [text], tools=tools) == [Call("put", '{"a": 3}')]


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 50_000, "9" * 5_000])
def test_arguments_that_no_reader_would_survive_are_text(value: str) -> None:
    closers = value.replace('"a":', "").translate(str.maketrans("[{", "]}", "9"))
    body = f'{{"name": "get", "arguments": {{"x": {value}{closers}}}}}'
    texts = {
        "hermes": f"<tool_call>{body}</tool_call>",
        "lfm2": f"<|tool_call_start|>[get(x={value}{closers})]<|tool_call_end|>",
        "gemma4": f"<|tool_call>call:get{{x:{value}{closers}}}<tool_call|>",
    }
    for family, text in texts.items():
        assert pieces(FAMILIES[family], [text]) == [Content(text)]


# ---- what is held back --------------------------------------------------------------------------


def fed(family: str, *chunks: str) -> list[list[Piece]]:
    """What each chunk, and the end, lets through."""
    parser = Parser(FAMILIES[family], tools=TOOLS, starts_in_reasoning=False)
    return [*(parser.feed(chunk) for chunk in chunks), parser.flush()]


def test_text_that_can_be_no_marker_passes_at_once() -> None:
    told = fed("hermes", "a <", "b", " <tool_call", "x")
    assert told == [[Content("a")], [Content(" <b")], [], [Content(" <tool_callx")], []]


def test_calls_are_told_when_they_are_complete() -> None:
    told = fed("hermes", "<tool_call>", JSON_VISBY, "\n</tool_call>")
    assert [len(each) for each in told] == [0, 1, 0, 0]


def test_an_answer_in_json_does_not_wait_for_its_end() -> None:
    told = fed("llama3", '{"z', '": [1', ", 2", "]}")
    assert told == [[Content('{"z')], [Content('": [1')], [Content(", 2")], [Content("]}")], []]


def test_a_name_that_is_no_tool_does_not_hold_the_rest_back() -> None:
    assert fed("glm", "<tool_call>s", "ing")[:2] == [[Content("<tool_call>s")], [Content("ing")]]


def test_blanks_without_end_pass() -> None:
    told = fed("hermes", "a", *[" "] * 200, "b")
    assert sum(len(each) for each in told[:-2]) > 100


# ---- properties ---------------------------------------------------------------------------------


def fragments(family: Family) -> list[str]:
    """Texts that collide with the family's markers, and words."""
    literals = [*family.drop]
    if family.reasoning is not None:
        literals += [family.reasoning.open, family.reasoning.close]
    for frame in family.frames:
        literals += [
            frame.open,
            frame.close,
            *(part for part in frame.call if isinstance(part, str)),
        ]
        if frame.parameters is not None:
            tags = frame.parameters
            literals += [tags.open, tags.key_end, tags.value_start, tags.close, "town", "days"]
    literals += [f"{one[: len(one) // 2]}" for one in literals]
    plain = [
        "get",
        "get_weather",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "\\",
        ":",
        ",",
        ";",
        "\n",
    ]
    plain += [
        " ",
        "x",
        "\U0001f600",
        "{}",
        JSON_VISBY,
        "[get()]",
        '"arguments": {}',
        '{"name": "get"',
    ]
    return sorted({*literals, *plain} - {""})


@st.composite
def writings(draw: st.DrawFn) -> tuple[Family, list[str]]:
    """A family, and a text in pieces that is nearly what its models write."""
    family = draw(st.sampled_from(list(FAMILIES.values())))
    text = "".join(draw(st.lists(st.sampled_from(fragments(family)), max_size=24)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return family, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=scaled(400, 4_000), database=None, deadline=None)
@given(writings(), st.booleans())
def test_any_split_of_a_text_gives_the_same(
    writing: tuple[Family, list[str]],
    begins: bool,  # noqa: FBT001
) -> None:
    family, chunks = writing
    whole = pieces(family, ["".join(chunks)], starts_in_reasoning=begins)
    assert pieces(family, chunks, starts_in_reasoning=begins) == whole
    assert pieces(family, "".join(chunks), starts_in_reasoning=begins) == whole
    for piece in whole:
        if isinstance(piece, Call):
            assert isinstance(json.loads(piece.arguments), dict)


@settings(max_examples=scaled(300, 4_000), database=None, deadline=None)
@given(st.sampled_from(list(FAMILIES.values())), st.data())
def test_nothing_is_lost_but_markers_and_blanks(family: Family, data: st.DataObject) -> None:
    markers = [marker.strip() for marker in family.drop]
    if family.reasoning is not None:
        markers += [family.reasoning.open.strip(), family.reasoning.close.strip()]
    markers += [frame.close.strip() for frame in family.frames if frame.close.strip()]
    openers = [frame.open.strip() for frame in family.frames]
    words = [*markers, *openers, "word", "sing(", "{7}", " ", "\n\n", '{"name": "sing"}']
    text = "".join(data.draw(st.lists(st.sampled_from(sorted(set(words))), max_size=20)))
    told = "".join(piece.text for piece in pieces(family, text) if not isinstance(piece, Call))
    ignored = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))) or "(?!)")

    def rest(of: str) -> str:
        return "".join(ignored.sub("", of).split())

    assert rest(told) == rest(text)


@settings(max_examples=scaled(200, 4_000), database=None, deadline=None)
@given(st.lists(st.sampled_from(["a", " ", "\n", "<", "<tool_", "call", "<think", "</"])))
def test_no_more_is_held_back_than_may_become_a_marker(chunks: list[str]) -> None:
    parser = Parser(FAMILIES["hermes"], tools=TOOLS, starts_in_reasoning=False)
    markers, whole, told = ("<tool_call>", "<think>", "</think>", "</tool_call>"), "", ""
    for chunk in chunks:
        whole += chunk
        told += "".join(piece.text for piece in parser.feed(chunk) if not isinstance(piece, Call))
        assert whole.startswith(told)
        held = whole[len(told) :].strip()
        assert any(marker.startswith(held) for marker in markers)
