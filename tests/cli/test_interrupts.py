"""Ctrl-C at any moment: exit code 130, at once, and no traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import Models

# Each interrupts the command from inside, at a moment that a sleep would not hit reliably.
WHILE_LOADING_MODULES = """
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "asyncio":
            interrupt()
sys.meta_path.insert(0, Finder())
"""
WHILE_LOADING_A_MODEL = """
class Handler(logging.Handler):
    def emit(self, record):
        if record.name == "samovar.llama":  # called by llama.cpp
            interrupt()
logging.getLogger().addHandler(Handler())
logging.getLogger("samovar").setLevel(logging.DEBUG)
"""
WHILE_GENERATING = """
import asyncio
from samovar.runtime.runtime import Runtime
from samovar.types import TextDelta
generate, cancel = Runtime.generate, Runtime.cancel
cancelled = asyncio.Event()
def noted(self, *args):
    cancel(self, *args)
    cancelled.set()
async def interrupted(self, *args):
    async for event in generate(self, *args):
        if isinstance(event, TextDelta) and not cancelled.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            await cancelled.wait()
        yield event
Runtime.generate, Runtime.cancel = interrupted, noted
"""
DRIVER = """
import logging, os, signal, sys, time
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
@
from samovar.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("moment", [WHILE_LOADING_MODULES, WHILE_LOADING_A_MODEL])
def test_control_c_before_anything_is_generated_ends_the_command(
    models: Models, moment: str
) -> None:
    argv = [sys.executable, "-c", DRIVER.replace("@", moment)]
    argv += ["-v", "run", str(models()), "Once", "--max-tokens", "3"]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"KeyboardInterrupt" not in done.stderr
    assert done.stdout == b""


def test_control_c_while_generating_reports_what_there_is(models: Models) -> None:
    argv = [sys.executable, "-c", DRIVER.replace("@", WHILE_GENERATING)]
    argv += ["run", str(models(context_length=8192)), "Once", "--json", "--raw"]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, b"")
    found = json.loads(done.stdout)
    assert found["finish_reason"] == "cancelled"
    assert 0 < len(found["tokens"]) < 8000
    assert found["usage"]["completion_tokens"] == len(found["tokens"])


STUCK = """
import os, sys
class Stuck:
    encoding, errors = "utf-8", "replace"
    def write(self, text):
        os.write(2, b"stuck")
        os.read(os.pipe()[0], 1)  # for ever
    def flush(self):
        pass
sys.stdout = Stuck()
from samovar.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_second_control_c_ends_a_run_whose_reader_takes_nothing(models: Models) -> None:
    argv = [sys.executable, "-c", STUCK, "run", str(models()), "Once"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.read(5) == b"stuck"
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        process.kill()
    assert process.returncode == 130


def test_a_command_that_is_to_ignore_interrupts_ignores_them(models: Models) -> None:
    """As shells start what they run in the background."""
    argv = [sys.executable, "-m", "samovar", "run", str(models()), "Once", "--max-tokens", "60"]
    argv += ["--threads", "1"]
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
