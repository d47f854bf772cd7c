"""Clients that ask are told what they changed of the prompt before."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import Diagnostics

from samovar.api.anthropic.diagnostics import Remembered, asked_of
from samovar.api.anthropic.schema import MessagesFields

Json = Any  # whatever a client sends

HELLO = {"role": "user", "content": "Hello."}
HI = {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]}
TOOL = {"name": "add", "input_schema": {"type": "object"}}
FIRST: dict[str, Json] = {
    "model": "mini",
    "max_tokens": 9,
    "messages": [HELLO, HI],
    "system": "Be kind.",
    "tools": [TOOL],
}
MARK = {"cache_control": {"type": "ephemeral"}}


def body(**more: Json) -> MessagesFields:
    return MessagesFields.model_validate(FIRST | more)


def compared(salt: str = "owner", name: str | None = "msg_1", **more: Json) -> str | None:
    """What a request is told that follows on FIRST."""
    remembered = Remembered()
    before = asked_of(body(), "owner")
    remembered.remember("msg_1", before)
    before.prompt_tokens = 77
    found = remembered.compare(name, body(**more), asked_of(body(**more), salt))
    if found is None:
        return None
    reason = Diagnostics.model_validate(found).cache_miss_reason
    assert reason is not None
    if reason.type not in ("unavailable", "previous_message_not_found"):
        assert reason.cache_missed_input_tokens == 77
    return reason.type


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"messages": [HELLO, HI, HELLO]}, None),
        (
            {"messages": [HELLO | {"content": [{"type": "text", "text": "Hello."} | MARK]}, HI]},
            None,
        ),
        ({"tools": [TOOL | MARK]}, None),
        ({"max_tokens": 10, "temperature": 1}, None),
        ({"system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}]}, "system"),
        ({"model": "other", "system": "x"}, "model"),
        ({"system": "Be brief.", "tools": []}, "system"),
        ({"tools": [], "messages": [HI]}, "tools"),
        ({"tools": [TOOL | {"description": "x"}]}, "tools"),
        ({"messages": [HELLO]}, "messages"),
        ({"messages": [HELLO | {"content": "Hello!"}, HI]}, "messages"),
        ({"messages": [HI, HELLO]}, "messages"),
    ],
)
def test_the_first_change_is_told(change: dict[str, Json], told: str | None) -> None:
    assert compared(**change) == (None if told is None else f"{told}_changed")


def test_other_settings_are_not_told_apart() -> None:
    assert compared(thinking={"type": "disabled"}) == "unavailable"
    assert compared(tool_choice={"type": "none"}) == "unavailable"


def test_the_line_about_bills_is_no_change() -> None:
    def system(number: int) -> list[Json]:
        line = f"x-anthropic-billing-header: cch={number};"
        return [{"type": "text", "text": line}, {"type": "text", "text": "Be kind."}]

    first, second = asked_of(body(system=system(1)), ""), asked_of(body(system=system(2)), "")
    assert first.system == second.system


def test_only_what_is_remembered_and_the_askers_own() -> None:
    assert compared(name=None, system="x") is None
    assert compared(name="msg_2") == "previous_message_not_found"
    assert compared(salt="stranger") == "previous_message_not_found"


def test_the_oldest_is_forgotten() -> None:
    remembered = Remembered(most=2)
    asked = asked_of(body(), "")
    for number in range(3):
        remembered.remember(f"msg_{number}", asked)
    assert remembered.compare("msg_0", body(), asked) is not None
    assert remembered.compare("msg_1", body(), asked) is None
