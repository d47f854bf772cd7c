"""What the layout promises: import rules, one low-level door to llama.cpp, no foreign traces."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _imports_of_llama_cpp(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "llama_cpp"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_only_the_low_level_module_of_llama_cpp_is_imported(path: Path) -> None:
    allowed = {"llama_cpp.llama_cpp"} if "native" in path.parts else set()
    assert _imports_of_llama_cpp(path) <= allowed


def test_every_module_begins_by_saying_what_it_is() -> None:
    bare = [p for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert bare == []


def test_the_command_line_can_be_imported_without_the_native_library() -> None:
    code = "import sys, samovar.cli; assert 'llama_cpp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
