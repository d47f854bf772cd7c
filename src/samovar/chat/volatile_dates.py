"""Dates of today in a text, and the times of day beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<month>(?:{'|'.join(_MONTHS)})[a-z]*)\.?"
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?,?\s+)?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_FORMS = tuple(
    re.compile(rf"(?<![\w/-])(?:{form})(?!\d)", re.IGNORECASE)
    for form in (
        rf"{_YEAR}[-/](?P<month>\d{{1,2}})[-/](?P<day>\d{{1,2}})",
        rf"(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})/{_YEAR}",
        rf"{_WEEKDAY}{_MONTH}\s+{_DAY},?\s+{_YEAR}",
        rf"{_WEEKDAY}{_DAY}\s+{_MONTH},?\s+{_YEAR}",
        rf"{_WEEKDAY}{_MONTH}\s+{_DAY}\s+\d\d:\d\d(?::\d\d)?\s+(?:[A-Z]{{2,5}}\s+)?{_YEAR}",
    )
)
_TIME = re.compile(
    r"(?:T|\b)(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?"
    r"(?:\s?[AaPp]\.?[Mm]\b\.?)?(?:\s?(?:Z|UTC|GMT)\b|[+-]\d\d:?\d\d)?"
)
_GAP = "\0"
_NEAR = timedelta(days=1)


class Dated:
    """Reads texts one after the other. `values`: what `filled` puts where it finds something."""

    def __init__(self, today: date, values: Sequence[str] = ()) -> None:
        self._today = today
        self._values = iter(values)
        self.found: list[str] = []
        """What was found so far."""

    def blanked(self, text: str) -> str:
        """A text with a gap for each date of today and each time beside one."""
        return self._replaced(text, lambda _: _GAP)

    def filled(self, text: str) -> str:
        """A text with the next of the values for each of them."""
        return self._replaced(text, lambda found: next(self._values, found))

    def _replaced(self, text: str, replacement: Callable[[str], str]) -> str:
        pieces, end = [], 0
        for start, stop in self._spans(text):
            found = text[start:stop]
            self.found.append(found)
            pieces += [text[end:start], replacement(found)]
            end = stop
        return "".join([*pieces, text[end:]])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        offset = 0
        for line in text.splitlines(keepends=True):
            dates = list(self._dates(line))
            times = [match.span() for match in _TIME.finditer(line)] if dates else []
            end = 0
            for start, stop in sorted([*dates, *times]):
                if start >= end:
                    yield offset + start, offset + stop
                    end = stop
            offset += len(line)

    def _dates(self, line: str) -> Iterator[tuple[int, int]]:
        for form in _FORMS:
            for match in form.finditer(line):
                found = _date(match)
                if found is not None and abs(found - self._today) <= _NEAR:
                    yield match.span()


def _date(match: re.Match[str]) -> date | None:
    """The day that a match speaks of, if there is such a day."""
    month = match["month"]
    number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
    try:
        return date(int(match["year"]), number, int(match["day"]))
    except ValueError:
        return None
