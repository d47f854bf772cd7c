"""How models write: the markers around reasoning and calls, and how arguments look, as data.

A family is what one kind of model was trained to write. The parser reads by it, and the constraint
that makes a model write so is made from it. White space in the literals is what models write; in
reading any, also none, will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Slot(Enum):
    """What stands between the literals of a call."""

    NAME = "name"
    """The name of a tool that was given."""
    WORD = "word"
    """An id or a number that the model gives to its call: letters, digits, `_` and `-`."""
    JSON = "json"
    """The arguments as a JSON object."""
    ENVELOPE = "envelope"
    """A JSON object that holds the name and the arguments."""
    LIST = "list"
    """A JSON array of such objects."""
    PARAMETERS = "parameters"
    """Each argument between tags, as the family's `Parameters` say."""
    PYTHON = "python"
    """A list of calls in Python's notation, with arguments by keyword."""
    BARE = "bare"
    """An object in Gemma's notation: keys without quotes, texts between quotes of their own."""


@dataclass(frozen=True, slots=True)
class Maybe:
    """Parts that may be left out; whether they are there shows in the first, a literal.

    A constraint has them written where `is_written`.
    """

    parts: tuple[Part, ...]
    is_written: bool = True


Part = str | Slot | Maybe


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What encloses reasoning. It begins only where nothing was said before in the turn."""

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Parameters:
    """What encloses an argument: open, key, key_end, attributes, value_start, value, close."""

    open: str
    key_end: str
    value_start: str
    """Nothing: the value begins behind `key_end`, and there are no attributes."""
    close: str
    wrap: str = ""
    """White space that is written around a value and is no part of it."""
    text_attribute: str = ""
    """What says that the value is a text, where that is said and not left to the schema."""
    json_attribute: str = ""
    """What says that the value is JSON."""
    between: str = "\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """What encloses calls: `open`, one or more calls, `close`; either may be empty.

    A call also counts where `open` was forgotten, if its first part is a literal.
    """

    call: tuple[Part, ...]
    open: str = ""
    close: str = ""
    is_per_call: bool = False
    """Whether each call of several has `open` and `close` of its own."""
    between: str = ""
    """What is written between calls, white space or a separator."""
    is_anchored: bool = False
    """Whether calls come only where nothing was said before in the turn, as those without any
    marker must: any text may have a bracket."""
    parameters: Parameters | None = None
    name_key: str = "name"
    arguments_key: str = "arguments"
    """The keys of an envelope that a constraint writes. Reading knows those of all families."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way of writing."""

    name: str
    markers: tuple[tuple[str, ...], ...] = ()
    """A chat template that holds all texts of one of these rows belongs to this family."""
    reasoning: Reasoning | None = None
    frames: tuple[Frame, ...] = ()
    """The first is what a constraint has written; the others are read as well."""
    drop: tuple[str, ...] = ()
    """Markers that say nothing: they are left out of the content."""


# ---- frames --------------------------------------------------------------------------------------


def _xml(open_: str, close: str, parameters: Parameters) -> Frame:
    call = ("<function=", Slot.NAME, ">\n", Slot.PARAMETERS, "</function>")
    return Frame(call, open_, close, is_per_call=True, between="\n", parameters=parameters)


def _invoke(prefix: str, section: str, parameters: Parameters) -> Frame:
    call = (f'<{prefix}invoke name="', Slot.NAME, '">\n', Slot.PARAMETERS, f"</{prefix}invoke>")
    open_, close = f"<{prefix}{section}>\n", f"\n</{prefix}{section}>"
    return Frame(call, open_, close, between="\n", parameters=parameters)


def _glm(suffix: str = "") -> Parameters:
    return Parameters(
        f"<arg_key{suffix}>", f"</arg_key{suffix}>", f"<arg_value{suffix}>", f"</arg_value{suffix}>"
    )


