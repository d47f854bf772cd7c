"""One child process that renders (`child`), as its parent sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import IO, Any

from samovar.chat.frames import FrameTooLongError, read_frame, write_frame
from samovar.chat.template import MAX_OUTPUT
from samovar.errors import InternalError, InvalidRequest

_NO_START = "the process that renders chat templates does not start"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a template may use up before it is taken for broken."""

    deadline_seconds: float = 5.0
    """Of one render, and of compiling. The largest real conversations take a quarter second."""
    memory_bytes: int = 2**30
    """Address space of the child, interpreter and messages included."""
    max_output: int = MAX_OUTPUT
    """Characters of one rendering."""
    start_seconds: float = 30.0
    """Until the child is up; generous, since a busy machine is no fault of the template."""


class ChildLostError(Exception):
    """The child ended, or had to be ended, before it answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RenderProcess:
    """A running child. Not thread-safe.

    After anything but a plain answer it is of no more use, since the pipes may hold half a
    frame: kill it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process = _started(limits)
        self._input, self._output = (
            _unblocked(self._process.stdin),
            _unblocked(self._process.stdout),
        )
        try:
            self._exchange(None, limits.start_seconds)
        except ChildLostError as lost:
            self.kill()
            raise InternalError(f"{_NO_START}: {lost.reason}") from None
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer to a frame. Raises ChildLostError when none comes by the deadline."""
        return self._exchange(request, self._limits.deadline_seconds)

    def kill(self) -> None:
        """End it at once, whatever it is doing. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _exchange(self, request: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        try:
            if request is not None:
                write_frame(self._input, request, deadline)
            answer = read_frame(self._output, deadline)
        except TimeoutError:
            raise ChildLostError(f"it took more than {seconds:g} seconds") from None
        except (EOFError, OSError):
            raise ChildLostError("it ended, most likely for want of memory") from None
        except FrameTooLongError:
            raise InvalidRequest("the conversation is too long to render") from None
        except ValueError:
            raise ChildLostError("it wrote what is no answer") from None
        if not isinstance(answer, dict):
            raise ChildLostError("it wrote what is no answer")
        return answer


def _started(limits: Limits) -> subprocess.Popen[bytes]:
    # The parent's own deadline comes first; this one is for when there is no parent.
    alarm = limits.deadline_seconds + 1.0
    command = [sys.executable, "-P", "-m", "samovar.chat.child"]
    try:
        return subprocess.Popen(
            [*command, str(limits.memory_bytes), str(alarm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": _import_path()},
            start_new_session=True,  # an interrupt at the terminal is the parent's to handle
        )
    except OSError as error:
        raise InternalError(f"{_NO_START}: {error.strerror}") from None


def _unblocked(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise AssertionError("both pipes were asked for")
    os.set_blocking(pipe.fileno(), False)
    return pipe.fileno()


def _import_path() -> str:
    """The child finds the modules that the parent found, and none in the working directory."""
    return os.pathsep.join(entry for entry in sys.path if entry)
