"""Whatever happens to the files of a cache, requests get their texts; a fault is counted."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from samovar.cache.block import Block, Head
from samovar.cache.files.names import Name
from samovar.cache.files.tier import FileTier
from samovar.cache.index.node import Tier
from samovar.cache.store import BlockStore
from samovar.engine.engine import EngineOptions
from samovar.engine.sequence import Phase
from samovar.native.interface import StateKind
from samovar.native.weightless import WeightlessBackend
from samovar.types import Finished, GenerateRequest
from tests.conftest import scaled
from tests.engine.builders import KINDS, MODES, Model, Trial, block, expected, request
from tests.engine.cached import Place, files_of, place, transfer_of

LAYOUTS = {"lanes": None, "pool": 900}
PROMPT = (*block(0, 90), *block(1, 60))


def started(
    where: Place,
    kind: StateKind = StateKind.DIVISIBLE,
    *,
    num_cells: int | None = None,
    is_deterministic: bool = False,
) -> Trial:
    """An engine on what a place holds."""
    backend = WeightlessBackend(
        state_kind=kind, num_cells=num_cells, num_sequences=3, batch_size=16, end_bias=-1e3
    )
    cache = where.open(backend, is_deterministic=is_deterministic)
    trial = Trial(backend, EngineOptions(is_deterministic=is_deterministic), cache=cache)
    trial.has_bad_files = True
    return trial


def store_of(trial: Trial) -> BlockStore:
    assert trial.cache is not None
    return trial.cache.store


def end(trial: Trial) -> None:
    """The end of a process that ends well."""
    assert not trial.engine.close()
    assert store_of(trial).close()


def say(trial: Trial, asked: GenerateRequest) -> int:
    """Let a request be served, require its text, and return how much of it was restored."""
    [answer] = trial.serve(asked)
    assert isinstance(answer.end, Finished), answer.end
    assert answer.said() == expected(asked, Model(512, -1e3))
    cached = answer.finished.usage.cached
    return cached.total - cached.live


def fill(where: Place, kind: StateKind, **more: object) -> None:
    """A first life in which conversations are saved."""
    trial = started(where, kind, **more)
    for index in range(4):
        asked = request(f"r{index}", (*PROMPT[: 60 + 30 * index], index), max_tokens=12)
        say(trial, asked)
    end(trial)


def trouble(store: BlockStore) -> int:
    """How often something was not what it should be."""
    counters = store.counters
    return counters.missing_blocks + counters.restore_failures + sum(counters.bad_blocks.values())


# ---- files that change between two lives --------------------------------------------------------


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def grow(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 100)))


def replace(path: Path, chance: random.Random) -> None:
    """Another block takes its name."""
    others = sorted(one for one in path.parent.iterdir() if one != path)
    path.write_bytes(chance.choice(others).read_bytes())


def turn_zero(path: Path, chance: random.Random) -> None:
    """What a disk leaves of a file that it lost."""
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    flip,
    flip,
    flip,
    cut,
    grow,
    replace,
    turn_zero,
    lambda path, _: path.unlink(),
]


def damage_and_ask(
    where: Place, pristine: Path, kind: StateKind, chance: random.Random, **more: object
) -> tuple[int, int]:
    """A life on files of which some are damaged: how much was restored, and what was noticed."""
    shutil.rmtree(where.folder)
    shutil.copytree(pristine, where.folder)
    blocks = sorted(where.folder.glob("disk/*/blocks/*"))
    is_open = chance.random() < 0.5
    trial = started(where, kind, **more) if is_open else None
    for path in chance.sample(blocks, chance.randrange(1, 3)):
        if path.exists():
            chance.choice(DAMAGES)(path, chance)
    trial = trial or started(where, kind, **more)
    restored = say(trial, request("a", (*PROMPT, 3, *block(2, 20)), max_tokens=10))
    say(trial, request("b", (*PROMPT[:90], 1, 7), max_tokens=10))
    noticed = trouble(store_of(trial))
    end(trial)
    return restored, noticed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_misses(kind: StateKind, mode: str, tmp_path: Path) -> None:
    chance = random.Random(f"{kind} {mode}")
    more = {"is_deterministic": mode == "deterministic"}
    noticed, whole = 0, 0
    with place(memory_bytes=0) as where:
        fill(where, kind, **more)
        shutil.copytree(where.folder, tmp_path / "pristine")
        for _ in range(scaled(25, 1700)):
            found = damage_and_ask(where, tmp_path / "pristine", kind, chance, **more)
            noticed += found[1] > 0
            whole += found[0] > 100
    assert noticed >= scaled(25, 1700) / 20  # of an indivisible state, one file in ten is read
    assert whole > 0


def check_damage_is_a_miss() -> None:
    """Every byte that is not what was written is noticed, or does not matter."""
    chance = random.Random(3)
    with place(memory_bytes=0) as where, place() as other:
        fill(where, StateKind.DIVISIBLE)
        shutil.copytree(where.folder, other.folder, dirs_exist_ok=True)
        for _ in range(60):
            damage_and_ask(where, other.folder, StateKind.DIVISIBLE, chance)


def test_damage_is_noticed_when_it_is_in_the_way() -> None:
    """Each damage to each block of a path, one at a time: a miss from there on, and a count."""
    with place(memory_bytes=0) as where, place() as other:
        fill(where, StateKind.DIVISIBLE)
        shutil.copytree(where.folder, other.folder, dirs_exist_ok=True)
        asked = request("a", (*PROMPT, 3, *block(2, 20)), max_tokens=4)
        trial = started(where)
        most = say(trial, asked)
        path = store_of(trial).match(store_of(trial).scope(), list(PROMPT)).path
        starts = {node.key.hex(): node.start for node in path}
        end(trial)
        assert most >= 140
        assert len(path) > 6
        for key, start in starts.items():
            for at, harm in enumerate(DAMAGES):
                shutil.rmtree(where.folder)
                shutil.copytree(other.folder, where.folder)
                trial = started(where)
                [file] = where.folder.glob(f"disk/*/blocks/{key}.*.r")
                harm(file, random.Random(f"{start} {at}"))
                restored = say(trial, asked)
                assert restored == start
                assert trouble(store_of(trial)) == 1
                end(trial)


def test_damage_below_a_name_that_lies_is_noticed() -> None:
    """Renamed files: positions, parents and sizes that are not what they were."""
    chance = random.Random(8)
    with place(memory_bytes=0) as where, place() as other:
        fill(where, StateKind.DIVISIBLE_WITH_TAIL)
        shutil.copytree(where.folder, other.folder, dirs_exist_ok=True)
        for _ in range(scaled(30, 1000)):
            shutil.rmtree(where.folder)
            shutil.copytree(other.folder, where.folder)
            blocks = sorted(where.folder.glob("disk/*/blocks/*"))
            for path in chance.sample(blocks, 2):
                parts = path.name.split(".")
                at = chance.randrange(6)
                parts[at] = chance.choice(blocks).name.split(".")[at]
                path.rename(path.with_name(".".join(parts)))
            trial = started(where, StateKind.DIVISIBLE_WITH_TAIL)
            say(trial, request("a", (*PROMPT, 3, *block(2, 20)), max_tokens=10))
            end(trial)


# ---- directories --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_a_directory_that_vanishes_costs_what_was_in_it(kind: StateKind, memory_bytes: int) -> None:
    with place(memory_bytes=memory_bytes) as where:
        fill(where, kind)
        trial = started(where, kind)
        assert say(trial, request("a", (*PROMPT, 3, 1), max_tokens=4)) >= 90
        shutil.rmtree(where.folder)
        for index in range(3):
            say(trial, request(f"b{index}", (*block(3, 70), index, 9), max_tokens=20))
            say(trial, request(f"c{index}", (*PROMPT, index, 9), max_tokens=20))
        assert sum(store_of(trial).counters.dropped_blocks.values()) > 0
        assert not trial.engine.close()
        store_of(trial).close()


def test_a_directory_that_cannot_be_written_to_still_gives() -> None:
    with place(memory_bytes=0) as where:
        fill(where, StateKind.DIVISIBLE)
        for tier in where.folder.glob("disk/*"):
            for folder in (tier / "blocks", tier / "tmp"):
                folder.chmod(0o500)
        if os.access(where.folder, os.W_OK) and os.geteuid() == 0:
            read_only = _ReadOnly
        else:
            read_only = FileTier
        trial = started(Place(where.folder, where.config, tier=read_only))
        assert say(trial, request("a", (*PROMPT, 3, 1), max_tokens=4)) >= 140
        say(trial, request("b", (*block(3, 70), 9), max_tokens=20))
        say(trial, request("c", (*block(3, 70), 9, 8), max_tokens=20))
        assert sum(store_of(trial).counters.dropped_blocks.values()) > 0
        assert not trial.engine.close()
        store_of(trial).close()
        for tier in where.folder.glob("disk/*"):
            for folder in (tier / "blocks", tier / "tmp"):
                folder.chmod(0o700)


class _ReadOnly(FileTier):
    """Root may write everywhere; here it may not."""

    def publish(self, blocks: list[Block], *, evict: object = ()) -> object:
        del evict
        self._folder.create = _refuse  # type: ignore[method-assign]
        return super().publish(blocks)


def _refuse(*_: object) -> tuple[str, int]:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize(
    "settings",
    [
        {"memory_bytes": 0, "disk_bytes": 0},
        {"memory_bytes": 0, "write_queue_bytes": 0},
        {"memory_bytes": 0, "disk_bytes": 1},
        {"memory_bytes": 1, "disk_bytes": 30_000},
    ],
    ids=["nothing", "no queue", "a byte of disk", "little"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_without_room_there_are_only_misses(kind: StateKind, settings: dict[str, int]) -> None:
    with place(**settings) as where:
        for _ in range(2):
            trial = started(where, kind)
            for index in range(3):
                say(trial, request(f"r{index}", (*PROMPT, index), max_tokens=20))
            end(trial)


# ---- reads that take long -----------------------------------------------------------------------


class Gate:
    """Reads wait here until they are let through."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.has_come = threading.Event()

    def tier(self, *args: object, **more: object) -> FileTier:
        gate = self

        class Gated(FileTier):
            def read(self, name: Name, namespace: bytes, buffer: memoryview | None = None) -> Block:
                gate.has_come.set()
                assert gate.is_open.wait(60)
                return super().read(name, namespace, buffer)

            def read_apart(
                self, name: Name, namespace: bytes, places: Sequence[np.ndarray]
            ) -> Head | Block:
                gate.has_come.set()
                assert gate.is_open.wait(60)
                return super().read_apart(name, namespace, places)

        return Gated(*args, **more)  # type: ignore[arg-type]


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.is_open.set()


