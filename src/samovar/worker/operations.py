"""Questions to a worker that are answered once: by name, as the runtime's methods ask them."""

from __future__ import annotations

import logging
from typing import Any

from samovar.errors import InvalidRequest
from samovar.worker.loading import Served

logger = logging.getLogger(__name__)

ANY_THREAD = frozenset({"tokenize", "detokenize", "render"})
"""Those that only read what never changes: they do not wait for a step."""

BETWEEN_STEPS = frozenset(
    {
        "load_adapter",
        "unload_adapter",
        "list_adapters",
        "end_session",
        "reset_session",
        "fork_session",
        "session_tokens",
        "cache_info",
        "status",
    }
)
"""Those that touch what a step touches."""


class Operations:
    """What can be asked of a loaded model besides requests."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._engine = served.engine

    def ask(self, name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        """Do it. Raises InvalidRequest for an operation or arguments that do not exist."""
        if name not in ANY_THREAD | BETWEEN_STEPS:
            raise InvalidRequest(f"a worker knows no operation {name}")
        try:
            return getattr(self, name)(**arguments)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            logger.warning("%s was asked with arguments of no sense", name, exc_info=error)
            kind = type(error).__name__  # its text may hold what was asked
            raise InvalidRequest(f"{name} cannot be asked like that ({kind})") from error

    # ---- on any thread ------------------------------------------------------------------------

    def tokenize(self, text: str | bytes, *, add_special: bool = True) -> list[int]:
        """Text to ids."""
        return self._served.backend.tokenize(text, add_special=add_special)

    def detokenize(self, tokens: list[int]) -> str:
        """Ids to text."""
        return self._served.backend.detokenize(tokens).decode("utf-8", "replace")

    def render(self, messages: list[dict[str, Any]], **more: Any) -> list[int]:  # noqa: ANN401
        """A conversation through the model's template, as ids."""
        return self._served.backend.apply_chat_template({"messages": messages, **more})

    # ---- between two steps --------------------------------------------------------------------

    def load_adapter(self, name: str, path: str) -> None:
        """Make a LoRA file known under a name."""
        self._engine.load_adapter(name, path)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        self._engine.unload_adapter(name)

    def list_adapters(self) -> list[str]:
        """The names of the adapters that are loaded."""
        return self._engine.adapters()

    def end_session(self, name: str) -> None:
        """Forget a session."""
        self._engine.sessions.end(name)

    def reset_session(self, name: str) -> None:
        """Forget a session, and fail the request that runs on it."""
        self._engine.reset_session(name)

    def fork_session(self, source: str, target: str) -> None:
        """A new session that holds the same."""
        self._engine.sessions.fork(source, target)

    def session_tokens(self, name: str) -> list[int]:
        """What a session holds."""
        return self._engine.sessions.tokens(name)

    def cache_info(self) -> dict[str, Any]:
        """What the cache has, and has done."""
        store = self._served.store
        if store is None:
            return {"is_on": False}
        return {"is_on": True, "tiers": store.sizes(), **store.counters.as_dict()}

    def status(self) -> dict[str, Any]:
        """How busy it is."""
        scheduler = self._engine.scheduler
        return {
            "running": len(scheduler.seated),
            "waiting": len(scheduler.waiting),
            "sequences": self._served.backend.num_sequences,
            "sessions": len(self._engine.sessions),
            "adapters": self._engine.adapters(),
        }
