"""What every test may use: models made on the spot, a home of its own, one scale setting."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modelmaker import build_adapter, build_model, build_vocab_only  # noqa: E402

SHARED = ROOT.parent / "shared"
FULL_SCALE = os.environ.get("SAMOVAR_TEST_SCALE", "ci") == "full"

# The usual run tries the same examples every time: what passes for one passes for all. The long
# run looks for new ones.
settings.register_profile("usual", derandomize=True)
if not FULL_SCALE:
    settings.load_profile("usual")

GENERATING_KINDS = ("llama", "qwen2", "gemma2", "lfm2", "mamba")


def scaled(small: int, full: int) -> int:
    """A count: `small` in the usual run, `full` in the long one."""
    return full if FULL_SCALE else small


def shared_vocabularies() -> list[Path]:
    """The real vocabularies beside the repository, where there are any."""
    return sorted((SHARED / "vocab").glob("*.gguf"))


# Where compiled wheels are kept stays as it is outside of the tests: they take minutes to make.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("SAMOVAR_BUILD_CACHE", str(_CACHE / "samovar" / "wheels"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache directory of this run; shared, so that the library is probed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of this test's own."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Builds small models on demand and keeps them for the session."""
    return Models(tmp_path_factory.mktemp("models"))


class Models:
    """Small random models by what they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self,
        kind: str = "llama",
        quant: str = "F16",
        vocab: str | Path | None = None,
        seed: int = 0,
        **more: object,
    ) -> Path:
        """The path of such a model."""
        parts = [kind, quant, Path(vocab).stem if vocab else "own", seed, *more.values()]
        name = "-".join(str(part).replace("/", "_")[:40] for part in parts)
        return self._once(
            name, lambda path: build_model(path, kind, quant=quant, vocab=vocab, seed=seed, **more)
        )

    def adapter(self, base: Path, seed: int = 1) -> Path:
        """An adapter for a model made here."""
        return self._once(f"{base.stem}-lora-{seed}", lambda p: build_adapter(p, base, seed=seed))

    def vocabulary(self, vocab: str | Path | None = None) -> Path:
        """A vocabulary without weights."""
        name = f"vocab-{Path(vocab).stem if vocab else 'own'}"
        return self._once(name, lambda path: build_vocab_only(path, vocab))

    def _once(self, name: str, build: Callable[[Path], object]) -> Path:
        path = self._folder / f"{name}.gguf"
        if not path.exists():
            build(path)
        return path