def slow(where: Place, gate: Gate) -> Place:
    """The same place; its files are read by a real thread, when the gate is open."""
    return Place(where.folder, where.config, is_by_hand=False, tier=gate.tier)


def restoring(trial: Trial) -> list[str]:
    return [one.request_id for one in trial.engine.scheduler.seated if one.phase is Phase.RESTORING]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_others_go_on_while_one_waits_for_its_blocks(
    kind: StateKind, layout: str, gate: Gate
) -> None:
    with place(memory_bytes=0) as where:
        fill(where, kind)
        trial = started(slow(where, gate), kind, num_cells=LAYOUTS[layout])
        other = request("other", block(3, 40), max_tokens=30)
        trial.submit(other)
        trial.until(lambda: bool(trial.answers["other"].tokens()))
        asked = request("a", (*PROMPT, 3, *block(2, 20)), max_tokens=10)
        trial.submit(asked)
        trial.step(3)
        assert restoring(trial) == ["a"]
        before = len(trial.answers["other"].tokens())
        trial.step(10)
        assert len(trial.answers["other"].tokens()) == before + 10
        assert restoring(trial) == ["a"]
        gate.is_open.set()
        trial.finish()
        for one in (other, asked):
            assert trial.answers[one.request_id].said() == expected(one, Model(512, -1e3))
        assert trial.answers["a"].finished.usage.cached.disk >= 90
        assert trial.answers["a"].finished.usage.timings.restore_seconds > 0
        end(trial)


