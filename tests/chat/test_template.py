from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from samovar.chat.template import Template
from samovar.errors import InvalidRequest, TemplateError, TemplateMissing

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "be brief"}


def render(source: str, messages: object = (USER,), tools: object = None, **options: object) -> str:
    return Template(source).render(messages, tools, **options)


def talk(**extra: object) -> list[dict[str, Any]]:
    """A question and a tool call; `extra` goes into the assistant's message."""
    function = {"name": "now", "arguments": {"zone": "CET"}}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    return [USER, {**answer, **extra}]


# ---- the environment ---------------------------------------------------------------------------


def test_chatml_renders_as_written_by_hand(chatml: str) -> None:
    answer = {"role": "assistant", "content": "hi"}
    assert render(chatml, [SYSTEM, USER, answer, USER]) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nhi<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_tool_conversation_renders_as_written_by_hand(
    tool_template: str, weather_tool: dict[str, Any], weather_talk: list[dict[str, Any]]
) -> None:
    assert render(tool_template, weather_talk[1:4], [weather_tool]) == (
        '<tools>{"type": "function", "function": {"name": "get_weather", "description": "Tells the'
        ' weather of a town.", "parameters": {"type": "object", "properties": {"town": {"type":'
        ' "string", "description": "Its name"}}, "required": ["town"]}}}</tools>\n'
        "<|im_start|>user\nIs it raining in Visby?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>get_weather{"town": "Visby harbour"}</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>tool\ndrizzle, 7 degrees<|im_end|>\n"
    )


def test_the_generation_prompt_can_be_left_out(chatml: str) -> None:
    text = render(chatml, add_generation_prompt=False)
    assert text == "<|im_start|>user\nhello<|im_end|>\n"


def test_bos_and_eos_are_the_texts_given() -> None:
    template = Template("{{ bos_token }}x{{ eos_token }}", bos_token="<s>", eos_token="</s>")
    assert template.render([USER]) == "<s>x</s>"


def test_blocks_leave_no_white_space() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\n") == "a\nb\n"


def test_loops_can_be_left() -> None:
    source = "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(source) == "01"


def test_the_generation_tag_passes_its_body_through() -> None:
    source = "{% set x = 1 %}{% generation %}{{ messages[0].content }}{{ x }}{% endgeneration %}"
    assert render(source) == "hello1"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ {'b': \"<é'>\", 'a': 1} | tojson }}") == '{"b": "<é\'>", "a": 1}'


def test_json_takes_the_options_of_json_dumps() -> None:
    source = "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}"
    assert render(source) == '{"a":2,"b":1}'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert render("{{ 'é' | tojson(ensure_ascii=true) }}") == '"\\u00e9"'


def test_json_of_a_filtered_list_is_a_list() -> None:
    assert render("{{ messages | map(attribute='role') | tojson }}") == '["user"]'


def test_json_can_be_read() -> None:
    assert render("{{ ('{\"a\": 7}' | from_json).a }}") == "7"


def test_the_time_can_be_printed() -> None:
    template = Template(
        "{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2024, 7, 26, tzinfo=UTC)
    )
    assert template.render([USER]) == "26 Jul 2024"


def test_a_template_may_collect_in_a_list_of_its_own() -> None:
    assert render("{% set ids = [] %}{% set _ = ids.append('x') %}{{ ids.pop(0) }}") == "x"


def test_what_a_template_does_to_messages_stays_inside() -> None:
    messages = [dict(USER)]
    template = Template("{% set _ = messages.append(1) %}{{ messages | length }}")
    assert [template.render(messages), template.render(messages)] == ["2", "2"]
    assert messages == [USER]


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ dict.__subclasses__() }}",
        "{{ ''|attr('__class__')|string }}{{ ().__class__() }}",
        "{% include 'x' %}",
        "{{ {}.update({'a': 1}) }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ lipsum }}{{ namespace.__init__ }}",
    ],
)
def test_what_the_sandbox_hides_prints_as_nothing(source: str) -> None:
    assert render(source) == ""


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["", "  \n"])
def test_no_template_is_an_error_of_its_own(source: str) -> None:
    with pytest.raises(TemplateMissing):
        Template(source)


def test_a_template_that_does_not_compile_says_where() -> None:
    with pytest.raises(TemplateError, match=r"does not compile \(line 2"):
        Template("x\n{% if %}")


