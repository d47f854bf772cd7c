"""What is counted of the events of one request, under a clock of ours."""

from __future__ import annotations

import pytest

from samovar.server import observing
from samovar.server.metrics import Histogram
from samovar.server.observing import Observers, Watch
from samovar.types import Begun, Burst, Choice, Failed, Finished, TextDelta, Usage

BEGUN, TOKEN = Begun("r", 7), TextDelta("r", "a", (1,))
END = Finished("r", (Choice("stop", 0),), Usage(7, 1))


def seen(metric: Histogram) -> tuple[int, float]:
    """How many values there are, and their sum."""
    found = {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in metric.lines() if line[0] != "#")
    }
    labels = '{model="m"}'
    return int(found.get(f"{metric.name}_count{labels}", 0)), found.get(
        f"{metric.name}_sum{labels}", 0.0
    )


@pytest.mark.parametrize(
    ("bursts", "first", "gaps"),
    [
        ([(1, [BEGUN]), (8, [TOKEN]), (9, [TOKEN]), (11, [END])], (1, 8.0), (2, 3.0)),
        ([(8, [BEGUN, TOKEN]), (11, [END])], (1, 8.0), (1, 3.0)),
        ([(8, [BEGUN, TOKEN, END])], (1, 8.0), (0, 0.0)),
        ([(1, [BEGUN]), (8, [Failed("r", "worker_lost", "gone")])], (1, 8.0), (0, 0.0)),
        ([(8, [TOKEN]), (9, [END])], (1, 8.0), (1, 1.0)),
    ],
)
def test_that_a_request_has_begun_is_neither_its_first_token_nor_a_gap(
    monkeypatch: pytest.MonkeyPatch,
    bursts: list[tuple[float, Burst]],
    first: tuple[int, float],
    gaps: tuple[int, float],
) -> None:
    now = 0.0
    monkeypatch.setattr(observing.time, "monotonic", lambda: now)
    observers = Observers()
    watch = Watch(observers, "m", None)
    for now, burst in bursts:  # noqa: B007 - the clock looks at it
        watch.see(burst)
    assert seen(observers.ttft) == first
    assert seen(observers.itl) == gaps
