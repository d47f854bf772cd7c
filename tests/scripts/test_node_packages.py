"""The packages of JavaScript that the tests use: pinned and hashed, tied to no host."""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "clients"
ASKED = json.loads((FOLDER / "package.json").read_text())["dependencies"]
LOCKED = json.loads((FOLDER / "package-lock.json").read_text())["packages"]


def test_every_package_has_the_hash_of_its_content_and_no_address() -> None:
    assert LOCKED[""]["dependencies"] == ASKED
    for name in LOCKED.keys() - {""}:
        package = LOCKED[name]
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package["integrity"]), name
        assert "resolved" not in package, name


def test_what_is_asked_for_is_exact() -> None:
    for name, version in ASKED.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
        assert LOCKED[f"node_modules/{name}"]["version"] == version
