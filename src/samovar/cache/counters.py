"""What a cache has done so far, in numbers that only go up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Since the store was opened. Keys of the counters by tier are `memory`, `shm` and `disk`."""

    hits: int = 0
    """Prompts of which something was restored."""
    misses: int = 0
    """Prompts of which nothing was."""
    restored_tokens: Counter[str] = field(default_factory=Counter)
    """By tier."""
    restored_bytes: Counter[str] = field(default_factory=Counter)
    restore_seconds: float = 0.0
    """From asking for blocks until they were in the cells, over all prompts."""
    restore_failures: int = 0
    """Blocks that were there, and did not become cells."""
    saved_blocks: Counter[str] = field(default_factory=Counter)
    """By the moment at which they were saved."""
    saved_tokens: int = 0
    saved_bytes: int = 0
    save_seconds: float = 0.0
    """Taken out of the cells, on the engine's thread."""
    written_blocks: Counter[str] = field(default_factory=Counter)
    """By tier; of the memory tier those that were put there."""
    written_bytes: Counter[str] = field(default_factory=Counter)
    dropped_blocks: Counter[str] = field(default_factory=Counter)
    """Blocks that a tier did not take, by cause: `queue`, `share`, `budget`, `space` and others."""
    evicted_blocks: Counter[str] = field(default_factory=Counter)
    """By tier."""
    bad_blocks: Counter[str] = field(default_factory=Counter)
    """Blocks that did not prove themselves, by cause."""
    missing_blocks: int = 0
    """Files that were gone when they were to be read: another process took them away."""

    def as_dict(self) -> dict[str, object]:
        """All of it, for reports."""
        found: dict[str, object] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            found[name] = dict(value) if isinstance(value, Counter) else value
        return found
