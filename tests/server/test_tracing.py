"""What OpenTelemetry is told, and that nothing of it is there where nobody asks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from samovar.server.tracing import tracer
from tests.server.conftest import mini
from tests.server.serving import PATIENCE, serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "a word that nobody else may read"


class Collector:
    """Takes what is sent to it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Where it listens."""
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(PATIENCE)
            server.server_close()

    def spans(self) -> list[Span]:
        """All spans that came."""
        found = []
        for path, body in self.got:
            if path == "/v1/traces":
                said = ExportTraceServiceRequest.FromString(body)
                scopes = [one for group in said.resource_spans for one in group.scope_spans]
                found += [span for scope in scopes for span in scope.spans]
        return found

    def metrics(self) -> set[str]:
        """The names of all metrics that came."""
        bodies = [body for path, body in self.got if path == "/v1/metrics"]
        said = [ExportMetricsServiceRequest.FromString(body) for body in bodies]
        groups = [group for one in said for group in one.resource_metrics]
        scopes = [scope for group in groups for scope in group.scope_metrics]
        return {metric.name for scope in scopes for metric in scope.metrics}


def test_spans_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    body = {"model": "samovar-mini", "prompt": SECRET, "max_tokens": 4, "ignore_eos": True}
    with collector.listening() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with serving([mini(tmp_path / "kv")]) as url:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            for streams in (False, True):
                said = httpx.post(
                    f"{url}/v1/completions",
                    json=body | {"stream": streams},
                    headers=headers,
                    timeout=PATIENCE,
                )
                assert said.status_code == 200
    spans = collector.spans()
    requests = [one for one in spans if one.name == "POST /v1/completions"]
    assert len(requests) == 2
    for request in requests:
        assert request.trace_id.hex() == TRACE
        assert request.parent_span_id.hex() == PARENT
        below = [one for one in spans if one.parent_span_id == request.span_id]
        assert {"queue", "prefill", "decode"} <= {one.name for one in below}
        for one in below:
            assert one.trace_id.hex() == TRACE
            assert request.start_time_unix_nano <= one.end_time_unix_nano
        attributes = {one.key: one.value for one in request.attributes}
        assert attributes["gen_ai.usage.output_tokens"].int_value == 4
        assert attributes["http.response.status_code"].int_value == 200
    assert {"http.server.request.duration", "samovar.prefill.duration"} <= collector.metrics()
    assert SECRET.encode() not in b"".join(body for _, body in collector.got)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracer() is None


def test_nothing_is_imported_where_nobody_asks() -> None:
    """FastAPI imports the interface by itself; what would send anything is another matter."""
    code = (
        "import sys; from samovar.server.app import create_app; create_app([]);"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter');"
        "assert not [name for name in sys.modules if name.startswith(heavy)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
