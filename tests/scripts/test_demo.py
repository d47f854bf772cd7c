"""What `make run` shows: the second process restores what the first one computed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import demo
import pytest
from demo import Answer

SCRIPT = Path(demo.__file__)


def shown(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def table(output: str) -> dict[str, list[int]]:
    """Prompt, restored and computed tokens by what the line is about."""
    rows = re.findall(r"^(cold|warm) +(\d+) +(\d+) +(\d+) ", output, re.MULTILINE)
    return {label: list(map(int, counts)) for label, *counts in rows}


def test_the_talk_is_one_and_each_question_in_it_is_new() -> None:
    talk = demo.history()
    assert [one["role"] for one in talk] == ["user", "assistant"] * demo.TURNS
    questions = [one["content"] for one in talk[::2]]
    assert len(set(questions)) == len(questions)
    assert not {demo.QUESTION, demo.NEXT_QUESTION} & set(questions)


def test_the_second_process_computes_only_what_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "left").touch()  # by an earlier one
    done = shown(folder, 'What is "the" $HOME?')
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not (folder / "left").exists()
    assert '  What is "the" $HOME?\n' in done.stdout
    counts = table(done.stdout)
    prompt, restored, computed = counts["cold"]
    assert (restored, computed) == (0, prompt)
    assert prompt > 500
    longer, restored, computed = counts["warm"]
    assert restored >= prompt
    assert computed == longer - restored < 200
    assert re.search(r"cold over warm: [0-9]+\.[0-9]", done.stdout)


@pytest.mark.parametrize(("args", "says"), [((), "usage"), (("{folder}", " "), "empty")])
def test_wrong_usage_is_one_line(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    done = shown(*(each.format(folder=tmp_path) for each in args))
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_ratio_is_of_the_times_to_the_first_token() -> None:
    cold, warm = Answer("", 600, 0, 0.0, 0.5), Answer("", 620, 610, 0.01, 0.04)
    assert demo.compared(cold, warm).endswith("cold over warm: 10.0")
