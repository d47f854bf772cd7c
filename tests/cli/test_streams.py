"""Standard streams that are closed, full, without end, or of an encoding that lacks characters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Samovar
from tests.conftest import Models


def shell(redirection: str, *args: object, **more: object) -> subprocess.CompletedProcess[bytes]:
    """The command with streams redirected as a shell does it."""
    argv = [sys.executable, "-m", "samovar", *map(str, args)]
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *argv],
        capture_output=True,
        timeout=120,
        check=False,
        **more,
    )


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
@pytest.mark.parametrize(
    "args",
    [
        ("run", "{model}", "Once", "--max-tokens", "3"),
        ("run", "{model}", "Once", "--max-tokens", "3", "--json"),
        ("tokenize", "{model}", "Once"),
        ("detokenize", "{model}", "65"),
        ("embed", "{model}", "Once"),
        ("info", "{model}"),
        ("--help",),
    ],
    ids=" ".join,
)
def test_output_that_cannot_be_written_is_one_line_that_says_so(
    models: Models, args: tuple[str, ...], where: str
) -> None:
    done = shell(where, *(arg.format(model=models()) for arg in args))
    message = done.stderr.decode()
    assert done.returncode == 1, message
    assert message.startswith("samovar: cannot write to standard output")
    assert message.count("\n") == 1, message


def test_a_closed_standard_error_stops_nothing(models: Models) -> None:
    model = models(chat_template="chatml")
    done = shell("2>&-", "run", model, "Once", "--max-tokens", 3, "--seed", 1)
    assert done.returncode == 0
    assert done.stdout.strip()
    assert shell("2>&-", "run", "/nowhere.gguf", "Once").returncode == 1


def test_a_closed_standard_input_is_no_prompt(models: Models) -> None:
    done = shell("0<&-", "run", models())
    assert done.returncode == 1
    assert b"no prompt: give it" in done.stderr


def test_standard_input_that_cannot_be_read_is_one_line_that_says_so(
    models: Models, tmp_path: Path
) -> None:
    done = shell(f"0>{tmp_path / 'write-only'}", "tokenize", models.vocabulary())
    assert done.returncode == 1
    assert done.stderr.startswith(b"samovar: cannot read standard input (")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["run", "tokenize", "detokenize"])
def test_standard_input_without_end_is_refused_before_it_fills_the_memory(
    models: Models, command: str
) -> None:
    done = shell("</dev/zero", command, models())
    assert done.returncode == 1
    assert b"64 MiB" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_text_that_the_terminal_cannot_spell_is_printed_as_far_as_it_can(
    samovar: Samovar, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = tmp_path / "tea.gbnf"
    grammar.write_text('root ::= "tea: \u2615 for caf\u00e9s"')
    args = ("run", models(), "Once", "--grammar-file", grammar)
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = samovar(*args)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"tea: ? for caf\xe9s\n"
    found = json.loads(samovar(*args, "--json").stdout.decode("latin-1"))
    assert found["text"] == "tea: \u2615 for caf\u00e9s"