def test_what_the_template_says_is_passed_on() -> None:
    with pytest.raises(TemplateError, match="refused this conversation: roles must alternate;"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_failing_template_says_where_and_why() -> None:
    with pytest.raises(TemplateError, match="line 2: UndefinedError, 'nothing' is undefined"):
        render("\n{{ nothing.at.all }}")


def test_an_error_does_not_quote_messages() -> None:
    for source in ("{{ {}[messages[0].content].x }}", "{{ [].index(messages[0].content) }}"):
        with pytest.raises(TemplateError, match="failed in line 1") as error:
            render(source)
        assert "hello" not in str(error.value)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("'role ' + m.role + ' is odd, with ' + m.content", "role user is odd, with ..."),
        ("m.content + ': no ' + m.content + m.content", "... no ..."),
        ("m.content", "..."),
        ("m", "..."),
        ("'two\nlines'", "two lines"),
    ],
)
def test_a_refusal_is_quoted_without_what_the_template_does_not_say_itself(
    refusal: str, said: str
) -> None:
    source = f"{{% set m = messages[0] %}}{{# user #}}{{{{ raise_exception({refusal}) }}}}"
    with pytest.raises(TemplateError) as error:
        render(source, [{"role": "user", "content": "my secret plan"}])
    assert f"refused this conversation: {said}; " in str(error.value)


def test_an_error_does_not_quote_the_names_that_were_passed_on() -> None:
    call = {"function": {"name": "now", "arguments": {"secret": 1}}}
    source = "{{ raise_exception(**messages[0].tool_calls[0].function.arguments) }}"
    with pytest.raises(TemplateError, match="failed in line 1: TypeError;") as error:
        render(source, [{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert "secret" not in str(error.value)


def test_arguments_that_are_no_object_are_blamed_on_the_caller(tool_template: str) -> None:
    broken = [{"function": {"name": "now", "arguments": "{zone"}}]
    source = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.items() }}"
    with pytest.raises(InvalidRequest, match="JSON object"):
        render(source + "{% endfor %}{% endfor %}", talk(tool_calls=broken))
    assert "{zone" in render(tool_template, talk(tool_calls=broken))


def test_what_is_rendered_can_be_encoded() -> None:
    assert render("{{ '\\ud83d' }}") == "\ufffd"


def test_the_output_is_bounded() -> None:
    template = Template("{% for i in range(1000) %}{{ '12345678' }}{% endfor %}", max_output=999)
    with pytest.raises(TemplateError, match="longer than 999"):
        template.render([USER])


# ---- what a template reads ---------------------------------------------------------------------

PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
TYPED = """\
{%- for m in messages %}{{ m.role }}:
{%- if m.content is string %}{{ m.content }}{% else %}
{%- for part in m.content %}{{ part.text if part.type == 'text' else '<img>' }}{% endfor %}
{%- endif %};{% endfor %}"""
ONLY_TYPED = """\
{%- for m in messages %}{{ m.role }}:{% for part in m.content %}{{ part.text }}{% endfor %};
{%- endfor %}"""
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def test_text_parts_become_text_for_a_template_that_reads_text() -> None:
    assert render(PLAIN, [{"role": "user", "content": PARTS}]) == "user:one\ntwo;"


def test_text_parts_stay_parts_for_a_template_that_reads_them() -> None:
    assert render(TYPED, [{"role": "user", "content": PARTS}]) == "user:onetwo;"


def test_other_parts_reach_a_template_that_reads_parts() -> None:
    content = [*PARTS, {"type": "image"}]
    assert render(TYPED, [{"role": "user", "content": content}]) == "user:onetwo<img>;"


def test_other_parts_are_refused_for_a_template_that_reads_text() -> None:
    with pytest.raises(InvalidRequest, match="parts of type image"):
        render(PLAIN, [{"role": "user", "content": [{"type": "image"}]}])


def test_text_becomes_a_part_for_a_template_that_reads_only_parts() -> None:
    assert render(ONLY_TYPED, [SYSTEM, USER]) == "system:be brief;user:hello;"


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN
DROPS_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endfor %}"
)


