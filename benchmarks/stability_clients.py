"""Conversations with tools, led by other people's clients; each sends turns back its own way."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from anthropic import Anthropic
from ollama import Client as OllamaClient
from openai import OpenAI

Json = Any

_REASONING = 8  # most tokens of it: a random model never ends it
_CALL_TOKENS = 400  # more than a call takes whose arguments are bounded
_ANSWER_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Tool:
    """A function."""

    name: str
    description: str
    schema: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the model's."""

    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a server said of one prompt."""

    tokens: int
    cached: int

    @property
    def share(self) -> float:
        """Which part of it was not computed."""
        return self.cached / self.tokens


@dataclass
class Talk(ABC):
    """One conversation."""

    url: str
    model: str
    system: str
    tools: Sequence[Tool]
    replays: bool = True
    thinks: bool = False
    messages: list[Json] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)

    @abstractmethod
    def __post_init__(self) -> None:
        """Open the client."""

    def lead(self, turns: Sequence[tuple[str, str, str]]) -> None:
        """Turns of a question, the tool that must be called, and what it says."""
        for question, tool, result in turns:
            self.ask(question)
            calls = self.answered(tool)
            if not calls:
                raise RuntimeError(f"the model was to call {tool}")
            while calls:
                self.tell(calls, result)
                calls = self.answered("")

    def ask(self, question: str) -> None:
        """The user says something."""
        self.messages.append({"role": "user", "content": question})

    @abstractmethod
    def tell(self, calls: Sequence[Call], result: str) -> None:
        """Results of calls."""

    @abstractmethod
    def answered(self, tool: str) -> list[Call]:
        """Let the model answer, with a call of this tool if one is named; its calls."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""

    def _reasoning(self) -> dict[str, Json]:
        """How much of it, in OpenAI's dialect."""
        return {"max_tokens": _REASONING} if self.thinks else {"effort": "none"}

    def _noted(self, tokens: int | None, cached: int | None) -> None:
        self.prompts.append(Prompt(tokens or 0, cached or 0))


class Chats(Talk):
    """The openai SDK with chat completions.

    As agents use it that keep messages in a shape of their own: no reasoning, compact arguments.
    """

    def __post_init__(self) -> None:
        """Open the client."""
        self._client = OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)
        self.messages.append({"role": "system", "content": self.system})

    def answered(self, tool: str) -> list[Call]:
        """See Talk."""
        named = {"type": "function", "function": {"name": tool}}
        found = self._client.chat.completions.create(
            model=self.model,
            messages=self.messages,
            tools=[
                {
                    "type": "function",
                    "function": {
                        "name": one.name,
                        "description": one.description,
                        "parameters": one.schema,
                    },
                }
                for one in self.tools
            ],
            tool_choice=named if tool else "auto",  # type: ignore[arg-type]
            temperature=0,
            max_completion_tokens=_CALL_TOKENS if tool else _ANSWER_TOKENS,
            extra_body={"reasoning": self._reasoning(), "replays": self.replays},
        )
        message, usage = found.choices[0].message, found.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        self._noted(usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens)
        calls = message.tool_calls or []
        said: dict[str, Json] = {"role": "assistant", "content": message.content}
        if calls:
            said["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": json.dumps(
                            json.loads(call.function.arguments), separators=(",", ":")
                        ),
                    },
                }
                for call in calls
                if call.type == "function"
            ]
        self.messages.append(said)
        return [Call(call.id, call.function.name) for call in calls if call.type == "function"]

    def tell(self, calls: Sequence[Call], result: str) -> None:
        """See Talk."""
        for call in calls:
            self.messages.append({"role": "tool", "tool_call_id": call.call_id, "content": result})

    def close(self) -> None:
        """See Talk."""
        self._client.close()


