"""What cannot be loaded is explained, and whoever asked for it goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samovar.config import RuntimeConfig, WorkerConfig
from samovar.errors import LoadFailed, MalformedGGUF, ModelNotFound, OutOfMemory, SamovarError
from samovar.ipc import messages as ipc
from samovar.runtime.runtime import Runtime
from samovar.types import Finished, GenerateRequest
from tests.conftest import Models
from tests.worker.driven import REAL, driven


def refused(path: str, config: RuntimeConfig, **worker: object) -> SamovarError:
    """Why a file cannot be loaded; the runtime that was asked works afterwards."""

    async def main() -> SamovarError:
        async with Runtime(config) as runtime:
            with pytest.raises(SamovarError) as raised:
                await runtime.load("x", path, WorkerConfig(**worker))  # type: ignore[arg-type]
            assert runtime.status() == {}
            return raised.value

    return asyncio.run(main())


USUAL = RuntimeConfig(command=REAL)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = refused(str(tmp_path / "none.gguf"), USUAL)
    assert isinstance(error, ModelNotFound)
    assert "none.gguf" in str(error)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "picture.gguf"
    path.write_bytes(b"\x89PNG\r\n" + bytes(1000))
    assert isinstance(refused(str(path), USUAL), MalformedGGUF)


def test_a_file_that_was_cut_off(tmp_path: Path, models: Models) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(models("llama").read_bytes()[:-1000])
    assert isinstance(refused(str(path), USUAL), MalformedGGUF)


def test_a_folder(tmp_path: Path) -> None:
    assert refused(str(tmp_path), USUAL).code in ("malformed_gguf", "model_not_found")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ImportError('libllama.so is missing')", "libllama.so is missing"),
        ("raise OSError('libgomp.so.1: cannot open shared object file')", "libgomp"),
        ("raise RuntimeError('Failed to load shared library')", "shared library"),
        ("import os; os.abort()", "SIGABRT"),
    ],
    ids=["import", "linker", "loader", "crash"],
)
def test_a_broken_library_is_said_in_words_per_model(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    package = tmp_path / "broken" / "llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(body, encoding="utf-8")
    (package / "llama_cpp.py").write_text(body, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    error = refused(str(models("llama")), USUAL)
    assert isinstance(error, LoadFailed)
    assert says in str(error)
    assert "samovar doctor" in str(error)


def test_too_little_memory_is_an_answer(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).with_name("narrow_worker.py")
    monkeypatch.setenv("SAMOVAR_TEST_ROOM", str(2**26))
    config = RuntimeConfig(command=(sys.executable, str(script)))
    error = refused(str(models("llama")), config, context_length=2**17, num_sequences=16)
    assert isinstance(error, OutOfMemory)


def test_a_model_larger_than_the_machine_is_refused_with_numbers(models: Models) -> None:
    error = refused(
        str(models("llama")), USUAL, context_length=2**22, num_sequences=250, kv_layout="lanes"
    )
    assert isinstance(error, OutOfMemory)
    assert "GiB" in str(error)


def test_by_hand_a_worker_answers_on_the_terminal(models: Models, tmp_path: Path) -> None:
    done = subprocess.run(
        [*REAL, str(models("llama")), "hello"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "SAMOVAR_CACHE_DIR": str(tmp_path / "kv")},
    )
    assert "TextDelta(" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Finished(")


def test_a_real_worker_serves_and_leaves(models: Models) -> None:
    with driven(REAL) as worker:
        worker.load(str(models("llama")), context_length=256, threads=1)
        worker.submit(GenerateRequest("a", "hello", max_tokens=5))
        events = list(worker.hear(ipc.Output).events)
        while not isinstance(events[-1], Finished):
            events += worker.hear(ipc.Output).events
        worker.hang_up()
        assert worker.code() == ipc.ExitCode.LOST_PARENT