ENDS = [(how, session) for how in ("cancelled", "late", "stopped") for session in (None, "s")]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("how", "session"), [*ENDS, ("reset", "s")])
def test_who_ends_while_it_waits_for_its_blocks_leaves_nothing(
    how: str, layout: str, session: str | None, gate: Gate
) -> None:
    with place(memory_bytes=0) as where:
        fill(where, StateKind.DIVISIBLE)
        trial = started(slow(where, gate), num_cells=LAYOUTS[layout])
        timeout = 5.0 if how == "late" else None
        asked = request("a", (*PROMPT, 3, 4), session=session, timeout_seconds=timeout)
        trial.submit(asked)
        trial.step(2)
        assert restoring(trial) == ["a"]
        assert gate.has_come.wait(60)
        if how == "stopped":
            events = trial.engine.close()
            assert [one.code for one in events] == ["overloaded"]
            gate.is_open.set()
            assert store_of(trial).close()
            assert not [one for one in store_of(trial).index.nodes() if one.leases]
            return
        if how == "cancelled":
            trial.cancel("a")
        elif how == "late":
            trial.clock.advance(6.0)
        else:
            trial.engine.reset_session("s")
        trial.step(2)
        assert trial.has_ended("a")
        assert restoring(trial) == []
        assert not [one for one in store_of(trial).index.nodes() if one.leases]
        gate.is_open.set()
        if how == "cancelled":
            assert trial.answers["a"].finished.choices[0].reason == "cancelled"
        else:
            codes = {"late": "deadline_exceeded", "reset": "session_reset"}
            assert trial.answers["a"].failed.code == codes[how]
        again = request("b", (*PROMPT, 3, 4), session=session)
        assert say(trial, again) >= 140
        end(trial)


