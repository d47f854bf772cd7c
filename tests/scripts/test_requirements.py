"""The pins: all of them exact and hashed, none of them tied to a host, none missing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "requirements").glob("*.txt"))

PIN = re.compile(r"^([a-z0-9-]+)==(\S+)( ; .+)?((?: --hash=sha256:[0-9a-f]{64})+)$")


def pins(path: Path) -> dict[str, str]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M)
    found = [PIN.match(line) for line in text.replace(" \\\n    ", " ").splitlines()]
    assert all(found), f"{path.name} holds something else than exact, hashed pins"
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_is_an_exact_hashed_pin(path: Path) -> None:
    assert pins(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_host_and_no_path_of_a_machine_is_named(path: Path) -> None:
    assert not re.search(r"://|--index|--find-links|file:|/home/|/tmp/", path.read_text())


def test_files_that_share_an_environment_agree() -> None:
    seen: dict[str, str] = {}
    for name in ("run", "models", "test", "suite"):
        for package, version in pins(ROOT / "requirements" / f"{name}.txt").items():
            assert seen.setdefault(package, version) == version


def test_everything_the_package_depends_on_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\s<>=!~;\[]", line)[0] for line in project["dependencies"]}
    pinned = pins(ROOT / "requirements" / "run.txt") | pins(ROOT / "requirements" / "llama.txt")
    assert names <= set(pinned)
