"""A chat template: messages and tools in, prompt text out.

What callers send is first brought into the shape that this template reads (`conversation`,
`traits`). When the template refuses it even so, a few repairs are tried, each of which leaves the
meaning alone. Nothing here limits time or memory: templates come with model files, so a server
renders in another process (`renderer`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol

import jinja2

from samovar.chat.conversation import REPAIRS, Conversation
from samovar.chat.environment import MisuseError, RefusalError, Sandbox
from samovar.chat.messages import plain_messages, plain_variables, sound_text
from samovar.chat.switches import thinking_variables
from samovar.chat.traits import Traits, probe
from samovar.chat.unfinished import unfinished
from samovar.errors import InvalidRequest, TemplateError, TemplateMissing
from samovar.types import Message, Tool

MAX_OUTPUT = 16 * 2**20
"""Characters of a rendering, a few times the longest context; more is a runaway template."""

_QUOTED = 500
"""Characters of a template's own words in an error."""

_REMEDY = "send what this model's template supports, or give the model another template"


class Renders(Protocol):
    """What turns messages into prompt text: a `Template`, or a `Renderer` around one."""

    @property
    def source(self) -> str:
        """The template's Jinja source."""

    def render(
        self,
        messages: object,
        tools: object = None,
        *,
        add_generation_prompt: bool = True,
        thinks: bool | None = None,
        continues_last: bool = False,
        **variables: object,
    ) -> str:
        """See Template.render."""


class Template:
    """A compiled template of a model file.

    `bos_token` and `eos_token` are the texts of those tokens, which templates write themselves;
    `now` gives the time for templates that print the date. Raises TemplateMissing for an empty
    source and TemplateError for one that does not compile.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
        max_output: int = MAX_OUTPUT,
    ) -> None:
        self._source = checked_source(source)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._max_output = max_output
        self._switched: dict[bool, dict[str, Any]] = {}
        try:
            self._compiled = Sandbox(now).from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template does not compile (line {error.lineno}: {error.message});"
                " give the model another template"
            ) from None
        except Exception as error:  # noqa: BLE001 (constant parts of a template run while it is compiled)
            raise TemplateError(_explain(error, source)) from None

    @property
    def source(self) -> str:
        """The Jinja source."""
        return self._source

    @cached_property
    def traits(self) -> Traits:
        """What the template reads, found by trying; costs about eight small renders."""
        return probe(self._source, self._attempt)

    def render(
        self,
        messages: object,
        tools: object = None,
        *,
        add_generation_prompt: bool = True,
        thinks: bool | None = None,
        continues_last: bool = False,
        **variables: object,
    ) -> str:
        """The prompt text of a conversation in OpenAI's shape.

        `variables` are the template's own, such as `enable_thinking`; `thinks` sets those that turn
        reasoning on or off, if there are any. `continues_last`: the text ends within the last
        message, which goes on there. Raises InvalidRequest for messages that are malformed in
        themselves, and TemplateError where the template refuses them or fails; its message carries
        what the template says, as far as its source does.
        """
        context = {**plain_variables(variables), "add_generation_prompt": add_generation_prompt}
        if thinks is not None:
            context = {**self._thinking(thinks=thinks), **context}
        if not continues_last:
            return self._rendered(messages, tools, context)
        context["add_generation_prompt"] = False
        for marked, mark in unfinished(plain_messages(messages), self._source):
            text, found, _ = self._rendered(marked, tools, context).rpartition(mark)
            if found:
                return text
        raise TemplateError(
            "this model's template does not show the last message as it was sent, so it cannot be"
            " continued; send the conversation without it"
        )

    def _rendered(self, messages: object, tools: object, context: dict[str, Any]) -> str:
        failure: Exception | None = None
        for count in range(len(REPAIRS) + 1):
            conversation = Conversation.of(messages, tools)
            conversation.adapt(self.traits)
            changes = [repair(conversation) for repair in REPAIRS[:count]]
            if changes and not changes[-1]:
                continue
            try:
                return self._run(conversation, context)
            except Exception as error:  # noqa: BLE001 (a template may raise anything)
                failure = failure or error
        raise self._blamed(failure, Conversation.of(messages, tools))

    def _blamed(self, failure: Exception | None, sent: Conversation) -> Exception:
        if failure is None:
            raise AssertionError("the first attempt always runs")
        if sent.has_broken_arguments:
            return InvalidRequest(
                "this model's template needs the arguments of every tool call to be a JSON object"
            )
        return TemplateError(_explain(failure, self._source))

    def _thinking(self, *, thinks: bool) -> dict[str, Any]:
        """The variables that turn reasoning on or off."""
        if thinks not in self._switched:
            messages = [{"role": "user", "content": "?"}]

            def attempt(variables: Mapping[str, Any]) -> str | None:
                try:
                    return self._rendered(
                        messages, None, {"add_generation_prompt": True, **variables}
                    )
                except TemplateError:
                    return None

            self._switched[thinks] = thinking_variables(self._source, attempt, thinks=thinks)
        return self._switched[thinks]

    def _attempt(self, messages: list[Message], tools: list[Tool] | None) -> str | None:
        try:
            return self._run(Conversation(messages, tools), {"add_generation_prompt": True})
        except Exception:  # noqa: BLE001 (a template may raise anything)
            return None

    def _run(self, conversation: Conversation, context: dict[str, Any]) -> str:
        given: dict[str, Any] = {**self._tokens, **context, "messages": conversation.messages}
        if conversation.tools is not None:  # many templates ask whether it is defined
            given["tools"] = conversation.tools
        pieces: list[str] = []
        size = 0
        for piece in self._compiled.generate(given):
            size += len(piece)
            if size > self._max_output:
                raise MisuseError(f"the prompt is longer than {self._max_output} characters")
            pieces.append(piece)
        return sound_text("".join(pieces))


def checked_source(source: object) -> str:
    """A template's source, or TemplateMissing where there is none."""
    if not isinstance(source, str) or not source.strip():
        raise TemplateMissing(
            "this model file carries no chat template; send a plain prompt, or give the model"
            " a template"
        )
    return source


