"""What serving costs: beside the library, in CPU time, and beside llama-server.

    python -m benchmarks.serving first MODEL [--runs 5]
    python -m benchmarks.serving load MODEL [--peers FOLDER] [--runs 5]

`first`: the time to the first token of 32 streams at a server, and of the same requests to the
library, in turn; each stream's first request is left out, because those come all at once.
`load`: 64 streams that decode at once, in each dialect; tokens per second, and CPU time per token
of the process that serves and of the one that computes. The same load on llama-server, in turn.
Each server and whoever asks is a process of its own.

llama-server is one process. Its main thread computes and also makes the texts of tokens into
events; every other thread serves, so `serving` is a part of what serving takes there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Others, Report, cpu_seconds, rounded
from benchmarks.server import llama_server
from benchmarks.streams import DIALECTS

_CONTEXT = 1024  # tokens of a sequence
_FIRSTS = 32
_SHORT = 128
_LOAD = 64
_THREADS = "1"  # that compute: on few cores more would only wait for those who serve and ask
_SPOKEN_BY_LLAMA_SERVER = ("openai", "anthropic")


@dataclass(frozen=True, slots=True)
class _Side:
    """A server, and what of it does what."""

    address: str
    pids: tuple[int, ...]
    computing: tuple[Path, ...]
    """Processes and threads that compute, as folders in /proc; the rest of `pids` serves."""

    def seconds(self) -> tuple[float, float]:
        """CPU time of what serves, and of what computes."""
        whole = sum(cpu_seconds(Path(f"/proc/{pid}")) for pid in self.pids)
        computing = sum(map(cpu_seconds, self.computing))
        return whole - computing, computing


@dataclass(frozen=True, slots=True)
class _Load:
    """What a server did under a load."""

    rate: float
    """Tokens per second."""
    first: float
    """Median of the seconds to a first token."""
    serving: float
    """CPU seconds per token."""
    computing: float
    others: float
    """What share of all CPUs everybody else took; who asks is not counted."""


# ---- the time to the first token -----------------------------------------------------------------


def first(args: argparse.Namespace) -> Report:
    """Median milliseconds to first tokens at a server, less those of the library."""
    what = ["--streams", str(_FIRSTS), "--requests", str(args.requests), "--tokens", str(_SHORT)]
    here, there, others = list[float](), list[float](), list[float]()
    with _samovar(args, _FIRSTS) as side:
        asked = {
            "library": ["library", "--model", args.model, "--context", str(_CONTEXT), *what],
            "server": [side.address, "openai", *what],
        }
        for run in range(args.runs):
            watch = Others(*side.pids)
            found = {
                name: 1e3 * _median_first(_asked(asked[name]), least=1)
                for name in sorted(asked, reverse=bool(run % 2))
            }
            here.append(found["server"])
            there.append(found["library"])
            others.append(watch.share())
    added = [one - other for one, other in zip(here, there, strict=True)]
    return {
        "streams": _FIRSTS,
        "server_ms": rounded(statistics.median(here)),
        "library_ms": rounded(statistics.median(there)),
        "added_ms": rounded(statistics.median(added)),
        "added_ms_of_each": [rounded(one) for one in added],
        "target_ms": 3,
        "cpu_of_others": [round(one, 2) for one in others],
    }


# ---- CPU time ------------------------------------------------------------------------------------


def load(args: argparse.Namespace) -> Report:
    """Each dialect on its own, and where llama-server speaks it beside that."""
    found: Report = {"streams": _LOAD, "target_serving_us": 40}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_samovar(args, _LOAD))
        theirs = stack.enter_context(_llama_server(args)) if args.peers else None
        for dialect in args.dialects:
            peer = theirs if dialect in _SPOKEN_BY_LLAMA_SERVER else None
            found[dialect] = _compared(args, dialect, ours, peer)
    return found


def _compared(args: argparse.Namespace, dialect: str, ours: _Side, theirs: _Side | None) -> Report:
    sides = {"samovar": ours} | ({"llama-server": theirs} if theirs else {})
    loads: dict[str, list[_Load]] = {name: [] for name in sides}
    for side in sides.values():
        _asked([side.address, dialect, "--streams", str(_LOAD), "--requests", "1", "--tokens", "8"])
    for run in range(args.runs):
        for name in sorted(sides, reverse=bool(run % 2)):
            loads[name].append(_loaded(args, dialect, sides[name], sides.values()))
    report: Report = {name: _summary(found) for name, found in loads.items()}
    if theirs:
        pairs = list(zip(loads["samovar"], loads["llama-server"], strict=True))
        report["ratios_of_tokens_per_second"] = [round(a.rate / b.rate, 3) for a, b in pairs]
    return report


def _loaded(args: argparse.Namespace, dialect: str, side: _Side, every: Iterable[_Side]) -> _Load:
    watch = Others(*(pid for one in every for pid in one.pids))
    before = side.seconds()
    what = ["--streams", str(_LOAD), "--requests", "1", "--tokens", str(args.answer)]
    found = _asked([side.address, dialect, *what])
    tokens, after = found["tokens"], side.seconds()
    return _Load(
        tokens / found["seconds"],
        _median_first(found, least=0),
        (after[0] - before[0]) / tokens,
        (after[1] - before[1]) / tokens,
        watch.share(),
    )


def _summary(loads: Sequence[_Load]) -> Report:
    return {
        "serving_us_per_token": rounded(1e6 * statistics.median(one.serving for one in loads)),
        "serving_us_of_each": [rounded(1e6 * one.serving) for one in loads],
        "computing_us_per_token": rounded(1e6 * statistics.median(one.computing for one in loads)),
        "tokens_per_second": rounded(statistics.median(one.rate for one in loads)),
        "first_token_ms": rounded(1e3 * statistics.median(one.first for one in loads)),
        "cpu_of_others": [round(one.others, 2) for one in loads],
    }


# ---- processes -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _samovar(args: argparse.Namespace, sequences: int) -> Iterator[_Side]:
    command = [sys.executable, "-m", "samovar", "serve", "--port", "0", "--threads", _THREADS]
    command += ["--sequences", str(sequences), "--ctx-size", str(_CONTEXT), "--no-cache"]
    command += ["--keep-alive", "-1", f"model={args.model}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().rpartition("//")[2].strip()
            _warm_up(address)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            workers = tuple(map(int, children.split()))
            computing = tuple(Path(f"/proc/{pid}") for pid in workers)
            yield _Side(address, (process.pid, *workers), computing)
        finally:
            process.terminate()


@contextlib.contextmanager
def _llama_server(args: argparse.Namespace) -> Iterator[_Side]:
    options = ["--parallel", str(_LOAD), "-c", str(_LOAD * _CONTEXT), "--no-kv-unified"]
    given = argparse.Namespace(peers=args.peers, model=args.model, threads=_THREADS)
    with llama_server(given, options) as found:
        address = f"127.0.0.1:{found.port}"
        _warm_up(address)
        main = Path(f"/proc/{found.pid}/task/{found.pid}")
        yield _Side(address, (found.pid,), (main,))


def _warm_up(address: str) -> None:
    """The model is loaded when it is first asked."""
    _asked([address, "openai", "--streams", "1", "--requests", "1", "--tokens", "8"])


def _asked(what: Sequence[str]) -> dict[str, Any]:
    """What a process heard that asked."""
    command = [sys.executable, "-m", "benchmarks.streams", *what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _median_first(heard: dict[str, Any], least: int) -> float:
    """Seconds to a first token, from a stream's so-many-th request on."""
    return statistics.median(took for number, took in heard["firsts"] if number >= least)


