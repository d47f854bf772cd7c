"""What Ollama's routes tell of models: which there are, which are loaded, and all of one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from samovar.api.facts import ModelFacts

LATEST = ":latest"
"""The tag that Ollama's clients put behind names that have none."""

_TEMPLATES = "tokenizer.chat_template"  # told by themselves; this and keys that go on behind it
_NO_DIGEST = "0" * 64  # of a file that cannot be read: Ollama's command cuts it to 12 characters

_FOREVER = 100 * 365 * 86400.0  # seconds: Ollama has a time for everything, even for this


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is loaded now."""

    facts: ModelFacts
    context_length: int
    remaining_seconds: float | None
    """How long it stays if nobody comes; None: for ever."""


def tags_body(models: Iterable[ModelFacts]) -> bytes:
    """The body of /api/tags: the newest first."""
    ordered = sorted(models, key=lambda one: (-one.modified, one.name))
    return msgspec.json.encode({"models": [_tag(one) for one in ordered]})


def ps_body(models: Iterable[Loaded], now: float | None = None) -> bytes:
    """The body of /api/ps: who stays longest comes first. `now` in seconds since 1970."""
    now = time.clock_gettime(time.CLOCK_REALTIME) if now is None else now
    ordered = sorted(models, key=lambda one: (-_remaining(one), one.facts.name))
    return msgspec.json.encode({"models": [_process(one, now) for one in ordered]})


def show_body(facts: ModelFacts, metadata: Mapping[str, Any], context_length: int | None) -> bytes:
    """The body of /api/show. `context_length` is what the model is served with, where it is set."""
    info = {key: value for key, value in metadata.items() if not key.startswith(_TEMPLATES)}
    info["general.parameter_count"] = facts.num_params
    body = {
        "license": facts.license or "",
        "modelfile": f"FROM {facts.name}\n",
        "parameters": f"num_ctx {context_length}" if context_length else "",
        "template": facts.template or "",
        "details": _details(facts),
        "model_info": info,
        "capabilities": facts.capabilities,
        "modified_at": _time(facts.modified),
    }
    return msgspec.json.encode(body)


def _tag(facts: ModelFacts) -> dict[str, Any]:
    found = {
        "name": facts.name,
        "model": facts.name,
        "modified_at": _time(facts.modified),
        "size": facts.size_bytes,
        "digest": facts.digest or _NO_DIGEST,
        "details": _details(facts),
        "capabilities": facts.capabilities,
    }
    return found if facts.problem is None else {**found, "problem": facts.problem}


def _process(one: Loaded, now: float) -> dict[str, Any]:
    return {
        "name": one.facts.name,
        "model": one.facts.name,
        "size": one.facts.size_bytes,
        "digest": one.facts.digest,
        "details": _details(one.facts),
        "expires_at": _time(now + _remaining(one)),
        "size_vram": 0,
        "context_length": one.context_length,
    }


def _time(seconds: float) -> datetime:
    """Seconds since 1970 as what becomes a text of a time."""
    return datetime.fromtimestamp(seconds, UTC)


def _remaining(one: Loaded) -> float:
    return _FOREVER if one.remaining_seconds is None else one.remaining_seconds


def _details(facts: ModelFacts) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": facts.family,
        "families": [facts.family] if facts.family else [],
        "parameter_size": facts.params_label,
        "quantization_level": facts.quantization,
    }
