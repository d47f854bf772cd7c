"""What OpenAI's routes have in common: how they refuse, which model is meant, what was ignored."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from samovar.api.openai.chat_output import Head
from samovar.api.openai.checks import BadField, param_of
from samovar.api.openai.failures import failure
from samovar.errors import SamovarError
from samovar.server.asking import caller, served
from samovar.server.caller import Caller
from samovar.server.failing import told
from samovar.server.served import Served
from samovar.server.stream import failed_of, respond_failure
from samovar.types import Failed

Models = Annotated[Served, Depends(served)]
Asker = Annotated[Caller, Depends(caller)]

IGNORED = "X-Samovar-Ignored"
"""A header with the names of fields that nobody here knows: a misspelt one shows."""


class OpenAIRoute(APIRoute):
    """A route that says which field is wrong (`param`), as clients of OpenAI's expect."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The handler, within what says what is wrong."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                failed = Failed("", "invalid_request", told(error.errors()))
                return respond_failure(failure(failed, _first_param(error.errors())), failed)
            except SamovarError as error:
                failed = failed_of(error)
                param = error.param if isinstance(error, BadField) else None
                return respond_failure(failure(failed, param), failed)

        return handle


def _first_param(errors: Iterable[Any]) -> str | None:
    place = next(iter(errors))["loc"]
    return param_of(place[1:] if place[:1] == ("body",) else place)


def one_of(models: Served, name: str | None) -> str:
    """The model that is meant; without a name the only one. Raises BadField, ModelNotFound."""
    if name:
        models.model(name)
        return name
    names = models.names()
    if len(names) == 1:
        return names[0]
    raise BadField("model", f"say which; there are: {', '.join(names)}")


def head_of(answer_id: str, model: str) -> Head:
    """What an answer that begins now begins with."""
    return Head(answer_id, int(time.clock_gettime(time.CLOCK_REALTIME)), model)


def telling(response: Response, names: Iterable[str]) -> Response:
    """The response, with the names of fields that were ignored."""
    text = ", ".join(names)
    if text:
        response.headers[IGNORED] = text
    return response
