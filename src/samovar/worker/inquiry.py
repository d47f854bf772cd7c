"""`python -m samovar.worker.inquiry`: one question about a file or this installation.

The question comes on standard input, the answer goes to standard output, and then the process
ends: what kills it kills no command. It holds no weights and no context to compute in. When whoever
asked is gone, it leaves at once.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, BinaryIO

import msgspec

from samovar.errors import InvalidRequest, LoadFailed, SamovarError
from samovar.ipc.logs import LLAMA, worker_log_level

try:
    from samovar.chat.family import template_family
    from samovar.native import library, memory, probe
    from samovar.native.context import Context, ContextOptions
    from samovar.native.interface import StateKind
    from samovar.native.model import Model, ModelOptions
except (ImportError, OSError, RuntimeError) as error:  # llama.cpp is loaded by that, if it can be
    _problem = f"llama.cpp cannot be loaded: {error}; run `make setup`"
else:
    _problem = ""

_HEAD = struct.Struct("<Q")


def tokenize(path: str, text: bytes, *, add_special: bool, parse_special: bool) -> list[int]:
    """Text to ids, with the vocabulary alone."""
    model = Model(path, ModelOptions(vocab_only=True))
    try:
        return model.vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special)
    finally:
        model.close()


def detokenize(path: str, tokens: list[int], *, special: bool, drops_bos: bool) -> bytes:
    """Ids to bytes, with the vocabulary alone."""
    model = Model(path, ModelOptions(vocab_only=True))
    try:
        vocabulary = model.vocabulary
        begins = drops_bos and tokens[:1] == [vocabulary.bos]
        return vocabulary.detokenize(tokens[1:] if begins else tokens, special=special)
    finally:
        model.close()


def describe(path: str) -> dict[str, Any]:
    """What only llama.cpp and the template's reader know of a model, without its weights."""
    model = Model(path, ModelOptions(without_weights=True, check_memory=False))
    try:
        return {
            "state_kind": _state_kind(model).value,
            "chat_template": template_family(model.header.chat_template),
        }
    finally:
        model.close()


def _state_kind(model: Model) -> StateKind:
    """How the model's state can be cut; the proof comes when it is loaded."""
    context = Context(model, ContextOptions(context_length=256, check_memory=False))
    has_memory, window = context.has_memory, model.window
    context.close()
    if not has_memory:
        return StateKind.NONE
    if model.is_recurrent:
        return StateKind.INDIVISIBLE
    has_tail = bool(window) or model.is_hybrid
    return StateKind.DIVISIBLE_WITH_TAIL if has_tail else StateKind.DIVISIBLE


def installation() -> dict[str, Any]:
    """The native library, whether its extra weight buffers work here, and the memory there is."""
    native = library.describe()
    return {
        "library": {
            "version": native.version,
            "path": str(native.path),
            "features": native.features,
            "gpu": native.supports_gpu,
            "state_version": native.state_version,
        },
        "probe": asdict(probe.probe_result()),
        "free_memory": memory.available_bytes(),
    }


QUESTIONS: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (tokenize, detokenize, describe, installation)
}


def answer(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The value, or the code and message of an error."""
    try:
        if _problem:
            raise LoadFailed(_problem)
        if name not in QUESTIONS:
            raise InvalidRequest(f"nothing is known of {name}")
        return {"value": QUESTIONS[name](**arguments)}
    except SamovarError as error:
        return {"code": error.code, "message": str(error)}


def main() -> None:
    """Answer one question."""
    level = worker_log_level()
    logging.basicConfig(level=level, format="samovar: %(levelname)s: %(message)s")
    if level > logging.DEBUG:  # a failing call quotes the line that explains it
        logging.getLogger(LLAMA).setLevel(logging.CRITICAL + 1)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever native code may print is no answer
    questions = sys.stdin.buffer
    name, arguments = _read(questions)
    threading.Thread(target=_leave_if_alone, args=(questions,), daemon=True).start()
    output.write(msgspec.msgpack.encode(answer(name, arguments)))
    output.close()
    # Without the interpreter's farewell: a thread reads, and everything is closed.
    sys.stderr.flush()
    os._exit(0)


def _read(questions: BinaryIO) -> tuple[str, dict[str, Any]]:
    (length,) = _HEAD.unpack(questions.read(_HEAD.size))
    asked: tuple[str, dict[str, Any]] = msgspec.msgpack.decode(
        questions.read(length), type=tuple[str, dict[str, Any]]
    )
    return asked


def _leave_if_alone(questions: BinaryIO) -> None:
    """Nothing more comes on standard input but its end."""
    questions.read(1)
    os._exit(0)


if __name__ == "__main__":
    main()
