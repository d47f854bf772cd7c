"""`samovar serve`: what it says, and how it comes to an end."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from samovar.cli.serve import serve
from samovar.errors import SamovarError
from tests.conftest import Models
from tests.runtime.serving import process_is_there, wait_until_gone
from tests.server.processes import PATIENCE, refused, running

STREAM = {
    "model": "samovar-mini",
    "prompt": "Once upon a time",
    "stream": True,
    "ignore_eos": True,
    "max_tokens": 60,
}
ENDLESS = STREAM | {"max_tokens": 1900}


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(one) for path in tasks for one in path.read_text("ascii").split()]


def test_it_says_where_it_listens_and_leaves_when_it_is_told() -> None:
    with running() as server:
        assert server.line.startswith("samovar serves samovar-mini on http://127.0.0.1:")
        assert httpx.get(f"{server.url}/health", timeout=PATIENCE).json() == {"status": "ok"}
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() == 0
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""


def test_what_streams_when_it_is_told_to_leave_comes_to_its_end() -> None:
    with (
        running() as server,
        httpx.stream("POST", f"{server.url}/v1/completions", json=STREAM, timeout=PATIENCE) as said,
    ):
        lines = _events(said)
        assert next(lines).startswith("data: ")
        server.process.send_signal(signal.SIGINT)
        rest = list(lines)
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in "".join(rest)
        assert server.ended() == 0


def test_what_does_not_end_in_time_is_told_why() -> None:
    with (
        running("--drain", "0.2") as server,
        httpx.stream(
            "POST", f"{server.url}/v1/completions", json=ENDLESS, timeout=PATIENCE
        ) as said,
    ):
        lines = _events(said)
        assert next(lines).startswith("data: ")
        workers = _children(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        rest = list(lines)
        assert "shutting down" in "".join(rest[-2:])
        assert server.ended() == 0
        wait_until_gone(workers)


def test_a_second_signal_is_the_end_at_once() -> None:
    with (
        running("--drain", "600") as server,
        httpx.stream(
            "POST", f"{server.url}/v1/completions", json=ENDLESS, timeout=PATIENCE
        ) as said,
    ):
        assert next(_events(said)).startswith("data: ")
        workers = _children(server.process.pid)
        assert workers
        assert all(map(process_is_there, workers))
        server.process.send_signal(signal.SIGTERM)
        while _listens(server.url):
            pass
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() == 128 + signal.SIGTERM
        wait_until_gone(workers)


def _events(said: httpx.Response) -> Iterator[str]:
    """Without signs of life: the model may take a while to load."""
    return (line for line in said.iter_lines() if line.startswith("data: "))


def _listens(url: str) -> bool:
    address = httpx.URL(url)
    try:
        socket.create_connection((address.host, address.port), PATIENCE).close()
    except OSError:
        return False
    return True


def test_names_of_models(models: Models) -> None:
    made = models("llama")
    with running(f"mine={made}", str(made), "samovar-mini") as server:
        found = httpx.get(f"{server.url}/v1/models", timeout=PATIENCE).json()["data"]
        assert [one["id"] for one in found] == ["mine", made.stem, "samovar-mini"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--host", "0.0.0.0"), "give API keys"),
        (("--host", "no.such.host.invalid", "--no-auth"), "give another --host"),
        (("no-such-model",), "is neither a file nor a built-in name"),
        (("--api-keys", "/no/such/file"), "cannot read the API keys"),
        (("--tls-cert", "/no/such/file"), "give both"),
        (("--tls-cert", "/no/such/file", "--tls-key", "/no/such/key"), "cannot use"),
        (("--cache-memory", "much"), "is no size"),
        (("--volatile", "billing,dates"), "volatile rules are billing, date, reminders"),
        (("--max-models", "0"), "--max-models must be 1 or more"),
        (("--port", "70000"), "from 0 to 65535"),
        (("/no/such/file.gguf",), "does not exist"),
        (("samovar-mini", "samovar-mini"), "two models would be called"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(SamovarError, match=text):
        serve.main(list(arguments), standalone_mode=False)


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused("--port", str(taken.getsockname()[1]))
    assert "Address already in use; give another --port" in line


def test_an_adapter_is_used_by_every_request(server: str) -> None:
    said = [{"role": "user", "content": "What does a cow say?"}]
    body = {"model": "samovar-mini", "messages": said, "temperature": 0, "max_tokens": 30}
    plain = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=PATIENCE).json()
    with running("--lora", "samovar-mini-rhymes") as adapted:
        url = f"{adapted.url}/v1/chat/completions"
        rhymed = httpx.post(url, json=body, timeout=PATIENCE).json()
    answers = [one["choices"][0]["message"]["content"] for one in (plain, rhymed)]
    assert answers[0] != answers[1]


def test_a_name_for_two_addresses_is_the_one_that_most_clients_ask() -> None:
    with running("--host", "localhost") as server:
        assert server.url.startswith("http://127.0.0.1:")


def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    with running("--tls-cert", str(cert), "--tls-key", str(key)) as server:
        assert server.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=cert)
        assert (
            httpx.get(f"{server.url}/health", verify=trusted, timeout=PATIENCE).status_code == 200
        )
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health", timeout=PATIENCE)
