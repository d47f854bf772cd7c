"""API keys: a TOML file that says who may ask, for what, and how much.

    [[keys]]
    name = "alice"
    key = "sk-..."                 # or sha256 = "64 hex digits of the key's SHA-256"
    scopes = ["inference"]         # default; "admin" as well for the cache, sessions and metrics
    tenant = "team"                # default: the name; keys of one tenant share what is cached
    requests_per_minute = 60       # default: no limit
    tokens_per_minute = 100000     # default: no limit

Kept in memory are digests only. What somebody presents is compared by its digest, in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from samovar.errors import InvalidRequest
from samovar.server.caller import SCOPES
from samovar.server.rates import Account

_LEAST_KEY = 16  # characters: shorter ones can be guessed
_MOST_BYTES = 2**22  # of the file: tens of thousands of keys
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    key: str | None = None
    sha256: str | None = None
    scopes: tuple[str, ...] = ("inference",)
    tenant: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[_Entry]


@dataclass(frozen=True, slots=True)
class Key:
    """Somebody who may ask."""

    name: str
    digest: bytes
    tenant: str
    scopes: frozenset[str]
    account: Account


class Keys:
    """All keys of a server."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def find(self, presented: bytes) -> Key | None:
        """Whose key that is. Takes as long whichever it is, and whether it is one."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def read_keys(path: Path) -> Keys:
    """The keys of a file. Raises InvalidRequest, which never quotes a key."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read the API keys {path}: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
        raise InvalidRequest(
            f"everybody on this machine can read or change the API keys {path}: chmod 600 it"
        )
    if len(data) > _MOST_BYTES:
        raise InvalidRequest(f"the API keys {path} are more than {_MOST_BYTES} bytes")
    try:
        found = msgspec.convert(tomllib.loads(data.decode("utf-8")), _File)
    except UnicodeDecodeError:
        raise InvalidRequest(f"the API keys {path} are not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line \d+", str(error))
        raise InvalidRequest(
            f"the API keys {path} are no TOML{f' ({where[0]})' if where else ''}"
        ) from None
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the API keys {path}: {error}") from None
    return Keys(_checked(path, found.keys))


def _checked(path: Path, entries: list[_Entry]) -> list[Key]:
    keys: dict[bytes, Key] = {}
    for entry in entries:
        problem = _problem(entry)
        if problem:
            raise InvalidRequest(f"the API keys {path}: {entry.name or 'a key'} {problem}")
        key = _key(entry)
        if key.digest in keys:
            raise InvalidRequest(
                f"the API keys {path}: {entry.name} has the key of {keys[key.digest].name}"
            )
        keys[key.digest] = key
    if not keys:
        raise InvalidRequest(f"the API keys {path}: there is none; add [[keys]]")
    return list(keys.values())


def _problem(entry: _Entry) -> str:
    if not entry.name:
        return "needs a name"
    if entry.tenant == "":  # whose salts would be anybody's
        return "needs a tenant with a name, or none at all"
    if (entry.key is None) == (entry.sha256 is None):
        return "needs either key or sha256"
    if entry.key is not None and len(entry.key) < _LEAST_KEY:
        return f"has a key of fewer than {_LEAST_KEY} characters, which can be guessed"
    if entry.sha256 is not None and not _DIGEST.fullmatch(entry.sha256):
        return "needs 64 hex digits as sha256"
    if not entry.scopes or set(entry.scopes) - set(SCOPES):
        return f"may have the scopes {' and '.join(SCOPES)}"
    limits: list[Any] = [entry.requests_per_minute, entry.tokens_per_minute]
    if any(limit is not None and limit < 1 for limit in limits):
        return "needs limits of 1 or more, or none"
    return ""


def _key(entry: _Entry) -> Key:
    if entry.key is not None:
        digest = hashlib.sha256(entry.key.encode()).digest()
    else:
        digest = bytes.fromhex(entry.sha256 or "")
    return Key(
        entry.name,
        digest,
        entry.name if entry.tenant is None else entry.tenant,
        frozenset(entry.scopes),
        Account(entry.requests_per_minute, entry.tokens_per_minute),
    )
