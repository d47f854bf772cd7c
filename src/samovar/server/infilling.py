"""Prompts for filling in between two texts, of models that were trained for it."""

from __future__ import annotations

from collections.abc import Sequence

from samovar.errors import OperationUnsupported
from samovar.server.served import Served


async def infilled(
    models: Served, name: str, before: Sequence[str | tuple[int, ...]], after: str
) -> list[str | tuple[int, ...]]:
    """The ids of what stands before, and of what stands after, as the model wants them.

    Raises OperationUnsupported for a model that has no tokens for it.
    """
    marks = (await models.facts(name)).infill
    if marks is None:
        raise OperationUnsupported(
            "this model cannot fill in: its vocabulary has no tokens for that; leave out suffix"
        )
    start: list[int] = await models.ask(name, "tokenize", text="")
    behind = await _ids(models, name, after)
    prompts: list[str | tuple[int, ...]] = []
    for one in before:
        ahead = await _ids(models, name, one)
        prompts.append((*start[:1], marks.prefix, *ahead, marks.suffix, *behind, marks.middle))
    return prompts


async def _ids(models: Served, name: str, text: str | tuple[int, ...]) -> list[int]:
    if not isinstance(text, str):
        return list(text)
    found: list[int] = await models.ask(name, "tokenize", text=text, add_special=False)
    return found