class Responses(Talk):
    """The openai SDK with responses: all items of the output go back as they came."""

    def __post_init__(self) -> None:
        """Open the client."""
        self._client = OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def answered(self, tool: str) -> list[Call]:
        """See Talk."""
        found = self._client.responses.create(
            model=self.model,
            instructions=self.system,
            input=self.messages,
            tools=[
                {
                    "type": "function",
                    "name": one.name,
                    "description": one.description,
                    "parameters": one.schema,
                    "strict": False,
                }
                for one in self.tools
            ],
            tool_choice={"type": "function", "name": tool} if tool else "auto",
            temperature=0,
            store=False,
            max_output_tokens=_CALL_TOKENS if tool else _ANSWER_TOKENS,
            extra_body={"reasoning": self._reasoning(), "replays": self.replays},
        )
        assert found.usage is not None
        details = found.usage.input_tokens_details
        self._noted(found.usage.input_tokens, details.cached_tokens)
        self.messages += [item.model_dump(exclude_none=True) for item in found.output]
        return [
            Call(item.call_id, item.name) for item in found.output if item.type == "function_call"
        ]

    def tell(self, calls: Sequence[Call], result: str) -> None:
        """See Talk."""
        for call in calls:
            self.messages.append(
                {"type": "function_call_output", "call_id": call.call_id, "output": result}
            )

    def close(self) -> None:
        """See Talk."""
        self._client.close()


class Messages(Talk):
    """The anthropic SDK: blocks go back as they came.

    Arguments are objects, whose keys the client has sorted backwards.
    """

    def __post_init__(self) -> None:
        """Open the client."""
        self._client = Anthropic(base_url=self.url, api_key="any", max_retries=0)

    def answered(self, tool: str) -> list[Call]:
        """See Talk."""
        named = {"type": "tool", "name": tool, "disable_parallel_tool_use": True}
        found = self._client.messages.create(
            model=self.model,
            system=self.system,
            messages=self.messages,
            tools=[
                {"name": one.name, "description": one.description, "input_schema": one.schema}
                for one in self.tools
            ],
            tool_choice=named if tool else {"type": "auto"},  # type: ignore[arg-type]
            max_tokens=_CALL_TOKENS if tool else _ANSWER_TOKENS,
            thinking={"type": "enabled", "budget_tokens": _REASONING}
            if self.thinks
            else {"type": "disabled"},
            extra_body={"temperature": 0, "replays": self.replays},
        )
        usage = found.usage
        read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        self._noted(usage.input_tokens + read + written, read)
        blocks = [block.to_dict() for block in found.content]
        for block in blocks:
            if block["type"] == "tool_use":
                given = block["input"]
                assert isinstance(given, dict)
                block["input"] = {key: given[key] for key in sorted(given, reverse=True)}
        self.messages.append({"role": "assistant", "content": blocks})
        return [Call(block.id, block.name) for block in found.content if block.type == "tool_use"]

    def tell(self, calls: Sequence[Call], result: str) -> None:
        """See Talk."""
        told = [
            {"type": "tool_result", "tool_use_id": call.call_id, "content": result}
            for call in calls
        ]
        self.messages.append({"role": "user", "content": told})

    def close(self) -> None:
        """See Talk."""
        self._client.close()


class Ollama(Talk):
    """The ollama SDK: its messages go back as objects, calls without ids."""

    def __post_init__(self) -> None:
        """Open the client. The SDK leaves out of an answer what Ollama's server does not tell."""
        self._cached = 0
        self._client = OllamaClient(host=self.url, event_hooks={"response": [self._heard]})
        self.messages.append({"role": "system", "content": self.system})

    def answered(self, tool: str) -> list[Call]:
        """See Talk."""
        found = self._client.chat(
            self.model,
            self.messages,
            tools=[
                {
                    "type": "function",
                    "function": {
                        "name": one.name,
                        "description": one.description,
                        "parameters": one.schema,
                    },
                }
                for one in self.tools
            ],
            think=self.thinks,
            options={
                "temperature": 0,
                "num_predict": _CALL_TOKENS if tool else _ANSWER_TOKENS,
                "reasoning_tokens": _REASONING,
                "replays": self.replays,
                "tool_choice": tool or "auto",
            },
        )
        self._noted(found.prompt_eval_count, self._cached)
        self.messages.append(found.message)
        return [Call("", call.function.name) for call in found.message.tool_calls or ()]

    def _heard(self, response: httpx.Response) -> None:
        response.read()
        self._cached = response.json().get("prompt_cached_count", 0)

    def tell(self, calls: Sequence[Call], result: str) -> None:
        """See Talk."""
        for call in calls:
            self.messages.append({"role": "tool", "tool_name": call.name, "content": result})

    def close(self) -> None:
        """See Talk."""
        self._client.close()


CLIENTS: dict[str, type[Talk]] = {
    "openai chat": Chats,
    "openai responses": Responses,
    "anthropic": Messages,
    "ollama": Ollama,
}
