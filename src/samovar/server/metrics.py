"""Counters, gauges and histograms, and how Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""From a restored prompt to a long one on a slow machine."""

Labels = tuple[str, ...]


class Metric:
    """One family: a name, what it means, and a value for each set of labels."""

    kind = "gauge"

    def __init__(self, name: str, meaning: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = tuple(labels)
        self._values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        """Its value is this now."""
        self._values[labels] = value

    def value(self, *labels: str) -> float:
        """What it is now; 0 if nothing was ever said."""
        return self._values.get(labels, 0.0)

    def clear(self) -> None:
        """Forget every value: those that are still true are set anew."""
        self._values.clear()

    def lines(self) -> Iterable[str]:
        """As Prometheus reads it."""
        yield f"# HELP {self.name} {self.meaning}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self._samples()

    def _samples(self) -> Iterable[str]:
        for labels, value in self._values.items():
            yield f"{self.name}{_braces(self.labels, labels)} {_number(value)}"


class Gauge(Metric):
    """What goes up and down."""


class Counter(Metric):
    """What only goes up."""

    kind = "counter"

    def add(self, amount: float, *labels: str) -> None:
        """So much more."""
        self._values[labels] = self._values.get(labels, 0.0) + amount


class Spread:
    """How many values were how large, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One value more."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histogram(Metric):
    """How values are spread."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: Sequence[str] = (),
        bounds: Sequence[float] = SECONDS,
    ) -> None:
        super().__init__(name, meaning, labels)
        self._bounds = tuple(bounds)
        self._spreads: dict[Labels, Spread] = {}

    def observe(self, value: float, *labels: str) -> None:
        """One value more."""
        self.spread(*labels).observe(value)

    def spread(self, *labels: str) -> Spread:
        """That of the values of these labels, for whoever observes many."""
        found = self._spreads.get(labels)
        if found is None:
            found = self._spreads[labels] = Spread(self._bounds)
        return found

    def _samples(self) -> Iterable[str]:
        names = (*self.labels, "le")
        for labels, spread in self._spreads.items():
            if not any(spread.counts):
                continue  # somebody was about to observe, and nothing came
            total = 0
            for bound, count in zip((*self._bounds, float("inf")), spread.counts, strict=True):
                total += count
                yield f"{self.name}_bucket{_braces(names, (*labels, _number(bound)))} {total}"
            own = _braces(self.labels, labels)
            yield f"{self.name}_sum{own} {_number(spread.sum)}"
            yield f"{self.name}_count{own} {total}"


def exposition(metrics: Iterable[Metric]) -> str:
    """All of them as one text."""
    return "\n".join(line for metric in metrics for line in metric.lines()) + "\n"


def _braces(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
