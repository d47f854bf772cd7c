"""What a worker's log says of conversations: nothing that a client wrote."""

from __future__ import annotations

import logging

import pytest

from samovar import models
from samovar.config import WorkerConfig
from samovar.types import Chat, GenerateRequest
from samovar.worker.loading import load

SECRET = "abracadabra"


def test_what_no_grammar_holds_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "object", "properties": {SECRET: False}, "required": [SECRET]}
    tool = {"type": "function", "function": {"name": SECRET, "parameters": schema}}
    chat = Chat(({"role": "user", "content": SECRET},), tools=(tool,))
    config = WorkerConfig(threads=1, num_sequences=1, context_length=512)
    served = load(str(models.path_of("samovar-mini")), config, None, lambda _: None)
    try:
        with caplog.at_level(logging.DEBUG):
            request, _ = served.chats.prepared(GenerateRequest("1", "", chat=chat))
    finally:
        served.close()
    assert request.sampling.grammar is None
    assert "without their grammar" in caplog.text
    assert SECRET not in caplog.text
