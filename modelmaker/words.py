"""Words, and the merges of character pairs that spell them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import count, pairwise, product

Merge = tuple[str, str]

_TEXT = (
    "the of and to in is that it was for on are with as be at this have from or had by not but "
    "what all were when we there can an your which their said if do will each about how up out "
    "them then she many some so these would other into has more her two like him see time could "
    "no make than first been its who now people my made over did down only way find use may "
    "water long little very after words called just where most know get through back much before "
    "good new write our man day any same tell work three must because does part even place well "
    "such here take why help different away again off went old number great tea kettle house "
    "world school name sentence answer question river light story night morning paper music"
)

COMMON = _TEXT.split()

_CONSONANTS = "bcdfghjklmnprstvwyz"
_VOWELS = "aeiou"


@cache
def learned_merges(space: str, limit: int) -> tuple[Merge, ...]:
    """Byte-pair encoding learned from the common words, the most frequent pair first.

    Earlier words count more. `space` is the character that stands for a space before a word.
    """
    spelt = _weighted_spellings(space)
    merges: list[Merge] = []
    while len(merges) < limit:
        pairs = _pair_counts(spelt)
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelt = [(_merged(word, best), weight) for word, weight in spelt]
    return tuple(merges)


def made_up_merges(space: str) -> Iterator[Merge]:
    """Merges for an endless supply of words of syllables, each bare and after a space."""
    for length in count(1):
        for merge in _made_up_words(length):
            yield merge
            yield space, "".join(merge)


def merges_for(known: set[str], space: str, limit: int) -> list[Merge]:
    """Exactly `limit` merges, each of which makes a token that is not yet known."""
    seen = set(known)
    found: list[Merge] = []
    for merge in _all_merges(space, limit):
        if len(found) == limit:
            break
        if "".join(merge) not in seen:
            seen.add("".join(merge))
            found.append(merge)
    return found


def _all_merges(space: str, limit: int) -> Iterator[Merge]:
    yield from learned_merges(space, limit)
    yield from made_up_merges(space)


def _made_up_words(length: int) -> Iterator[Merge]:
    """All words of that many syllables, as a shorter word and its last syllable."""
    syllables = product(_CONSONANTS, _VOWELS)
    if length == 1:
        yield from syllables
        return
    endings = ["".join(pair) for pair in syllables]
    for merge in _made_up_words(length - 1):
        for ending in endings:
            yield "".join(merge), ending


def _weighted_spellings(space: str) -> list[tuple[tuple[str, ...], int]]:
    spelt: list[tuple[tuple[str, ...], int]] = []
    for rank, word in enumerate(COMMON):
        weight = 10 * (len(COMMON) - rank)
        spelt.append(((space, *word), weight))
        spelt.append((tuple(word), weight // 10))
    return spelt


def _pair_counts(spelt: list[tuple[tuple[str, ...], int]]) -> Counter[Merge]:
    pairs: Counter[Merge] = Counter()
    for word, weight in spelt:
        for pair in pairwise(word):
            pairs[pair] += weight
    return pairs


def _merged(word: tuple[str, ...], pair: Merge) -> tuple[str, ...]:
    """The word with every occurrence of the pair joined."""
    joined: list[str] = []
    at = 0
    while at < len(word):
        if word[at : at + 2] == pair:
            joined.append("".join(pair))
            at += 2
        else:
            joined.append(word[at])
            at += 1
    return tuple(joined)
