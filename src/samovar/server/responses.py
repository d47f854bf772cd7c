"""OpenAI's Responses: ask, look up what was answered, continue it, cancel it, forget it."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response

from samovar.api.openai.checks import BadField, ignored
from samovar.api.openai.failures import failure
from samovar.api.openai.generation import ACCEPTED
from samovar.api.openai.responses.decode import Asked, Setting, decode
from samovar.api.openai.responses.encode import ResponseCollector, ResponseEncoder, body_of
from samovar.api.openai.responses.failures import NotRunning, PreviousNotFound, ResponseNotFound
from samovar.api.openai.responses.items import Ids, Item
from samovar.api.openai.responses.listing import page_of
from samovar.api.openai.responses.schema import ACCEPTED_OF_RESPONSES, ResponsesBody
from samovar.api.openai.responses.turn import Turn
from samovar.api.wire import JSON
from samovar.server.asking import caller_of, served_of
from samovar.server.caller import Caller
from samovar.server.openai_route import Asker, Models, OpenAIRoute, one_of, telling
from samovar.server.pieces import PiecesOf, known_pieces
from samovar.server.responses_running import cancel, fitted, run_in_background
from samovar.server.responses_store import Answer, Answers
from samovar.server.served import Served
from samovar.server.stream import collected, streamed
from samovar.types import Burst


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.answers = answers = Answers()
    try:
        yield
    finally:
        await answers.close()


router = APIRouter(tags=["OpenAI"], route_class=OpenAIRoute, lifespan=_lifespan)


async def kept(request: Request) -> Answers:
    """The responses of the server; for `Depends`."""
    found: Answers = request.app.state.answers
    return found


async def answer_of(response_id: str, request: Request, asker: Asker) -> Answer:
    """The response that a path names; for `Depends`. Raises ResponseNotFound."""
    found = (await kept(request)).get(asker.tenant, response_id)
    if found is None:
        raise ResponseNotFound
    return found


Kept = Annotated[Answers, Depends(kept)]
Found = Annotated[Answer, Depends(answer_of)]
After = Annotated[int, Query(ge=-1)]
"""The number of an event."""


# ---- asking --------------------------------------------------------------------------------------


@router.post("/responses", include_in_schema=False)
@router.post("/v1/responses")
async def create(body: ResponsesBody, request: Request, answers: Kept) -> Response:
    """Answer input, in one piece, as a stream, or in the background."""
    models, asker = served_of(request), caller_of(request)
    name, asked = _asked(body, models, asker, answers)
    response_id = asked.head.response_id
    pieces = PiecesOf(known_pieces(request), models, name)
    turn = Turn(asked.head, _ids(response_id), _now, pieces.here)
    answer = Answer(asker.tenant, name, turn, asked.context, asked.is_kept)
    events = pieces.ahead_of(_events(models, name, asked))
    if asked.is_background:
        run_in_background(answers, answer, events)
        response = await _background(answer, is_streamed=asked.is_streamed)
    else:
        response = await _answered(request, answers, answer, events, is_streamed=asked.is_streamed)
    unknown = ignored(body, ACCEPTED | ACCEPTED_OF_RESPONSES)
    return telling(response, [*unknown, *asked.left_out])


@router.post("/v1/responses/input_tokens")
async def input_tokens(
    body: ResponsesBody, models: Models, asker: Asker, answers: Kept
) -> Response:
    """How many tokens the input is: rendered as an answer to it would have it."""
    name, asked = _asked(body, models, asker, answers)
    fields = {each: getattr(asked.request.chat, each) for each in _RENDERED}
    salt = asked.request.cache_salt or asker.tenant
    tokens = await models.ask(name, "render", salt=salt, **fields)
    told = {"object": "response.input_tokens", "input_tokens": len(tokens)}
    return Response(msgspec.json.encode(told), media_type=JSON)


_RENDERED = ("messages", "tools", "thinks", "variables", "replays", "volatile")
"""Fields of a Chat that decide what the prompt is."""


def _asked(
    body: ResponsesBody, models: Served, asker: Caller, answers: Answers
) -> tuple[str, Asked]:
    """The model that is meant, and what is asked of it."""
    name = one_of(models, body.model)
    setting = Setting(
        models.new_id("resp_"),
        name,
        asker.tenant,
        _now(),
        models.new_id,
        functools.partial(answers.item, asker.tenant),
        _previous(answers, asker.tenant, body.previous_response_id),
    )
    return name, decode(body, setting)


def _previous(answers: Answers, tenant: str, response_id: str | None) -> tuple[Item, ...]:
    if response_id is None:
        return ()
    found = answers.get(tenant, response_id)
    if found is None:
        raise PreviousNotFound
    if not found.turn.is_over or found.turn.status == "failed":
        problem = "failed" if found.turn.is_over else "is still in progress"
        raise BadField("previous_response_id", f"that response {problem}; it cannot be continued")
    return found.conversation()


def _events(models: Served, name: str, asked: Asked) -> AsyncIterator[Burst]:
    if asked.truncates:
        return fitted(models, name, asked.request)
    return models.generate(name, asked.request)


async def _answered(
    request: Request,
    answers: Answers,
    answer: Answer,
    events: AsyncIterator[Burst],
    *,
    is_streamed: bool,
) -> Response:
    def keep(_turn: Turn) -> None:
        answers.keep(answer)

    watched = answers.watched(answer, events)
    if is_streamed:
        return await streamed(watched, ResponseEncoder(answer.turn, keep), failure)
    return await collected(request, watched, ResponseCollector(answer.turn, keep), failure)


async def _background(answer: Answer, *, is_streamed: bool, after: int = -1) -> Response:
    """What there is of a response that nobody has to wait for, or a stream of it from `after` on.

    The stream is made of the same events anew, which gives the same ids and numbers.
    """
    if not is_streamed:
        return _told(answer)
    turn = answer.turn
    again = Turn(turn.head, _ids(answer.response_id), lambda: turn.completed_at or 0, turn.pieces)
    return await streamed(answer.follow(), ResponseEncoder(again, after=after), failure)


def _ids(response_id: str) -> Ids:
    """Ids of items: the response's own with a number, so that nobody can guess them either."""
    numbers = itertools.count()
    return lambda prefix: f"{prefix}{response_id.removeprefix('resp_')}{next(numbers):02x}"