_THINK = Reasoning("<think>\n", "\n</think>\n\n")
_ENVELOPE = (Slot.ENVELOPE,)
_LIST = (Slot.LIST,)

_HERMES = Frame(_ENVELOPE, "<tool_call>\n", "\n</tool_call>", is_per_call=True, between="\n")
_BARE_JSON = Frame(_ENVELOPE, is_anchored=True, arguments_key="parameters")
_COHERE = Frame(
    _LIST,
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    name_key="tool_name",
    arguments_key="parameters",
)
_QWEN_XML = _xml(
    "<tool_call>\n",
    "\n</tool_call>",
    Parameters("<parameter=", ">", "", "</parameter>", wrap="\n"),
)
_SEED = _xml(
    "<seed:tool_call>\n",
    "\n</seed:tool_call>",
    Parameters("<parameter=", ">", "", "</parameter>"),
)
_QUOTED_PARAMETER = Parameters('<parameter name="', '"', ">", "</parameter>")
_DSML_PARAMETER = Parameters(
    '<\uff5cDSML\uff5cparameter name="',
    '"',
    ">",
    "</\uff5cDSML\uff5cparameter>",
    text_attribute='string="true"',
    json_attribute='string="false"',
)
_MINICPM = Frame(
    ('<function name="', Slot.NAME, '">', Slot.PARAMETERS, "</function>"),
    between="\n",
    parameters=Parameters('<param name="', '"', ">", "</param>", between=""),
)
_K3_PARAMETER = Parameters(
    '<|open|>argument key="',
    '"',
    "<|sep|>",
    "<|close|>argument<|sep|>",
    text_attribute='type="string"',
    json_attribute="type=",
    between="",
)
_K3 = Frame(
    (
        '<|open|>call tool="',
        Slot.NAME,
        '"',
        Maybe((' index="', Slot.WORD, '"')),
        "<|sep|>",
        Slot.PARAMETERS,
        "<|close|>call<|sep|>",
    ),
    "<|open|>tools<|sep|>",
    "<|close|>tools<|sep|>",
    parameters=_K3_PARAMETER,
)
_KIMI = Frame(
    (
        "<|tool_call_begin|>",
        Maybe(("functions.",)),
        Slot.NAME,
        Maybe((":", Slot.WORD)),
        "<|tool_call_argument_begin|>",
        Slot.JSON,
        "<|tool_call_end|>",
    ),
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
)
# \u2581 is the low line of SentencePiece, which is part of these tokens.
_DEEPSEEK = Frame(
    (
        "<\uff5ctool\u2581call\u2581begin\uff5c>",
        Slot.NAME,
        "<\uff5ctool\u2581sep\uff5c>",
        Slot.JSON,
        "<\uff5ctool\u2581call\u2581end\uff5c>",
    ),
    "<\uff5ctool\u2581calls\u2581begin\uff5c>",
    "<\uff5ctool\u2581calls\u2581end\uff5c>",
)
_DEEPSEEK_R1 = Frame(
    (
        "<\uff5ctool\u2581call\u2581begin\uff5c>",
        "function",
        "<\uff5ctool\u2581sep\uff5c>",
        Slot.NAME,
        "\n```json\n",
        Slot.JSON,
        "\n```",
        "<\uff5ctool\u2581call\u2581end\uff5c>",
    ),
    "<\uff5ctool\u2581calls\u2581begin\uff5c>",
    "<\uff5ctool\u2581calls\u2581end\uff5c>",
    between="\n",
)
_MISTRAL = Frame(
    (
        "[TOOL_CALLS]",
        Slot.NAME,
        Maybe(("[CALL_ID]", Slot.WORD), is_written=False),
        "[ARGS]",
        Slot.JSON,
    )
)
_MISTRAL_LIST = Frame(_LIST, "[TOOL_CALLS]")
_HARMONY = Frame(
    (
        "<|channel|>commentary to=functions.",
        Slot.NAME,
        Maybe((" <|constrain|>json",), is_written=True),
        Maybe((" json",), is_written=False),
        "<|message|>",
        Slot.JSON,
        "<|call|>",
    ),
)
_HARMONY_RECIPIENT = Frame(
    (
        " to=functions.",
        Slot.NAME,
        "<|channel|>commentary",
        Maybe((" <|constrain|>json",)),
        Maybe((" json",)),
        "<|message|>",
        Slot.JSON,
        "<|call|>",
    ),
    is_anchored=True,
)
_SOLAR = Frame(
    (
        "<|tool_call:begin|>",
        Slot.WORD,
        "<|tool_call:name|>",
        Slot.NAME,
        "<|tool_call:args|>",
        Slot.JSON,
        "<|tool_call:end|>",
    ),
    "<|tool_calls|>",
    "<|calls|>",
)
_GEMMA = Frame(("<|tool_call>call:", Slot.NAME, Slot.BARE, "<tool_call|>"))

