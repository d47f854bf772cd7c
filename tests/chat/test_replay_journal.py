"""The file of remembered turns: what survives in it, and what is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samovar.chat.replay_journal import FILE, Journal, PinRecord, Record, TurnRecord
from samovar.chat.replay_turns import Turns
from tests.conftest import scaled

SPACE = b"model"


def turn(number: int, namespace: bytes = SPACE, size: int = 8) -> TurnRecord:
    return TurnRecord(namespace, b"key %d" % number, "<|im_start|>assistant\n", b"\x01\x02" * size)


def written(folder: Path, *records: Record, **more: int) -> Path:
    journal = Journal(folder, SPACE, **more)
    for record in records:
        journal.append(record)
    journal.close()
    return folder / FILE


def read(folder: Path) -> tuple[list[Record], Journal]:
    journal = Journal(folder, SPACE)
    found = journal.read()
    journal.close()
    return found, journal


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    records = [turn(1), PinRecord(SPACE, b"pin", ("a", "b"), 5.0), turn(2)]
    path = written(tmp_path, *records)
    assert read(tmp_path)[0] == records
    assert path.stat().st_mode & 0o777 == 0o600


def test_others_records_are_passed_over_and_counted(tmp_path: Path) -> None:
    written(tmp_path, turn(1), turn(2, b"other"), turn(3))
    found, journal = read(tmp_path)
    assert (found, journal.num_foreign, journal.num_damaged) == ([turn(1), turn(3)], 1, 0)


@given(cut=st.integers(0, 400), junk=st.binary(max_size=40), is_cut=st.booleans())
@settings(
    max_examples=scaled(100, 4000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damage_costs_what_it_hits_and_nothing_else(
    tmp_path: Path,
    cut: int,
    junk: bytes,
    is_cut: bool,  # noqa: FBT001 - drawn
) -> None:
    records = [turn(number) for number in range(4)]
    (tmp_path / FILE).unlink(missing_ok=True)
    data = written(tmp_path, *records).read_bytes()
    size = len(data) // 4
    cut = min(cut, len(data))
    end = len(data) if is_cut else min(len(data), cut + len(junk))
    damaged = data[:cut] + junk + data[end:]
    (tmp_path / FILE).write_bytes(damaged)
    found, journal = read(tmp_path)
    hit = range(cut // size, -(-end // size)) if damaged != data else range(0)
    assert found == [one for number, one in enumerate(records) if number not in hit or one in found]
    assert len(found) >= 4 - len(hit)
    if len(found) < 4 and len(damaged) > len(found) * size:
        assert journal.num_damaged
    journal.append(turn(9))
    journal.close()
    assert read(tmp_path)[0] == [*found, turn(9)]


def test_a_file_beyond_its_budget_keeps_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = written(folder, *(turn(number) for number in range(200)), max_bytes=4000)
    found, _ = read(folder)
    assert path.stat().st_size <= 4000
    assert len(found) > 10
    assert found == [turn(number) for number in range(200 - len(found), 200)]
    assert [one.name for one in folder.iterdir()] == [FILE]


def test_leavings_of_a_dead_process_go(tmp_path: Path) -> None:
    old, new = (tmp_path / f".{FILE}-{name}" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    read(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_two_processes_may_write_one_file(tmp_path: Path) -> None:
    one, other = (Journal(tmp_path, SPACE, max_bytes=4000) for _ in range(2))
    for number in range(300):
        (one, other)[number % 2].append(turn(number))
    one.close()
    other.close()
    found, journal = read(tmp_path)
    assert found == [turn(number) for number in range(300 - len(found), 300)]
    assert not journal.num_damaged


def test_a_symlink_and_a_fifo_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"")
    (tmp_path / FILE).symlink_to(target)
    journal = Journal(tmp_path, SPACE)
    journal.append(turn(1))
    assert (journal.read(), journal.num_failed) == ([], 2)
    assert target.read_bytes() == b""
    (tmp_path / FILE).unlink()
    os.mkfifo(tmp_path / FILE)
    journal.append(turn(1))
    assert journal.num_failed == 3
    journal.close()


def test_a_directory_that_is_gone_costs_only_memory(tmp_path: Path) -> None:
    turns = Turns(SPACE, lambda: 0.0, Journal(tmp_path / "none", SPACE))
    assert turns.first_values(b"key", ("a",)) == ("a",)
    assert turns.first_values(b"key", ("b",)) == ("a",)
    turns.close()


@pytest.mark.parametrize("seconds", [100.0, 90000.0])
def test_first_values_hold_for_a_day_also_over_a_restart(tmp_path: Path, seconds: float) -> None:
    turns = Turns(SPACE, lambda: 0.0, Journal(tmp_path, SPACE))
    turns.first_values(b"key", ("monday",))
    turns.close()
    again = Turns(SPACE, lambda: seconds, Journal(tmp_path, SPACE))
    expected = "monday" if seconds < 86400 else "tuesday"
    assert again.first_values(b"key", ("tuesday",)) == (expected,)
    again.close()


@pytest.mark.parametrize("values", [("monday",) * 65, ("m" * 4097,)], ids=["many", "long"])
def test_more_first_values_than_a_prompt_has_use_for_are_not_kept(
    values: tuple[str, ...], tmp_path: Path
) -> None:
    turns = Turns(b"model", lambda: 0.0, Journal(tmp_path, b"model"))
    assert turns.first_values(b"key", values) == values
    turns.close()
    assert not Journal(tmp_path, b"model").read()
    later = tuple(value.upper() for value in values)
    assert turns.first_values(b"key", later) == later
