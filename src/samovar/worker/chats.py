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

from samovar.chat.choosing import choose, is_reasoning_open, starts_in_reasoning
from samovar.chat.constraint import constraint
from samovar.chat.messages import plain_tools
from samovar.chat.renderer import Renderer
from samovar.chat.replay import Prompt
from samovar.chat.shapes import Family
from samovar.chat.turn import Budget, TurnForm, shown_tokens
from samovar.chat.unfinished import is_within_reasoning, reasoning_of
from samovar.errors import GrammarRejected, InvalidRequest
from samovar.native.interface import Backend
from samovar.native.lark import answer_text
from samovar.types import Chat, GenerateRequest, Grammar, Message, Replayed, Tool
from samovar.worker.replaying import Replaying

logger = logging.getLogger(__name__)

_TAIL = 64  # tokens: more than the longest marker that opens reasoning


class Chats:
    """Prepares the requests of one model that hold a conversation. From any thread."""

    def __init__(self, backend: Backend, renderer: Renderer | None) -> None:
        self._backend = backend
        self._renderer = renderer
        self._families: dict[str | None, Family] = {}
        self.described: Family | None = None
        """How the model writes, by what lies beside its file; None: as its template tells."""
        self.ends: tuple[str, ...] = ()
        """Texts that end an answer, where no token does."""
        self.replaying: Replaying | None = None
        """What remembers turns; None: every conversation is tokenized anew."""

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
        form = self._form(chat, self._family(chat.family))
        salt = request.tenant if request.cache_salt is None else request.cache_salt
        prompt = self._prompt(chat, salt)
        tokens = prompt.tokens
        form = self._begun(chat, form, tokens)
        closing: tuple[int, ...] = ()
        if form.budget is not None and not form.budget.tokens and form.starts_in_reasoning:
            closing = form.budget.closing
            tokens += closing
            form = replace(form, starts_in_reasoning=False)
        if self.replaying is not None:
            self.replaying.begin(request, prompt, self._text(list(closing)))
        grammar = self._grammar(chat, form, request.sampling.grammar)
        sampling = replace(request.sampling, grammar=grammar)
        return replace(request, prompt=tuple(tokens), chat=None, sampling=sampling), form

    def render(self, chat: Chat, salt: str = "") -> list[int]:
        """The ids that a conversation becomes. Raises TemplateError, InvalidRequest."""
        return self._prompt(chat, salt).tokens

    def _prompt(self, chat: Chat, salt: str) -> Prompt:
        prompt = self._rendered(chat, salt)
        last, before, family = chat.messages[-1], chat.messages[:-1], self._family(chat.family)
        if not (chat.continues_last and is_within_reasoning(last) and before and family.reasoning):
            return prompt
        if is_reasoning_open(family, self._text(prompt.tokens)):
            return prompt
        # The template shows no reasoning that goes on: it is written behind a prompt for some.
        asked = replace(chat, messages=before, continues_last=False, thinks=True)
        prompt = self._rendered(asked, salt)
        tokens = list(prompt.tokens)
        if not starts_in_reasoning(family, self._text(tokens[-_TAIL:])):
            tokens += self._tokenize(family.reasoning.open)
        tokens += self._backend.tokenize(reasoning_of(last), add_special=False)
        return replace(prompt, tokens=tokens)

    def _tokenize(self, markers: str) -> list[int]:
        return self._backend.tokenize(markers, add_special=False, parse_special=True)

    def _rendered(self, chat: Chat, salt: str) -> Prompt:
        if self.replaying is not None:
            return self.replaying.prompt(chat, self._family(chat.family), salt)
        asked: dict[str, Any] = {
            "messages": list(chat.messages),
            "tools": list(chat.tools) or None,
            "variables": chat.variables,
            "thinks": chat.thinks,
            "continues_last": chat.continues_last,
        }
        return Prompt(self._backend.apply_chat_template(asked), Replayed(), None)

    # ---- reading ------------------------------------------------------------------------------

    def _family(self, name: str | None) -> Family:
        if name is None and self.described is not None:
            return self.described
        if name not in self._families:
            renderer = self._renderer
            source = None if renderer is None else renderer.source
            render = None if renderer is None else self._render_whole
            self._families[name] = choose(source, name=name, render=render)
        return self._families[name]

    def _render_whole(self, messages: list[Message], tools: list[Tool]) -> str:
        assert self._renderer is not None
        return self._renderer.render(messages, tools, add_generation_prompt=False)

    def _form(self, chat: Chat, family: Family) -> TurnForm:
        may_call = chat.tool_choice.mode != "none" or chat.tool_choice.name is not None
        tools = tuple(plain_tools(chat.tools) or ()) if may_call else ()
        shown = shown_tokens(family, self._backend.control_tokens)
        budget = None
        if chat.reasoning_tokens is not None and family.reasoning is not None:
            closing = family.reasoning.close.strip() + family.reasoning.after
            budget = Budget(chat.reasoning_tokens, tuple(self._tokenize(closing)))
        return TurnForm(family, tools, shown=shown, budget=budget, ends=self.ends)

    def _begun(self, chat: Chat, form: TurnForm, tokens: list[int]) -> TurnForm:
        """The form, with where in a turn its prompt ends."""
        assert form.family is not None
        last = chat.messages[-1]
        if chat.continues_last and is_within_reasoning(last):
            is_open = is_reasoning_open(form.family, self._text(tokens))
            return replace(form, starts_in_reasoning=is_open)
        if chat.continues_last and last.get("content"):
            return replace(form, has_begun=True)
        is_open = starts_in_reasoning(form.family, self._text(tokens[-_TAIL:]))
        return replace(form, starts_in_reasoning=is_open)

    def _text(self, tokens: list[int]) -> str:
        return self._backend.detokenize(tokens, special=True).decode("utf-8", "replace")

    # ---- holding to a form --------------------------------------------------------------------

    def _grammar(
        self, chat: Chat, form: TurnForm, asked: str | Grammar | None
    ) -> str | Grammar | None:
        """What holds the model to its tools, and its answer to the form that was asked for."""
        family, choice = form.family, chat.tool_choice
        assert family is not None
        if form.has_begun:
            family = replace(family, reasoning=None, answer=("", ""))
        is_demanded = choice.mode == "required" or choice.name is not None
        if is_demanded and chat.thinks is False:  # a call begins at once; open reasoning still ends
            family = family if form.starts_in_reasoning else replace(family, reasoning=None)
        tools = tuple(plain_tools(chat.tools) or ())
        answer = ""
        if asked is not None and not is_demanded:
            if not form.starts_in_reasoning and not self._reasons(chat, family):
                family = replace(family, reasoning=None)
            self._backend.compile_grammar(asked)  # on its own: what is wrong with it is told so
            if not _is_before(family, form):
                return asked
            answer = answer_text(asked)
        elif not tools and not is_demanded:
            return None
        grammar = constraint(
            family,
            tools,
            choice,
            control_tokens=self._backend.control_tokens,
            starts_in_reasoning=form.starts_in_reasoning,
            answer=answer,
        )
        if grammar is None or is_demanded:
            return grammar
        try:
            self._backend.compile_grammar(grammar)
        except GrammarRejected:  # a schema may ask for what no grammar can hold
            if asked is not None and form.starts_in_reasoning:
                raise
            # Not what it was: that names things of a client's tools.
            logger.warning("calls, or reasoning, go without their grammar: none holds the schemas")
            return asked
        return grammar

    def _reasons(self, chat: Chat, family: Family) -> bool:
        """Whether an answer of a form may be reasoned about first: not as a way around the form."""
        if chat.thinks is False or family.reasoning is None:
            return False
        source = "" if self._renderer is None else self._renderer.source
        return chat.family is not None or family.reasoning.close.strip() in source


def _is_before(family: Family, form: TurnForm) -> bool:
    """Whether anything may come before or instead of an answer."""
    has_calls = bool(form.tools and family.frames)
    return family.reasoning is not None or has_calls or any(family.answer)
