"""Where files go that turned out bad, for whoever wants to know what happened to them."""

from __future__ import annotations

import os
from contextlib import suppress

from samovar.cache.files.folder import BLOCKS, QUARANTINE, Folder, weight
from samovar.cache.files.ledger import Account

MOST = 64
"""Files that are kept: enough to tell a pattern."""


def put(folder: Folder, file: str) -> bool:
    """Move a file from `blocks/`; False if it cannot be moved. Needs no lock: no bytes change."""
    # A number of its own, so that no other file of this name is replaced, and bytes with it.
    name = f"{file}.{os.urandom(4).hex()}"
    try:
        folder.io.rename(file, name, at=folder.fd(BLOCKS), to=folder.fd(QUARANTINE))
    except OSError:
        return False
    return True


def trim(folder: Folder, account: Account, keep: int = MOST) -> int:
    """Delete all but the last `keep` files; returns how many went. The lock is held."""
    aged = []
    for name in folder.names(QUARANTINE):
        with suppress(OSError):
            about = folder.io.stat(name, at=folder.fd(QUARANTINE))
            aged.append((about.st_ctime_ns, name, weight(about)))  # a move changes the ctime
    gone = 0
    for _, name, nbytes in sorted(aged, reverse=True)[keep:]:
        with suppress(OSError):
            folder.io.unlink(name, at=folder.fd(QUARANTINE))
            account.used_bytes -= nbytes
            gone += 1
    return gone
