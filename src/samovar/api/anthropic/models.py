"""Bodies of `/v1/models` and `/v1/models/{id}` as Anthropic's clients read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from samovar.api.facts import ModelFacts
from samovar.errors import InvalidRequest

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000  # Anthropic's own bounds; clients page by them


def models_body(
    models: Sequence[ModelFacts],
    limit: int = DEFAULT_LIMIT,
    after_id: str | None = None,
    before_id: str | None = None,
) -> bytes:
    """A page of the list: what follows `after_id`, or what comes right before `before_id`.

    Raises InvalidRequest for a limit out of bounds and for both ids at once. An id that is not
    there (any more) is no bound.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit must be from 1 to {MAX_LIMIT}")
    if after_id is not None and before_id is not None:
        raise InvalidRequest("give after_id or before_id, not both")
    names = [one.name for one in models]
    start = names.index(after_id) + 1 if after_id in names else 0
    end = names.index(before_id) if before_id in names else len(names)
    rest = models[start:end]
    page = rest[-limit:] if before_id is not None else rest[:limit]
    return msgspec.json.encode(
        {
            "data": [_model(one) for one in page],
            "first_id": page[0].name if page else None,
            "has_more": len(page) < len(rest),
            "last_id": page[-1].name if page else None,
        }
    )


def model_body(model: ModelFacts) -> bytes:
    """One model."""
    return msgspec.json.encode(_model(model))


def _model(model: ModelFacts) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.modified, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model.context_length,
        "max_tokens": model.context_length,
        "capabilities": _capabilities(model),
    }


def _capabilities(model: ModelFacts) -> dict[str, Any]:
    """What Anthropic asks of a model, as far as it is known here; all keys are always there."""
    yes, no = {"supported": True}, {"supported": False}
    thinks = {"supported": "thinking" in model.capabilities}
    return {
        "batch": no,
        "citations": no,
        "code_execution": no,
        "context_management": no,
        "effort": no | dict.fromkeys(("low", "medium", "high", "xhigh", "max"), no),
        "image_input": no,
        "pdf_input": no,
        "server_tools": no | {"code_execution": no, "web_search": no},
        "structured_outputs": no if model.is_embedder else yes,
        "thinking": thinks
        | {"types": {"adaptive": thinks, "between_tools": no, "disabled": yes, "enabled": thinks}},
    }
