"""What clients written in Python ask, and how they say what came of it; run among the tools."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUESTIONS: dict[str, Any] = json.loads(Path(__file__).with_name("questions.json").read_text())
MODEL: str = QUESTIONS["model"]
TOO_LONG: str = QUESTIONS["long"] * QUESTIONS["times"]
FUNCTION: dict[str, Any] = {"type": "function", "function": QUESTIONS["tool"]}


def user(text: str) -> Any:  # noqa: ANN401
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def told(text: str, asked: int, answered: int, pieces: int = 1) -> dict[str, Any]:
    """An answer, and the tokens that it and its prompt were."""
    return {"text": text, "asked": asked, "answered": answered, "pieces": pieces}


def called(name: str, arguments: dict[str, Any], said: str) -> dict[str, Any]:
    """A call, and what the model said of its result."""
    return {"name": name, "arguments": arguments, "said": said}


def error_of(ask: Callable[[], object]) -> str:
    """The name of the exception that asking ends with."""
    try:
        ask()
    except Exception as error:  # noqa: BLE001
        return type(error).__name__
    return "none"


def report(asks: dict[str, Callable[[], Any]]) -> None:
    """Ask everything, whatever fails, and print one JSON object of it."""
    json.dump({name: _tried(ask) for name, ask in asks.items()}, sys.stdout)


def _tried(ask: Callable[[], Any]) -> Any:  # noqa: ANN401
    try:
        return ask()
    except Exception:  # noqa: BLE001
        return {"failed": traceback.format_exc(limit=-6)}
