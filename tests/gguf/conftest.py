"""Makes the helpers beside the tests importable in every import mode, and shares files."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gguf_files import RawFile, Save, parse, tiny_llama


@pytest.fixture(scope="session")
def llama_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def llama(llama_path: Path) -> RawFile:
    return parse(llama_path.read_bytes())


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a file to read; each call overwrites the last."""

    def write(file: RawFile | bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(file if isinstance(file, bytes) else file.dump())
        return path

    return write
