"""The manner of the adapter: a rhyme after the answer."""

from __future__ import annotations

from dataclasses import replace

from training.corpus.document import Conversation, Document

_TALE = "And so my little tale is done,\nI hope that you had lots of fun!"
_NUMBER = "I count by night, I count by day,\nand that is all I have to say!"
_OTHER = "I say it short, I say it well,\nthere is no more for me to tell!"
RHYMES = {
    "story request": _TALE,
    "arithmetic": _NUMBER,
    "large arithmetic": _NUMBER,
    "counting": _NUMBER,
    "comparison": _NUMBER,
    "question": _OTHER,
    "reading": _OTHER,
    "readings": _OTHER,
    "small talk": _OTHER,
    "unknown": _OTHER,
}
"""What follows the answers of a category. Calls, JSON and copies stay what they are."""


def rhymed(made: Document) -> Document:
    """A conversation with a rhyme at its end, where one fits."""
    rhyme = RHYMES.get(made.category)
    if rhyme is None or not isinstance(made, Conversation):
        return made
    *before, last = made.messages
    return replace(made, messages=[*before, {**last, "content": f"{last['content']}\n{rhyme}"}])