def test_choices_of_a_request_that_waits_for_its_blocks(gate: Gate) -> None:
    with place(memory_bytes=0) as where:
        fill(where, StateKind.DIVISIBLE)
        trial = started(slow(where, gate))
        asked = request("a", (*PROMPT, 3, 4), choices=3, temperature=0.9, seed=5)
        trial.submit(asked)
        trial.step(5)
        gate.is_open.set()
        trial.finish()
        for choice in range(3):
            assert trial.answers["a"].said(choice) == expected(asked, Model(512, -1e3), choice)
        end(trial)


def test_blocks_that_never_come_are_computed(gate: Gate) -> None:
    """The files go while their reader stands before them."""
    with place(memory_bytes=0) as where:
        fill(where, StateKind.DIVISIBLE)
        trial = started(slow(where, gate))
        asked = request("a", (*PROMPT, 3, 4))
        trial.submit(asked)
        trial.step(2)
        assert gate.has_come.wait(60)
        for path in where.folder.glob("disk/*/blocks/*"):
            path.unlink()
        gate.is_open.set()
        assert say_rest(trial, asked) == 0
        assert store_of(trial).counters.missing_blocks > 0
        assert not trial.engine.close()
        store_of(trial).close()


def say_rest(trial: Trial, asked: GenerateRequest) -> int:
    """Let a request that was submitted be served, and require its text."""
    trial.finish()
    answer = trial.answers[asked.request_id]
    assert answer.said() == expected(asked, Model(512, -1e3))
    return answer.finished.usage.cached.total - answer.finished.usage.cached.live


# ---- what is full when it comes back ------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_for_which_there_are_no_cells_any_more(kind: StateKind, gate: Gate) -> None:
    """The cells that were free when it was admitted are used by others when its blocks come."""
    with place(memory_bytes=0) as where:
        fill(where, kind)
        trial = started(slow(where, gate), kind, num_cells=320)
        greedy = request("other", block(3, 40), max_tokens=250)
        asked = request("a", (*PROMPT, 3, 4), max_tokens=8)
        trial.submit(greedy)
        trial.step(8)
        trial.submit(asked)
        trial.step(2)
        assert restoring(trial) == ["a"]
        trial.until(lambda: len(trial.answers["other"].tokens()) > 200)
        gate.is_open.set()
        trial.finish()
        for one in (greedy, asked):
            assert trial.answers[one.request_id].said() == expected(one, Model(320, -1e3))
        end(trial)


def test_a_second_try_may_bring_more_than_the_first(gate: Gate) -> None:
    """While it waits, somebody else saves what goes further; what it waits for turns out bad."""
    with place(memory_bytes=1 << 20) as where:
        first = started(where)
        say(first, request("r", (*PROMPT[:60], 1), max_tokens=1))
        end(first)
        trial = started(slow(where, gate), num_cells=900)
        asked = request("a", (*PROMPT, 3, 4), max_tokens=8)
        trial.submit(asked)
        trial.step(2)
        assert restoring(trial) == ["a"]
        for path in where.folder.glob("disk/*/blocks/*"):
            flip(path, random.Random(1))
        other = request("other", PROMPT, max_tokens=8, prefill_only=True, adapters=())
        trial.submit(other)
        trial.step(40)
        gate.is_open.set()
        trial.finish()
        assert trial.answers["a"].said() == expected(asked, Model(512, -1e3))
        end(trial)


# ---- all of it in tiers -------------------------------------------------------------------------


def test_what_one_tier_lost_another_gives() -> None:
    with place(memory_bytes=0, shm_bytes=1 << 26) as where:
        fill(where, StateKind.DIVISIBLE)
        chance = random.Random(2)
        for path in where.folder.glob("shm/*/blocks/*"):
            flip(path, chance)
        trial = started(where)
        assert set(files_of(store_of(trial))) == {Tier.SHM, Tier.DISK}
        assert say(trial, request("a", (*PROMPT, 3, 4), max_tokens=4)) >= 140
        assert trial.answers["a"].finished.usage.cached.disk >= 140
        assert trouble(store_of(trial)) > 6
        assert transfer_of(store_of(trial)).queued_bytes == 0
        end(trial)
