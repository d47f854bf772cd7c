"""Samovar runs GGUF models with llama.cpp and keeps prompts hot.

The shortest program:

    import samovar

    with samovar.load("samovar-mini") as model:
        print(model.complete("Once upon a time", max_tokens=50).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samovar.version import __version__

if TYPE_CHECKING:
    from samovar.asyncmodel import AsyncModel
    from samovar.model import Model


__all__ = ["AsyncModel", "Model", "__version__", "load"]


def __getattr__(name: str) -> object:
    """What takes long to import is imported when it is asked for: most commands need none of it."""
    if name in ("Model", "load"):
        from samovar.model import Model

        return Model.load if name == "load" else Model
    if name == "AsyncModel":
        from samovar.asyncmodel import AsyncModel

        return AsyncModel
    raise AttributeError(f"module 'samovar' has no attribute {name!r}")