def _explain(error: Exception, source: str) -> str:
    if isinstance(error, RefusalError):
        words = _cut(_own_words(str(error), source))
        return f"the chat template refused this conversation: {words}; {_REMEDY}"
    if isinstance(error, MisuseError):
        return f"the chat template failed: {error}; {_REMEDY}"
    if isinstance(error, MemoryError):
        return f"the chat template needs more memory than it may have; {_REMEDY}"
    words = type(error).__name__
    if _is_telling(error, source):
        words += f", {_cut(str(error))}"
    return f"the chat template failed{_line(error.__traceback__)}: {words}; {_REMEDY}"


def _is_telling(error: Exception, source: str) -> bool:
    """Whether the text of `error` speaks of the template's names and types alone.

    Other exceptions may quote a value, and so a message.
    """
    if isinstance(error, jinja2.UndefinedError):  # "'dict object' has no attribute 'name'"
        names = re.findall("'([^']*)'", str(error))
        return bool(names) and names[-1] in source
    # "f() got an unexpected keyword argument 'name'": a template may pass on what it was given.
    return isinstance(error, TypeError) and " argument '" not in str(error)


def _own_words(text: str, source: str) -> str:
    """`text` with "..." for the words that its template does not hold: they may be a message's."""
    words = [word if word in source else "..." for word in text.split()]
    return re.sub(r"(\.\.\. )+\.\.\.(?= |$)", "...", " ".join(words))


def _cut(text: str) -> str:
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


def _line(traceback: TracebackType | None) -> str:
    """Where in the template; Jinja names its frames after it."""
    line = ""
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = f" in line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line
