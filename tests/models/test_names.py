"""Built-in names: accepted wherever a path is, never in the way of one, and free until used."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samovar import models
from tests.conftest import Models
from tests.models.conftest import Answer, Samovar

NAMES = ["samovar-mini", "samovar-mini-rhymes"]


def test_every_built_in_name_has_a_file() -> None:
    assert models.names() == NAMES
    for name in NAMES:
        path = models.path_of(name)
        assert path is not None
        assert path.is_file()


@pytest.mark.parametrize(
    "text", ["", "samovar", "samovar-mini.gguf", "./samovar-mini", "*", "../x"]
)
def test_any_other_text_is_no_built_in_name(text: str) -> None:
    assert models.path_of(text) is None


def test_a_name_answers_like_the_path_of_its_file(answer: Answer, mini: Path) -> None:
    args = ("Hello!", "--temperature", 0, "--max-tokens", 20)
    assert answer("run", "samovar-mini", *args)["text"] == answer("run", mini, *args)["text"]
    assert answer("info", "samovar-mini") == answer("info", mini)


def test_info_tells_the_model_from_its_adapter(answer: Answer) -> None:
    assert answer("info", "samovar-mini")["kind"] == "model"
    assert answer("info", "samovar-mini-rhymes")["kind"] == "adapter"


def test_a_name_is_a_vocabulary_too(answer: Answer) -> None:
    found = answer("tokenize", "samovar-mini", "Once upon a time")["tokens"]
    assert answer("detokenize", "samovar-mini", *found)["text"] == "Once upon a time"


def test_a_name_makes_vectors(answer: Answer) -> None:
    first, second = answer("embed", "samovar-mini", "a red kite", "the capital")["embeddings"]
    assert first != second
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-5)


def test_an_adapter_may_be_named_with_a_scale(answer: Answer) -> None:
    args = ("run", "samovar-mini", "What does a cow say?", "--temperature", 0, "--max-tokens", 20)
    plain, none, whole = (
        answer(*args, *more)["text"]
        for more in ((), ("--lora", "samovar-mini-rhymes:0"), ("--lora", "samovar-mini-rhymes"))
    )
    assert plain == none != whole


def test_a_file_of_a_built_in_name_is_reached_by_its_path(
    answer: Answer, samovar: Samovar, models: Models, tmp_path: Path
) -> None:
    assert samovar("info", "./samovar-mini").returncode == 1
    shutil.copy(models("qwen2"), tmp_path / "samovar-mini")
    assert answer("info", "./samovar-mini")["architecture"] == "qwen2"
    assert answer("info", tmp_path / "samovar-mini")["architecture"] == "qwen2"
    assert answer("info", "samovar-mini")["name"] == "samovar-mini"


def test_a_file_in_this_folder_needs_no_path(
    answer: Answer, models: Models, tmp_path: Path
) -> None:
    shutil.copy(models("qwen2"), tmp_path / "other")
    assert answer("info", "other")["architecture"] == "qwen2"


@pytest.mark.parametrize(
    "args",
    [
        ("run", "samovar-minni", "Hi"),
        ("tokenize", "samovar-minni", "Hi"),
        ("detokenize", "samovar-minni", "1"),
        ("embed", "samovar-minni", "Hi"),
        ("info", "samovar-minni"),
        ("run", "samovar-mini", "Hi", "--lora", "samovar-minni:0.5"),
    ],
    ids=" ".join,
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    samovar: Samovar, args: tuple[str, ...]
) -> None:
    done = samovar(*args)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "samovar: samovar-minni is neither a file nor a built-in name: give a path, or one of"
        " samovar-mini, samovar-mini-rhymes\n"
    )


@pytest.mark.parametrize("name", ["a" * 5000, "two\nlines"])
def test_a_name_that_no_file_can_have_is_one_short_line(samovar: Samovar, name: str) -> None:
    done = samovar("info", name)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 400


def test_model_and_adapter_are_told_apart_where_they_are_confused(samovar: Samovar) -> None:
    done = samovar("run", "samovar-mini-rhymes", "Hi")
    assert "adapter, not a model" in done.stderr
    done = samovar("run", "samovar-mini", "Hi", "--lora", "samovar-mini")
    assert "not an adapter" in done.stderr


_WATCHED = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
{code}
assert not [name for name in opened if name.endswith(".gguf")], opened
"""


@pytest.mark.parametrize(
    "code",
    ["import samovar", "from samovar.cli import main\nassert main(['--help']) == 0"],
    ids=["import", "help"],
)
def test_no_model_file_is_opened_before_it_is_wanted(code: str) -> None:
    command = [sys.executable, "-c", _WATCHED.format(code=code)]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_the_names_cost_no_import() -> None:
    code = (
        "import __future__, pathlib, sys; before = set(sys.modules); import samovar.models;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    loaded = done.stdout.split()
    ours = [name for name in loaded if name.startswith("samovar")]
    assert ours == ["samovar", "samovar.models", "samovar.version"]
    others = {name.partition(".")[0] for name in loaded if name not in ours}
    assert others <= sys.stdlib_module_names
