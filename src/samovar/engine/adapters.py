"""The LoRA adapters of an engine, by the names that requests use."""

from __future__ import annotations

import math

from samovar.errors import InvalidRequest
from samovar.native.interface import Adapter, Backend


class Adapters(dict[str, Adapter]):
    """Loaded adapters by name."""

    def load(self, backend: Backend, name: str, path: str) -> None:
        """Load a file under a name.

        Raises ModelNotFound, AdapterRejected, and InvalidRequest for a name that is in use.
        """
        if name in self:
            raise InvalidRequest(f"an adapter named {name} is loaded; unload it first")
        self[name] = backend.load_adapter(path)

    def require(self, wanted: object) -> None:
        """Raise InvalidRequest unless these are loaded adapters with their scales."""
        if not isinstance(wanted, tuple) or not all(map(_is_scaled, wanted)):
            raise InvalidRequest("adapters are pairs of a name and a finite number, its scale")
        for name, _ in wanted:
            if name not in self:
                raise InvalidRequest(f"no adapter named {name} is loaded")


def _is_scaled(pair: object) -> bool:
    """Whether it is a name and a scale. Anything else would fail where all sequences meet."""
    match pair:
        case (str(), bool()):
            return False
        case (str(), int() | float() as scale):
            return isinstance(pair, tuple) and math.isfinite(scale)
        case _:
            return False
