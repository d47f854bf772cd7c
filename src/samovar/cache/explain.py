"""Why a prompt was not restored any further than it was."""

from __future__ import annotations

from collections.abc import Sequence

from samovar.cache.index.index import Match
from samovar.cache.keys import ROOT, block_key, pack_tokens
from samovar.cache.store import BlockStore, Scope
from samovar.types import DivergenceReason

_MOST_SCOPES = 8  # other adapters that are looked under: each look costs what a match does


def reason(
    store: BlockStore, scope: Scope, tokens: Sequence[int], match: Match, block_size: int
) -> DivergenceReason:
    """Why nothing more than `match` was found for the tokens. Looks under no other salt.

    What others may not see they are not told of either.
    """
    end, total = match.length, len(tokens)
    if end >= total - 1:
        return "none"
    parent = match.path[-1].key if match.path else ROOT
    nearest = pack_tokens(tokens[end : end + block_size])
    if store.was_evicted(block_key(scope.digest, parent, nearest)):
        return "evicted"
    if any(_reach(store, other, tokens) > end for other in _others(store, scope)):
        return "other_adapters"
    # What begins at the root is everybody's, and says nothing of this scope.
    return "other_tokens" if match.path and match.seen_children else "new"


def _others(store: BlockStore, scope: Scope) -> list[Scope]:
    """Scopes of the same salt under other adapters, the last used first."""
    known = store.scopes()
    salt = next((key[1] for key, one in known if one is scope), None)
    found = [one for key, one in reversed(known) if key[1] == salt and one is not scope]
    return found[:_MOST_SCOPES]


def _reach(store: BlockStore, scope: Scope, tokens: Sequence[int]) -> int:
    return store.match(scope, tokens).length
