"""The Jinja environment that chat templates are written for: that of Hugging Face transformers.

Names, filters and white space follow `apply_chat_template` there (version 5), because that is
what the authors of templates try them with. The sandbox keeps a template away from the
interpreter; it stops neither memory nor time bombs, which is what `renderer` is for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError, Undefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from samovar.chat.messages import Json

# Published templates (Kimi K2) collect ids in a list of their own; messages are copies.
_LIST_METHODS = frozenset({"append", "extend", "insert", "pop"})


class RefusalError(TemplateError):
    """The template called `raise_exception`: it cannot express this conversation."""


class MisuseError(TemplateError):
    """The template did what it may not; the words are ours."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. `now` gives the time that `strftime_now` prints."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        self.globals.pop("lipsum")  # random text
        self.globals["namespace"] = SafeNamespace
        self.globals["dict"] = _new_dict
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: now().strftime(form)
        self.filters["tojson"] = _to_json
        self.filters["from_json"] = self.filters["fromjson"] = _from_json

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        """Whether a template may read an attribute."""
        if type(obj) is list and attr in _LIST_METHODS:
            return True
        return super().is_safe_attribute(obj, attr, value)


class SafeNamespace(Namespace):
    """`namespace()` without the names that reach into Python: jinja2's own accepts them."""

    def __init__(self, *args: Json, **kwargs: Json) -> None:
        initial = dict(*args, **kwargs)
        for name in initial:
            _check_name(name)
        super().__init__(initial)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _GenerationTag(Extension):
    """`{% generation %}` marks what trainers learn from; rendering passes it through."""

    tags = {"generation"}  # noqa: RUF012 (typed as an instance attribute by jinja2)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _new_dict(*args: Json, **kwargs: Json) -> dict[Json, Json]:
    """`dict()` as a function: the type itself has attributes that templates have no use for."""
    return dict(*args, **kwargs)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise MisuseError("names in a namespace are text that does not begin with an underscore")


def _refuse(message: object) -> NoReturn:
    raise RefusalError(str(message))


def _to_json(
    value: object,
    *,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_listed,
    )


def _listed(value: object) -> list[object]:
    """What `map` and `select` yield, as the list that templates take it for."""
    if isinstance(value, Iterable) and not isinstance(value, Undefined):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _from_json(value: Json) -> Json:
    return json.loads(value) if isinstance(value, str) else value
