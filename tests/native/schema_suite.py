"""The official test suite of JSON Schema, as set-up left it, and what judges instances."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from functools import cache
from typing import Any

from jsonschema import validators

from tests.conftest import ROOT

FOLDER = ROOT / ".build" / "json-schema-test-suite" / "tests"
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


@dataclass(frozen=True)
class Case:
    """One schema with the instances that the suite has for it."""

    name: str
    schema: Any
    instances: tuple[tuple[Any, bool], ...]
    """(instance, whether the suite calls it valid)."""

    @property
    def source(self) -> str:
        """The schema as JSON text."""
        return json.dumps(self.schema)


@cache
def cases(draft: str) -> list[Case]:
    """All schemas of a draft, optional ones included, each saying which draft it is of."""
    folder = FOLDER / draft
    found = []
    for path in sorted(folder.rglob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            schema = group["schema"]
            if isinstance(schema, dict):
                schema = {"$schema": DRAFTS[draft], **schema}
            name = f"{path.relative_to(folder).with_suffix('')}: {group['description']}"
            instances = tuple((test["data"], test["valid"]) for test in group["tests"])
            found.append(Case(name, schema, instances))
    return found


def judge(draft: str, schema: object) -> Callable[[str | bytes], bool]:
    """jsonschema's verdict on JSON texts; formats count where it knows them.

    Numbers are decimal: as doubles 2855351.1388 would be no multiple of 0.0001.
    """
    kind = validators.validator_for({"$schema": DRAFTS[draft]})
    content = json.loads(json.dumps(schema), parse_float=Decimal)
    validator = kind(content, format_checker=kind.FORMAT_CHECKER)

    def is_valid(text: str | bytes) -> bool:
        with localcontext(prec=4_000):  # digits of a quotient
            return bool(validator.is_valid(json.loads(text, parse_float=_number)))

    return is_valid


def _number(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return float(text)
