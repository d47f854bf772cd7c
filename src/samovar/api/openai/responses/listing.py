"""The list of what a response answered, by pages."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from samovar.api.openai.checks import BadField
from samovar.api.openai.responses.items import Item


def page_of(items: Sequence[Item], after: str | None, limit: int, *, newest_first: bool) -> bytes:
    """A page: what follows the item `after`. Raises BadField for an id that is not there."""
    ordered = list(reversed(items)) if newest_first else list(items)
    start = 0
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise BadField("after", "there is no such item in this response")
        start = ids.index(after) + 1
    page = ordered[start : start + limit]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + limit < len(ordered),
        }
    )
