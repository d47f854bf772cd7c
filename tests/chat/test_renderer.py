"""Real child processes: each test that breaks one pays for a fresh start."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from samovar.chat import frames
from samovar.chat.process import Limits, RenderProcess
from samovar.chat.prompt import render_chat
from samovar.chat.renderer import Renderer
from samovar.chat.specials import Specials
from samovar.chat.template import Template
from samovar.errors import InternalError, InvalidRequest, Released, TemplateError, TemplateMissing

USER = {"role": "user", "content": "hello"}
SMALL = Limits(deadline_seconds=2.0, memory_bytes=256 * 2**20, max_output=100_000)
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
EXPLOSIVE = "{{ messages[0].content }}{% if messages[0].content == 'explode' %}@{% endif %}"


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "State:\tZ" not in status  # dead, and not yet reaped by whoever inherited it


def wait_until_dead(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def ask(renderer: Renderer, content: str) -> str:
    return renderer.render([{"role": "user", "content": content}])


@pytest.fixture(scope="module")
def echo() -> Iterator[Renderer]:
    with Renderer("{{ messages[0].content }}", limits=SMALL) as renderer:
        yield renderer


def test_it_renders_what_the_template_renders(chatml: str) -> None:
    source = "{{ bos_token }}" + chatml + "{{ tools | tojson }}{{ mood }}{{ eos_token }}"
    template = Template(source, bos_token="<s>", eos_token="</s>")
    with Renderer(source, bos_token="<s>", eos_token="</s>") as renderer:
        given = ([USER, {"role": "assistant", "content": "é😀\0\n"}], [{"name": "now"}])
        text = renderer.render(*given, add_generation_prompt=False, mood="good")
        assert text == template.render(*given, add_generation_prompt=False, mood="good")


def test_the_child_is_kept_between_renders(echo: Renderer) -> None:
    assert ask(echo, "one") == "one"
    pid = echo.pid
    assert ask(echo, "two") == "two"
    assert echo.pid == pid


def test_no_child_is_started_before_the_first_render() -> None:
    with Renderer("x") as renderer:
        assert renderer.pid is None


def test_a_long_conversation_passes(echo: Renderer) -> None:
    text = "<é>" * 30_000
    assert ask(echo, text) == text


def test_a_conversation_beyond_the_limit_of_a_frame_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME", 5000)
    with Renderer("{{ messages[0].content }}") as renderer:
        with pytest.raises(InvalidRequest, match="the conversation is too long to render"):
            ask(renderer, "secret " * 1000)
        assert ask(renderer, "short") == "short"


def test_it_renders_in_segments(echo: Renderer) -> None:
    segments = render_chat(
        echo, [{"role": "user", "content": "a</s>b"}], specials=Specials(["</s>"])
    )
    assert [segment.text for segment in segments] == ["a", "</s>", "b"]


def test_threads_take_turns(echo: Renderer) -> None:
    answers: dict[str, str] = {}

    def work(name: str) -> None:
        for number in range(20):
            content = f"{name}{number}"
            answers[content] = ask(echo, content)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 80
    assert all(content == text for content, text in answers.items())


def test_malformed_messages_start_no_child() -> None:
    with Renderer("x") as renderer:
        with pytest.raises(InvalidRequest):
            renderer.render([{"content": "hello"}])
        assert renderer.pid is None


@pytest.mark.parametrize("source", ["", " \n"])
def test_no_template_is_told_at_once(source: str) -> None:
    with pytest.raises(TemplateMissing):
        Renderer(source)


def test_errors_are_those_of_the_template() -> None:
    source = "{% for c in messages[0].tool_calls %}{{ c.function.arguments.items() }}{% endfor %}"
    broken = {"role": "assistant", "tool_calls": [{"name": "now", "arguments": "{"}]}
    with Renderer(source + "{{ raise_exception('not today') }}") as renderer:
        with pytest.raises(TemplateError, match="not today"):
            renderer.render([USER])
        pid = renderer.pid
        with pytest.raises(InvalidRequest, match="JSON object"):
            renderer.render([broken])
        assert renderer.pid == pid


def test_a_template_that_does_not_compile_keeps_no_child() -> None:
    with Renderer("{% if %}") as renderer:
        for _ in range(2):
            with pytest.raises(TemplateError, match="does not compile"):
                renderer.render([USER])
        assert renderer.pid is None


BOMBS = {
    "a long string": "{{ 'a' * 10**10 }}",
    "a growing list": "{% set l = [0] %}{% for i in range(64) %}{% set _ = l.extend(l) %}"
    "{% endfor %}",
    "a wide format": "{{ '%9999999999d' % 1 }}",
    "a large number": "{{ (9 + messages | length) ** (10 ** 9) }}",
    "an endless loop": LOOP,
    "an endless list": "{% set l = [0] %}{% for i in l %}{% set _ = l.append(l[-1] * 3) %}"
    "{% set _ = l.pop(0) %}{% set _ = l.insert(0, 0) %}{% endfor %}",
    "much output": "{% for i in range(99999) %}{{ 'abcdefgh' }}{% endfor %}",
    "deep recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_a_template_error_and_the_next_render_works(bomb: str) -> None:
    source = EXPLOSIVE.replace("@", bomb)
    limits = replace(SMALL, deadline_seconds=1.5)
    with Renderer(source, limits=limits) as renderer:
        began = time.monotonic()
        with pytest.raises(TemplateError) as error:
            ask(renderer, "explode")
        assert "explode" not in str(error.value)
        assert time.monotonic() - began < 20
        assert ask(renderer, "hello") == "hello"


@pytest.mark.parametrize("bomb", [LOOP, "{{ 10 ** (10 ** 9) }}"], ids=["run", "compile"])
def test_a_bomb_that_goes_off_with_any_message_is_a_template_error(bomb: str) -> None:
    with Renderer(bomb, limits=Limits(deadline_seconds=0.5)) as renderer:
        with pytest.raises(TemplateError, match=r"took more than 0\.5 seconds"):
            renderer.render([USER])
        assert renderer.pid is None


def test_a_child_that_was_killed_is_replaced(echo: Renderer) -> None:
    ask(echo, "one")
    pid = echo.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_until_dead(pid)
    assert ask(echo, "two") == "two"
    assert echo.pid != pid


def test_close_ends_the_child_and_further_renders() -> None:
    renderer = Renderer("x")
    renderer.render([USER])
    pid = renderer.pid
    assert pid is not None
    renderer.close()
    renderer.close()
    assert not is_alive(pid)
    with pytest.raises(Released):
        renderer.render([USER])


PARENT = """
import sys
from samovar.chat import frames
from samovar.chat.process import Limits
from samovar.chat.renderer import Renderer
renderer = Renderer(sys.argv[1], limits=Limits(deadline_seconds=1))
renderer.render([{"role": "user", "content": "hello"}])
print(renderer.pid, flush=True)
renderer.render([{"role": "user", "content": sys.argv[2]}])
sys.stdin.read()
"""


@pytest.mark.parametrize("content", ["hello", "explode"], ids=["idle", "looping"])
def test_a_child_does_not_outlive_its_parent(content: str) -> None:
    argv = [sys.executable, "-c", PARENT, EXPLOSIVE.replace("@", LOOP), content]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert wait_until_dead(pid)


def test_a_child_whose_parent_has_gone_says_nothing() -> None:
    argv = [sys.executable, "-m", "samovar.chat.child", str(2**30), "1"]
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE
    ) as child:
        os.close(writer)
        _, complaint = child.communicate(timeout=60)
    assert (child.returncode, complaint) == (0, b"")


ONCE = """
import sys
from samovar.chat.renderer import Renderer
with Renderer("{{ messages[0].content }}") as renderer:
    sys.stdout.write(renderer.render([{"role": "user", "content": "hello"}]))
"""


@pytest.mark.parametrize("closed", ["2>&-", "0<&-", "0<&- 2>&-"])
def test_a_process_without_standard_streams_renders(closed: str) -> None:
    shell = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", ONCE]
    done = subprocess.run(shell, capture_output=True, timeout=60, check=False)
    assert done.stdout == b"hello", done.stderr.decode()


def test_a_child_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InternalError, match="does not start: it took more than 0 seconds"):
        RenderProcess(Limits(start_seconds=0.0))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InternalError, match="does not start: No such file"):
        RenderProcess(Limits())


def test_prompts_show_neither_in_logs_nor_in_the_process_list(
    echo: Renderer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(echo, "my secret")
    command = Path(f"/proc/{echo.pid}/cmdline").read_text()
    environment = Path(f"/proc/{echo.pid}/environ").read_text()
    assert "secret" not in command + environment + caplog.text + "".join(capfd.readouterr())


def test_the_child_loads_little(echo: Renderer) -> None:
    ask(echo, "hello")
    maps = Path(f"/proc/{echo.pid}/maps").read_text()
    assert "numpy" not in maps
    assert "llama" not in maps
