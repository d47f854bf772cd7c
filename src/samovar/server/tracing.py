"""Traces and metrics of OpenTelemetry, if the usual environment variables ask for them.

Nothing of OpenTelemetry is imported where they do not.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module

from samovar.server.observing import Tracer

logger = logging.getLogger(__name__)

_WHERE = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


def tracer() -> Tracer | None:
    """Whoever sends spans and metrics; None: nobody wants them, or the extra is not installed."""
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not any(os.environ.get(name) for name in _WHERE):
        return None
    try:
        made: Tracer = import_module("samovar.server.otel").tracer()
    except ImportError as error:
        logger.warning("no traces are sent (%s): install samovar[otel]", error)
        return None
    return made
