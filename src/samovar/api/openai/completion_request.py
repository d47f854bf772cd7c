"""The body of a completion, and the requests that it becomes: one for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from samovar.api.openai.checks import BadField
from samovar.api.openai.generation import GenerationFields, common, max_tokens_of
from samovar.api.openai.grammars import grammar_of
from samovar.api.openai.inputs import Input, Inputs, listed
from samovar.api.openai.sampling import sampling_of
from samovar.types import MAX_CHOICES, MAX_LOGPROBS, GenerateRequest

_MAX_PROMPTS = 128  # of one body: each is a request of its own, and the queue has some hundreds


class CompletionRequest(GenerationFields):
    """The body of /v1/completions. Unknown fields are ignored, and told in a header."""

    prompt: Inputs
    suffix: str | None = None
    """What follows behind the text that is to be filled in."""
    max_tokens: int | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are wanted."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def num_kept(self) -> int:
        """How many choices of each prompt are told."""
        return self.n or 1

    @property
    def num_made(self) -> int:
        """How many are made, of which the likeliest are told."""
        return self.best_of or self.num_kept


def prompts_of(body: CompletionRequest) -> list[Input]:
    """The prompts, as text or as ids. Raises BadField for an empty one, and for too many."""
    prompts = listed(body.prompt, "prompt", _MAX_PROMPTS)
    if not all(prompts) and body.suffix is None:
        raise BadField("prompt", "a prompt is empty; give some text or tokens")
    return prompts


def check_completion(body: CompletionRequest) -> None:
    """Raises BadField for what cannot be had together."""
    if body.num_made < body.num_kept:
        raise BadField("best_of", "must be n or more")
    if body.num_made > body.num_kept and body.stream:
        raise BadField("best_of", "the best are known at the end only; leave out stream")
    if body.echo and body.suffix is not None:
        raise BadField("echo", "cannot be had together with suffix; leave out one of them")


def decode_completion(
    body: CompletionRequest, prompts: Sequence[Input], answer_id: str, tenant: str
) -> list[GenerateRequest]:
    """A request for each prompt. Raises InvalidRequest and BadField."""
    check_completion(body)
    limit = max_tokens_of(body.max_tokens, "max_tokens", least=0)
    needs_ranks = body.num_made > body.num_kept
    logprobs = 0 if body.logprobs is None and needs_ranks else body.logprobs
    base = GenerateRequest(
        answer_id,
        prompts[0],
        sampling=sampling_of(body, grammar_of(body), logprobs),
        max_tokens=limit or None,
        prefill_only=limit == 0,
        prompt_logprobs=body.logprobs if body.echo else None,
        **{**common(body, tenant), "choices": body.num_made},
    )
    if base.session is not None and len(prompts) > 1:
        raise BadField("session_id", "a session goes on with one prompt; send one")
    return [
        replace(base, request_id=f"{answer_id}-{index}", prompt=prompt)
        for index, prompt in enumerate(prompts)
    ]
