"""Ctrl-C, noticed at any moment.

Python runs its handlers on the main thread, between instructions of its own: during a long native
call an interrupt would wait, and one that arrives in a callback out of llama.cpp would be printed
and lost. So the handler does nothing, and a thread acts on the byte that the signal leaves in a
pipe. Children are not affected, and a process that was told to ignore interrupts still does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable

INTERRUPTED = 130  # what a shell reports for SIGINT


def act_on_interrupt(act: Callable[[], object]) -> Callable[[], None]:
    """From now on every Ctrl-C calls `act`, on a thread of its own, and nothing else.

    Returns what brings back the state before. Does nothing where interrupts are ignored, and on
    other threads than the main one, which cannot say what a signal does.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return lambda: None
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = signal.signal(signal.SIGINT, lambda *_: None)
    watcher = threading.Thread(target=_watch, args=(reader, act), daemon=True)
    watcher.start()

    def undo() -> None:
        signal.set_wakeup_fd(pipe_before)
        signal.signal(signal.SIGINT, before)
        os.close(writer)
        watcher.join()

    return undo


def leave() -> None:
    """End the process at once: nothing that it holds needs to be put in order."""
    with contextlib.suppress(OSError):
        os.write(2, b"\n")  # the terminal has printed ^C
    os._exit(INTERRUPTED)


def _watch(reader: int, act: Callable[[], object]) -> None:
    while signals := os.read(reader, 1):
        if signal.SIGINT in signals:
            act()
    os.close(reader)
