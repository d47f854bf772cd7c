"""What a model may write, as a grammar: from the same table by which its output is read.

The grammar holds from the first token of the turn on. What the model writes under it is read back
as the calls that it had to be, with the arguments that the schemas ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from samovar.chat.callrules import CallRules
from samovar.chat.messages import Json
from samovar.chat.parser import tool_schemas
from samovar.chat.rules import Rules
from samovar.chat.shapes import Family, Reasoning
from samovar.errors import InvalidRequest
from samovar.types import Grammar, Tool, ToolChoice

_GAP = r"/\n{0,2}/"  # behind reasoning, where models do not always write what templates do


def constraint(
    family: Family,
    tools: Iterable[Tool],
    choice: ToolChoice,
    *,
    control_tokens: Mapping[str, int],
    starts_in_reasoning: bool = False,
    answer: str = "",
) -> Grammar | None:
    """The grammar of a turn, or None where there is nothing that it could hold.

    `answer`: the grammar of the answer as Lark text, where it has one; it stands instead of calls,
    if any may come, and behind reasoning.

    That is for "auto" and "none" the case in families whose calls begin like other things: as any
    JSON does, or with a marker that is not only theirs. `control_tokens`: the texts of the
    vocabulary's control tokens, which are no text to a grammar, with their ids. Raises
    InvalidRequest where a call is demanded that cannot be: of a tool that is not there, or of a
    model that has no form for calls.
    """
    schemas = tool_schemas(tools)
    is_demanded = choice.mode == "required" or choice.name is not None
    if choice.name is not None:
        schemas = {name: schemas[name] for name in schemas if name == choice.name}
    if is_demanded:
        _require_possible(family, schemas)
    elif not answer and (not family.frames or not schemas):
        return None
    rules = Rules(control_tokens)
    body = _body(family, rules, schemas, choice, answer)
    if body is None:
        return None
    lead = _lead(family.reasoning, rules, is_open=starts_in_reasoning)
    rules.add("start", f"{lead} {body}")
    return Grammar("lark", rules.text())


def _body(
    family: Family, rules: Rules, schemas: Mapping[str, Json], choice: ToolChoice, answer: str
) -> str | None:
    """What comes behind reasoning; None where nothing can be told of it."""
    is_one = choice.name is not None or not choice.is_parallel
    if choice.mode == "required" or choice.name is not None:
        return CallRules(rules, family.frames[0], schemas).section(is_one=is_one)
    if answer:
        body = _answer(family, rules, answer)
        if not family.frames or not schemas or choice.mode == "none":
            return body
        section = CallRules(rules, family.frames[0], schemas).section(is_one=is_one)
        return f"({body} | {rules.add('section_instead', section)})"
    opener = _opener(family, rules)
    if not opener:
        return None
    if choice.mode == "none":
        return rules.without(opener)
    calls = CallRules(rules, family.frames[0], schemas)
    return _watched(family, rules, calls, opener, is_parallel=choice.is_parallel)


def _answer(family: Family, rules: Rules, answer: str) -> str:
    """An answer of a form. Its grammar keeps its own names."""
    body = rules.add("answer", f"%lark {{\n{answer}\n}}")
    head, tail = (rules.literal(text) for text in family.answer)
    return " ".join(filter(None, [head and f"({head})?", body, tail and f"({tail})?"]))


def _require_possible(family: Family, schemas: Mapping[str, Json]) -> None:
    if not schemas:
        raise InvalidRequest(
            "tool_choice demands a call of a tool that is not there; send the tool"
        )
    if not family.frames:
        raise InvalidRequest("this model has no form for calls; set tool_choice to auto or none")


def _opener(family: Family, rules: Rules) -> str:
    """What calls begin with and nothing else does; nothing where there is no such thing."""
    frame = family.frames[0]
    first = frame.open.strip() or (frame.call[0].strip() if isinstance(frame.call[0], str) else "")
    token = rules.leading_token(first)
    others = [*family.drop, *([family.reasoning.open] if family.reasoning else [])]
    if token and any(other.startswith(token) for other in others):
        return ""
    return token or first


def _watched(
    family: Family, rules: Rules, calls: CallRules, opener: str, *, is_parallel: bool
) -> str:
    """Text in which every call that begins is one."""
    tokens = rules.tokens_of(family.drop)
    section = calls.section(is_one=not is_parallel, behind=opener)
    rules.add("calls", f"{rules.until('text', opener, tokens)} {section}")
    if not is_parallel:
        return f"calls? {rules.without(opener)}"
    rules.add("tail", rules.free(tokens))
    return "calls* tail"


def _lead(reasoning: Reasoning | None, rules: Rules, *, is_open: bool) -> str:
    """The reasoning with which a turn may begin, or must, where it `is_open` already."""
    if reasoning is None:
        return ""
    after = rules.literal(reasoning.after) if reasoning.after.strip() else _GAP
    rest = f"{rules.until('reasoning', reasoning.close.strip())} {after}"
    if is_open:
        return rest
    return rules.add("lead", f"{rules.literal(reasoning.open.strip())} {rest}") + "?"
