"""Tries grammars in a process that may die or hang of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from samovar.types import Grammar
from tests.conftest import ROOT

TRY = """
import json, resource, sys, time
from samovar.errors import GrammarRejected
from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.types import Grammar, SamplingParams

MEMORY = 3 * 2**30
resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

def verdict(backend, grammar):
    started = time.process_time()
    backend.seq_rm(0)
    backend.prefill(backend.tokenize("Hi"))
    try:
        backend.configure_sampler(SamplingParams(grammar=grammar))
        for _ in range(40):
            if backend.decode_one().is_eog:
                break
        found = "works"
    except GrammarRejected:
        found = "refused"
    seconds = time.process_time() - started
    backend.clear_sampler()
    backend.seq_rm(0)
    backend.prefill(backend.tokenize("Hi"))
    backend.decode_one()
    return found if seconds < 10 else f"{found} after {seconds} s"

with LlamaBackend.open(sys.argv[1], context=ContextOptions(context_length=256, threads=1),
                       proves_state=False) as backend:
    for name, kind, source in json.load(sys.stdin):
        print(json.dumps([name, verdict(backend, Grammar(kind, source))]), flush=True)
"""


_AT_ONCE = 12  # per process, so that its deadline is theirs
_SECONDS = 250


def verdicts(model: Path, grammars: dict[str, Grammar]) -> dict[str, str]:
    """By name: `works`, `refused`, or what went wrong. Ten seconds and 3 GiB are too much."""
    found: dict[str, str] = {}
    while left := [name for name in grammars if name not in found][:_AT_ONCE]:
        lines, fault = _try(model, [(name, grammars[name]) for name in left])
        found.update(lines)
        if fault:
            victim = next((name for name in left if name not in lines), left[-1])
            found[victim] = fault
    return found


def _try(model: Path, grammars: list[tuple[str, Grammar]]) -> tuple[dict[str, str], str]:
    """What the process said of each, until the fault that ended it, if any."""
    asked = json.dumps([(name, one.kind, one.source) for name, one in grammars])
    tried = subprocess.Popen(
        [sys.executable, "-c", TRY, str(model)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        cwd=ROOT,
    )
    try:
        output, errors = tried.communicate(asked.encode(), timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        tried.kill()
        output, errors = tried.communicate()
    fault = errors.decode("utf-8", "replace")[-600:] or "it died or hung"
    return dict(map(json.loads, output.splitlines())), fault if tried.returncode else ""
