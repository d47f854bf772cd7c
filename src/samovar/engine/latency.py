"""How many tokens of prefill a step may hold, so that those who decode do not wait long.

The promise: between two tokens of a running sequence lie at most the larger of 200 ms and 2.5
decode steps of the model, however long a prompt somebody else brings. What a step costs is not
known beforehand, so it is measured all the time: a decode step by its number of rows, and a token
of prefill by the last chunks, which already were at the depth of the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LEAST_GAP_SECONDS = 0.2  # the promise for quick models; below it nobody sees a pause
DECODE_STEPS = 2.5  # the promise for slow ones, in their own decode steps
FIRST_CHUNK = 32  # nothing measured yet: small enough for any model that is worth waiting for
FIRST_PRICE = 4.0  # of a token with log-probabilities, in tokens of prefill: more than it costs
LEAST_CHUNK = 3  # a prompt always gets on; at 4,096 tokens of depth 8 took 1b twice the promise
_MARGIN = 0.8  # of the promise is planned for: the depth grows within a chunk, machines are shared
_MEMORY = 0.3  # weight of the newest measurement
_SLOWER = 0.7  # the same, when it is slower than expected: better careful than late


@dataclass(slots=True)
class StepCosts:
    """Measured seconds of steps, as moving averages."""

    decode_seconds: dict[int, float] = field(default_factory=dict)
    """By number of rows, rounded up to a power of two."""
    prefill_seconds: float | None = None
    """Of one token."""
    scored_seconds: float | None = None
    """Of one token of a prompt with its log-probabilities: logits of the whole vocabulary."""
    shares: int = 1
    """How many take their time out of each gap: the steps, and what is done between them."""

    def observe(
        self, decode_rows: int, prefill_tokens: int, seconds: float, scored_tokens: int = 0
    ) -> None:
        """A step of so many rows and tokens took so long."""
        if scored_tokens:
            rest = seconds - self.decode(decode_rows)
            rest -= prefill_tokens * (self.prefill_seconds or 0.0)
            found = max(rest, 0.1 * seconds) / scored_tokens
            self.scored_seconds = _moved(self.scored_seconds, found)
            return
        if not prefill_tokens:
            size = _rounded(decode_rows)
            known = self.decode_seconds.get(size)
            self.decode_seconds[size] = _moved(known, seconds)
            return
        rest = max(seconds - self.decode(decode_rows), 0.1 * seconds)
        self.prefill_seconds = _moved(self.prefill_seconds, rest / prefill_tokens)

    def decode(self, rows: int) -> float:
        """What a step of so many rows and nothing else takes; 0.0 while nothing is known."""
        if not rows or not self.decode_seconds:
            return 0.0
        size = _rounded(rows)
        known = self.decode_seconds
        return known[min(known, key=lambda other: (abs(other - size), other))]

    def row(self, rows: int) -> float:
        """What one row more costs a step of so many: what they cost beyond the fewest measured."""
        fewest = min(self.decode_seconds, default=0)
        size = _rounded(rows)
        if size <= fewest or not fewest:
            return self.decode(rows) / rows
        return max(0.0, self.decode(rows) - self.decode(fewest)) / (size - fewest)

    def gap(self, rows: int) -> float:
        """The longest that one of so many decoding sequences shall wait for its next token."""
        return max(LEAST_GAP_SECONDS, DECODE_STEPS * self.decode(rows))

    def planned(self, promised: int, turns: int = 1) -> float:
        """Seconds from one step to the next that are planned for, of the gap of `promised`."""
        return _MARGIN * self.gap(promised) / turns

    def prefill_budget(self, promised: int, largest: int, rows: int, turns: int = 1) -> int:
        """How many tokens of prefill fit into a step beside `rows` others, at most `largest`.

        `promised` sequences wait for their next token, and get it in one of `turns` steps.
        """
        if not promised:
            return largest
        each = self.scored_seconds if self.prefill_seconds is None else self.prefill_seconds
        if each is None:
            return min(FIRST_CHUNK, largest)
        left = self.planned(promised, turns) / self.shares - self.decode(rows)
        if left >= largest * each:  # also where steps take no time at all
            return largest
        if left <= 0:
            return min(largest, LEAST_CHUNK)
        return min(largest, max(LEAST_CHUNK, int(left / each)))

    def price(self) -> float:
        """What a token with log-probabilities costs, in those of which `prefill_budget` speaks."""
        if self.scored_seconds is None:
            return FIRST_PRICE
        if not self.prefill_seconds:
            return 1.0
        return max(1.0, self.scored_seconds / self.prefill_seconds)

    def seconds_of(self, prefill: int, decode: int, rows: int) -> float:
        """About how long so much work takes, decoded in steps of `rows`: for estimates only."""
        per_token = self.decode(max(1, rows)) / max(1, rows)
        return prefill * (self.prefill_seconds or 0.0) + decode * per_token


def _moved(known: float | None, found: float) -> float:
    if known is None:
        return found
    weight = _SLOWER if found > known else _MEMORY
    return known + weight * (found - known)


def _rounded(rows: int) -> int:
    return 1 << max(0, rows - 1).bit_length()
