"""Chat templates: the Jinja text that turns messages into a prompt."""

from __future__ import annotations

CHATML = """\
{%- set told = messages[0].content if messages[0].role == "system" else "" -%}
{%- if tools -%}
    {{- "<|im_start|>system\\n" }}
    {%- if told %}{{ told + "\\n\\n" }}{% endif %}
    {{- "Functions you may call, one to a line:\\n" }}
    {%- for tool in tools %}{{ tool | tojson }}{{ "\\n" }}{% endfor %}
    {{- "Write a call as <tool_call>{\\"name\\": NAME, \\"arguments\\": OBJECT}</tool_call>." }}
    {{- "<|im_end|>\\n" }}
{%- endif -%}
{%- for message in messages -%}
    {%- if not (tools and loop.first and message.role == "system") -%}
        {{- "<|im_start|>" + message.role + "\\n" }}
        {%- if message.content %}{{ message.content }}{% endif %}
        {%- for call in message.tool_calls or [] -%}
            {%- set given = call.function.arguments -%}
            {{- "<tool_call>{\\"name\\": " }}{{ call.function.name | tojson }}
            {{- ", \\"arguments\\": " }}
            {{- given if given is string else given | tojson }}
            {{- "}</tool_call>" }}
        {%- endfor -%}
        {{- "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}
"""
"""Messages between <|im_start|> and <|im_end|>, with definitions and calls of tools as JSON."""

_NAMED = {"chatml": CHATML}


def chat_template_text(template: str) -> str:
    """The template of that name, or else the text itself as a template."""
    return _NAMED.get(template, template)
