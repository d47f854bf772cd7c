"""A llama-server on this machine, and what it streams."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LOAD_SECONDS = 120.0  # of a server, until it answers
READ_SECONDS = 600.0  # of silence on a stream


class Running(NamedTuple):
    """A server that answers."""

    port: int
    pid: int


@contextlib.contextmanager
def llama_server(args: argparse.Namespace, options: Sequence[str]) -> Iterator[Running]:
    """A fresh one, from the folder of peers."""
    folder = Path(args.peers)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [str(folder / "llama-server"), "-m", args.model, "-t", str(args.threads)]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_until_ready(process, port)
            yield Running(port, process.pid)
        finally:
            process.kill()


def completion(
    port: int, ids: Sequence[int], most: int, *, is_cached: bool
) -> Iterator[dict[str, object]]:
    """Greedy tokens of a prompt, as the server streams them.

    Yields its objects, the last one with the server's own timings.
    """
    body = {
        "prompt": list(ids),
        "n_predict": most,
        "stream": True,
        "return_tokens": True,
        "ignore_eos": True,
        "cache_prompt": is_cached,
        "samplers": ["top_k"],
        "top_k": 1,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READ_SECONDS)
    with contextlib.closing(connection):
        connection.request("POST", "/completion", json.dumps(body))
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                found: dict[str, object] = json.loads(line[6:])
                yield found


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit("llama-server did not start")
