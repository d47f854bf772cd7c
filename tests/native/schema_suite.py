"""The official test suite of JSON Schema, as set-up left it, and what judges instances."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
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


def judge(draft: str, schema: object) -> Callable[[object], bool]:
    """jsonschema's verdict on instances; formats count where it knows them."""
    kind = validators.validator_for({"$schema": DRAFTS[draft]})
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    return lambda instance: bool(validator.is_valid(instance))