COMMANDS: dict[str, Callable[[argparse.Namespace], Report]] = {"first": first, "load": load}


def measured(name: str, args: argparse.Namespace) -> Report:
    """One measurement, with what one must know of its circumstances."""
    before = os.getloadavg()[0]
    report = COMMANDS[name](args)
    report["measurement"] = f"serving {name}"
    report["model"] = Path(args.model).name
    report["load_average"] = [round(before, 2), round(os.getloadavg()[0], 2)]
    return report


def parser() -> argparse.ArgumentParser:
    """Everything but what is measured and of which model."""
    found = argparse.ArgumentParser(add_help=False)
    found.add_argument("--peers", help="folder of llama.cpp's binaries")
    found.add_argument("--dialects", nargs="+", choices=DIALECTS, default=list(DIALECTS))
    found.add_argument("--runs", type=int, default=5)
    found.add_argument("--requests", type=int, default=4, help="of each stream of `first`")
    found.add_argument("--answer", type=int, default=300, help="usual tokens of those of `load`")
    return found


def main() -> None:
    """Parse the command line, measure, print one JSON object."""
    description = (__doc__ or "").splitlines()[0]
    line = argparse.ArgumentParser(description=description, parents=[parser()])
    line.add_argument("measurement", choices=COMMANDS)
    line.add_argument("model")
    args = line.parse_args()
    json.dump(measured(args.measurement, args), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
