from __future__ import annotations

import pytest

from samovar.chat.literal import Segment
from samovar.chat.prompt import render_chat, request_renderer
from samovar.chat.specials import Specials
from samovar.chat.template import Template
from samovar.errors import InvalidRequest

SHOW = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
USER = {"role": "user", "content": "hello"}
SPECIALS = Specials(["</s>"])


def text(request: dict[str, object], source: str = SHOW) -> str:
    segments = request_renderer(Template(source), SPECIALS)(request)
    return "".join(segment.text for segment in segments)


def test_a_request_needs_only_messages() -> None:
    assert text({"messages": [USER]}) == "user:hello;"


def test_system_becomes_a_leading_message() -> None:
    assert text({"system": "be brief", "messages": [USER]}) == "system:be brief;user:hello;"


def test_system_joins_a_leading_system_message() -> None:
    messages = [{"role": "system", "content": "be kind"}, USER]
    assert text({"system": "be brief", "messages": messages}) == (
        "system:be brief\n\nbe kind;user:hello;"
    )


def test_system_is_guarded() -> None:
    segments = request_renderer(Template(SHOW), SPECIALS)({"system": "</s>", "messages": [USER]})
    assert Segment("</s>", parse_special=False) in segments


@pytest.mark.parametrize("system", [7, ["be brief"]])
def test_system_is_text(system: object) -> None:
    with pytest.raises(InvalidRequest, match="system must be text"):
        text({"system": system, "messages": [USER]})


def test_messages_are_required() -> None:
    with pytest.raises(InvalidRequest, match="messages must be a list"):
        text({})


def test_a_generation_prompt_is_added_unless_said_otherwise() -> None:
    source = "{{ add_generation_prompt }}"
    assert text({"messages": [USER]}, source) == "True"
    assert text({"messages": [USER], "add_generation_prompt": False}, source) == "False"


def test_tools_and_variables_reach_the_template() -> None:
    request = {"messages": [USER], "tools": [{"name": "now"}], "variables": {"mood": "good"}}
    assert text(request, "{{ tools[0].function.name }} {{ mood }}") == "now good"


def test_a_render_leaves_its_input_as_it_was() -> None:
    messages = [{"role": "user", "content": "</s>"}]
    render_chat(Template(SHOW), messages, specials=SPECIALS)
    assert messages == [{"role": "user", "content": "</s>"}]
