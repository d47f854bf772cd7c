"""Rules that hold still what changes by itself, each with exactly what it changes."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest

from samovar.chat.volatile import (
    applied,
    with_first_date,
    with_reminders_last,
    without_billing,
)
from samovar.types import Message

TODAY = date(2026, 11, 27)
HEADER = "x-anthropic-billing-header: cc_version=2.1.42; cc_entrypoint=cli; cch=0f3a1;"


def system(content: Any) -> Message:  # noqa: ANN401
    return {"role": "system", "content": content}


def user(content: Any) -> Message:  # noqa: ANN401
    return {"role": "user", "content": content}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


# ---- billing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{HEADER}\nBe terse.", "Be terse."),
        (f"{HEADER}\n\n{HEADER.upper()}\nBe terse.", "Be terse."),
        ([part(HEADER), part("Be terse.")], [part("Be terse.")]),
        ([part(f"{HEADER}\nBe terse."), part("Really.")], [part("Be terse."), part("Really.")]),
    ],
)
def test_billing_lines_go(content: object, expected: object) -> None:
    messages, count = without_billing([system(content), user(HEADER)])
    assert messages == [system(expected), user(HEADER)]
    assert count == str(content).lower().count("x-anthropic")


@pytest.mark.parametrize("content", [f"Be terse.\n{HEADER}", "x-other-header: 1\n", ""])
def test_a_billing_line_elsewhere_stays(content: str) -> None:
    assert without_billing([system(content)]) == ([system(content)], 0)


# ---- date -----------------------------------------------------------------------------------


class First:
    """Remembers first values, as turns do."""

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[str, ...]] = {}

    def __call__(self, key: bytes, values: tuple[str, ...]) -> tuple[str, ...]:
        return self.known.setdefault(key, values)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("Today is 2026-11-27.", "Today is 2026-11-28."),
        ("Now: 2026-11-27T16:04:15Z", "Now: 2026-11-27T16:09:59Z"),
        ("Now: 2026-11-27 16:04:15.123+01:00", "Now: 2026-11-27 17:10:00.001+01:00"),
        ("Date: Friday, November 27, 2026, 4:04 PM", "Date: Friday, November 27, 2026, 5:12 AM"),
        ("Date: 27 Nov 2026", "Date: 28 Nov 2026"),
        ("Fri Nov 27 16:04:15 UTC 2026", "Sat Nov 28 00:00:01 UTC 2026"),
        ("It is 11/27/2026.", "It is 11/28/2026."),
        ("Today's date: 2026/11/26 (Thursday)", "Today's date: 2026/11/27 (Thursday)"),
    ],
)
def test_the_date_stays_as_it_was_first(first: str, later: str) -> None:
    known = First()
    rest = [user("Hello")]
    for text, changed in ((first, 0), (later, 1)):
        found, count = with_first_date(
            [system(f"Be terse.\n{text}"), *rest], salt="", today=TODAY, first_values=known
        )
        assert found == [system(f"Be terse.\n{first}"), *rest]
        assert (count > 0) == changed


def test_another_conversation_has_a_date_of_its_own() -> None:
    known = First()

    def dated(text: str, question: str = "Hello", salt: str = "") -> str:
        found, _ = with_first_date(
            [system(text), user(question)], salt=salt, today=TODAY, first_values=known
        )
        content: str = found[0]["content"]
        return content

    assert dated("On 2026-11-27.") == "On 2026-11-27."
    assert dated("On 2026-11-28.", "Bye") == "On 2026-11-28."
    assert dated("At 2026-11-28.") == "At 2026-11-28."
    assert dated("On 2026-11-28.", salt="other") == "On 2026-11-28."
    assert dated("On 2026-11-28.") == "On 2026-11-27."


@pytest.mark.parametrize(
    "text",
    [
        "Customer since 2019-03-04, order 2026-11-279.",
        "Version 12026-11-27.",
        "The shop opens at 09:30.",
        "On 2026-13-27 and 31/31/2026.",
        "May 5, 2026",
        "",
    ],
)
def test_what_is_not_of_today_stays(text: str) -> None:
    def never(_key: bytes, _values: tuple[str, ...]) -> tuple[str, ...]:
        raise AssertionError("nothing is to be remembered")

    messages = [system(text), user("It is 2026-11-27.")]
    found = with_first_date(messages, salt="", today=TODAY, first_values=never)
    assert found == (messages, 0)


# ---- reminders ------------------------------------------------------------------------------

REMINDER = "<system-reminder>\nThe file changed.\n</system-reminder>"


def test_reminders_move_to_the_last_user_message() -> None:
    messages = [
        user(f"{REMINDER}\nFirst"),
        {"role": "assistant", "content": REMINDER},
        {"role": "tool", "tool_call_id": "1", "content": f"found\n{REMINDER}"},
        user([part(f"{REMINDER} Second")]),
        user("Last"),
        {"role": "tool", "tool_call_id": "2", "content": "more"},
    ]
    found, count = with_reminders_last(messages)
    assert found == [
        user("First"),
        {"role": "assistant", "content": REMINDER},
        {"role": "tool", "tool_call_id": "1", "content": "found"},
        user([part(" Second".strip())]),
        user(f"Last\n\n{REMINDER}"),
        {"role": "tool", "tool_call_id": "2", "content": "more"},
    ]
    assert count == 3
    assert with_reminders_last(found) == (found, 0)


@pytest.mark.parametrize(
    "messages",
    [
        [user(REMINDER), user("Last")],
        [user("First <system-reminder>open"), user("Last")],
        [{"role": "tool", "content": f"found {REMINDER}"}],
        [user("First"), user(f"Last {REMINDER}")],
    ],
)
def test_reminders_stay_where_they_cannot_move(messages: list[Message]) -> None:
    assert with_reminders_last(messages) == (messages, 0)


def test_a_text_full_of_openings_does_not_take_for_ever() -> None:
    messages = [user("<system-reminder>" * 200_000), system(f"{HEADER}\n" * 20_000), user("Last")]
    assert with_reminders_last(messages) == (messages, 0)
    assert without_billing(messages[1:]) == ([system(""), user("Last")], 20_000)


# ---- all of them ----------------------------------------------------------------------------


def test_rules_change_no_message_that_was_passed_in() -> None:
    messages = [system(f"{HEADER}\nOn 2026-11-27."), user(f"Hi {REMINDER}"), user("Last")]
    before = [dict(one) for one in messages]
    found, changes = applied(
        messages,
        ("reminders", "date", "billing"),
        salt="",
        today=datetime(2026, 11, 27, 12).date(),  # noqa: DTZ001 - only its day counts
        first_values=lambda _key, _values: ("2026-11-26",),
    )
    assert messages == before
    assert found == [system("On 2026-11-26."), user("Hi"), user(f"Last\n\n{REMINDER}")]
    assert changes == (("billing", 1), ("date", 1), ("reminders", 1))
