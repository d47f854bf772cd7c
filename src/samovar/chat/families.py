"""The families of output that are known, as data.

A row for a model that is not here is all it takes: `shapes` says what the fields mean, and the
first row whose markers are all in a chat template is that of the model.
"""

from __future__ import annotations

from samovar.chat.shapes import Family, Frame, Maybe, Parameters, Reasoning, Slot

# ---- frames --------------------------------------------------------------------------------------


def _xml(open_: str, close: str, parameters: Parameters) -> Frame:
    call = ("<function=", Slot.NAME, ">\n", Slot.PARAMETERS, "</function>")
    return Frame(call, open_, close, is_per_call=True, between="\n", parameters=parameters)


def _invoke(prefix: str, section: str, parameters: Parameters) -> Frame:
    call = (f'<{prefix}invoke name="', Slot.NAME, '">\n', Slot.PARAMETERS, f"</{prefix}invoke>")
    open_, close = f"<{prefix}{section}>\n", f"\n</{prefix}{section}>"
    return Frame(call, open_, close, between="\n", parameters=parameters)


def _glm(suffix: str = "", gap: str = "\n") -> Parameters:
    return Parameters(
        open=f"<arg_key{suffix}>",
        key_end=f"</arg_key{suffix}>{gap}",
        value_start=f"<arg_value{suffix}>",
        close=f"</arg_value{suffix}>",
        between=gap,
    )


_THINK = Reasoning("<think>\n", "\n</think>", "\n\n")
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
    id_key="tool_call_id",
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
    json_attribute='type="{type}"',
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


def _mistral(*, has_id: bool) -> Frame:
    id_ = Maybe(("[CALL_ID]", Slot.WORD), is_written=has_id)
    return Frame(("[TOOL_CALLS]", Slot.NAME, id_, "[ARGS]", Slot.JSON))


_MISTRAL = _mistral(has_id=False)
_MISTRAL_LIST = Frame(_LIST, "[TOOL_CALLS]", id_key="id", is_id_last=True)
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
        Reasoning("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant"),
        (_HARMONY, _HARMONY_RECIPIENT),
        (
            "<|start|>assistant",
            "<|channel|>final<|message|>",
            "<|channel|>commentary<|message|>",
            "<|end|>",
            "<|return|>",
        ),
        ("<|channel|>final<|message|>", ""),
    ),
    Family(
        "kimi-k3",
        (("<|open|>", "<|close|>", "<|sep|>"),),
        Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        (_K3,),
        ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
        ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
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
        Reasoning("<|think|>", "<|end|>", "<|begin|>assistant"),
        (_SOLAR,),
        ("<|begin|>assistant", "<|content|>", "<|end|>"),
        ("<|content|>", "<|end|>"),
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
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
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
        (
            ("<|tool_call_start|>",),
            ("<|tool_list_start|>",),
            ("<|im_start|>", "List of tools: ["),
        ),
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
    Family(
        "mistral-id", (("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),), None, (_mistral(has_id=True),)
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
        "glm-4.7",
        (("</arg_key><arg_value>",),),
        _THINK,
        (
            Frame(
                ("<tool_call>", Slot.NAME, Slot.PARAMETERS, "</tool_call>"),
                parameters=_glm(gap=""),
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
