"""How an answer ended and what it took, in Anthropic's words.

Input tokens are what was read from the cache, plus what was computed and is kept, plus the rest;
the sum is the whole prompt.
"""

from __future__ import annotations

from samovar.types import Begun, Finished, Usage

_NOT_KEPT = frozenset({"off", "short", "none"})
"""No cache; a prompt too short for it; nothing new to keep."""


def stop_of(end: Finished, *, max_tokens: int, has_calls: bool) -> tuple[str, str | None]:
    """The stop_reason, and the stop_sequence that was found."""
    choice = end.choices[0]
    if max_tokens == 0:
        return "max_tokens", None
    if choice.reason == "length":
        is_full = end.usage.generated_tokens < max_tokens
        return "model_context_window_exceeded" if is_full else "max_tokens", None
    if choice.reason == "stop" and isinstance(choice.stop, str):
        return "stop_sequence", choice.stop
    return "tool_use" if has_calls else "end_turn", None


def usage_of(usage: Usage, thinking_tokens: int, *, is_stored: bool) -> dict[str, object]:
    """What it took, all of it true: nothing is counted twice, and nothing that did not happen."""
    return {
        **input_of(usage, is_stored=is_stored),
        "output_tokens": usage.generated_tokens,
        "output_tokens_details": {"thinking_tokens": min(thinking_tokens, usage.generated_tokens)},
    }


def input_of(told: Usage | Begun, *, is_stored: bool) -> dict[str, object]:
    """The part of it that is known when the prompt is being computed."""
    read = min(told.cached.total, told.prompt_tokens)
    rest = told.prompt_tokens - read
    divergence = told.divergence
    is_kept = is_stored and divergence is not None and divergence.reason not in _NOT_KEPT
    created = rest if is_kept else 0
    return {
        "input_tokens": rest - created,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": read,
    }
