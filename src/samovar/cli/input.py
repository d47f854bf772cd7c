"""What commands read: texts, and the models they are about."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from samovar import models
from samovar.errors import InvalidRequest, ModelNotFound
from samovar.types import Message

MAX_MEBIBYTES = 64
"""Of standard input: what one call tokenizes. Input without end would fill the memory."""

MAX_GRAMMAR = 2**20
"""Characters; the backend takes fewer, and says how many. A file may have no end."""


def read_text(argument: str | None, what: str) -> bytes:
    """The argument's bytes, or all of standard input when it is absent or `-`.

    Raises InvalidRequest when there is neither, or more than MAX_MEBIBYTES.
    """
    if argument is not None and argument != "-":
        return os.fsencode(argument)
    if sys.stdin is None or (argument is None and sys.stdin.isatty()):
        raise InvalidRequest(f"no {what}: give it as an argument or on standard input")
    most = MAX_MEBIBYTES * 2**20
    try:
        data = sys.stdin.buffer.read(most + 1)
    except OSError as error:
        reason = error.strerror or error
        raise InvalidRequest(
            f"cannot read standard input ({reason}): give the {what} as an argument"
        ) from None
    if len(data) > most:
        raise InvalidRequest(f"more than {MAX_MEBIBYTES} MiB on standard input: split the {what}")
    return data


def read_grammar(path: Path) -> str:
    """The text of a grammar file. Raises InvalidRequest."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_GRAMMAR + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidRequest(f"cannot read the grammar {path}: {reason}") from None
    if len(text) > MAX_GRAMMAR:
        raise InvalidRequest(f"the grammar {path} is longer than any that is accepted: shorten it")
    return text


def read_messages(path: Path) -> list[Message]:
    """A conversation from a file: a JSON list of objects with role and content.

    Raises InvalidRequest.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MEBIBYTES * 2**20 + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read the messages {path}: {error.strerror}") from None
    if len(data) > MAX_MEBIBYTES * 2**20:
        raise InvalidRequest(f"the messages {path} are more than {MAX_MEBIBYTES} MiB: send fewer")
    try:
        found = msgspec.json.decode(data, type=list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the messages {path} are no JSON list of objects: {error}") from None
    return found


def read_adapter(text: str) -> tuple[str, float]:
    """PATH or PATH:SCALE; a colon that is followed by no number belongs to the path.

    A built-in name may stand for the path.
    """
    path, _, scale = text.rpartition(":")
    try:
        found, factor = (path, float(scale)) if path else (text, 1.0)
    except ValueError:
        found, factor = text, 1.0
    return model_path(found), factor


def model_path(text: str) -> str:
    """The path that a text stands for: a built-in name for its file, anything else for itself.

    A built-in name comes first, so that a command means the same in every folder; a file of that
    name is reached as `./NAME`. Raises ModelNotFound for a mere name that is neither.
    """
    built_in = models.path_of(text)
    if built_in is not None:
        return str(built_in)
    if os.sep in text or _exists(text):
        return text
    raise ModelNotFound(
        f"{text[:200]} is neither a file nor a built-in name: give a path, or one of"
        f" {', '.join(models.names())}"
    )


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long, or in a folder that may not be searched
        return False
