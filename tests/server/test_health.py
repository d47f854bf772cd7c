"""What a server says of itself: that it is there, what it is ready for, what it has counted."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import httpx
import pytest

from samovar.config import RuntimeConfig, ServerConfig
from samovar.server.metrics import Counter, Gauge, Histogram, exposition
from samovar.server.served import ServedModel
from tests.runtime.serving import Place, configured
from tests.server.conftest import mini
from tests.server.serving import PATIENCE, serving

ENDLESS = {"model": "samovar-mini", "prompt": "a", "ignore_eos": True, "max_tokens": 1900}
_SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [0-9.e+-]+')


def samples(url: str) -> dict[str, float]:
    """What is counted, by name and labels."""
    text = httpx.get(f"{url}/metrics", timeout=PATIENCE).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def until(url: str, name: str, value: float) -> None:
    """Wait for a count to be so."""
    deadline = time.monotonic() + PATIENCE
    while samples(url).get(name) != value:
        assert time.monotonic() < deadline, samples(url)
        time.sleep(0.02)


RUNNING = 'samovar_requests_running{model="samovar-mini"}'


CANCELLED = 'samovar_requests_total{model="samovar-mini",outcome="cancelled"}'


def _gone(url: str) -> float:
    """HTTP requests whose client did not wait."""
    gone = 'route="/v1/completions",method="POST",status="499"'
    return sum(value for name, value in samples(url).items() if gone in name)


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes_ends_its_request(server: str, streams: bool) -> None:  # noqa: FBT001
    httpx.post(f"{server}/v1/completions", json=ENDLESS | {"max_tokens": 1}, timeout=PATIENCE)
    cancelled, gone = samples(server).get(CANCELLED, 0), _gone(server)
    body = json.dumps(ENDLESS | {"stream": streams}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    address = httpx.URL(server)
    with socket.create_connection((address.host, address.port), PATIENCE) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        until(server, RUNNING, 1)
    until(server, RUNNING, 0)
    until(server, "samovar_http_requests_open", 1)  # that is the one that asks
    assert samples(server)[CANCELLED] == cancelled + 1
    assert _gone(server) == gone + 1


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes_while_its_model_is_loading_ends_that(
    tmp_path: Path,
    streams: bool,  # noqa: FBT001
) -> None:
    waiting = ServedModel("a", Place(tmp_path).path("a", boots=["gate"]), cache=None)
    body = json.dumps({"model": "a", "prompt": "a", "stream": streams}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    with serving([waiting], runtime=configured()) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port), PATIENCE) as client:
            client.sendall(head.encode() + b"\r\n\r\n" + body)
            until(url, 'samovar_model_ready{model="a"}', 0)
        while (
            httpx.get(f"{url}/ready", timeout=PATIENCE).json()["models"]["a"]["state"]
            != "not_loaded"
        ):
            pass
        assert samples(url)['samovar_requests_total{model="a",outcome="cancelled"}'] == 1


def test_what_is_counted(server: str) -> None:
    prompt = "one two three " * 20
    body = {"model": "samovar-mini", "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
    httpx.post(f"{server}/v1/completions", json=body, timeout=PATIENCE)
    first = samples(server)
    httpx.post(f"{server}/v1/completions", json=body, timeout=PATIENCE)
    httpx.get(f"{server}/no/such/route", timeout=PATIENCE)
    second = samples(server)

    def more(name: str) -> float:
        return second.get(name, 0) - first.get(name, 0)

    of_model = '{model="samovar-mini"}'
    assert more(f"samovar_generated_tokens_total{of_model}") == 4
    assert more(f"samovar_request_ttft_seconds_count{of_model}") == 1
    cached = [name for name in second if "samovar_prefill_tokens_total" in name]
    assert sum(map(more, cached)) > 20
    assert sum(more(name) for name in cached if "computed" not in name) > 20
    assert any("samovar_cache_bytes" in name for name in second)
    route = 'route="unmatched",method="GET",status="404"}'
    assert more(f'samovar_http_requests_total{{dialect="openai",{route}') == 1


def test_it_is_text_that_prometheus_reads(server: str) -> None:
    response = httpx.get(f"{server}/metrics", timeout=PATIENCE)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in response.text.splitlines():
        is_sample = _SAMPLE.fullmatch(line.replace('le="+Inf"', 'le="1"'))
        assert is_sample or re.fullmatch(r"# (HELP|TYPE) samovar_\w+ .+", line), line


def test_metrics_as_text() -> None:
    counter, gauge = Counter("c_total", "Counts.", ("a",)), Gauge("g", "Goes.")
    histogram = Histogram("h_seconds", "Spread.", ("a",), bounds=(1, 2))
    counter.add(2, 'quoted "\\\n')
    counter.add(0.5, 'quoted "\\\n')
    gauge.set(3)
    for value in (0.5, 1, 1.5, 9):
        histogram.observe(value, "x")
    assert exposition([counter, gauge, histogram]).splitlines() == [
        "# HELP c_total Counts.",
        "# TYPE c_total counter",
        r'c_total{a="quoted \"\\\n"} 2.5',
        "# HELP g Goes.",
        "# TYPE g gauge",
        "g 3",
        "# HELP h_seconds Spread.",
        "# TYPE h_seconds histogram",
        'h_seconds_bucket{a="x",le="1"} 2',
        'h_seconds_bucket{a="x",le="2"} 3',
        'h_seconds_bucket{a="x",le="+Inf"} 4',
        'h_seconds_sum{a="x"} 12',
        'h_seconds_count{a="x"} 4',
    ]


def test_a_server_is_ready_when_its_models_are(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    good, bad = mini(tmp_path / "kv"), ServedModel("bad", str(broken))
    with serving([good], ServerConfig(port=0, preloads=True)) as url:
        while (said := httpx.get(f"{url}/ready", timeout=PATIENCE)).status_code == 503:
            assert said.json()["models"]["samovar-mini"]["state"] != "ready"
        assert said.json()["models"]["samovar-mini"]["state"] == "ready"
    with serving([bad, good], ServerConfig(port=0, preloads=True)) as url:
        while (
            httpx.get(f"{url}/ready", timeout=PATIENCE).json()["models"]["samovar-mini"]["state"]
            != "ready"
        ):
            pass
        said = httpx.get(f"{url}/ready", timeout=PATIENCE)
        assert said.status_code == 503
        assert said.json()["models"]["bad"]["state"] == "failed"


def test_who_only_looks_keeps_nothing_loaded(tmp_path: Path) -> None:
    runtime = RuntimeConfig(keep_alive_seconds=0.5)
    with serving([mini(tmp_path / "kv")], runtime=runtime) as url:
        httpx.post(f"{url}/v1/completions", json=ENDLESS | {"max_tokens": 1}, timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while (
            httpx.get(f"{url}/ready", timeout=PATIENCE).json()["models"]["samovar-mini"]["state"]
            != "not_loaded"
        ):
            samples(url)
            assert time.monotonic() < deadline
