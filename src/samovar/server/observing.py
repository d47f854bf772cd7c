"""What is counted of everything that is served, and who else is told of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Scope

from samovar.server.current import Current
from samovar.server.metrics import Counter, Gauge, Histogram, Metric
from samovar.types import (
    Begun,
    Burst,
    Embedded,
    Event,
    Failed,
    Finished,
    Ranked,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    Verified,
)
from samovar.version import __version__

_DELTAS = (TextDelta, ReasoningDelta, ToolCallDelta)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """An HTTP request that is over."""

    dialect: str
    route: str
    """As it is written in the code: `/v1/models/{model}`; `unmatched` where there is none."""
    method: str
    status: int
    """499: the client did not wait."""
    seconds: float


class Tracer(Protocol):
    """Whoever is told besides (see `otel`)."""

    def began(self, scope: Scope, request: Current) -> None:
        """A request came."""

    def ended(self, request: Current, exchange: Exchange) -> None:
        """It is over."""

    def generated(self, request: Current | None, model: str, outcome: str, usage: Usage) -> None:
        """A model finished its part of one."""

    def close(self) -> None:
        """Send what was not sent yet."""


class Observers:
    """The counts of one server. Names follow Prometheus: base units, `_total` for counters."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        by_route, by_model = ("dialect", "route", "method", "status"), ("model",)
        self.http = Counter(
            "samovar_http_requests_total", "HTTP requests that are over; 499: client gone", by_route
        )
        self.http_seconds = Histogram(
            "samovar_http_request_seconds",
            "From a request's head to the last byte of its response",
            ("dialect", "route"),
        )
        self.http_open = Gauge("samovar_http_requests_open", "HTTP requests that are being served")
        self.requests = Counter(
            "samovar_requests_total", "Requests to models that are over", ("model", "outcome")
        )
        self.ttft = _seconds("request_ttft", "From a request to its first token, or its end")
        self.itl = _seconds(
            "request_itl", "Between two events of a request; those that come at once are one"
        )
        self.tpot = _seconds("request_tpot", "Per generated token after the first")
        self.queue = _seconds("queue", "Until a request was admitted")
        self.restore = _seconds("restore", "Restoring what was known of a prompt")
        self.prefill = _seconds("prefill", "Computing the rest of a prompt")
        self.decode = _seconds("decode", "From the first token to the last")
        self.prefill_tokens = Counter(
            "samovar_prefill_tokens_total", "Tokens of prompts by where their KV came from",
            ("model", "source"),
        )  # fmt: skip
        self.generated_tokens = Counter(
            "samovar_generated_tokens_total", "Tokens that were generated", by_model
        )
        build = Gauge("samovar_build_info", "The version that serves", ("version",))
        build.set(1, __version__)
        self._build = build
        self.http_open.set(0)

    def metrics(self) -> list[Metric]:
        """All of them."""
        return [one for one in vars(self).values() if isinstance(one, Metric)]

    # ---- HTTP ---------------------------------------------------------------------------------

    def began(self, scope: Scope, request: Current) -> None:
        """A request came."""
        self.http_open.set(self.http_open.value() + 1)
        if self._tracer is not None:
            self._tracer.began(scope, request)

    def ended(self, request: Current, exchange: Exchange) -> None:
        """It is over."""
        self.http_open.set(self.http_open.value() - 1)
        method = exchange.method if exchange.method in _METHODS else "other"
        self.http.add(1, exchange.dialect, exchange.route, method, str(exchange.status))
        self.http_seconds.observe(exchange.seconds, exchange.dialect, exchange.route)
        if self._tracer is not None:
            self._tracer.ended(request, exchange)

    def close(self) -> None:
        """Nothing follows."""
        if self._tracer is not None:
            self._tracer.close()

    # ---- models -------------------------------------------------------------------------------

    def watch(self, model: str, request: Current | None) -> Watch:
        """Someone to show the events of a request to."""
        return Watch(self, model, request)

    def generated(self, request: Current | None, model: str, outcome: str, usage: Usage) -> None:
        """A model finished its part of a request."""
        self.requests.add(1, model, outcome)
        cached = usage.cached
        for source in ("live", "memory", "shm", "disk"):
            count = getattr(cached, source)
            if count:
                self.prefill_tokens.add(count, model, source)
        self.prefill_tokens.add(max(0, usage.prompt_tokens - cached.total), model, "computed")
        self.spend(request, model, usage.generated_tokens, usage.prompt_tokens)
        timings = usage.timings
        self.queue.observe(timings.queue_seconds, model)
        self.restore.observe(timings.restore_seconds, model)
        self.prefill.observe(timings.prefill_seconds, model)
        if usage.generated_tokens > 1:
            self.decode.observe(timings.decode_seconds, model)
            self.tpot.observe(timings.decode_seconds / (usage.generated_tokens - 1), model)
        if self._tracer is not None:
            self._tracer.generated(request, model, outcome, usage)

    def spend(
        self, request: Current | None, model: str, generated: int, of_prompt: int = 0
    ) -> None:
        """So many tokens are whoever's asked, also where nobody waited for the end."""
        self.generated_tokens.add(generated, model)
        if request is not None and request.account is not None:
            request.account.spend(of_prompt + generated)


