"""The normalisation table of SentencePiece unigram tokenizers.

    byte  size  field
    0     4     length of the double array in bytes, uint32
    4           the double array, uint32 each: bits 0 to 7 and 31 the character that leads here,
                bit 8 whether a replacement ends here, bits 10 to 30 the offset to the children
                (times 256 if bit 9 is set), or, in the node of a replacement, bits 0 to 30 its
                offset
                replacements, each closed by a zero byte

llama.cpp walks it for every text (`normalize_prefix`, src/llama-vocab.cpp) and throws out of
`llama_tokenize` where it leads outside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samovar.gguf.checks.keys import refuse
from samovar.gguf.header import Header
from samovar.gguf.values import ArrayRef, ValueType

KEY = "tokenizer.ggml.precompiled_charsmap"


def check_charsmap(header: Header) -> None:
    """Raises MalformedGGUF where some text would lead outside the table."""
    if KEY not in header.metadata:
        return
    ref = header.metadata[KEY].value
    if not isinstance(ref, ArrayRef) or ref.element_type not in (ValueType.INT8, ValueType.UINT8):
        raise refuse(header, f"{KEY} is not an array of bytes")
    data = header.numbers(KEY).tobytes()
    length = int.from_bytes(data[:4], "little")
    if len(data) < 8 or 4 + length >= len(data) or length < 4:
        raise refuse(header, f"{KEY} is shorter than it says")
    nodes = np.frombuffer(data, "<u4", length // 4, offset=4)
    if not _stays_inside(nodes, data[4 + length :]):
        raise refuse(header, f"{KEY} leads outside itself")


def _stays_inside(nodes: NDArray[np.uint32], replacements: bytes) -> bool:
    """Whether every walk from the root meets only nodes and replacements that are there.

    A node is entered from `base` by the character `base ^ index`, which it states; so which base
    leads to a node can be read off the node, and all nodes are looked at once for each step of
    the longest walk.
    """
    # From the last zero byte on, a replacement would not be closed.
    limit = replacements.rfind(b"\0") + 1
    index = np.arange(len(nodes), dtype=np.uint32)
    character = nodes & np.uint32(0x800000FF)
    entered_from = index ^ character
    can_enter = (character > 0) & (character < 256) & (entered_from < len(nodes))
    bases_of = index ^ _offsets(nodes)
    is_base = np.zeros(len(nodes), dtype=bool)
    bases = _offsets(nodes[:1])
    while len(bases):
        if int((bases | 0xFF).max()) >= len(nodes):
            return False
        is_base[bases] = True
        entered = np.flatnonzero(can_enter)
        entered = entered[is_base[entered_from[entered]]]
        can_enter[entered] = False
        bases = bases_of[entered]
        leaves = bases[(nodes[entered] >> 8) & 1 == 1]
        if not _leaves_fit(nodes, leaves, limit):
            return False
    return True


def _offsets(found: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """How far the children of nodes are from them."""
    offsets = found >> 10
    return np.where(found & np.uint32(1 << 9), offsets << 8, offsets).astype(np.uint32)


def _leaves_fit(nodes: NDArray[np.uint32], leaves: NDArray[np.uint32], limit: int) -> bool:
    if not len(leaves):
        return True
    if int(leaves.max()) >= len(nodes):
        return False
    return int((nodes[leaves] & np.uint32(0x7FFFFFFF)).max()) < limit
