"""Finds out, in a child process, whether llama.cpp's extra weight buffers work on this CPU.

llama.cpp repacks quantised weights for the CPU it runs on (AMX tiles, interleaved rows) into what
it calls extra buffers. Compiled by some GCC releases, its AMX kernels die of a general protection
fault at the first product of more than one row. No exception, no message: the process is gone. So
the first time a library is met on a CPU, a child runs products through every such buffer
(`probe_child`), and where the child dies, models are loaded with `use_extra_bufts` off.

The answer is remembered in `probe-KEY.json` below `$XDG_CACHE_HOME/samovar` (0600, in a 0700
directory, replaced whole): one JSON object with the fields of `ProbeResult`. KEY is a digest of the
library's files (name, size, mtime), the CPU, the kernel's release (it decides whether AMX may be
used) and the version of the probe. A file that cannot be read is as good as none; where none can be
written, the probe runs once per process. What says nothing about the library (a time-out, a child
killed from outside or not started) counts for this process only.

This module loads nothing native.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

# The child's exit status where a product differs between an extra buffer and a plain one.
EXIT_WRONG = 3

# Counts the probes there have been: another probe asks again.
_VERSION = 1

_CPU_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "Features",
    "isa",
    "uarch",
)

# Deaths that the child's own code brings about. SIGKILL and SIGTERM come from outside.
_OWN_DEATHS = frozenset(
    [signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP]
)

_ADVICE = (
    "models are loaded without them, which makes prefill slower. To repair it, build the library"
    " for this machine: `make setup` in a checkout of Samovar does; elsewhere, compile"
    " llama-cpp-python with -mno-amx-tile -mno-amx-int8 -mno-amx-bf16 in CFLAGS and CXXFLAGS"
)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe of one library on one CPU said."""

    ok: bool
    reason: str
    """In words, such as `killed by SIGSEGV (AMX, Q4_0, 8 rows)`."""
    when: str
    """ISO 8601, UTC."""
    library: str
    """The key of the library, the CPU and the kernel."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How the child ended, and whether that says anything about the library."""

    ok: bool
    reason: str
    is_lasting: bool


def extra_buffers_are_safe(
    *,
    cache_dir: Path | None = None,
    command: Sequence[str] | None = None,
    timeout_seconds: float = 60,
) -> bool:
    """Whether models may be loaded with `use_extra_bufts`; logs a warning where they may not.

    `command` replaces the child; exit status 0 means yes.
    """
    result = probe_result(cache_dir=cache_dir, command=command, timeout_seconds=timeout_seconds)
    if not result.ok:
        _warn(result.reason)
    return result.ok


def probe_result(
    *,
    cache_dir: Path | None = None,
    command: Sequence[str] | None = None,
    timeout_seconds: float = 60,
) -> ProbeResult:
    """The remembered answer, or a new one."""
    library = library_directory()
    key = _key(library, command)
    directory = cache_dir or _cache_directory()
    memory = directory / f"probe-{key}.json" if directory else None
    remembered = _recall(memory, key) if memory else None
    if remembered is not None:
        return remembered
    if library is None:
        outcome = _Outcome(ok=False, reason="llama-cpp-python is not installed", is_lasting=False)
    else:
        outcome = _run(key, tuple(command) if command else None, timeout_seconds)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    result = ProbeResult(outcome.ok, outcome.reason, when, key)
    if memory and outcome.is_lasting:
        _remember(memory, result)
    return result


def library_directory() -> Path | None:
    """Where the compiled libraries of `llama_cpp` lie, found without importing it."""
    # The bindings look here first.
    named = os.environ.get("LLAMA_CPP_LIB_PATH")
    if named is not None:
        return Path(named)
    found = importlib.util.find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0], "lib")


# A library that failed once per process is not asked again by the same process.
@functools.cache
def _run(key: str, command: tuple[str, ...] | None, timeout_seconds: float) -> _Outcome:
    """Run the child and read its end. `key` only keeps answers about two libraries apart."""
    logger.debug("probing the library %s", key)
    try:
        done = subprocess.run(
            command or (sys.executable, "-P", "-m", "samovar.native.probe_child"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=_child_environment(),
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"no answer within {timeout_seconds:g} s"
        return _Outcome(ok=False, reason=reason, is_lasting=False)
    except OSError as problem:
        reason = f"the probe did not start: {problem.strerror}"
        return _Outcome(ok=False, reason=reason, is_lasting=False)
    return _read_end(done.returncode, _last_line(done.stdout), _last_line(done.stderr))


def _child_environment() -> dict[str, str]:
    """The child finds the same packages as this process, whatever its working directory holds."""
    paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - "" is a valid entry
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}


def _read_end(status: int, said: str, complaint: str) -> _Outcome:
    """What an exit status means; `said` is the product that the child was about to run."""
    if status == 0:
        return _Outcome(ok=True, reason="all products are right", is_lasting=True)
    if status == EXIT_WRONG:
        return _Outcome(ok=False, reason=complaint or "wrong products", is_lasting=True)
    where = f" ({said})" if said else ""
    if status < 0:
        reason = f"killed by {_signal_name(-status)}{where}"
        return _Outcome(ok=False, reason=reason, is_lasting=-status in _OWN_DEATHS)
    reason = f"exit status {status}{where}" + (f": {complaint}" if complaint else "")
    return _Outcome(ok=False, reason=reason, is_lasting=False)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


@functools.cache
def _warn(reason: str) -> None:
    """Once per process."""
    logger.warning("llama.cpp's extra weight buffers do not work here (%s): %s", reason, _ADVICE)


def _key(library: Path | None, command: Sequence[str] | None) -> str:
    """Changes with everything that the answer depends on."""
    parts = [_VERSION, _files(library), _cpu(), platform.machine(), os.uname().release, command]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _files(library: Path | None) -> list[tuple[str, int, int]]:
    """Name, size and mtime of each library: reading them would take longer than the probe."""
    if library is None:
        return []
    try:
        with os.scandir(library) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError:
        return []
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _cpu() -> list[str]:
    """The lines of /proc/cpuinfo that name the first CPU and what it can do."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            # A blank line ends each CPU; reading all of them takes long on large machines.
            first = itertools.takewhile(str.strip, file)
            return [line for line in first if line.partition(":")[0].strip() in _CPU_FIELDS]
    except OSError:
        return [platform.processor()]


def _cache_directory() -> Path | None:
    """None where the user has no home."""
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    if xdg.is_absolute():
        return xdg / "samovar"
    try:
        return Path.home() / ".cache" / "samovar"
    except RuntimeError:
        return None


def _recall(memory: Path, key: str) -> ProbeResult | None:
    """A remembered answer; None where there is none that can be trusted."""
    try:
        told = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict) or set(told) != {field.name for field in fields(ProbeResult)}:
        return None
    words = [told["reason"], told["when"], told["library"]]
    if not isinstance(told["ok"], bool) or not all(isinstance(word, str) for word in words):
        return None
    return ProbeResult(**told) if told["library"] == key else None


def _remember(memory: Path, result: ProbeResult) -> None:
    """Write the answer down, or do without."""
    try:
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes the file 0600.
        handle, name = tempfile.mkstemp(prefix=f"{memory.name}.", dir=memory.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                json.dump(asdict(result), file)
            os.replace(name, memory)  # noqa: PTH105 - the name came as a string
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as problem:
        logger.debug("the answer of the probe cannot be kept: %s", problem)
