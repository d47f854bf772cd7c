"""Questions to a process of their own: what kills it, and who has gone, is found out."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from samovar.cli.inquiry import inquire
from samovar.errors import InvalidRequest, LoadFailed
from tests.conftest import Models


def test_a_question_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="nothing is known of tea"):
        inquire("tea")


def test_a_process_that_dies_is_one_error_that_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LoadFailed, match="was ended by SIGSEGV"):
        inquire("installation")


def test_it_leaves_with_whoever_asked(models: Models) -> None:
    text = b"all work and no play " * 800_000
    arguments = {
        "path": str(models.vocabulary()),
        "text": text,
        "add_special": True,
        "parse_special": False,
    }
    asked = msgspec.msgpack.encode(("tokenize", arguments))
    command = [sys.executable, "-m", "samovar.worker.inquiry"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(struct.pack("<Q", len(asked)) + asked)
        process.stdin.close()
        assert process.stdout.read() == b"", "it answered, though nobody was there"
