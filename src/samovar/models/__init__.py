"""The model files that come with the package, each known by the name of its file.

What lies beside this module as `NAME.gguf` is the built-in model, or adapter, NAME. `training/`
makes them. llama.cpp maps a file by its path, so the package has to lie on disk as files.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every built-in name, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.gguf"))


def path_of(name: str) -> Path | None:
    """Where the file of a built-in name lies; None for any other text."""
    return _FOLDER / f"{name}.gguf" if name in names() else None