def _now() -> int:
    return int(time.clock_gettime(time.CLOCK_REALTIME))


# ---- afterwards ----------------------------------------------------------------------------------


@router.get("/v1/responses/{response_id}")
async def retrieve(answer: Found, *, stream: bool = False, starting_after: After = -1) -> Response:
    """A response as it stands, or the stream of one that runs in the background."""
    if stream and answer.events is None:
        raise BadField("stream", "only responses with background: true can be streamed again")
    return await _background(answer, is_streamed=stream, after=starting_after)


@router.get("/v1/responses/{response_id}/input_items")
async def input_items(
    answer: Found,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """What a response answered, the conversation before it included."""
    page = page_of(answer.context, after, limit, newest_first=order == "desc")
    return Response(page, media_type=JSON)


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(answer: Found, models: Models) -> Response:
    """End a response that is in progress; what there is of it stays."""
    if not answer.turn.is_over:
        await cancel(models.runtime, answer)
    if answer.turn.is_over and answer.turn.status != "cancelled":
        raise NotRunning
    return _told(answer)


@router.delete("/v1/responses/{response_id}")
async def delete(answer: Found, models: Models, answers: Kept) -> Response:
    """Forget a response; one that is in progress is cancelled."""
    answers.forget(answer)
    if not answer.turn.is_over:
        await cancel(models.runtime, answer)
    gone = {"id": answer.response_id, "object": "response", "deleted": True}
    return Response(msgspec.json.encode(gone), media_type=JSON)


def _told(answer: Answer) -> Response:
    return Response(body_of(answer.turn.response()), media_type=JSON)
