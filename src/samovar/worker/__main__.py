"""`python -m samovar.worker FD`, or by hand: `python -m samovar.worker MODEL PROMPT`."""

from __future__ import annotations

import logging
import os
import socket
import sys

from samovar.ipc import messages as ipc
from samovar.ipc.channel import Channel
from samovar.ipc.logs import FORMAT, worker_log_level
from samovar.version import __version__

try:
    from samovar.worker.byhand import answer
    from samovar.worker.main import serve
except (ImportError, OSError, RuntimeError) as error:  # llama.cpp is loaded by that, if it can be
    _problem = f"llama.cpp cannot be loaded: {error}; run `samovar doctor`"
else:
    _problem = ""


def main(arguments: list[str]) -> int:
    """Serve a socket, or answer one prompt on the terminal."""
    logging.basicConfig(level=worker_log_level(), format=FORMAT)
    is_served = len(arguments) == 1 and arguments[0].isdigit()
    if not is_served and len(arguments) != 2:
        sys.stderr.write("usage: python -m samovar.worker FD | MODEL PROMPT\n")
        return 2
    if _problem:
        return refuse(int(arguments[0])) if is_served else complain()
    return int(serve(int(arguments[0]))) if is_served else answer(*arguments)


def refuse(fd: int) -> int:
    """Tell who started this process that it can load no model."""
    channel = Channel(socket.socket(fileno=fd))
    for report in (
        ipc.Hello(ipc.PROTOCOL, __version__, os.getpid()),
        ipc.BootFailed("load_failed", _problem),
    ):
        channel.write(ipc.ENCODER.encode(report))
    channel.close()
    return ipc.ExitCode.BOOT_FAILED


def complain() -> int:
    """The same, on the terminal."""
    sys.stderr.write(f"{_problem}\n")
    return ipc.ExitCode.BOOT_FAILED


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # All is saved and freed. To take the interpreter apart as well would take a fifth of a second.
    os._exit(code)
