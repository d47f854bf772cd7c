"""The process that renders: `python -m samovar.chat.child BYTES SECONDS`, started by `process`.

It holds one template and answers each frame on its standard input with one on its standard
output, until its input ends.

    out  {"ready": true}
    in   {"source": text, "bos_token": text, "eos_token": text, "max_output": characters}
    out  {"loaded": true}
    in   {"messages": [...], "tools": [...] | null, "add_generation_prompt": bool,
          "thinks": bool | null, "continues_last": bool, "variables": {...}}
    out  {"text": prompt}

or, for any of them, `{"error": "invalid_request" | "template_error" | "template_missing",
"message": text}`.

BYTES bounds the address space. SECONDS is a life line for the case that the parent is killed
while a template loops, when nobody is left to enforce its deadline. Core files are off and
standard error is closed once running: both might hold prompts.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any

from samovar.chat.frames import read_frame, write_frame
from samovar.chat.template import Template
from samovar.errors import ModelError, RequestError

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2


def main() -> None:
    """Serve until standard input ends."""
    memory_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        write_frame(_OUTPUT, {"ready": True})
        os.dup2(null, _ERRORS)
        _serve(seconds)
    except (EOFError, BrokenPipeError):
        return  # the parent is gone, or done with us


def _serve(seconds: float) -> None:
    template: Template | None = None
    while True:
        request = read_frame(_INPUT)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal ends the process
        try:
            if template is None:
                template = Template(**request)
                _ = template.traits
                reply: dict[str, Any] = {"loaded": True}
            else:
                variables = request.pop("variables")
                reply = {"text": template.render(**request, **variables)}
        except (ModelError, RequestError) as error:
            reply = {"error": error.code, "message": str(error)}
        except MemoryError:
            reply = {"error": "template_error", "message": "the chat template ran out of memory"}
        write_frame(_OUTPUT, reply)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit(kind: int, wanted: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
