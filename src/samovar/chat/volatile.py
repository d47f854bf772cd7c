"""What changes in prompts from turn to turn without meaning to: rules that hold it still.

Each rule edits the messages, so none is applied unless it was asked for by name. A rule changes
texts only: neither the number of messages nor their order or roles.

- `billing` (`without_billing`) leaves out the line of Anthropic's clients that names their version
  and a number that changes with every request.
- `date` (`with_first_date`) keeps the date and time in the system prompt as they were when the
  conversation began.
- `reminders` (`with_reminders_last`) moves `<system-reminder>` blocks to the last user message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date

from samovar.chat.messages import Json
from samovar.chat.replay_message import context, extended
from samovar.chat.volatile_dates import Dated
from samovar.errors import InvalidRequest
from samovar.types import VOLATILE_RULES, Message

FirstValues = Callable[[bytes, tuple[str, ...]], tuple[str, ...]]
"""What values had when they were first asked for under a key (see replay_turns)."""

_HEADER = "x-anthropic-billing-header:"
_BILLING = re.compile(rf"\A(?:\s*{_HEADER}[^\n]*(?:\n+|\Z))+", re.IGNORECASE)
_OPEN, _CLOSE = "<system-reminder>", "</system-reminder>"
_SYSTEM = ("system", "developer")


def applied(
    messages: Sequence[Message],
    rules: Sequence[str],
    *,
    salt: str,
    today: date,
    first_values: FirstValues,
) -> tuple[list[Message], tuple[tuple[str, int], ...]]:
    """Plain messages with rules applied, and how many places each of them changed.

    Raises InvalidRequest for a rule that there is not.
    """
    unknown = sorted(set(rules) - set(VOLATILE_RULES))
    if unknown:
        raise InvalidRequest(
            f"there is no volatile rule of that name; use {', '.join(VOLATILE_RULES)}"
        )
    result, changes = list(messages), []
    for rule in VOLATILE_RULES:  # in this order
        if rule not in rules:
            continue
        if rule == "billing":
            result, count = without_billing(result)
        elif rule == "date":
            result, count = with_first_date(
                result, salt=salt, today=today, first_values=first_values
            )
        else:
            result, count = with_reminders_last(result)
        changes.append((rule, count))
    return result, tuple(changes)


def without_billing(messages: Sequence[Message]) -> tuple[list[Message], int]:
    """Without lines `x-anthropic-billing-header: ...` at the beginning of a leading system text.

    As many of them as there are. A part of a content that holds nothing else is left out.
    """
    count = 0

    def edited(text: str) -> str:
        nonlocal count
        match = _BILLING.match(text)
        if match is None:
            return text
        count += sum(_HEADER in line for line in match[0].lower().splitlines())
        return text[match.end() :]

    size = _num_leading(messages)
    return [*(_edited(one, edited) for one in messages[:size]), *messages[size:]], count


def with_first_date(
    messages: Sequence[Message], *, salt: str, today: date, first_values: FirstValues
) -> tuple[list[Message], int]:
    """With dates of today in leading system texts as they were in the conversation's first prompt.

    Dates from the day before `today` to the day after it count (clients live in other time zones),
    in figures or with the month's name, and the times of day in lines that hold one. All others
    stay. A conversation is known by its system texts without those, and by its first other message.
    The values hold for a day.
    """
    size = _num_leading(messages)
    dated = Dated(today)
    blanked = [_edited(one, dated.blanked) for one in messages[:size]]
    values = tuple(dated.found)
    if not values:
        return list(messages), 0
    key = context(f"dates\0{salt}")
    for message in [*blanked, *messages[size : size + 1]]:
        key = extended(key, message)
    pinned = first_values(key, values)
    filling = Dated(today, pinned)
    filled = [_edited(one, filling.filled) for one in messages[:size]]
    changed = sum(one != other for one, other in zip(values, pinned, strict=True))
    return [*filled, *messages[size:]], changed


def with_reminders_last(messages: Sequence[Message]) -> tuple[list[Message], int]:
    """With the `<system-reminder>` blocks of all user and tool messages behind the last user's.

    In their order, the same block once. A message that holds nothing else keeps its blocks, since
    it would be empty. Without a user message nothing changes.
    """
    last = max(
        (number for number, one in enumerate(messages) if one["role"] == "user"), default=None
    )
    if last is None:
        return list(messages), 0
    blocks: list[str] = []
    count = 0

    def taken(text: str) -> str:
        nonlocal count
        rest, found = _parted(text)
        if not rest.strip() or not found:
            return text
        count += len(found)
        blocks.extend(found)
        return rest

    result = [
        _edited(one, taken) if number != last and one["role"] in ("user", "tool") else one
        for number, one in enumerate(messages)
    ]
    if not blocks:
        return list(messages), 0
    result[last] = _with_more(result[last], "\n".join(dict.fromkeys(blocks)))
    return result, count


def _parted(text: str) -> tuple[str, list[str]]:
    """A text without its reminders, and those; lines take the place of the white space around."""
    pieces: list[str] = []
    blocks: list[str] = []
    end = 0
    while (start := text.find(_OPEN, end)) >= 0:
        stop = text.find(_CLOSE, start)
        if stop < 0:
            break
        pieces.append(text[end:start].rstrip())
        end = stop + len(_CLOSE)
        blocks.append(text[start:end])
    pieces.append(text[end:])
    first, *others = pieces
    return "\n".join(filter(None, [first, *(piece.lstrip() for piece in others)])), blocks


def _num_leading(messages: Sequence[Message]) -> int:
    """How many system messages a conversation begins with."""
    return next(
        (number for number, one in enumerate(messages) if one["role"] not in _SYSTEM), len(messages)
    )


def _edited(message: Message, edit: Callable[[str], str]) -> Message:
    content: Json = message["content"]
    if isinstance(content, str):
        return {**message, "content": edit(content)}
    if not isinstance(content, list):
        return message
    parts = [
        {**part, "text": edit(part["text"])} if part["type"] == "text" else part for part in content
    ]
    kept = [part for part in parts if part["type"] != "text" or part["text"]]
    return {**message, "content": kept or parts[:1]}


def _with_more(message: Message, text: str) -> Message:
    content: Json = message["content"]
    if isinstance(content, list):
        return {**message, "content": [*content, {"type": "text", "text": text}]}
    return {**message, "content": f"{content or ''}\n\n{text}".strip("\n")}
