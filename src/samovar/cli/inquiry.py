"""Asks a process of its own about a file or the installation (`samovar.worker.inquiry`)."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

import msgspec

from samovar.errors import LoadFailed, from_code
from samovar.ipc.environment import worker_environment

_HEAD = struct.Struct("<Q")


def inquire(question: str, /, **arguments: Any) -> Any:  # noqa: ANN401 - as many kinds as questions
    """The answer. Raises what is wrong with the question, and LoadFailed where it kills."""
    asked = msgspec.msgpack.encode((question, arguments))
    # In a session of its own: a terminal's Ctrl-C is ours to act on, and it leaves when we do.
    with subprocess.Popen(
        [sys.executable, "-m", "samovar.worker.inquiry"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=worker_environment(),
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(_HEAD.pack(len(asked)) + asked)
            process.stdin.flush()
        except BrokenPipeError:
            said = b""  # it has ended before
            with suppress(BrokenPipeError):  # and what was not written stays so
                process.stdin.close()
        else:
            said = process.stdout.read()
        code = process.wait() if not said else 0
    if not said:
        raise LoadFailed(f"the process that looks at the file {_ended(code)}; run `samovar doctor`")
    found: dict[str, Any] = msgspec.msgpack.decode(said)
    if "code" in found:
        raise from_code(found["code"], found["message"])
    return found["value"]


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
