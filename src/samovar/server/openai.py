"""OpenAI's routes for text: chat completions and completions; and those that are not served."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response

from samovar.api.openai.chat_body import ChatCollector
from samovar.api.openai.chat_output import ChatForm
from samovar.api.openai.chat_request import ACCEPTED_OF_CHAT, ChatRequest, decode_chat
from samovar.api.openai.chat_stream import ChatEncoder
from samovar.api.openai.checks import ignored
from samovar.api.openai.completion_output import (
    CompletionCollector,
    CompletionEncoder,
    CompletionForm,
)
from samovar.api.openai.completion_prompt import ToldPrompt, told_prompt
from samovar.api.openai.completion_request import (
    CompletionRequest,
    check_completion,
    decode_completion,
    prompts_of,
)
from samovar.api.openai.failures import failure
from samovar.api.openai.generation import ACCEPTED
from samovar.api.openai.inputs import Input
from samovar.server import openai_tokens, openai_vectors
from samovar.server.asking import caller_of, served_of
from samovar.server.infilling import infilled
from samovar.server.merging import merged
from samovar.server.openai_route import (
    OpenAIRoute,
    head_of,
    one_of,
    telling,
)
from samovar.server.pieces import PiecesOf, known_pieces
from samovar.server.served import Served
from samovar.server.stream import collected, respond_failure, streamed, while_connected
from samovar.types import Burst, Failed

router = APIRouter(tags=["OpenAI"], route_class=OpenAIRoute)


@router.post("/chat/completions", include_in_schema=False)
@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, in one piece or as a stream."""
    models, asker = served_of(request), caller_of(request)
    name = one_of(models, body.model)
    answer_id = models.new_id("chatcmpl-")
    asked = decode_chat(body, answer_id, asker.tenant)
    head = head_of(answer_id, name)
    events: AsyncIterator[Burst] = models.generate(name, asked)
    pieces = None
    if asked.sampling.logprobs is not None:
        pieces = PiecesOf(known_pieces(request), models, name)
        events = pieces.ahead_of(events)
    form = ChatForm(
        body.includes_usage, body.wants_functions, None if pieces is None else pieces.here
    )
    if body.stream:
        response = await streamed(events, ChatEncoder(head, form), failure)
    else:
        response = await collected(request, events, ChatCollector(head, form), failure)
    return telling(response, ignored(body, ACCEPTED_OF_CHAT))


@router.post("/completions", include_in_schema=False)
@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a prompt, or several, or fill in between a prompt and a suffix."""
    models, asker, known = served_of(request), caller_of(request), known_pieces(request)
    name = one_of(models, body.model)
    check_completion(body)
    prompts = prompts_of(body)
    if body.suffix is not None:
        prompts = await while_connected(request, infilled(models, name, prompts, body.suffix))
    answer_id = models.new_id("cmpl-")
    echoes: tuple[str, ...] = ()
    if body.echo:
        echoes = await while_connected(request, _texts(models, name, prompts))
    pieces = None if body.logprobs is None else PiecesOf(known, models, name)
    told: tuple[ToldPrompt, ...] = ()
    if pieces is not None and body.scores_prompt:
        prompts = await while_connected(request, _tokens(models, name, prompts))
        told = await while_connected(request, _told(pieces, echoes, prompts))
    asked = decode_completion(body, prompts, answer_id, asker.tenant)
    events = merged(models.generate(name, one) for one in asked)
    if pieces is not None:
        events = pieces.ahead_of(events)
    form = CompletionForm(
        tuple(one.request_id for one in asked),
        body.num_kept,
        echoes,
        body.includes_usage,
        None if pieces is None else pieces.here,
        told,
    )
    head = head_of(answer_id, name)
    if body.stream:
        response = await streamed(events, CompletionEncoder(head, form), failure)
    else:
        response = await collected(request, events, CompletionCollector(head, form), failure)
    return telling(response, ignored(body, ACCEPTED))


async def _texts(
    models: Served, name: str, prompts: list[str | tuple[int, ...]]
) -> tuple[str, ...]:
    """What prompts say, whether they are text or ids."""
    found: list[str] = []
    for one in prompts:
        if isinstance(one, str):
            found.append(one)
        else:
            found.append(await models.ask(name, "detokenize", tokens=list(one)))
    return tuple(found)


async def _tokens(models: Served, name: str, prompts: list[Input]) -> list[Input]:
    """The ids of prompts, which are looked at here one by one."""
    found: list[Input] = []
    for one in prompts:
        ids = one
        if isinstance(one, str):
            ids = tuple(await models.ask(name, "encode", text=one, is_raw=True))
        found.append(ids)
    return found


async def _told(
    pieces: PiecesOf, texts: tuple[str, ...], prompts: list[Input]
) -> tuple[ToldPrompt, ...]:
    """Prompts that are ids, with their texts. Raises InvalidToken for ids that do not exist."""
    await pieces.look_up({token for one in prompts for token in one if isinstance(token, int)})
    return tuple(
        told_prompt(text, one, pieces.here, pieces.hidden)
        for text, one in zip(texts, prompts, strict=True)
        if not isinstance(one, str)
    )


_NOT_SERVED = (
    "assistants",
    "audio/{kind}",
    "batches",
    "files",
    "fine_tuning/jobs",
    "images/{kind}",
    "moderations",
    "realtime/{kind}",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
)
"""What clients of OpenAI's may ask for and no local model answers."""


async def not_served(request: Request) -> Response:
    """Say so, in the shape that clients of OpenAI's understand."""
    message = f"{request.url.path} is not served here; docs/openai.md lists what is"
    return respond_failure(failure(Failed("", "not_found", message)))


for path in _NOT_SERVED:
    router.add_api_route(
        f"/v1/{path}", not_served, methods=["GET", "POST"], include_in_schema=False
    )
router.include_router(openai_vectors.router)
router.include_router(openai_tokens.router)
