"""What the documents say of the code is true of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_file_and_test_that_is_named_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:src|tests|docs|scripts|benchmarks|modelmaker)/[\w/.-]*\w", text):
        assert (ROOT / name).exists(), name
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert name in _tests_in(ROOT / file), f"{file}::{name}"


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_command_that_the_readme_names_exists() -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "samovar", "--help"], capture_output=True, text=True, check=True
    ).stdout
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`samovar (\w+)", readme))
    assert named
    assert all(re.search(rf"^  {name}\b", helped, re.MULTILINE) for name in named), named