@pytest.mark.parametrize("source", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_system_message_the_template_has_no_place_for_joins_the_user(source: str) -> None:
    assert render(source, [SYSTEM, USER]) == "user:be brief\n\nhello;"
    assert render(source, [SYSTEM]) == "user:be brief;"


def test_several_system_messages_join_the_next_user_in_order() -> None:
    again = {"role": "system", "content": "be kind"}
    assert render(DROPS_SYSTEM, [SYSTEM, again, USER]) == "user:be brief\n\nbe kind\n\nhello;"


def test_a_system_message_joins_content_in_parts() -> None:
    text = render(DROPS_SYSTEM, [SYSTEM, {"role": "user", "content": PARTS}])
    assert text == "user:be brief\n\none\ntwo;"


def test_developers_are_the_system_for_templates_that_know_none() -> None:
    developer = {"role": "developer", "content": "be brief"}
    assert render(PLAIN, [developer, USER]).startswith("system:")
    assert render(PLAIN + "{# developer #}", [developer, USER]).startswith("developer:")


CALLS = "{%% for m in messages %%}%s{%% for c in m.tool_calls %%}%s{%% endfor %%}{%% endfor %%}"


@pytest.mark.parametrize("arguments", [{"zone": "CET"}, '{"zone": "CET"}'])
@pytest.mark.parametrize(
    "call",
    [
        "{{ c.function.arguments | tojson }}",
        "{{ c.function.arguments }}",
        "{{ '' + c.function.arguments }}",
        "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
        "{{ c.function.arguments | tojson }}{% endif %}",
    ],
)
def test_arguments_show_as_json_once(arguments: object, call: str) -> None:
    function = {"name": "now", "arguments": arguments}
    text = render(CALLS % ("", call), talk(tool_calls=[{"function": function}]))
    assert text == '{"zone": "CET"}'


def test_a_template_that_wants_arguments_as_text_is_blamed_for_its_own_refusals() -> None:
    source = CALLS % ("", "{{ '' + c.function.arguments }}")
    refusal = "{% if messages[0].content == 'no' %}{{ raise_exception('no') }}{% endif %}"
    with pytest.raises(TemplateError, match="refused"):
        render(source + refusal, [{"role": "user", "content": "no"}, *talk()[1:]])


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("show", ["{{ m.content }}", "{{ '' + m.content }}"])
def test_a_tool_call_without_content_shows_none(content: object, show: str) -> None:
    text = render(CALLS % (show, "[{{ c.function.arguments.zone }}]"), talk(content=content))
    assert text == "hello[CET]"


def test_a_template_that_tells_absent_content_from_empty_gets_it_absent() -> None:
    show = "{% if m.content is not none %}<{{ m.content }}>{% endif %}"
    text = render(CALLS % (show, "{{ c.function.arguments | tojson }}"), talk(content=""))
    assert text == '<hello>{"zone": "CET"}'


@pytest.mark.parametrize("given", ["reasoning", "reasoning_content", "thinking"])
@pytest.mark.parametrize("read", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_has_any_of_its_names(given: str, read: str) -> None:
    answer = {"role": "assistant", "content": "hi", given: "hmm"}
    assert render(f"{{{{ messages[1].{read} }}}}", [USER, answer]) == "hmm"


def test_no_tools_are_not_defined() -> None:
    assert render("{{ tools is defined }}", tools=[]) == "False"


def test_variables_reach_the_template() -> None:
    assert render("{{ enable_thinking }}", enable_thinking=False) == "False"


# ---- repairs -----------------------------------------------------------------------------------


def test_a_missing_description_is_filled_where_the_template_needs_one() -> None:
    source = "{% for t in tools %}{{ '[' + t.function.description + ']' }}{% endfor %}"
    assert render(source, tools=[{"name": "now"}]) == "[]"


def test_a_missing_description_is_left_out_where_it_is_not_needed() -> None:
    assert "description" not in render("{{ tools | tojson }}", tools=[{"name": "now"}])


MISTRAL_IDS = """\
{%- for m in messages %}
{%- for id in ([m.tool_call_id] if m.role == 'tool' else m.tool_calls | map(attribute='id')) %}
{%- if id is not string or id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}
{{- m.role[0] + id + ' ' }}
{%- endfor %}{% endfor %}"""


def test_ids_of_tool_calls_are_shortened_where_the_template_wants_it(
    weather_talk: list[dict[str, Any]],
) -> None:
    call, result = render(MISTRAL_IDS, weather_talk).split()
    assert call[1:] == result[1:]
    assert call[1:].isalnum()


def test_absent_ids_pair_calls_with_results_in_order() -> None:
    calls = [{"function": {"name": name, "arguments": {}}} for name in ("now", "then")]
    results = [{"role": "tool", "content": "noon"}, {"role": "tool", "content": "dawn"}]
    ids = [word[1:] for word in render(MISTRAL_IDS, [*talk(tool_calls=calls), *results]).split()]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


def test_ids_are_left_alone_otherwise() -> None:
    source = CALLS % ("", "{{ c.id }}")
    call = {"id": "call_1", "function": {"name": "now", "arguments": {"zone": "CET"}}}
    assert render(source, talk(tool_calls=[call])) == "call_1"


def test_reasoning_is_dropped_where_the_template_takes_it_or_content() -> None:
    source = "{% for m in messages %}{% if m.content and m.thinking %}{{ raise_exception('one') }}"
    source += "{% endif %}{{ m.content }}{{ m.thinking }};{% endfor %}"
    assert render(source, talk(content="so", reasoning="hmm")) == "hello;so;"
    assert render(source, talk(content="", reasoning="hmm")) == "hello;hmm;"
