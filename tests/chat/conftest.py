from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# Published templates lie beside the repository, where they lie at all.
TEMPLATES = Path(__file__).parents[3] / "shared" / "templates"
collect_ignore = [] if TEMPLATES.is_dir() else ["test_shared_templates.py"]

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# ChatML with tools as JSON, and calls the way Qwen 2.5 writes them.
TOOLS = """\
{%- if tools %}
{{- '<tools>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '</tools>\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls %}
{{- '<tool_call>' + call.function.name + call.function.arguments | tojson + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
"""


@pytest.fixture
def chatml() -> str:
    return CHATML


@pytest.fixture
def tool_template() -> str:
    return TOOLS


@pytest.fixture
def weather_tool() -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather of a town.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "description": "Its name"}},
                "required": ["town"],
            },
        },
    }


@pytest.fixture
def weather_talk() -> list[dict[str, Any]]:
    """A conversation with a tool call, as OpenAI's clients send it."""
    arguments = '{"town": "Visby harbour"}'
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "call_0123456789abcdef", "type": "function", "function": function}
    return [
        {"role": "system", "content": "Be terse, heron."},
        {"role": "user", "content": "Is it raining in Visby?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "drizzle, 7 degrees"},
        {"role": "assistant", "content": "A little drizzle."},
        {"role": "user", "content": "And tomorrow?"},
    ]
