"""`samovar serve` as a process: started, asked, stopped by signals."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PATIENCE = 120.0
"""Seconds: more than anything here takes, however busy the machine is."""

SMALL = ("--threads", "1", "--ctx-size", "2048", "--no-cache")
"""Options of models that come up soon."""


@dataclass
class Running:
    """A server that listens."""

    process: subprocess.Popen[str]
    line: str
    """What it said."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.line.split()[-1]

    def ended(self) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(PATIENCE)


def command(*arguments: str) -> list[str]:
    """The command line of a server on any free port."""
    return [sys.executable, "-m", "samovar", "serve", "--port", "0", *arguments]


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    """A server with these arguments, until the block is left."""
    process = subprocess.Popen(
        command(*SMALL, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        is_there, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert is_there, "the server says nothing"
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield Running(process, line.strip())
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
        process.stderr.close()


def refused(*arguments: str) -> str:
    """What a server says that does not start: one line on standard error."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line
