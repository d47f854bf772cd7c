"""How responses run: in the background, cut to what fits, ended before their time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from samovar.api.openai.responses.prompt import shorter
from samovar.errors import Overloaded, SamovarError
from samovar.runtime.runtime import Runtime
from samovar.server.responses_store import Answer, Answers
from samovar.server.served import Served
from samovar.server.stream import failed_of, internal_failure
from samovar.types import Burst, Choice, Event, Failed, Finished, GenerateRequest, Usage

logger = logging.getLogger(__name__)

MAX_BACKGROUND = 64  # of a tenant: nobody's going away ends them, and each is in a model's queue
CANCEL_SECONDS = 5.0  # for the model to end a request; a step takes less, loading may take more


def run_in_background(answers: Answers, answer: Answer, bursts: AsyncIterator[Burst]) -> None:
    """Have a response run to its end, whoever goes. Raises Overloaded."""
    if answers.num_background(answer.tenant) >= MAX_BACKGROUND:
        raise Overloaded(f"{MAX_BACKGROUND} responses run in the background; wait for one of them")
    answer.events = []
    task = asyncio.create_task(_run(answer, bursts))
    answers.run(answer, task)
    task.add_done_callback(lambda _: _ended(answers, answer))


async def _run(answer: Answer, bursts: AsyncIterator[Burst]) -> None:
    try:
        async with aclosing(bursts) as stream:  # type: ignore[type-var]
            async for burst in stream:
                answer.take(burst)
    except SamovarError as error:
        answer.take([failed_of(error)])
    except Exception:  # a bug: who asks for the response is told that there is one
        logger.exception("a response in the background failed")
        answer.take([internal_failure()])


def _ended(answers: Answers, answer: Answer) -> None:
    """After the last event, or the end of the task, which may not even have begun."""
    if not answer.turn.is_over:
        answer.take([Finished(answer.response_id, (Choice("cancelled", 0),), Usage(0, 0))])
    answers.keep(answer)
    answers.end(answer)


async def cancel(runtime: Runtime, answer: Answer) -> None:
    """End a response, and wait until it has ended."""
    runtime.cancel(answer.model, answer.response_id)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(answer.over.wait(), CANCEL_SECONDS)
    if not answer.over.is_set() and answer.task is not None:
        answer.task.cancel()
        await answer.over.wait()


async def fitted(models: Served, name: str, request: GenerateRequest) -> AsyncIterator[Burst]:
    """The events of a conversation, without its oldest turns where it is too long with them."""
    while True:
        left = shorter(request.chat.messages) if request.chat is not None else None
        async with aclosing(models.generate(name, request)) as bursts:
            async for burst in bursts:
                if left is not None and _is_too_long(burst[0]):
                    break
                left = None
                yield burst
            else:
                return
        assert request.chat is not None
        assert left is not None
        request = replace(request, chat=replace(request.chat, messages=left))


def _is_too_long(event: Event) -> bool:
    return isinstance(event, Failed) and event.code == "context_length_exceeded"
