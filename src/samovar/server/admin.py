"""The cache and the sessions of what is served. With API keys: for the scope `admin`."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from samovar.errors import InvalidRequest, from_code
from samovar.server.asking import caller, served
from samovar.server.caller import Caller
from samovar.server.served import Served
from samovar.types import Failed, Finished, GenerateRequest

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "Something in the request makes no sense; the message says what."},
    404: {"description": "There is no such model or session."},
    409: {"description": "A request runs on the session."},
    503: {"description": "Not now; try again later."},
}
router = APIRouter(tags=["admin"], responses=_PROBLEMS)

Token = Annotated[int, Field(ge=0, lt=2**31)]

_MAX_NAME = 512  # characters of a session's name


class OfModel(BaseModel):
    """Which model is meant."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Not needed where there is only one.")


class OfPrompt(OfModel):
    """Whose blocks are meant: those of a prompt, in one of three forms."""

    prompt: str | list[Token] | None = Field(None, description="Text as it is, or token ids.")
    messages: list[dict[str, Any]] | None = Field(
        None, description="A conversation, through the model's template."
    )
    tools: list[dict[str, Any]] = []
    salt: str | None = Field(
        None,
        description="Whose blocks: a tenant, or for a `cache_salt` of its requests"
        " `LENGTH:TENANT/SALT`, with the length of the tenant's name. Default: the key's tenant.",
    )


class OfSession(OfModel):
    """A session by its name."""

    name: str = Field(min_length=1, max_length=_MAX_NAME)


class Fork(OfModel):
    """A session, and what another one that holds the same shall be called."""

    source: str = Field(min_length=1, max_length=_MAX_NAME)
    target: str = Field(min_length=1, max_length=_MAX_NAME)


Having = Annotated[Served, Depends(served)]
Asking = Annotated[Caller, Depends(caller)]

# ---- the cache -----------------------------------------------------------------------------------


@router.get("/cache/info")
async def info(having: Having, model: str | None = None) -> dict[str, Any]:
    """What the cache of a model has, and has done since the model was loaded."""
    name = _model(having, model)
    return {"model": name, **await having.ask(name, "cache_info")}


@router.post("/cache/explain")
async def explain(asked: OfPrompt, having: Having, asking: Asking) -> dict[str, Any]:
    """How much of a prompt would not be computed, and why no more."""
    found: dict[str, Any] = await _about(asked, having, asking, "cache_explain")
    return found


@router.post("/cache/pin")
async def pin(asked: OfPrompt, having: Having, asking: Asking) -> dict[str, Any]:
    """Keep what there is of a prompt, whatever else has to go."""
    return {"pinned_tokens": await _about(asked, having, asking, "cache_pin")}


@router.post("/cache/unpin")
async def unpin(asked: OfPrompt, having: Having, asking: Asking) -> dict[str, Any]:
    """Let the longest pinned beginning of a prompt go again."""
    return {"unpinned_tokens": await _about(asked, having, asking, "cache_unpin")}


@router.post("/cache/warm")
async def warm(asked: OfPrompt, having: Having, asking: Asking) -> dict[str, Any]:
    """Compute a prompt and generate nothing: the next request that begins so starts from there."""
    name = _model(having, asked.model)
    salt = asking.tenant if asked.salt is None else asked.salt
    request = GenerateRequest(
        having.new_id("warm-"),
        tuple(await _tokens(asked, having, name, salt)),
        prefill_only=True,
        tenant=asking.tenant,
        cache_salt=asked.salt,
    )
    async with aclosing(having.generate(name, request)) as bursts:
        async for burst in bursts:
            last = burst[-1]
            if isinstance(last, Failed):
                raise from_code(last.code, last.message)
            if isinstance(last, Finished):
                usage = last.usage
                return {"prompt_tokens": usage.prompt_tokens, "cached_tokens": usage.cached.total}
    raise InvalidRequest("the request ended without an answer")


@router.post("/cache/flush")
async def flush(asked: OfModel, having: Having) -> dict[str, bool]:
    """Wait until all that is kept is on disk."""
    return {"is_durable": await having.ask(_model(having, asked.model), "cache_flush")}


# ---- sessions ------------------------------------------------------------------------------------


@router.get("/sessions")
async def sessions(having: Having, model: str | None = None) -> dict[str, Any]:
    """The sessions of a model, the longest unused first."""
    name = _model(having, model)
    return {"model": name, "sessions": await having.ask(name, "list_sessions")}


@router.post("/sessions/fork")
async def fork(asked: Fork, having: Having) -> dict[str, str]:
    """Another session that holds the same."""
    name = _model(having, asked.model)
    await having.ask(name, "fork_session", source=asked.source, target=asked.target)
    return {"name": asked.target}


@router.post("/sessions/end")
async def end(asked: OfSession, having: Having) -> dict[str, Literal[True]]:
    """Let a session go."""
    await having.ask(_model(having, asked.model), "end_session", name=asked.name)
    return {"is_gone": True}


@router.post("/sessions/reset")
async def reset(asked: OfSession, having: Having) -> dict[str, Literal[True]]:
    """Let a session go, and fail the request that runs on it."""
    await having.ask(_model(having, asked.model), "reset_session", name=asked.name)
    return {"is_gone": True}


# ---- which ---------------------------------------------------------------------------------------


def _model(having: Served, name: str | None) -> str:
    names = having.names()
    if name is not None:
        return having.model(name).name
    if len(names) != 1:
        raise InvalidRequest(f"say which model: {', '.join(names)}")
    return names[0]


async def _about(asked: OfPrompt, having: Served, asking: Caller, operation: str) -> Any:  # noqa: ANN401
    name = _model(having, asked.model)
    salt = asking.tenant if asked.salt is None else asked.salt
    tokens = await _tokens(asked, having, name, salt)
    return await having.ask(name, operation, tokens=tokens, salt=salt)


async def _tokens(asked: OfPrompt, having: Served, name: str, salt: str) -> list[int]:
    if (asked.prompt is None) == (asked.messages is None):
        raise InvalidRequest("give a prompt or messages, one of them")
    if asked.messages is not None:
        more: dict[str, Any] = {"tools": asked.tools} if asked.tools else {}
        more["salt"] = salt  # turns of this tenant's are the tokens that they were
        found: list[int] = await having.ask(name, "render", messages=asked.messages, **more)
        return found
    if isinstance(asked.prompt, str):
        return list(await having.ask(name, "tokenize", text=asked.prompt))
    return list(asked.prompt or ())