# ---- families ------------------------------------------------------------------------------------

_COHERE_DROPS = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")

NONE = Family("none")
"""All text is content."""

# The first row with markers that are all in a template decides: what is most specific stands first.
_TABLE = (
    Family(
        "harmony",
        (("<|start|>", "<|channel|>", "<|message|>"),),
        Reasoning("<|channel|>analysis<|message|>", "<|end|>"),
        (_HARMONY, _HARMONY_RECIPIENT),
        (
            "<|start|>assistant",
            "<|channel|>final<|message|>",
            "<|channel|>commentary<|message|>",
            "<|end|>",
            "<|return|>",
        ),
    ),
    Family(
        "kimi-k3",
        (("<|open|>", "<|close|>", "<|sep|>"),),
        Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        (_K3,),
        ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    ),
    Family(
        "gemma4",
        (("<|tool_call>", "<tool_call|>"),),
        Reasoning("<|channel>thought\n", "<channel|>"),
        (_GEMMA,),
        ("<|tool_response>",),
    ),
    Family("kimi", (("<|tool_call_begin|>",),), _THINK, (_KIMI,)),
    Family(
        "solar",
        (("<|tool_call:begin|>",),),
        Reasoning("<|think|>", "<|end|>"),
        (_SOLAR,),
        ("<|begin|>assistant", "<|content|>", "<|end|>"),
    ),
    Family(
        "deepseek-v4",
        (("\uff5cDSML\uff5c", "tool_calls>"),),
        _THINK,
        (_invoke("\uff5cDSML\uff5c", "tool_calls", _DSML_PARAMETER),),
    ),
    Family(
        "deepseek-v3.2",
        (("\uff5cDSML\uff5c",),),
        _THINK,
        (_invoke("\uff5cDSML\uff5c", "function_calls", _DSML_PARAMETER),),
    ),
    Family("deepseek-r1", (("<\uff5ctool\u2581sep\uff5c>", "```json"),), _THINK, (_DEEPSEEK_R1,)),
    Family("deepseek", (("<\uff5ctool\u2581sep\uff5c>",),), _THINK, (_DEEPSEEK,)),
    Family(
        "minimax",
        (("<minimax:tool_call>",),),
        _THINK,
        (
            Frame(
                ('<invoke name="', Slot.NAME, '">\n', Slot.PARAMETERS, "</invoke>"),
                "<minimax:tool_call>\n",
                "\n</minimax:tool_call>",
                between="\n",
                parameters=_QUOTED_PARAMETER,
            ),
        ),
    ),
    Family(
        "seed",
        (("<seed:tool_call>",), ("seed:think", "<function=")),
        Reasoning("<seed:think>", "</seed:think>"),
        (_SEED,),
    ),
    Family(
        "cohere",
        (("<|START_ACTION|>",),),
        Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
        (_COHERE,),
        _COHERE_DROPS,
    ),
    Family(
        "command-r-plus",
        (("Action:", "```json", "tool_name"),),
        None,
        (
            Frame(
                ("Action:", "```json\n", Slot.LIST, "```"),
                name_key="tool_name",
                arguments_key="parameters",
            ),
        ),
    ),
    Family(
        "lfm2",
        (("<|tool_call_start|>",), ("<|tool_list_start|>",)),
        _THINK,
        (Frame((Slot.PYTHON,), "<|tool_call_start|>", "<|tool_call_end|>"),),
    ),
    Family(
        "apertus",
        (("<|tools_prefix|>",),),
        Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
        (Frame(_LIST, "<|tools_prefix|>", "<|tools_suffix|>", name_key="", arguments_key=""),),
    ),
    Family(
        "mistral-think",
        (("[TOOL_CALLS]", "[ARGS]", "[THINK]"),),
        Reasoning("[THINK]", "[/THINK]"),
        (_MISTRAL,),
    ),
    Family("mistral", (("[TOOL_CALLS]", "[ARGS]"),), None, (_MISTRAL,)),
    Family("mistral-list", (("[TOOL_CALLS]",),), None, (_MISTRAL_LIST,)),
    Family(
        "hunyuan",
        (("<tool_sep:opensource>",), ("tool_sep", ":opensource")),
        Reasoning("<think:opensource>", "</think:opensource>"),
        (
            Frame(
                (
                    "<tool_call:opensource>",
                    Slot.NAME,
                    "<tool_sep:opensource>\n",
                    Slot.PARAMETERS,
                    "</tool_call:opensource>",
                ),
                "<tool_calls:opensource>\n",
                "\n</tool_calls:opensource>",
                between="\n",
                parameters=_glm(":opensource"),
            ),
        ),
    ),
    Family(
        "glm",
        (("<arg_key>",),),
        _THINK,
        (
            Frame(
                ("<tool_call>", Slot.NAME, "\n", Slot.PARAMETERS, "</tool_call>"),
                between="\n",
                parameters=_glm(),
            ),
        ),
    ),
    Family("minicpm", (("<function name=", "<param name="),), _THINK, (_MINICPM,)),
    Family("qwen-xml", (("<function=", "<parameter="),), _THINK, (_QWEN_XML,)),
    Family(
        "functionary",
        (("<function=", "</function>"),),
        None,
        (Frame(("<function=", Slot.NAME, ">", Slot.JSON, "</function>")),),
    ),
    Family("nemotron", (("<TOOLCALL>",),), _THINK, (Frame(_LIST, "<TOOLCALL>", "</TOOLCALL>"),)),
    Family(
        "apriel",
        (("<tool_calls>[",), ("[BEGIN FINAL RESPONSE]",)),
        Reasoning("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
        (Frame(_LIST, "<tool_calls>", "</tool_calls>"),),
        ("<|end|>",),
    ),
    Family(
        "minimax-m1",
        (("<tool_calls>",),),
        _THINK,
        (Frame(_ENVELOPE, "<tool_calls>\n", "\n</tool_calls>", between="\n"),),
    ),
    Family("hermes", (("<tool_call>",),), _THINK, (_HERMES,)),
    Family(
        "granite",
        (("<|tool_call|>",),),
        _THINK,
        (Frame(_LIST, "<|tool_call|>"),),
        ("<response>", "</response>"),
    ),
    Family(
        "gigachat", (("<|function_call|>",),), None, (Frame(("<|function_call|>", Slot.ENVELOPE)),)
    ),
    Family(
        "llama3",
        (("<|start_header_id|>", '"parameters"'),),
        None,
        (_BARE_JSON,),
        ("<|python_tag|>",),
    ),
    Family("think", (("<think>",), ("</think>",)), _THINK),
)

FAMILIES: dict[str, Family] = {family.name: family for family in (*_TABLE, NONE)}
"""All of them by name, in the order in which their markers are looked for."""
