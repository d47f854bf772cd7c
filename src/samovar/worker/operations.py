"""Questions to a worker that are answered once: by name, as the runtime's methods ask them."""

from __future__ import annotations

import logging
from typing import Any

from samovar.errors import ContextOverflow, InvalidRequest
from samovar.types import Chat
from samovar.worker.kept import Kept, Prompt
from samovar.worker.loading import Served

logger = logging.getLogger(__name__)

ANY_THREAD = frozenset({"tokenize", "detokenize", "pieces", "encode", "render"})
"""Those that only read what never changes: they do not wait for a step."""

_LISTS = frozenset({"tools", "volatile"})

BETWEEN_STEPS = frozenset(
    {
        "load_adapter",
        "unload_adapter",
        "list_adapters",
        "end_session",
        "reset_session",
        "fork_session",
        "session_tokens",
        "list_sessions",
        "cache_info",
        "cache_explain",
        "cache_flush",
        "cache_pin",
        "cache_unpin",
        "status",
    }
)
"""Those that touch what a step touches."""


class Operations:
    """What can be asked of a loaded model besides requests."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._engine = served.engine
        self._kept = Kept(served)

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

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Text to ids; `parse_special` reads control tokens that are written out in it as such."""
        return self._served.backend.tokenize(
            text, add_special=add_special, parse_special=parse_special
        )

    def detokenize(self, tokens: list[int]) -> str:
        """Ids to text."""
        return self._served.backend.detokenize(tokens).decode("utf-8", "replace")

    def pieces(self, tokens: list[int]) -> list[tuple[bytes, bool]]:
        """What each id stands for, control tokens as they are written, and whether text shows it.

        Parts of characters are as they are.
        """
        backend = self._served.backend
        return [
            (backend.detokenize([token], special=True), bool(backend.detokenize([token])))
            for token in tokens
        ]

    def encode(self, text: str | bytes, *, is_raw: bool = False) -> list[int]:
        """The ids of a prompt: as one user's message where there is a template, unless raw."""
        backend = self._served.backend
        if not text:
            raise InvalidRequest("the prompt is empty; give some text")
        backend.require_fits(text, backend.context_length)
        if is_raw or not self._served.has_template:
            tokens = backend.tokenize(text)
        else:
            said = text if isinstance(text, str) else text.decode("utf-8", "replace")
            tokens = self.render([{"role": "user", "content": said}])
        if not tokens:
            raise InvalidRequest(
                "this vocabulary has no token for the prompt; give some other text"
            )
        if len(tokens) >= backend.context_length:
            raise ContextOverflow(
                f"the prompt has {len(tokens)} tokens and the context {backend.context_length}:"
                " shorten the prompt or raise --ctx-size"
            )
        return tokens

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        salt: str = "",
        **more: Any,  # noqa: ANN401
    ) -> list[int]:
        """A conversation as ids, with the turns that are remembered under a salt.

        `more`: other fields of a Chat.
        """
        lists = {name: tuple(more[name] or ()) for name in _LISTS & more.keys()}
        return self._served.chats.render(Chat(tuple(messages), **{**more, **lists}), salt)

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

    def list_sessions(self) -> list[dict[str, Any]]:
        """Every session: its name, how many tokens it holds, whether a request runs on it."""
        return self._engine.sessions.listed()

    def cache_info(self) -> dict[str, Any]:
        """What the cache has, and has done."""
        store = self._served.store
        if store is None:
            return {"is_on": False}
        return {"is_on": True, "tiers": store.sizes(), **store.counters.as_dict()}

    def cache_explain(self, tokens: list[int], **whose: Any) -> dict[str, Any]:  # noqa: ANN401
        """What a request with this prompt would find in the cache, and why no more (see Kept)."""
        return self._kept.explain(_prompt(tokens, **whose))

    def cache_pin(self, tokens: list[int], **whose: Any) -> int:  # noqa: ANN401
        """Keep what is there of a prompt, whatever else has to go; how many tokens that is."""
        return self._kept.pin(_prompt(tokens, **whose))

    def cache_unpin(self, tokens: list[int], **whose: Any) -> int:  # noqa: ANN401
        """Let the longest pinned beginning of a prompt go again; how many tokens it has."""
        return self._kept.unpin(_prompt(tokens, **whose))

    def cache_flush(self, seconds: float = 60.0) -> bool:
        """Wait until all is durable; no step is made meanwhile. False: the time was up before."""
        return self._kept.flush(seconds)

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


def _prompt(
    tokens: list[int], adapters: list[tuple[str, float]] | None = None, salt: str = ""
) -> Prompt:
    return Prompt(tokens, tuple((name, scale) for name, scale in adapters or ()), salt)
