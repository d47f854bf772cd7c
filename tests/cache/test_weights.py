"""The digest of weights: what it is, when it is remembered, and whom it does not believe."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.cache.weights import weights_digest
from samovar.errors import LoadFailed
from tests.conftest import scaled

MIB = 2**20


def later() -> int:
    """A clock that is an hour ahead: files that were made just now are old for it."""
    return time.time_ns() + 3600 * 10**9


@pytest.fixture
def memo(tmp_path: Path) -> Path:
    return tmp_path / "new" / "weights.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def of(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def forge(memo: Path, digest: object = "f" * 64) -> str:
    """Put another digest into the memory: whoever answers with it has not read the file."""
    told = json.loads(memo.read_text())
    told["models"] = dict.fromkeys(told["models"], digest)
    memo.write_text(json.dumps(told))
    return str(digest)


def test_it_is_the_digest_of_the_contents_whatever_their_size(tmp_path: Path, memo: Path) -> None:
    for size in (0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1):
        path = tmp_path / f"{size}.gguf"
        path.write_bytes(os.urandom(size))
        assert weights_digest([path], memo, later) == of(path.read_bytes())


def test_all_files_of_a_model_count_in_their_order(tmp_path: Path, memo: Path) -> None:
    parts = [tmp_path / f"{number}.gguf" for number in range(3)]
    for part in parts:
        part.write_bytes(part.name.encode())
    contents = [part.read_bytes() for part in parts]
    assert weights_digest(parts, memo, later) == of(*contents)
    assert weights_digest(parts[::-1], memo, later) == of(*contents[::-1])
    assert weights_digest(parts, memo, later) == of(*contents)


def test_a_file_is_read_once(model: Path, memo: Path) -> None:
    assert weights_digest([model], memo, later) == of(b"weights")
    forged = forge(memo)
    assert weights_digest([model], memo, later) == forged


def test_the_memory_is_its_owners_alone(model: Path, memo: Path) -> None:
    weights_digest([model], memo, later)
    assert stat.S_IMODE(memo.stat().st_mode) == 0o600
    assert stat.S_IMODE(memo.parent.stat().st_mode) == 0o700
    assert list(memo.parent.iterdir()) == [memo]


def test_another_file_under_the_same_name_is_read(model: Path, memo: Path, tmp_path: Path) -> None:
    weights_digest([model], memo, later)
    forge(memo)
    other = tmp_path / "other"
    other.write_bytes(b"WEIGHTS")
    times = (model.stat().st_atime_ns, model.stat().st_mtime_ns)
    os.utime(other, ns=times)
    other.replace(model)
    assert weights_digest([model], memo, later) == of(b"WEIGHTS")


def test_contents_changed_under_an_old_time_are_read(model: Path, memo: Path) -> None:
    weights_digest([model], memo, later)
    forge(memo)
    before = model.stat()
    while model.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of the file system ticks
        model.write_bytes(b"WEIGHTS")
        os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model.stat().st_mtime_ns == before.st_mtime_ns
    assert model.stat().st_size == before.st_size
    assert weights_digest([model], memo, later) == of(b"WEIGHTS")


def test_what_was_changed_just_now_is_not_remembered(model: Path, memo: Path) -> None:
    changed = model.stat().st_ctime_ns
    assert weights_digest([model], memo, lambda: changed + 10**9) == of(b"weights")
    assert not memo.exists()
    assert weights_digest([model], memo, lambda: changed - 10**12) == of(b"weights")
    assert not memo.exists()
    weights_digest([model], memo, lambda: changed + 3 * 10**9)
    assert memo.exists()


class Changing(type(Path())):
    """A file that somebody writes to as soon as it is opened."""

    def open(self, *args: object, **more: object) -> object:
        Path(self).write_bytes(b"longer than before")
        return super().open(*args, **more)


def test_a_file_that_changes_while_it_is_read_is_refused(model: Path, memo: Path) -> None:
    with pytest.raises(LoadFailed, match=r"model\.gguf was changed"):
        weights_digest([Changing(model)], memo, later)
    assert not memo.exists()


def test_a_missing_file_is_refused_though_it_is_remembered(model: Path, memo: Path) -> None:
    weights_digest([model], memo, later)
    model.unlink()
    with pytest.raises(LoadFailed, match=r"model\.gguf cannot be read: No such file"):
        weights_digest([model], memo, later)


def test_a_directory_is_refused(tmp_path: Path, memo: Path) -> None:
    with pytest.raises(LoadFailed, match="cannot be read: Is a directory"):
        weights_digest([tmp_path], memo, later)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": 1, "models": []}',
        b'{"format": 1, "models": {"a": 5}}',
        b'{"format": 99, "models": {}}',
        b" " * (2 * MIB),
    ],
    ids=lambda damage: damage[:30].decode("latin-1").strip() or f"{len(damage)} blanks",
)
def test_a_damaged_memory_is_replaced(model: Path, memo: Path, damage: bytes) -> None:
    memo.parent.mkdir()
    memo.write_bytes(damage)
    assert weights_digest([model], memo, later) == of(b"weights")
    forged = forge(memo)
    assert weights_digest([model], memo, later) == forged


@pytest.mark.parametrize("digest", ["F" * 64, "f" * 63, "f" * 65, "g" * 64, "f" * 64 + "\n", None])
def test_what_is_no_digest_is_not_believed(model: Path, memo: Path, digest: object) -> None:
    weights_digest([model], memo, later)
    forge(memo, digest)
    assert weights_digest([model], memo, later) == of(b"weights")


def test_other_versions_are_not_believed(model: Path, memo: Path) -> None:
    weights_digest([model], memo, later)
    forge(memo)
    memo.write_text(memo.read_text().replace('"format": 1', '"format": 2'))
    assert weights_digest([model], memo, later) == of(b"weights")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_memory_that_others_may_write_to_is_not_believed(
    model: Path, memo: Path, mode: int
) -> None:
    weights_digest([model], memo, later)
    forge(memo)
    memo.chmod(mode)
    assert weights_digest([model], memo, later) == of(b"weights")
    assert stat.S_IMODE(memo.stat().st_mode) == 0o600


def test_a_link_is_not_followed(model: Path, memo: Path, tmp_path: Path) -> None:
    weights_digest([model], memo, later)
    forge(memo)
    elsewhere = memo.rename(tmp_path / "elsewhere.json")
    told = elsewhere.read_bytes()
    memo.symlink_to(elsewhere)
    assert weights_digest([model], memo, later) == of(b"weights")
    assert elsewhere.read_bytes() == told
    assert not memo.is_symlink()


def test_a_pipe_in_its_place_holds_nobody_up(model: Path, memo: Path) -> None:
    memo.parent.mkdir()
    os.mkfifo(memo)
    assert weights_digest([model], memo, later) == of(b"weights")
    assert memo.is_file()


def test_without_a_place_to_remember_it_is_read_each_time(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    occupied = tmp_path / "directory"
    (occupied / "something").mkdir(parents=True)
    for memo in (tmp_path / "file" / "weights.json", occupied):
        assert weights_digest([model], memo, later) == of(b"weights")
        assert weights_digest([model], memo, later) == of(b"weights")
    leavings = {path.name for path in tmp_path.iterdir()}
    assert leavings == {"file", "directory", "home", "model.gguf"}


def test_many_models_are_remembered_and_the_oldest_forgotten(tmp_path: Path, memo: Path) -> None:
    weights_digest([], memo, later)
    told = json.loads(memo.read_text())
    told["models"] = {f"1:{number}:3:4:5": of(str(number).encode()) for number in range(300)}
    memo.write_text(json.dumps(told))
    path = tmp_path / "newest.gguf"
    path.write_bytes(b"newest")
    weights_digest([path], memo, later)
    kept = list(json.loads(memo.read_text())["models"].items())
    assert len(kept) == 256
    assert kept[0][0] == "1:45:3:4:5"
    assert kept[-1][1] == of(b"newest")


@settings(max_examples=scaled(100, 5000), database=None, deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.data())
def test_a_memory_of_any_bytes_never_does_harm(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    memo = folder / "weights.json"
    paths = [folder / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert weights_digest(paths, memo, later) == of(*contents)
    written = bytearray(memo.read_bytes())
    end = data.draw(st.integers(0, len(written)))
    del written[end:]
    if written:
        # A flip among the hex digits of the digest itself is what nothing could show; it is the
        # owner's own file. Everything else is either recognised or reads the files again.
        shown = written.find(b'": "') + 4
        place = data.draw(st.integers(0, max(0, min(shown, len(written)) - 1)))
        written[place] ^= data.draw(st.integers(1, 255))
    memo.write_bytes(bytes(written))
    assert weights_digest(paths, memo, later) == of(*contents)
