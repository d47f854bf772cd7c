"""What a request took, in OpenAI's words, and more of it in ours."""

from __future__ import annotations

from typing import Any

import msgspec

from samovar.types import Event, Finished, ReasoningDelta, Replayed, Usage


class PromptDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """Of the generated tokens."""

    reasoning_tokens: int


class WireUsage(msgspec.Struct, frozen=True):
    """Tokens of all prompts and all choices of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class WireTimings(msgspec.Struct, frozen=True):
    """llama-server's object of this name, with the times before the prompt is computed."""

    cache_n: int
    prompt_n: int
    """Tokens of the prompt that were computed."""
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    queue_ms: float
    restore_ms: float


class Details(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only we tell: where cached tokens came from, why no more of them, and the like."""

    cached: dict[str, int]
    divergence: dict[str, Any] | None
    seeds: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    replayed: Replayed | None = None


class Tally:
    """Adds up what the requests behind one answer took."""

    def __init__(self) -> None:
        self._reasoning = 0
        self._finished: list[Finished] = []

    def feed(self, event: Event) -> None:
        """Take one more event."""
        if isinstance(event, ReasoningDelta):
            self._reasoning += len(event.tokens)
        elif isinstance(event, Finished):
            self._finished.append(event)

    def usage(self) -> WireUsage:
        """Of everything so far."""
        took = [one.usage for one in self._finished]
        prompt = sum(one.prompt_tokens for one in took)
        generated = sum(one.generated_tokens for one in took)
        return WireUsage(
            prompt,
            generated,
            prompt + generated,
            PromptDetails(sum(one.cached.total for one in took)),
            CompletionDetails(self._reasoning),
        )

    def timings(self) -> WireTimings | None:
        """Of the one request; None where there are several, which ran beside each other."""
        return _timings(self._finished[0].usage) if len(self._finished) == 1 else None

    def details(self) -> Details | None:
        """As `timings`."""
        return _details(self._finished[0]) if len(self._finished) == 1 else None


def _timings(usage: Usage) -> WireTimings:
    took = usage.timings
    computed = usage.prompt_tokens - usage.cached.total
    prompt_ms, predicted_ms = took.prefill_seconds * 1000, took.decode_seconds * 1000
    generated = usage.generated_tokens
    return WireTimings(
        cache_n=usage.cached.total,
        prompt_n=computed,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=_share(prompt_ms, computed),
        prompt_per_second=_share(computed * 1000, prompt_ms),
        predicted_n=generated,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=_share(predicted_ms, generated),
        predicted_per_second=_share(generated * 1000, predicted_ms),
        queue_ms=took.queue_seconds * 1000,
        restore_ms=took.restore_seconds * 1000,
    )


def _details(finished: Finished) -> Details:
    usage = finished.usage
    return Details(
        cached=msgspec.structs.asdict(usage.cached),
        divergence=None if usage.divergence is None else msgspec.structs.asdict(usage.divergence),
        seeds=tuple(one.seed for one in finished.choices),
        warnings=finished.warnings,
        replayed=finished.replayed,
    )


def _share(amount: float, of: float) -> float:
    return amount / of if of else 0.0
