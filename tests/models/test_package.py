"""What is packed: the models as they are, and all that made them in the source archive."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from samovar import models
from tests.conftest import ROOT


def _built(target: str, tmp_path: Path) -> Path:
    folder = tmp_path / target
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (made,) = folder.glob("samovar-*")
    return made


def _files() -> dict[str, int]:
    paths = [models.path_of(name) for name in models.names()]
    return {f"samovar/models/{path.name}": path.stat().st_size for path in paths if path}


def test_the_wheel_holds_the_models_and_grows_by_no_more_than_they_are(tmp_path: Path) -> None:
    with zipfile.ZipFile(_built("wheel", tmp_path)) as wheel:
        found = {info.filename: info for info in wheel.infolist()}
    assert {name: found[name].file_size for name in _files()} == _files()
    ours = [info for name, info in found.items() if name.startswith("samovar/models/")]
    assert sum(info.compress_size for info in ours) <= sum(_files().values())
    assert not [name for name in found if not name.startswith(("samovar/", "samovar-"))]


def test_the_source_archive_holds_what_made_the_models(tmp_path: Path) -> None:
    with tarfile.open(_built("sdist", tmp_path)) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    made_by = [path for path in (ROOT / "training").rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in made_by if "__pycache__" not in path.parts}
    assert wanted <= found
    assert {f"src/{name}" for name in _files()} <= found


@pytest.mark.parametrize("name", ["samovar-mini", "samovar-mini-rhymes"])
def test_a_model_is_no_larger_than_was_promised(name: str) -> None:
    path = models.path_of(name)
    assert path is not None
    assert path.stat().st_size <= 8 << 20
