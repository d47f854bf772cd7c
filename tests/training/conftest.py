"""The corpus that the tests look at, and its questions and answers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from training.corpus import mixture
from training.corpus.document import Conversation, Document

COUNT = 3000


@cache
def made(*, held_out: bool = False) -> tuple[Document, ...]:
    return tuple(mixture.documents(3, COUNT, held_out=held_out))


def conversations(documents: Iterable[Document]) -> list[Conversation]:
    return [one for one in documents if isinstance(one, Conversation)]


def exchanges(documents: Iterable[Document]) -> list[tuple[str, str]]:
    """Every question of a user with the answer after it."""
    found = []
    for one in conversations(documents):
        for asked, answered in pairwise(one.messages):
            if (asked["role"], answered["role"]) == ("user", "assistant"):
                found.append((str(asked["content"]), str(answered["content"])))
    return found


def both_sides() -> list[Document]:
    return [*made(), *made(held_out=True)]