class Watch:
    """Sees the events of one request go by."""

    def __init__(self, observers: Observers, model: str, request: Current | None) -> None:
        self._observers = observers
        self._model = model
        self._request = request
        self._last = time.monotonic()
        self._gaps = observers.ttft.spread(model)
        self._has_begun = False
        self._is_over = False
        self._generated = 0

    def see(self, burst: Burst) -> None:
        """Some more, at once."""
        if isinstance(burst[-1], Begun):  # nothing behind it: nothing has come of it yet
            return
        now = time.monotonic()
        for event in burst:
            if isinstance(event, _DELTAS):
                self._generated += len(event.tokens)
            else:
                self._see_end(event)
        self._gaps.observe(now - self._last)
        self._last = now
        if not self._has_begun:
            self._has_begun, self._gaps = True, self._observers.itl.spread(self._model)

    def _see_end(self, event: Event) -> None:
        if isinstance(event, Failed):
            self._end(event.code)
        elif isinstance(event, Finished):
            self._end(event.choices[0].reason, event.usage)
        elif isinstance(event, (Embedded, Ranked, Verified)):
            self._end("stop", event.usage)

    def fail(self, code: str) -> None:
        """It came to nothing."""
        if not self._is_over:
            self._end(code)

    def leave(self) -> None:
        """Nobody looks any more; without a terminal event it was cancelled."""
        if not self._is_over:
            self._end("cancelled")

    def _end(self, outcome: str, usage: Usage | None = None) -> None:
        self._is_over = True
        if usage is None:
            self._observers.requests.add(1, self._model, outcome)
            self._observers.spend(self._request, self._model, self._generated)
        else:
            self._observers.generated(self._request, self._model, outcome, usage)


def _seconds(name: str, meaning: str) -> Histogram:
    return Histogram(f"samovar_{name}_seconds", meaning, ("model",))


def worker_metrics(found: dict[str, dict[str, Any]]) -> list[Metric]:
    """What workers say of themselves now, by model (see `health.py`)."""
    gauges = {
        "running": Gauge("samovar_requests_running", "Sequences that are computed", ("model",)),
        "waiting": Gauge("samovar_requests_waiting", "Requests not yet admitted", ("model",)),
        "sessions": Gauge("samovar_sessions", "Sessions that are remembered", ("model",)),
        "open_requests": Gauge("samovar_requests_open", "Requests without an end yet", ("model",)),
        "is_ready": Gauge("samovar_model_ready", "Whether a process serves it", ("model",)),
        "restarts": Counter("samovar_worker_restarts_total", "Processes begun again", ("model",)),
    }
    for model, said in found.items():
        for name, metric in gauges.items():
            if name in said:
                metric.set(float(said[name]), model)
    caches = {name: said["cache"] for name, said in found.items() if said.get("cache")}
    return [*gauges.values(), *_cache_metrics(caches)]


def _cache_metrics(caches: dict[str, dict[str, Any]]) -> list[Metric]:
    metrics: dict[str, Metric] = {
        "bytes": Gauge("samovar_cache_bytes", "What a tier of the cache holds", ("model", "tier")),
    }
    for model, cache in caches.items():
        for tier, sizes in cache.get("tiers", {}).items():
            metrics["bytes"].set(float(sizes.get("bytes", 0)), model, tier)
        for name, value in cache.items():
            if isinstance(value, dict) and name != "tiers":
                _by_kind(metrics, model, name, value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                _counter(metrics, name, ("model",)).set(float(value), model)
    return list(metrics.values())


_KIND_LABELS = {"saved_blocks": "moment", "dropped_blocks": "cause", "bad_blocks": "cause"}


def _by_kind(metrics: dict[str, Metric], model: str, name: str, values: dict[str, Any]) -> None:
    for kind, value in values.items():
        metric = _counter(metrics, name, ("model", _KIND_LABELS.get(name, "tier")))
        metric.set(float(value), model, kind)


def _counter(metrics: dict[str, Metric], name: str, labels: tuple[str, ...]) -> Metric:
    if name not in metrics:
        shown = "evictions" if name == "evicted_blocks" else name
        meaning = f"The cache's {name.replace('_', ' ')} (see docs/cache.md)"
        metrics[name] = Counter(f"samovar_cache_{shown}_total", meaning, labels)
    return metrics[name]
