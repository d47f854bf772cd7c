"""Renders a template in a child process that may be killed.

A model file is a download, its template a program. Jinja's sandbox stops neither
`{{ 'a' * 10**10 }}` nor nested loops, and a thread cannot be killed; a process can.

    idle ── first render ──> child running ── render ──> child running
                                   │ late, dead or out of memory: TemplateError
                                   └──> idle ── next render ──> a fresh child
    close() from anywhere ──> closed; render raises Released
"""

from __future__ import annotations

import threading
from typing import Any, Self

from samovar.chat.messages import plain_messages, plain_tools, plain_variables
from samovar.chat.process import ChildLostError, Limits, RenderProcess
from samovar.chat.template import checked_source
from samovar.errors import (
    InternalError,
    InvalidRequest,
    Released,
    SamovarError,
    TemplateError,
    TemplateMissing,
)

DEFAULT_LIMITS = Limits()

_ERRORS: dict[str, type[SamovarError]] = {
    error.code: error for error in (InvalidRequest, TemplateError, TemplateMissing)
}


class Renderer:
    """A template with the interface of `Template`, rendered under limits. Thread-safe.

    The child starts with the first render and lives until `close`; renders of several threads
    take turns. Nothing of a prompt is logged, or put where other processes could see it. Raises
    TemplateMissing for an empty source; a source that does not compile shows at the first
    render.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._source = checked_source(source)
        self._limits = limits
        self._load = {
            "source": self._source,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "max_output": limits.max_output,
        }
        self._lock = threading.Lock()
        self._child: RenderProcess | None = None
        self._defect: SamovarError | None = None
        self._is_closed = False

    @property
    def source(self) -> str:
        """The Jinja source."""
        return self._source

    @property
    def pid(self) -> int | None:
        """The child's process id, for supervision; None while there is none."""
        child = self._child
        return None if child is None else child.pid

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
        """See Template.render. Raises TemplateError also past a limit, and Released once closed.

        Waits for renders of other threads first; the deadline counts from its own start.
        """
        request = {
            "messages": plain_messages(messages),
            "tools": plain_tools(tools),
            "add_generation_prompt": bool(add_generation_prompt),
            "thinks": thinks,
            "continues_last": continues_last,
            "variables": plain_variables(variables),
        }
        with self._lock:
            text = self._asked(self._loaded(), request).get("text")
        if not isinstance(text, str):
            raise InternalError("the process that renders chat templates gave no text")
        return text

    def close(self) -> None:
        """End the child, after the render that is going on. Idempotent."""
        with self._lock:
            self._is_closed = True
            self._drop_child()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loaded(self) -> RenderProcess:
        """The child, with the template in it."""
        if self._is_closed:
            raise Released("this renderer was closed")
        if self._child is not None and self._child.is_running:
            return self._child
        self._drop_child()
        if self._defect is not None:
            raise type(self._defect)(str(self._defect))
        self._child = RenderProcess(self._limits)
        try:
            self._asked(self._child, self._load)
        except SamovarError as error:
            if self._child is not None:  # it answered: the same source will fail again
                self._defect = error
                self._drop_child()
            raise
        return self._child

    def _asked(self, child: RenderProcess, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = child.ask(request)
        except ChildLostError as lost:
            self._drop_child()
            raise TemplateError(
                f"the chat template could not be rendered: {lost.reason}; shorten the"
                " conversation, or give the model another template"
            ) from None
        except BaseException:
            self._drop_child()
            raise
        if "error" in answer:
            raise _ERRORS.get(answer["error"], InternalError)(answer["message"])
        return answer

    def _drop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
