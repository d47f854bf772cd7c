"""The rules of calls, as a family's frame has them written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from samovar.chat.arguments import dumps, schema_types
from samovar.chat.messages import Json
from samovar.chat.notations import BARE_QUOTING
from samovar.chat.rules import Rules, json_value, quoted
from samovar.chat.shapes import Frame, Maybe, Part, Slot

_WORD = "/[A-Za-z0-9]{1,9}/"  # ids of calls: nine characters in Mistral's templates, else numbers
_ID_END = quoted('"}')
_BLANK = r"/[ \n]{0,8}/"  # in lists, which Cohere's models write in several lines


@dataclass(frozen=True)
class _Tool:
    """One tool, and the number by which its rules are named."""

    number: int
    name: str
    schema: dict[str, Json]

    @property
    def properties(self) -> dict[str, Json]:
        """The schemas of its arguments."""
        found = self.schema.get("properties")
        return found if isinstance(found, dict) else {}

    def is_required(self, key: str) -> bool:
        """Whether a call must give this argument."""
        required = self.schema.get("required")
        return isinstance(required, list) and key in required

    def value_schema(self, key: str) -> Json:
        """The schema of one argument, with the definitions to which it may refer."""
        schema = self.properties[key]
        if not isinstance(schema, dict):
            return schema
        shared = {word: self.schema[word] for word in _DEFINITIONS if word in self.schema}
        return {**shared, **schema}

    def types(self, key: str) -> frozenset[str]:
        """The JSON types that one argument may have."""
        return schema_types(self.properties[key], self.schema)


_DEFINITIONS = ("$defs", "definitions")
_OPEN = ("$ref", "anyOf", "oneOf", "allOf", "patternProperties")  # say otherwise what is allowed


class CallRules:
    """Writes the rules of the calls of some tools."""

    def __init__(self, rules: Rules, frame: Frame, tools: Mapping[str, Json]) -> None:
        self._rules = rules
        self._frame = frame
        self._tools = [
            _Tool(number, name, _closed(tools[name])) for number, name in enumerate(tools)
        ]
        self._by_tool: dict[Slot, Callable[[_Tool], str]] = {
            Slot.NAME: lambda tool: quoted(tool.name),
            Slot.WORD: lambda _: _WORD,
            Slot.JSON: lambda tool: json_value(tool.schema),
            Slot.ENVELOPE: self._envelope,
            Slot.PARAMETERS: self._parameters,
            Slot.BARE: self._bare,
        }
        self._of_all: dict[Slot, Callable[[_Tool], str]] = {
            Slot.LIST: self._envelope,
            Slot.PYTHON: self._python,
        }

    def section(self, *, is_one: bool, behind: str = "") -> str:
        """A call, or several, and what encloses them. `behind`: what it begins with is there."""
        frame = self._frame
        opens = frame.open.lstrip()
        call = self._call(is_one=is_one, behind="" if opens else behind)
        open_ = self._rules.literal(opens[len(behind) :] if opens else "")
        close, between = self._rules.literal(frame.close), self._rules.literal(frame.between)
        may_repeat = not is_one and not frame.is_anchored and (bool(opens) or not behind)
        if frame.is_per_call:
            section = self._rules.add("section", f"{open_} {call} {close}")
            return f"{section} ({between} {section})*" if may_repeat and not behind else section
        more = f"({between} {call})*" if may_repeat and self._listed() is None else ""
        return f"{open_} {call} {more} {close}"

    def _listed(self) -> Slot | None:
        """The slot that holds all calls at once, if there is one."""
        return next((part for part in self._of_all if part in self._frame.call), None)

    def _call(self, *, is_one: bool, behind: str) -> str:
        listed = self._listed()
        if listed is not None:
            write = self._of_all[listed]
            item = self._rules.add("item", " | ".join(write(tool) for tool in self._tools))
            more = "" if is_one else f'({_BLANK} "," {_BLANK} {item})*'
            items = f'"[" {_BLANK} {item} {more} {_BLANK} "]"'
            return self._rules.add("call", self._parts(self._frame.call, lambda _: items, behind))
        calls = [
            self._rules.add(
                f"call_{tool.number}", self._parts(self._frame.call, self._writer(tool), behind)
            )
            for tool in self._tools
        ]
        return self._rules.add("call", " | ".join(calls))

    def _writer(self, tool: _Tool) -> Callable[[Slot], str]:
        return lambda slot: self._by_tool[slot](tool)

    def _parts(self, parts: Sequence[Part], write: Callable[[Slot], str], behind: str = "") -> str:
        written: list[str] = []
        for part in parts:
            if isinstance(part, Slot):
                written.append(write(part))
            elif isinstance(part, Maybe):
                written.append(self._parts(part.parts if part.is_written else (), write))
            else:
                text = part.lstrip()[len(behind) :] if behind else part
                written.append(self._rules.literal(text))
            behind = ""
        return " ".join(filter(None, written))

    # ---- the arguments of one tool -----------------------------------------------------------

    def _envelope(self, tool: _Tool) -> str:
        frame = self._frame
        arguments = json_value(tool.schema)
        if not frame.name_key:
            return f"{quoted('{' + dumps(tool.name) + ': ')} {arguments} {quoted('}')}"
        name = f"{dumps(frame.name_key)}: {dumps(tool.name)}, {dumps(frame.arguments_key)}: "
        id_ = f'{dumps(frame.id_key)}: "'
        if not frame.id_key:
            return f"{quoted('{' + name)} {arguments} {quoted('}')}"
        if frame.is_id_last:
            return f"{quoted('{' + name)} {arguments} {quoted(', ' + id_)} {_WORD} {_ID_END}"
        head, rest = "{" + id_, '", ' + name
        return f"{quoted(head)} {_WORD} {quoted(rest)} {arguments} {quoted('}')}"

    def _parameters(self, tool: _Tool) -> str:
        written = []
        for number, key in enumerate(tool.properties):
            rule = self._rules.add(
                f"parameter_{tool.number}_{number}", self._parameter(tool, key, number)
            )
            written.append(rule if tool.is_required(key) else f"{rule}?")
        return " ".join(written)

    def _parameter(self, tool: _Tool, key: str, number: int) -> str:
        tags = self._frame.parameters
        if tags is None:
            raise AssertionError("a frame with parameters says how they are written")
        types = tool.types(key)
        is_text = "string" in types
        attribute = tags.text_attribute if is_text else tags.json_attribute
        attribute = attribute.replace("{type}", min(types, default="object"))
        middle = f"{tags.key_end} {attribute}" if attribute else tags.key_end
        head = f"{tags.open}{key}{middle}{tags.value_start}{tags.wrap}"
        close, schema = tags.wrap + tags.close, tool.value_schema(key)
        literal = self._rules.literal
        if not is_text:
            value = f"{json_value(schema)} {literal(close)}"
        elif (texts := _texts(schema)) is not None:
            value = f"({' | '.join(map(quoted, texts))}) {literal(close)}"
        else:
            value = self._rules.until(f"value_{tool.number}_{number}", close)
        return f"{literal(head)} {value} {literal(tags.between)}"

    def _python(self, tool: _Tool) -> str:
        def value(key: str) -> str:
            types = tool.types(key)
            if types == {"boolean"}:
                return '("True" | "False")'
            return '"None"' if types == {"null"} else json_value(tool.value_schema(key))

        pairs = {key: f"{quoted(key + '=')} {value(key)}" for key in tool.properties}
        return f"{quoted(tool.name + '(')} {self._members(tool, pairs, ', ')} {quoted(')')}"

    def _bare(self, tool: _Tool) -> str:
        pairs = {
            key: f"{quoted(key + ':')} {self._bare_value(tool, key, number)}"
            for number, key in enumerate(tool.properties)
        }
        return f"{quoted('{')} {self._members(tool, pairs, ',')} {quoted('}')}"

    def _bare_value(self, tool: _Tool, key: str, number: int) -> str:
        types, schema = tool.types(key), tool.value_schema(key)
        quote = self._rules.literal(BARE_QUOTING.quotes[0])
        if types and types <= {"boolean", "integer", "number", "null"}:
            return json_value(schema)
        if types == {"string"}:
            if (texts := _texts(schema)) is not None:
                return f"{quote} ({' | '.join(map(quoted, texts))}) {quote}"
            rule = f"value_{tool.number}_{number}"
            return f"{quote} {self._rules.until(rule, BARE_QUOTING.quotes[0])}"
        return self._any_bare()

    def _any_bare(self) -> str:
        rules = self._rules
        if not rules.has("bare"):
            quote = BARE_QUOTING.quotes[0]
            rules.add("bare", "bare_text | bare_scalar | bare_list | bare_object")
            rules.add("bare_text", f"{rules.literal(quote)} {rules.until('bare_rest', quote)}")
            rules.add("bare_scalar", json_value({"type": ["number", "boolean", "null"]}))
            rules.add("bare_list", '"[" (bare ("," bare)*)? "]"')
            rules.add("bare_object", '"{" (bare_pair ("," bare_pair)*)? "}"')
            rules.add("bare_pair", r'/[A-Za-z0-9_.-]+/ ":" bare')
        return "bare"

    def _members(self, tool: _Tool, pairs: Mapping[str, str], separator: str) -> str:
        """The pairs in their order, those that are not required or not there, with separators.

        `first_i`: from pair i on, with nothing before; `rest_i`: with something before.
        """
        rules, keys = self._rules, list(pairs)
        first, rest = (f"{word}_{tool.number}_" for word in ("first", "rest"))
        rules.add(f"{first}{len(keys)}", '""')
        rules.add(f"{rest}{len(keys)}", '""')
        for number in range(len(keys) - 1, -1, -1):
            key, after = keys[number], number + 1
            skips = not tool.is_required(key)
            begun = f"{pairs[key]} {rest}{after}" + (f" | {first}{after}" if skips else "")
            going = f"{quoted(separator)} {pairs[key]} {rest}{after}"
            rules.add(f"{first}{number}", begun)
            rules.add(f"{rest}{number}", going + (f" | {rest}{after}" if skips else ""))
        return f"{first}0"


def _closed(schema: Json) -> dict[str, Json]:
    """The schema of all arguments: an object that holds what is declared, if nothing else is said.

    A model that may add what it likes adds what the tool does not know.
    """
    known = schema if isinstance(schema, dict) else {}
    is_open = any(
        word in known for word in ("$ref", "anyOf", "oneOf", "allOf", "patternProperties")
    )
    closed = {} if is_open else {"properties": {}, "additionalProperties": False}
    return {"type": "object", **closed, **known}


def _texts(schema: Json) -> list[str] | None:
    """The texts that a schema lists, if it allows nothing else."""
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed):
        return listed
    return None
