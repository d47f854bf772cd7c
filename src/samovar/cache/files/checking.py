"""Whether a directory of blocks is what it should be, and how it becomes that again."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from samovar.cache.block import BadBlock
from samovar.cache.files import quarantine
from samovar.cache.files.folder import BLOCKS, TMP, Folder
from samovar.cache.files.ledger import Account, Ledger, Locked
from samovar.cache.files.names import Name
from samovar.cache.files.outcomes import Missing, Problem
from samovar.cache.files.publishing import remove
from samovar.cache.files.reading import read_block, read_head
from samovar.cache.files.survey import Survey, survey

_LEFT_ALONE = ("foreign",)


def check(
    folder: Folder, ledger: Ledger, scopes: Collection[bytes], *, deep: bool
) -> list[Problem]:
    """See FileTier.check. Raises OSError where not even a listing can be had."""
    problems: list[Problem] = []
    try:
        with ledger.locked() as record:
            found = survey(folder)
            if record is None or not record.is_clean or record.used_bytes != found.file_bytes:
                problems.append(Problem("total", "lock"))
            problems += [Problem("leaving", f"{TMP}/{file}") for file in found.temporary]
    except Locked:  # someone is writing: neither the total nor what lies in tmp/ says anything
        found = survey(folder)
    return problems + _of_names(found) + _of_blocks(folder, found, scopes, deep=deep)


def _of_names(found: Survey) -> list[Problem]:
    superseded = [str(entry.name) for entry in found.superseded]
    kinds = (("foreign", found.foreign), ("superseded", superseded), ("mode", found.exposed))
    return [Problem(kind, f"{BLOCKS}/{file}") for kind, files in kinds for file in files]


def _of_blocks(
    folder: Folder, found: Survey, scopes: Collection[bytes], *, deep: bool
) -> list[Problem]:
    problems = []
    for entry in found.entries:
        cause = _cause(folder, entry.name, scopes, deep=deep)
        if cause is not None:
            problems.append(Problem(cause, f"{BLOCKS}/{entry.name}"))
    return problems


def _cause(folder: Folder, name: Name, scopes: Collection[bytes], *, deep: bool) -> str | None:
    try:
        head = read_block(folder, name, None).head if deep else read_head(folder, name)
    except BadBlock as bad:
        return bad.cause
    except Missing as missing:
        # Someone deletes while we look.
        return None if missing.cause == "vanished" else missing.cause
    return None if head.namespace in scopes else "namespace"


def repair(folder: Folder, ledger: Ledger, problems: Iterable[Problem]) -> int:
    """See FileTier.repair. Raises OSError, Locked."""
    with ledger.held(lists=True) as account:
        done = sum(_repaired(folder, account, problem) for problem in problems)
        quarantine.trim(folder, account)
        account.used_bytes = survey(folder).file_bytes
    ledger.seen = None  # whoever knew what was there should list again
    return done


def _repaired(folder: Folder, account: Account, problem: Problem) -> bool:
    part, _, file = problem.where.partition("/")
    if problem.kind == "total":
        return True  # it is counted in the end
    if problem.kind == "leaving":
        return _is_gone(folder, TMP, file)
    if part != BLOCKS or problem.kind in _LEFT_ALONE:
        return False
    special: dict[str, Callable[[Folder, Account, str], bool]] = {
        "superseded": remove,
        "mode": _tighten,
    }
    return special.get(problem.kind, _set_aside)(folder, account, file)


def _is_gone(folder: Folder, part: str, file: str) -> bool:
    try:
        folder.io.stat(file, at=folder.fd(part))
    except FileNotFoundError:
        return True  # removed with all leavings when the lock was taken
    return False


def _tighten(folder: Folder, _: Account, file: str) -> bool:
    with suppress(OSError):
        fd = folder.io.open(file, os.O_RDONLY, at=folder.fd(BLOCKS))
        try:
            folder.io.fchmod(fd, 0o600)
        finally:
            folder.io.close(fd)
        return True
    return False


def _set_aside(folder: Folder, account: Account, file: str) -> bool:
    account.has_changed = True
    return quarantine.put(folder, file)
