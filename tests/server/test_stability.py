"""Prompts come from the cache, whichever client sends a conversation back in whichever form.

Five turns with tools on a random model that writes as a published template has it, led by the SDKs
of OpenAI, Anthropic and Ollama through a server (benchmarks/stability.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.stability import measured
from benchmarks.stability_clients import CLIENTS
from benchmarks.stability_models import KINDS, SHARED
from samovar.config import ServerConfig
from tests.conftest import FULL_SCALE
from tests.server.conftest import mini
from tests.server.serving import serving

WANTED = 0.95
"""The least part of every prompt but the first that has to come from the cache."""

USUAL = {
    "Qwen-Qwen3-0.6B": "anthropic",
    "openai-gpt-oss-120b": "openai responses",
    "ibm-granite-granite-3.3-2B-Instruct": "ollama",
    "deepseek-ai-DeepSeek-V3.1": "openai chat",
}
"""In the usual run: four families, each by one client."""

REWRITTEN = {
    "MiniMax-M2": "leaves the reasoning of earlier questions out",
    "mistralai-Mistral-Nemo-Instruct-2407": "moves tools and system prompt to the last question",
    "Mistral-Small-3.2-24B-Instruct-2506": "moves the tools to the last question",
}
"""Templates that write the past otherwise than it was, and how (docs/stability.md)."""

templates = pytest.mark.skipif(not (SHARED / "templates").is_dir(), reason="no templates there")


@templates
@pytest.mark.parametrize("name", KINDS if FULL_SCALE else USUAL)
def test_prompts_come_from_the_cache(tmp_path: Path, name: str) -> None:
    clients = list(CLIENTS) if FULL_SCALE else [USUAL[name]]
    for one in measured(name, tmp_path, clients, ways=(True,)):
        assert len(one.prompts) == 10
        if name not in REWRITTEN:
            assert one.least >= WANTED, (one.client, one.shares)


# ---- what a server says for requests that say nothing --------------------------------------------


@pytest.mark.parametrize("said", [{}, {"replays": True, "volatile": ["billing"]}])
def test_the_server_decides_for_requests_that_say_nothing(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    config = ServerConfig(port=0, replays=False, volatile=("reminders",))
    reminder = "<system-reminder>Be brief.</system-reminder>"
    with serving([mini(tmp_path)], config) as url:
        first = {"role": "user", "content": f"What does a cow say? {reminder}"}
        body = {"temperature": 0, "max_tokens": 60, **said}

        def ask(*messages: dict[str, Any]) -> dict[str, Any]:
            answer = httpx.post(
                f"{url}/v1/chat/completions", json={"messages": messages, **body}, timeout=60
            )
            found: dict[str, Any] = answer.raise_for_status().json()
            return found

        turn = {"role": "assistant", "content": ask(first)["choices"][0]["message"]["content"]}
        told = ask(first, turn, {"role": "user", "content": "And a dog?"})["samovar"]["replayed"]
    assert bool(told["replayed"]) == bool(said), told
    assert dict(told["volatile"]).get("reminders", 0) == (0 if said else 1)


def test_what_counts_tokens_counts_what_the_server_would_compute(tmp_path: Path) -> None:
    body = {"instructions": "x-anthropic-billing-header: v=1;\nBe brief.", "input": "Moo?"}
    with serving([mini(tmp_path)], ServerConfig(port=0, volatile=("billing",))) as url:

        def count(**more: Any) -> int:  # noqa: ANN401
            found = httpx.post(f"{url}/v1/responses/input_tokens", json=body | more, timeout=60)
            number: int = found.raise_for_status().json()["input_tokens"]
            return number

        assert count() < count(volatile=[])


# ---- what the conversations need of Ollama's dialect ---------------------------------------------


@pytest.mark.parametrize("wish", ["required", "weather"])
def test_ollamas_clients_can_demand_a_call(tmp_path: Path, wish: str) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    body = {
        "model": "samovar-mini",
        "messages": [{"role": "user", "content": "What does a cow say?"}],
        "tools": [{"type": "function", "function": function}],
        "stream": False,
        "think": False,
    }
    with serving([mini(tmp_path)]) as url:

        def ask(choice: str) -> httpx.Response:
            options = {"temperature": 0, "num_predict": 60, "tool_choice": choice}
            return httpx.post(f"{url}/api/chat", json={**body, "options": options}, timeout=60)

        (call,) = ask(wish).json()["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        assert not ask("none").json()["message"].get("tool_calls")
        refused = ask("forecast")
        assert refused.status_code == 400
        assert "tool_choice" in refused.json()["error"]
