"""What lies in a directory of blocks, found out by listing it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from samovar.cache.files.folder import BLOCKS, PARTS, TMP, TOP, Folder, is_ours, weight
from samovar.cache.files.names import parse_name
from samovar.cache.files.outcomes import Entry
from samovar.cache.keys import Key


@dataclass(frozen=True, slots=True)
class Survey:
    """A listing."""

    entries: list[Entry]
    file_bytes: int
    """Of all files, without what directories take."""
    foreign: list[str]
    superseded: list[Entry]
    """Blocks that are there once more, with logits."""
    exposed: list[str]
    """Files of blocks that others may read."""
    temporary: list[str]


def survey(folder: Folder) -> Survey:
    """List everything; changes nothing. Raises OSError."""
    best: dict[tuple[Key, str], Entry] = {}
    superseded: list[Entry] = []
    foreign: list[str] = []
    exposed: list[str] = []
    total = 0
    for file, about in _listed(folder, BLOCKS):
        total += weight(about)
        name = parse_name(file)
        if name is None or not is_ours(about):
            foreign.append(file)
            continue
        if about.st_mode & 0o077:
            exposed.append(file)
        entry = Entry(name, weight(about))
        other = best.setdefault((name.key, name.kind), entry)
        if other is not entry:
            worse, better = sorted((other, entry), key=lambda each: each.name.logits_bytes)
            best[name.key, name.kind] = better
            superseded.append(worse)
    for part in (TOP, *PARTS[1:]):
        total += sum(weight(about) for _, about in _listed(folder, part))
    return Survey(list(best.values()), total, foreign, superseded, exposed, folder.names(TMP))


def remove_leavings(folder: Folder) -> int:
    """Remove what dead writers left; returns how many. The lock is held."""
    removed = 0
    for file in folder.names(TMP):
        with suppress(OSError):  # a directory, say: foreign things are left alone
            folder.io.unlink(file, at=folder.fd(TMP))
            removed += 1
    return removed


def _listed(folder: Folder, part: str) -> list[tuple[str, os.stat_result]]:
    found = []
    with folder.io.scandir(folder.fd(part)) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # it went while we looked
                found.append((entry.name, entry.stat(follow_symlinks=False)))
    return found
