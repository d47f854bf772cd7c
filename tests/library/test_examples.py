"""The examples of the documents run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENTS = (ROOT / "docs/library.md", ROOT / "README.md", ROOT / "src/samovar/__init__.py")


def examples() -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        found += [(f"{path.name}-{number}", block) for number, block in enumerate(blocks)]
    return [(name, block) for name, block in found if "samovar" in block]


def test_there_are_examples() -> None:
    assert len([name for name, _ in examples() if name.startswith("library")]) >= 4


@pytest.mark.parametrize(("name", "code"), examples(), ids=[name for name, _ in examples()])
def test_an_example_runs(tmp_path: Path, name: str, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code.replace("model.gguf", "samovar-mini")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
        env={**os.environ, "SAMOVAR_CACHE_DIR": str(tmp_path / "kv")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), name
    assert not done.stderr
