"""A native pointer that is freed exactly once, and never before what depends on it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence

from samovar.errors import Released


class Handle:
    """Owns one pointer of llama.cpp.

        open ──close(), nothing depends on it──────────────> freed
          └──close(), dependants alive──> closing ──last dependant freed──┘

    A closing handle answers `Released` to every new use, as a freed one does. Closing twice is
    allowed. `watch` frees the pointer when the Python object that wraps it is collected.
    """

    def __init__(
        self,
        pointer: int,
        free: Callable[[int], None],
        what: str,
        *,
        parent: Handle | None = None,
        borrowed: object = None,
    ) -> None:
        self._pointer: int | None = pointer
        self._borrowed = borrowed  # arrays and callbacks that llama.cpp points into
        self._free = free
        self._what = what
        self._parent = parent
        self._attached: list[Handle] = []
        self._dependants = 0
        self._closing = False
        self._lock = threading.RLock()
        if parent is not None:
            parent.retain()

    @property
    def pointer(self) -> int:
        """The pointer, for a call into llama.cpp. Raises Released after `close()`."""
        if self._pointer is None or self._closing:
            raise Released(f"this {self._what} was closed; open it again before using it")
        return self._pointer

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._pointer is not None and not self._closing

    def watch(self, owner: object) -> None:
        """Close when `owner` is collected, or at exit."""
        weakref.finalize(owner, self.close)

    def close(self) -> None:
        """Free now, or as soon as the last dependant is gone."""
        with self._lock:
            self._closing = True
            self._free_if_unused()

    def attach(self, others: Sequence[Handle]) -> None:
        """Keep `others` from being freed until this is, or until the next call names others.

        Raises Released, and changes nothing, when one of them is closed.
        """
        for other in others:
            _ = other.pointer
        for other in others:
            other.retain()
        before, self._attached = self._attached, list(others)
        for other in before:
            other.release()

    def retain(self) -> None:
        """Something new depends on this. Raises Released when it is closed."""
        with self._lock:
            _ = self.pointer
            self._dependants += 1

    def release(self) -> None:
        """Something that depended on this is gone."""
        with self._lock:
            self._dependants -= 1
            self._free_if_unused()

    def _free_if_unused(self) -> None:
        if not self._closing or self._dependants or self._pointer is None:
            return
        pointer, self._pointer = self._pointer, None
        self._free(pointer)
        self.attach([])
        if self._parent is not None:
            self._parent.release()
