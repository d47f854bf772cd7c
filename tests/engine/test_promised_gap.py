"""Between two tokens of a running sequence lies no more than was promised.

The clock is simulated: a decode call costs what a function of its rows says, so the promise can be
held to the letter on machines of every speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from samovar.engine.latency import DECODE_STEPS, LEAST_CHUNK, LEAST_GAP_SECONDS
from samovar.native.interface import Row
from samovar.native.weightless import WeightlessBackend
from tests.engine.builders import Trial, request
from tests.engine.test_shares import fresh


@dataclass(frozen=True)
class Machine:
    """What decode calls cost, in seconds."""

    call: float
    row: float
    token: float
    depth: float = 0.0
    """For every token, per cell behind it."""

    def __call__(self, rows: Sequence[Row], backend: WeightlessBackend) -> float:
        return self.call + sum(
            self.of_row(len(backend.tokens(row.seq_id)), len(row.tokens)) for row in rows
        )

    def of_row(self, held: int, count: int) -> float:
        """A row of so many tokens behind so many cells; one alone costs a decoded token."""
        each = self.row if count == 1 else self.token
        return count * (each + self.depth * (held + count / 2))

    def decode(self, depths: Sequence[int]) -> float:
        """A step that decodes sequences of these lengths and nothing else."""
        return self.call + sum(self.of_row(depth, 1) for depth in depths)


MACHINES = {
    "quick": Machine(0.002, 0.001, 0.0002),
    "middling": Machine(0.02, 0.01, 0.002),
    "slow": Machine(0.1, 0.05, 0.008),
    "slower than any promise": Machine(0.5, 0.1, 0.2),
    "slower with depth": Machine(0.02, 0.005, 0.001, 2e-6),
    "much slower with depth": Machine(0.01, 0.002, 0.0005, 4e-6),
}


class Watch:
    """Notes when the decoding sequences of a trial get their tokens."""

    def __init__(self, machine: Machine, num_sequences: int = 6) -> None:
        backend = WeightlessBackend(
            context_length=4096, num_sequences=num_sequences, batch_size=512, end_bias=-100.0
        )
        self.machine = machine
        self.trial = Trial(backend, cost=machine)
        self.gaps: list[float] = []
        self.breaches: list[tuple[float, float]] = []
        """(gap, what was promised)."""
        self._last: dict[str, tuple[int, float]] = {}

    def start(self, names: Sequence[str], **more: object) -> None:
        """Sequences that go on decoding, warmed up until the engine knows what they cost."""
        for number, name in enumerate(names):
            asked = request(name, fresh(40, number), max_tokens=4000, **more)
            self.trial.submit(asked)
            self._last[name] = (0, 0.0)
        self.trial.step(12)
        self._look()
        self.gaps.clear()
        self.breaches.clear()

    def step(self) -> None:
        """A step, and the gaps that end with it."""
        self.trial.step()
        self._look()

    def _look(self) -> None:
        now = self.trial.clock.now
        for name, (count, since) in self._last.items():
            found = len(self.trial.answers[name].tokens())
            if found > count:
                self.gaps.append(now - since)
                if now - since > self.promise() + 1e-9:
                    self.breaches.append((now - since, self.promise()))
                self._last[name] = (found, now)

    def promise(self) -> float:
        """What was promised, or what the least that prompts get takes if that is more."""
        depths = [len(self.trial.backend.tokens(seat)) for seat in range(len(self._last))]
        decode = self.machine.decode(depths)
        running = self.trial.engine.scheduler.running
        deepest = max(one.num_computed for one in running)
        few = LEAST_CHUNK + len(running) - len(depths)  # and one for the end of each prompt
        least = decode + self.machine.of_row(deepest, few)
        return max(LEAST_GAP_SECONDS, DECODE_STEPS * decode, least)


def read_beside(watch: Watch, **more: object) -> None:
    """Long prompts, one after the other and two at once, beside those who decode."""
    trial = watch.trial
    for number in range(4):
        trial.submit(request(f"long{number}", fresh(3000, 50 + number), max_tokens=1, **more))
        if number == 2:
            continue
        for _ in range(3000):
            if trial.has_ended(f"long{number}"):
                break
            watch.step()
        assert trial.has_ended(f"long{number}"), trial.describe()


def check_the_promise(machine: Machine, num_decoding: int) -> None:
    watch = Watch(machine)
    watch.start([f"d{i}" for i in range(num_decoding)])
    read_beside(watch)
    # The first chunks beside others, and those at a new depth, have a price that is a guess.
    assert len(watch.breaches) <= 4 * num_decoding, watch.breaches
    assert all(gap <= 1.6 * promise for gap, promise in watch.breaches)
    assert len(watch.gaps) > 20 * num_decoding


@pytest.mark.parametrize("num_decoding", [1, 4])
@pytest.mark.parametrize("name", MACHINES)
def test_a_long_prompt_does_not_keep_those_who_decode_waiting(name: str, num_decoding: int) -> None:
    check_the_promise(MACHINES[name], num_decoding)


@pytest.mark.parametrize("name", ["quick", "middling", "slow"])
def test_a_long_prompt_under_an_adapter_does_not_keep_others_waiting(name: str) -> None:
    watch = Watch(MACHINES[name])
    watch.trial.engine.load_adapter("x", "x")
    watch.start(["d0", "d1"])
    read_beside(watch, adapters=(("x", 1.0),))
    assert len(watch.breaches) <= 2, watch.breaches


def test_a_prompt_beside_others_still_gets_most_of_what_the_promise_leaves() -> None:
    machine = MACHINES["middling"]
    watch = Watch(machine)
    watch.start(["d0", "d1"])
    started = watch.trial.clock.now
    watch.trial.submit(request("long", fresh(3000, 9), max_tokens=1))
    while not watch.trial.has_ended("long"):
        assert watch.trial.num_steps < 500
        watch.step()
    alone = 3000 * machine.token
    assert watch.trial.clock.now - started <= 2 * alone


def test_a_prompt_alone_goes_in_full_chunks() -> None:
    watch = Watch(MACHINES["slow"])
    watch.trial.serve(request("long", fresh(3000, 9), max_tokens=1))
    sizes = [len(rows[0].tokens) for rows in watch.trial.calls]
    assert sizes == [512] * 5 + [440]


def test_a_step_that_takes_no_time_at_all_is_no_reason_to_stop() -> None:
    trial = Trial(cost=lambda rows, backend: 0.0)  # noqa: ARG005
    trial.submit(request("a", fresh(40, 1), max_tokens=20))
    trial.step(5)
    trial.submit(request("b", fresh(200, 2), max_tokens=20))
    trial.finish()
    assert all(answer.finished for answer in trial.answers.values())
