"""A conversation becomes a prompt, a grammar, and a form in which the answer is read.

    Chat ── template (another process) ──> ids
         ── family, tools, choice ──> what the sampler holds the model to
         ──> TurnForm: what the engine tells the answer apart by

This takes long, so it happens on the preparer's thread, where nobody's next token waits for it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from samovar.chat.choosing import choose, starts_in_reasoning
from samovar.chat.constraint import constraint
from samovar.chat.messages import plain_tools
from samovar.chat.renderer import Renderer
from samovar.chat.shapes import Family
from samovar.chat.turn import TurnForm, shown_tokens
from samovar.errors import GrammarRejected, InvalidRequest
from samovar.native.interface import Backend
from samovar.types import Chat, GenerateRequest, Grammar, Message, Tool

logger = logging.getLogger(__name__)

_TAIL = 64  # tokens: more than the longest marker that opens reasoning


class Chats:
    """Prepares the requests of one model that hold a conversation. For one thread at a time."""

    def __init__(self, backend: Backend, renderer: Renderer | None) -> None:
        self._backend = backend
        self._renderer = renderer
        self._families: dict[str | None, Family] = {}

    def prepared(self, request: GenerateRequest) -> tuple[GenerateRequest, TurnForm]:
        """The request with ids for its conversation, and how to read what comes of it.

        Raises InvalidRequest, TemplateError and its kinds, and what compiling a grammar raises.
        """
        chat = request.chat
        assert chat is not None
        if request.continues:
            raise InvalidRequest(
                "a conversation is a whole prompt and continues nothing; leave `continues` out"
            )
        family = self._family(chat.family)
        tools = tuple(plain_tools(chat.tools) or ())
        tokens = self.render(chat)
        form = TurnForm(
            family,
            tools if _may_call(chat) else (),
            starts_in_reasoning(family, self._tail(tokens)),
            shown_tokens(family, self._backend.control_tokens),
        )
        sampling = request.sampling
        if sampling.grammar is None:
            sampling = replace(sampling, grammar=self._constraint(chat, tools, form))
        return replace(request, prompt=tuple(tokens), chat=None, sampling=sampling), form

    def render(self, chat: Chat) -> list[int]:
        """The ids that a conversation becomes. Raises TemplateError, InvalidRequest."""
        asked: dict[str, Any] = {
            "messages": list(chat.messages),
            "tools": list(chat.tools) or None,
            "variables": chat.variables,
            "thinks": chat.thinks,
            "continues_last": chat.continues_last,
        }
        return self._backend.apply_chat_template(asked)

    def _tail(self, tokens: list[int]) -> str:
        data = self._backend.detokenize(tokens[-_TAIL:], special=True)
        return data.decode("utf-8", "replace")

    def _family(self, name: str | None) -> Family:
        if name not in self._families:
            renderer = self._renderer
            source = None if renderer is None else renderer.source
            render = None if renderer is None else self._render_whole
            self._families[name] = choose(source, name=name, render=render)
        return self._families[name]

    def _render_whole(self, messages: list[Message], tools: list[Tool]) -> str:
        assert self._renderer is not None
        return self._renderer.render(messages, tools, add_generation_prompt=False)

    def _constraint(self, chat: Chat, tools: tuple[Tool, ...], form: TurnForm) -> Grammar | None:
        """What holds the model to the tools, as they were asked for."""
        assert form.family is not None
        choice = chat.tool_choice
        is_demanded = choice.mode == "required" or choice.name is not None
        if not tools and not is_demanded:
            return None
        grammar = constraint(
            form.family,
            tools,
            choice,
            control_tokens=self._backend.control_tokens,
            starts_in_reasoning=form.starts_in_reasoning,
        )
        if grammar is None or is_demanded:
            return grammar
        try:
            self._backend.compile_grammar(grammar)
        except GrammarRejected as error:  # a schema may ask for what no grammar can hold
            logger.warning("calls are not held to their schemas: %s", error)
            return None
        return grammar


def _may_call(chat: Chat) -> bool:
    return chat.tool_choice.mode != "none" or chat.tool_choice.name is not None
