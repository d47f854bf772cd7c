"""`samovar doctor`: what this installation is, whether it works, and what to do if not."""

from __future__ import annotations

import os
import platform
import stat
import sys
from pathlib import Path
from typing import Any

import click

from samovar.cli.inquiry import inquire
from samovar.cli.output import print_json, size
from samovar.version import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(*, as_json: bool) -> int:
    """Check this installation; the exit code is 1 when something needs doing."""
    findings = _findings()
    advice = _advice(findings)
    if as_json:
        print_json({**findings, "advice": advice})
        return 1 if advice else 0
    for section, facts in findings.items():
        sys.stdout.write(f"{section}\n")
        for name, value in facts.items():
            sys.stdout.write(f"  {name.replace('_', ' '):20} {value}\n")
    sys.stdout.write("\n".join(["advice", *(f"  {line}" for line in advice or ["none"])]) + "\n")
    return 1 if advice else 0


def _findings() -> dict[str, dict[str, Any]]:
    native = inquire("installation")
    free = native["free_memory"]
    return {
        "samovar": {"version": __version__, "python": platform.python_version()},
        "library": native["library"],
        "cpu": {"name": _cpu_name(), "cores": os.cpu_count(), "machine": platform.machine()},
        "memory": {"free": "unknown" if free is None else size(free)},
        "probe": native["probe"],
        "directories": _directories(),
    }


def _advice(findings: dict[str, dict[str, Any]]) -> list[str]:
    advice = []
    if not findings["probe"]["ok"]:
        advice.append(
            "the library's extra weight buffers fail on this CPU, so models run without them and"
            " slower: rebuild the library with `make setup`, or with a newer compiler"
        )
    cache = findings["directories"]["cache"]
    if cache is None:
        advice.append(
            "there is no home directory to keep the probe's answer in: set HOME or XDG_CACHE_HOME"
        )
    elif not findings["directories"]["cache_writable"]:
        advice.append(f"{cache} cannot be written: make it writable or set XDG_CACHE_HOME")
    return advice


def _directories() -> dict[str, Any]:
    cache = _cache()
    if cache is None:
        return {"cache": None, "cache_writable": False}
    return {"cache": str(cache), "cache_writable": _is_writable(cache)}


def _cache() -> Path | None:
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    if xdg.is_absolute():
        return xdg / "samovar"
    try:
        return Path.home() / ".cache" / "samovar"
    except RuntimeError:
        return None


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder, itself made first where it is not there yet."""
    for existing in (folder, *folder.parents):
        try:
            mode = existing.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError:  # a file in the way, or a folder that may not be searched
            return False
        return stat.S_ISDIR(mode) and os.access(existing, os.W_OK | os.X_OK)
    return False


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
