"""The bytes of a packed sequence: what goes in comes out, and nothing else comes out."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.errors import StateRejected
from samovar.native.interface import StateKind
from samovar.native.packing import Packed, pack, unpack
from tests.conftest import scaled

NAMESPACE = bytes(range(32))
KINDS = [kind for kind in StateKind if kind is not StateKind.NONE]

packed_states = st.builds(
    Packed,
    kind=st.sampled_from(KINDS),
    namespace=st.binary(min_size=32, max_size=32),
    tokens=st.lists(st.integers(0, 2**32 - 1), max_size=40),
    rows=st.binary(max_size=300).map(memoryview),
    tail=st.binary(max_size=60),
    logits=st.none() | st.lists(st.floats(width=32), min_size=1, max_size=20).map(np.float32),
)


def example() -> Packed:
    logits = np.array([0.5, -1.0], np.float32)
    rows = memoryview(b"rows and rows")
    return Packed(StateKind.DIVISIBLE_WITH_TAIL, NAMESPACE, [1, 2, 2**31], rows, b"tail", logits)


def parts(packed: Packed) -> tuple[object, ...]:
    logits = None if packed.logits is None else packed.logits.tobytes()
    return (
        *(packed.kind, packed.namespace, packed.tokens),
        bytes(packed.rows),
        packed.tail,
        logits,
    )


@settings(max_examples=scaled(200, 1000), database=None, deadline=None)
@given(packed_states)
def test_what_was_packed_is_unpacked(packed: Packed) -> None:
    data = pack(packed)
    assert parts(unpack(data, packed.kind, packed.namespace)) == parts(packed)
    assert pack(unpack(data, packed.kind, packed.namespace)) == data


def test_the_layout_is_the_documented_one() -> None:
    data = pack(example())
    assert data[:8] == b"SVKV\x01\x00\x02\x00"
    assert data[8:40] == NAMESPACE
    assert struct.unpack_from("<IIQQ", data, 40) == (3, 2, 4, 13)
    assert struct.unpack_from("<3I", data, 72) == (1, 2, 2**31)
    assert struct.unpack_from("<2f", data, 84) == (0.5, -1.0)
    assert data[92:] == b"rows and rowstail"


def test_any_buffer_of_bytes_is_read() -> None:
    data = pack(example())
    for form in (bytearray(data), memoryview(data)):
        found = unpack(form, StateKind.DIVISIBLE_WITH_TAIL, NAMESPACE)
        assert parts(found) == parts(example())


@settings(max_examples=scaled(300, 1000), database=None, deadline=None)
@given(packed_states, st.data())
def test_no_flipped_bit_gets_through(packed: Packed, data: st.DataObject) -> None:
    damaged = bytearray(pack(packed))
    at = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[at // 8] ^= 1 << at % 8
    with pytest.raises(StateRejected):
        unpack(bytes(damaged), packed.kind, packed.namespace)


@settings(max_examples=scaled(100, 1000), database=None, deadline=None)
@given(packed_states, st.data())
def test_nothing_cut_off_or_lengthened_gets_through(packed: Packed, data: st.DataObject) -> None:
    whole = pack(packed)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    longer = whole + data.draw(st.binary(min_size=1, max_size=9))
    for wrong in (cut, longer):
        with pytest.raises(StateRejected):
            unpack(wrong, packed.kind, packed.namespace)


@settings(max_examples=scaled(200, 1000), database=None, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, b"SVKV\x01\x00" + noise):
        with pytest.raises(StateRejected):
            unpack(data, StateKind.DIVISIBLE, NAMESPACE)


def test_lengths_beyond_all_bounds_are_refused() -> None:
    data = bytearray(pack(example()))
    for offset, form, value in ((40, "<I", 2**32 - 1), (48, "<Q", 2**64 - 1), (56, "<Q", 2**63)):
        wrong = bytearray(data)
        struct.pack_into(form, wrong, offset, value)
        with pytest.raises(StateRejected):
            unpack(bytes(wrong), StateKind.DIVISIBLE_WITH_TAIL, NAMESPACE)


@pytest.mark.parametrize("kind", [kind for kind in StateKind if kind is not example().kind])
def test_another_kind_is_refused(kind: StateKind) -> None:
    with pytest.raises(StateRejected, match="belongs to another"):
        unpack(pack(example()), kind, NAMESPACE)


def test_another_namespace_is_refused() -> None:
    with pytest.raises(StateRejected, match="belongs to another"):
        unpack(pack(example()), example().kind, bytes(32))
