"""A chat request to the segments of its prompt: check, guard, render, restore."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from samovar.chat.literal import Segment, guard
from samovar.chat.messages import plain_messages, plain_tools, plain_variables
from samovar.chat.specials import Specials
from samovar.chat.template import Renders
from samovar.errors import InvalidRequest, SamovarError
from samovar.types import Message


def render_chat(
    renderer: Renders,
    messages: object,
    tools: object = None,
    *,
    specials: Specials,
    variables: object = None,
    **wanted: Any,  # noqa: ANN401 - the renderer says what
) -> list[Segment]:
    """The prompt of a conversation; joined, its texts are what the template wrote.

    `wanted` is what else a renderer takes: `add_generation_prompt`, `thinks`, `continues_last`.
    Special tokens are parsed in what the template wrote, never in what the caller did. Raises
    InvalidRequest for malformed messages, TemplateError where the template cannot render them.
    """
    conversation = {
        "messages": plain_messages(messages),
        "tools": plain_tools(tools),
        "variables": plain_variables(variables),
    }
    guarded, marks = guard(conversation, specials, avoid=renderer.source)
    try:
        rendered = renderer.render(
            guarded["messages"], guarded["tools"], **wanted, **guarded["variables"]
        )
    except SamovarError as error:  # a template may quote a message
        raise type(error)(marks.restored(str(error))) from None
    return marks.segments(rendered)


def request_renderer(
    renderer: Renders, specials: Specials
) -> Callable[[Mapping[str, Any]], list[Segment]]:
    """What a backend's `apply_chat_template` is handed: a request to segments.

    A request holds `messages` and may hold `system`, which becomes a leading system message,
    `tools`, `variables`, `add_generation_prompt` (True unless said otherwise), `thinks` and
    `continues_last`.
    """

    def render(request: Mapping[str, Any]) -> list[Segment]:
        return render_chat(
            renderer,
            _with_system(request.get("system"), request.get("messages")),
            request.get("tools"),
            specials=specials,
            variables=request.get("variables"),
            **{name: request[name] for name in _WANTED if name in request},
        )

    return render


_WANTED = ("add_generation_prompt", "thinks", "continues_last")


def _with_system(system: object, messages: object) -> list[Message]:
    """One leading system message: many templates overlook a second."""
    conversation = plain_messages(messages)
    if system is None:
        return conversation
    if not isinstance(system, str):
        raise InvalidRequest(f"system must be text, not {type(system).__name__}")
    first = conversation[0]
    if first["role"] != "system" or not isinstance(first["content"], str):
        return [{"role": "system", "content": system}, *conversation]
    return [{**first, "content": f"{system}\n\n{first['content']}"}, *conversation[1:]]
