"""What lies beside the blocks: names, pins, decayed counts; and the order of writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samovar.cache.files.names import Name, parse_name
from samovar.cache.files.tier import FileTier
from samovar.cache.files.usage import pack_usage, unpack_usage
from samovar.cache.keys import ROOT, Namespace
from tests.cache.directories import Watched, chain, measured, names, opened, whole

keys = st.binary(min_size=32, max_size=32)
counts = st.integers(0, 2**32 - 1)
numbers = st.floats(allow_nan=False)
usages = st.dictionaries(keys, st.tuples(numbers, numbers), max_size=20)


# ---- names --------------------------------------------------------------------------------------


@given(
    st.builds(Name, keys, keys, counts, st.integers(0, 2**20), counts, st.sampled_from(["r", "s"]))
)
def test_names_say_what_they_were_made_from(name: Name) -> None:
    assert parse_name(str(name)) == name
    assert len(str(name)) < 255


@given(st.text("0189af.rs\n", max_size=170))
def test_any_other_text_is_no_name(text: str) -> None:
    name = parse_name(text)
    assert name is None or str(name) == text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".0.1.", ".00.1."),
        (".0.1.", ".0.+1."),
        (".0.1.", ".0.1\n."),
        (".0.1.", ".0.1048577."),
        (".0.1.", ".4294967296.1."),
        (".r", ".R"),
        (".r", ".r\n"),
        (".r", ""),
        ("aa", "AA"),
        ("aa", "a"),
        (".0.1.", ".٠.1."),
    ],
)
def test_there_is_one_way_to_write_a_name(old: str, new: str) -> None:
    text = str(Name(b"\xaa" * 32, b"\xbb" * 32, 0, 1, 0, "r"))
    assert parse_name(text) is not None
    assert parse_name(text.replace(old, new, 1)) is None


# ---- pins ---------------------------------------------------------------------------------------


def test_pins_are_kept_for_all(root: Path) -> None:
    one, other, pinned = opened(root), opened(root), {b"a" * 32, b"b" * 32}
    assert all(one.pin(key) for key in (*pinned, *pinned))
    (one.path / "pins" / "foreign").touch()
    (one.path / "pins" / ("AB" * 32)).touch()
    assert other.pins() == pinned
    assert other.unpin(b"a" * 32)
    assert other.unpin(b"a" * 32)
    assert one.pins() == opened(root).pins() == {b"b" * 32}


# ---- usage --------------------------------------------------------------------------------------


@given(usages)
def test_counts_survive(usage: dict[bytes, tuple[float, float]]) -> None:
    assert unpack_usage(pack_usage(usage)) == usage


@given(st.binary(max_size=200))
def test_other_bytes_are_no_counts(data: bytes) -> None:
    assert unpack_usage(data) == {}


def test_damaged_counts_are_no_counts() -> None:
    data = pack_usage({b"a" * 32: (1.0, 2.0), b"\0" * 32: (0.0, -1.0)})
    for place in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        assert unpack_usage(bytes(damaged)) == {}
    for size in range(len(data)):
        assert unpack_usage(data[:size]) == {}


def test_counts_are_replaced_as_a_whole(root: Path) -> None:
    one, other = opened(root), opened(root)
    assert one.load_usage() == {}
    many = {os.urandom(32): (float(number), 0.5) for number in range(1000)}
    assert one.save_usage(many)
    assert other.load_usage() == many
    assert other.save_usage({ROOT: (1.0, 2.0)})
    assert one.load_usage() == {ROOT: (1.0, 2.0)}
    assert one.used_bytes() == measured(one.path)
    (one.path / "usage").write_bytes(b"damaged")
    assert one.load_usage() == {}
    assert one.save_usage(many)
    assert other.load_usage() == many


def test_counts_keep_to_the_budget(root: Path) -> None:
    files, blocks = opened(root), chain(2)
    files.publish(blocks)
    assert files.save_usage({ROOT: (1.0, 2.0)})
    files.budget = files.used_bytes() + 5000
    assert not files.save_usage({os.urandom(32): (1.0, 2.0) for _ in range(1000)})
    assert files.load_usage() == {ROOT: (1.0, 2.0)}
    whole(root)


# ---- order --------------------------------------------------------------------------------------


def order(root: Path, *, is_durable: bool) -> list[tuple[str, object]]:
    """The calls of one group that matter after a crash, and what they were about."""
    calls: list[tuple[str, object]] = []

    def note(call: str, args: tuple[object, ...]) -> None:
        about = args[0] if args else None
        if call in ("writev", "fdatasync", "fsync"):
            about = Path(f"/proc/self/fd/{about}").readlink().name
        calls.append((call, about))

    files = opened(root, is_durable=is_durable, io=Watched(note))
    calls.clear()
    blocks = chain(4)
    assert len(files.publish(blocks[::-1]).done) == 4
    calls.append(("reported", None))
    assert [call for call, _ in calls].count("link") == 4
    return calls


def test_each_step_waits_for_the_one_before_it(root: Path) -> None:
    calls = order(root, is_durable=True)
    first_link = [call for call, _ in calls].index("link")
    last_link = max(place for place, (call, _) in enumerate(calls) if call == "link")
    for call, about in calls:
        if call == "link":
            synced = calls.index(("fdatasync", about))
            assert calls.index(("writev", about)) < synced < first_link
    directory = calls.index(("fsync", "blocks"))
    assert last_link < directory < calls.index(("reported", None))
    unlinks = [place for place, (call, _) in enumerate(calls) if call == "unlink"]
    assert min(unlinks) > directory
    assert calls.count(("fsync", "blocks")) == 1


def test_predecessors_are_linked_first(root: Path) -> None:
    linked: list[str] = []

    def note(call: str, args: tuple[object, ...]) -> None:
        if call == "link":
            linked.append(str(args[1]))

    files, blocks = opened(root, io=Watched(note)), chain(6)
    files.publish(blocks[::-1])
    assert linked == [str(name) for name in names(blocks)]


def test_nothing_is_synced_where_nothing_is_durable(root: Path) -> None:
    calls = {call for call, _ in order(root, is_durable=False)}
    assert not calls & {"fsync", "fdatasync", "start_writing"}
    assert {"writev", "link", "reported"} <= calls


def test_ever_new_salts_do_not_fill_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samovar.cache.files.tier._MAX_SCOPES", 3)
    tier = FileTier(tmp_path, Namespace({"model": "x"}), 2**20, is_durable=False)
    tier.open()
    namespace = Namespace({"model": "x"})
    assert [tier.add_scope(namespace.under(salt=str(i))) for i in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert tier.add_scope(namespace.under(salt="1"))
    again = FileTier(tmp_path, namespace, 2**20, is_durable=False)
    again.open()
    assert again.add_scope(namespace.under(salt="2"))
    again.close()
    tier.close()
