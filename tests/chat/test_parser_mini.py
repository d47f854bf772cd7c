"""The shipped model's own calls, from a prompt with tools to what a client is told."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from samovar import models
from samovar.chat.choosing import choose, starts_in_reasoning
from samovar.chat.parser import Call, Parser, Piece
from samovar.chat.template import Template
from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.types import SamplingParams
from tests.chat.turns import MINI, merged, source, tool

TOOLS = [tool("get_weather", {"city": {"type": "string", "description": "The city"}}, ["city"])]


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaBackend]:
    path = models.path_of(MINI)
    assert path is not None
    options = ContextOptions(context_length=1024, num_sequences=2, threads=1)
    with LlamaBackend.open(path, context=options, proves_state=False) as opened:
        yield opened


def answer(backend: LlamaBackend, question: str) -> list[Piece]:
    """What the model says, token by token through a parser."""
    family = choose(source(MINI))
    prompt = Template(source(MINI)).render([{"role": "user", "content": question}], TOOLS)
    begins = starts_in_reasoning(family, prompt)
    parser = Parser(family, tools=TOOLS, starts_in_reasoning=begins)
    backend.seq_rm(0)
    backend.configure_sampler(SamplingParams())
    backend.prefill(backend.tokenize(prompt, parse_special=True))
    told: list[Piece] = []
    for _ in range(120):
        sampled = backend.decode_one()
        if sampled.is_eog:
            return merged([*told, *parser.flush()])
        told += parser.feed(backend.detokenize([sampled.token]).decode())
    raise AssertionError("it did not end")


@pytest.mark.parametrize(
    ("question", "cities"),
    [
        ("What is the weather in Paris?", ["Paris"]),
        ("How is the weather in London and in Rome?", ["London", "Rome"]),
    ],
)
def test_what_the_shipped_model_calls_is_read(
    backend: LlamaBackend, question: str, cities: list[str]
) -> None:
    told = answer(backend, question)
    calls = [(one.name, json.loads(one.arguments)) for one in told if isinstance(one, Call)]
    assert calls == [("get_weather", {"city": city}) for city in cities]
    assert len(told) == len(calls)
