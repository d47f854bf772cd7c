"""Spans and metrics of OpenTelemetry. Imported only where they are wanted (see `tracing`).

A request is a span; what a model did of it is in four below it: queue, restore, prefill, decode.
They carry counts and names, and nothing of any prompt.
"""

from __future__ import annotations

import os
import time

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from starlette.types import Scope

from samovar.server.current import Current
from samovar.server.observing import Exchange
from samovar.types import Timings, Usage
from samovar.version import __version__

_PARTS = ("queue", "restore", "prefill", "decode")
_NANOSECONDS = 10**9
_FLUSH_MILLISECONDS = 2000  # at the end: a collector that does not answer holds nobody up


def tracer() -> OpenTelemetry:
    """Sends to where the environment says."""
    return OpenTelemetry(_traces(), _metrics())


class OpenTelemetry:
    """A Tracer (see `observing`)."""

    def __init__(self, traces: TracerProvider | None, measures: MeterProvider | None) -> None:
        self._traces = traces
        self._measures = measures
        provider = traces or trace.NoOpTracerProvider()
        self._tracer = provider.get_tracer("samovar", __version__)
        meter = (measures or metrics.NoOpMeterProvider()).get_meter("samovar", __version__)
        self._seconds = meter.create_histogram("http.server.request.duration", "s")
        self._parts = {
            part: meter.create_histogram(f"samovar.{part}.duration", "s") for part in _PARTS
        }
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}")

    def began(self, scope: Scope, request: Current) -> None:
        """A request came, perhaps as part of somebody's trace."""
        carrier = {
            str(name, "latin-1"): str(value, "latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        request.span = self._tracer.start_span(
            scope["method"],
            context=extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": scope["method"],
                "samovar.request_id": request.request_id,
            },
        )

    def ended(self, request: Current, exchange: Exchange) -> None:
        """It is over."""
        attributes: dict[str, str | int] = {
            "http.request.method": exchange.method,
            "http.route": exchange.route,
            "http.response.status_code": exchange.status,
            "samovar.dialect": exchange.dialect,
        }
        self._seconds.record(exchange.seconds, attributes)
        span = request.span
        span.update_name(f"{exchange.method} {exchange.route}")
        span.set_attributes(attributes)
        if exchange.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def generated(self, request: Current | None, model: str, outcome: str, usage: Usage) -> None:
        """A model finished its part: its spans end now, one after the other."""
        attributes = {"gen_ai.request.model": model}
        for kind, count in (("input", usage.prompt_tokens), ("output", usage.generated_tokens)):
            self._tokens.record(count, attributes | {"gen_ai.token.type": kind})
        if request is not None and request.span is not None:
            request.span.set_attributes(
                attributes
                | {
                    "gen_ai.usage.input_tokens": usage.prompt_tokens,
                    "gen_ai.usage.output_tokens": usage.generated_tokens,
                    "samovar.cached_tokens": usage.cached.total,
                    "samovar.outcome": outcome,
                }
            )
        self._add_parts(request, attributes, usage.timings)

    def close(self) -> None:
        """Send what was not sent yet."""
        if self._traces is not None:
            self._traces.force_flush(_FLUSH_MILLISECONDS)
            self._traces.shutdown()
        if self._measures is not None:
            self._measures.force_flush(_FLUSH_MILLISECONDS)
            self._measures.shutdown(_FLUSH_MILLISECONDS)

    def _add_parts(
        self, request: Current | None, attributes: dict[str, str], timings: Timings
    ) -> None:
        seconds = [getattr(timings, f"{part}_seconds") for part in _PARTS]
        at = time.time_ns() - int(sum(seconds) * _NANOSECONDS)
        span = None if request is None else request.span
        for part, took in zip(_PARTS, seconds, strict=True):
            self._parts[part].record(took, attributes)
            end = at + int(took * _NANOSECONDS)
            if span is not None and took:
                child = self._tracer.start_span(
                    part,
                    context=set_span_in_context(span),
                    start_time=at,
                    attributes=attributes,
                )
                child.end(end)
            at = end


def _is_sent(what: str) -> bool:
    """Whether the environment says where to."""
    general = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{what}_ENDPOINT")
    return bool(own or general) and os.environ.get(f"OTEL_{what}_EXPORTER", "otlp") != "none"


def _resource() -> Resource:
    named = Resource.create({SERVICE_VERSION: __version__})
    if str(named.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        named = named.merge(Resource({SERVICE_NAME: "samovar"}))
    return named


def _traces() -> TracerProvider | None:
    if not _is_sent("TRACES"):
        return None
    provider = TracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _metrics() -> MeterProvider | None:
    if not _is_sent("METRICS"):
        return None
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    return MeterProvider(resource=_resource(), metric_readers=[reader])
