"""The compiled llama.cpp library: started once per process, its log lines sent to `logging`.

llama.cpp writes to one process-wide log callback. `start()` installs ours before anything else
happens, so nothing reaches the terminal on its own: lines go to the logger `samovar.llama`, and
the errors of a failing call can be collected with `captured_errors()` to explain it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import llama_cpp.llama_cpp as ll

logger = logging.getLogger("samovar.llama")

# ggml_log_level -> logging; 5 continues the line before it and has no level of its own.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUES = 5

_capture = threading.local()


@ll.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    """Pass one line on. llama.cpp calls this on whichever thread is inside it."""
    severity = _LEVELS.get(level, logging.DEBUG)
    lines: list[str] | None = getattr(_capture, "lines", None)
    if lines is None and not logger.isEnabledFor(severity):
        return
    line = text.decode("utf-8", "replace").rstrip()
    if not line.strip("."):
        return
    if lines is not None and severity >= logging.ERROR:
        lines.append(line)
    if level != _CONTINUES:
        logger.log(severity, "%s", line)


@functools.cache
def start() -> None:
    """Route the log and start llama.cpp's backends; later calls do nothing.

    The backends stay up for the life of the process: stopping them while any model may still be
    alive is undefined.
    """
    ll.llama_log_set(_on_log, ctypes.c_void_p(0))
    ll.llama_backend_init()


@contextmanager
def captured_errors() -> Iterator[list[str]]:
    """Collect the error lines that llama.cpp writes on this thread inside the block."""
    lines: list[str] = []
    _capture.lines = lines
    try:
        yield lines
    finally:
        _capture.lines = None


def explain(lines: list[str]) -> str:
    """The most telling of the captured lines, without llama.cpp's function-name prefix."""
    if not lines:
        return "llama.cpp gave no reason"
    line = lines[0]
    head, separator, rest = line.partition(": ")
    return rest if separator and " " not in head else line


@dataclass(frozen=True, slots=True)
class Library:
    """What is installed: for `doctor`, and for whoever must tell two builds apart."""

    version: str
    path: Path
    features: str
    supports_gpu: bool
    state_version: int


@functools.cache
def describe() -> Library:
    """Facts about the library in this process."""
    start()
    return Library(
        version=metadata.version("llama-cpp-python"),
        path=Path(ll.__file__).parent / "lib",
        features=ll.llama_print_system_info().decode(),
        supports_gpu=bool(ll.llama_supports_gpu_offload()),
        state_version=int(ll.LLAMA_STATE_SEQ_VERSION),
    )
