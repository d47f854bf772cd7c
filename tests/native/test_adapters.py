"""Adapters: what they change, and that nothing is left of them once they are gone."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from modelmaker import build_adapter
from samovar.errors import AdapterRejected, InvalidRequest, Released, StateRejected
from samovar.native.adapter import LoraAdapter
from samovar.native.interface import StateKind
from samovar.native.llama import LlamaBackend
from samovar.native.model import Model
from tests.conftest import GENERATING_KINDS, ROOT, Models, scaled
from tests.native.test_backend import forced, logits_of, opened, prime, prompt, put

pytestmark = pytest.mark.native

TEXT = prompt(65)


@contextmanager
def adaptable(
    models: Models, kind: str = "llama", **options: object
) -> Iterator[tuple[LlamaBackend, LoraAdapter, LoraAdapter]]:
    """A backend and two adapters for it, loaded and not attached."""
    path = models(kind)
    with opened(path, **options) as (backend, _):
        yield backend, *(backend.load_adapter(models.adapter(path, seed=s)) for s in (1, 2))


def told(backend: LlamaBackend, seq_id: int = 0) -> np.ndarray:
    """The logits during a text, from scratch."""
    backend.seq_rm(seq_id)
    put(backend, seq_id, TEXT)
    return forced(backend, seq_id, prompt(4, 1))


# ---- what they do -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["lanes", "pool"])
@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_an_adapter_changes_what_a_model_says_and_leaves_no_trace(
    models: Models, kind: str, layout: str
) -> None:
    with adaptable(models, kind, layout=layout) as (backend, adapter, _):
        plain = told(backend)
        backend.apply_adapters([(adapter, 1.0)])
        changed = told(backend)
        assert np.abs(changed - plain).max() > 1
        backend.apply_adapters([])
        assert np.array_equal(told(backend), plain)
        backend.apply_adapters([(adapter, 1.0)])
        assert np.array_equal(told(backend), changed)
        backend.unload_adapter(adapter)  # while it is attached
        assert np.array_equal(told(backend), plain)


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_scale_of_zero_is_no_adapter(models: Models, kind: str) -> None:
    with adaptable(models, kind) as (backend, adapter, _):
        plain = told(backend)
        backend.apply_adapters([(adapter, 0.0)])
        assert np.array_equal(told(backend), plain)
        backend.apply_adapters([(adapter, 1.0)])
        backend.apply_adapters([(adapter, -0.0)])
        assert np.array_equal(told(backend), plain)


def test_the_scale_decides_how_much_changes(models: Models) -> None:
    with adaptable(models) as (backend, adapter, _):
        plain = told(backend)
        changes = []
        for scale in (0.01, 0.1, 1.0):
            backend.apply_adapters([(adapter, scale)])
            changes.append(float(np.abs(told(backend) - plain).mean()))
        assert 0 < changes[0] < changes[1] < changes[2]
        backend.apply_adapters([(adapter, -1.0)])
        assert np.abs(told(backend) - plain).mean() > changes[0]


def test_adapters_add_up_and_are_replaced_as_a_set(models: Models) -> None:
    with adaptable(models) as (backend, first, second):
        seen = []
        for adapters in ([first], [second], [first, second], [first]):
            backend.apply_adapters([(adapter, 1.0) for adapter in adapters])
            seen.append(told(backend))
        assert np.array_equal(seen[0], seen[3])
        assert all(np.abs(a - b).max() > 1 for a, b in [seen[:2], seen[1:3], seen[2:]])


def test_an_adapter_works_on_every_sequence_from_the_next_call_on(models: Models) -> None:
    with adaptable(models) as (backend, adapter, _):
        put(backend, 1, TEXT)
        backend.apply_adapters([(adapter, 1.0)])
        put(backend, 1, [9])
        put(backend, 2, [*TEXT, 9])
        assert not np.allclose(logits_of(backend, 1), logits_of(backend, 2), atol=0.1)
        assert backend.seq_rm(1)
        put(backend, 1, [*TEXT, 9])
        assert np.array_equal(logits_of(backend, 1), logits_of(backend, 2))


# ---- logits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_logits_of_another_set_are_dropped(models: Models, kind: str) -> None:
    with adaptable(models, kind) as (backend, adapter, other):
        for change in (
            [(adapter, 1.0)],
            [(adapter, 0.5)],
            [(other, 0.5)],
            [(adapter, 1.0), (other, 1.0)],
            [],
        ):
            for seq_id in (0, 1):
                backend.seq_rm(seq_id)
                put(backend, seq_id, TEXT)
            backend.apply_adapters(change)
            assert not backend.has_logits(0)
            assert not backend.has_logits(1)


def test_logits_of_the_same_set_stay(models: Models) -> None:
    with adaptable(models) as (backend, adapter, _):
        backend.apply_adapters([(adapter, 1.0)])
        put(backend, 0, TEXT)
        before = logits_of(backend)
        backend.apply_adapters([(adapter, 1.0)])
        assert np.array_equal(logits_of(backend), before)


# ---- state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_state_packed_under_another_set_is_refused(models: Models, kind: str) -> None:
    with adaptable(models, kind) as (backend, adapter, other):
        sets = [[], [(adapter, 1.0)], [(adapter, 0.5)], [(other, 1.0)]]
        packs = []
        for applied in sets:
            backend.apply_adapters(applied)
            backend.seq_rm(0)
            put(backend, 0, TEXT)
            packs.append(backend.kv_pack(TEXT))
        for number, applied in enumerate(sets):
            backend.apply_adapters(applied)
            expected = told(backend, 1)
            for pack_number, packed in enumerate(packs):
                backend.seq_rm(0)
                if pack_number != number:
                    with pytest.raises(StateRejected):
                        backend.kv_unpack(packed)
                    assert backend.tokens(0) == []
                    continue
                assert backend.kv_unpack(packed) == TEXT
                if backend.state_kind is StateKind.DIVISIBLE:
                    prime(backend)
                assert np.array_equal(forced(backend, 0, prompt(4, 1)), expected)


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_sequence_of_mixed_cells_is_not_saved(models: Models, kind: str) -> None:
    with adaptable(models, kind) as (backend, adapter, _):
        put(backend, 0, TEXT)
        backend.apply_adapters([(adapter, 1.0)])
        with pytest.raises(StateRejected):  # computed under none
            backend.kv_pack(TEXT)
        put(backend, 0, [9])
        for applied in ([(adapter, 1.0)], []):
            backend.apply_adapters(applied)
            with pytest.raises(StateRejected):
                backend.kv_pack([*TEXT, 9])
            with pytest.raises(StateRejected):
                backend.export_tail(0)
            if backend.state_kind is not StateKind.INDIVISIBLE:
                with pytest.raises(StateRejected):
                    backend.export_ranges(0, [(0, 5)])
        backend.seq_cp(0, 1)  # a copy is as mixed
        with pytest.raises(StateRejected):
            backend.kv_pack([*TEXT, 9], 1)
        backend.seq_rm(0)
        put(backend, 0, TEXT)
        backend.kv_pack(TEXT)


def test_a_sequence_that_is_cut_before_its_cells_mix_can_be_saved_again(models: Models) -> None:
    with adaptable(models) as (backend, adapter, _):
        put(backend, 0, TEXT)
        expected = backend.kv_pack(TEXT)
        backend.apply_adapters([(adapter, 1.0)])
        put(backend, 0, [9, 9])
        backend.apply_adapters([])
        assert backend.seq_rm(0, len(TEXT) + 1)
        with pytest.raises(StateRejected):
            backend.kv_pack([*TEXT, 9])
        assert backend.seq_rm(0, len(TEXT))
        assert backend.kv_pack(TEXT) == expected


def test_a_state_finds_its_adapter_again_after_it_was_loaded_anew(models: Models) -> None:
    with adaptable(models) as (backend, adapter, _):
        backend.apply_adapters([(adapter, 1.0)])
        expected = told(backend)
        backend.seq_rm(0)
        put(backend, 0, TEXT)
        packed = backend.kv_pack(TEXT)
    with adaptable(models) as (backend, _, _other):
        again = backend.load_adapter(models.adapter(models()))
        backend.apply_adapters([(again, 1.0)])
        backend.kv_unpack(packed)
        prime(backend)
        assert np.array_equal(forced(backend, 0, prompt(4, 1)), expected)


# ---- what is refused ----------------------------------------------------------------------------


def test_an_adapter_of_another_architecture_is_refused(models: Models) -> None:
    with opened(models()) as (backend, _), pytest.raises(AdapterRejected):
        backend.load_adapter(models.adapter(models("qwen2")))


def test_an_adapter_of_another_shape_is_refused(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "wide.gguf"
    build_adapter(path, models(vocab="spm"), tensors=("output", "token_embd", "attn_q"))
    data = bytearray(path.read_bytes())
    assert data.count(b"blk.3.attn_q") == 2
    deeper = tmp_path / "deeper.gguf"
    deeper.write_bytes(data.replace(b"blk.3.attn_q", b"blk.7.attn_q"))
    crossed = tmp_path / "crossed.gguf"
    crossed.write_bytes(data.replace(b"blk.3.attn_q", b"blk.3.attn_k"))
    with opened(models()) as (backend, _):
        for wrong in (deeper, crossed):
            with pytest.raises(AdapterRejected):
                backend.load_adapter(wrong)
        backend.prefill([5])


def test_models_vocabularies_and_damaged_files_are_refused(models: Models, tmp_path: Path) -> None:
    whole = models.adapter(models()).read_bytes()
    wrong = {"empty": b"", "cut off": whole[: len(whole) // 2], "noise": bytes(range(256)) * 40}
    with opened(models()) as (backend, _):
        for name, data in wrong.items():
            path = tmp_path / name
            path.write_bytes(data)
            with pytest.raises(AdapterRejected):
                backend.load_adapter(path)
        for path in (models(), models.vocabulary()):
            with pytest.raises(AdapterRejected):
                backend.load_adapter(path)


def test_an_adapter_of_another_loaded_model_is_refused(models: Models) -> None:
    with adaptable(models) as (backend, _, _other), adaptable(models) as (_, foreign, _third):
        put(backend, 0, TEXT)
        before = logits_of(backend)
        with pytest.raises(AdapterRejected):
            backend.apply_adapters([(foreign, 1.0)])
        with pytest.raises(InvalidRequest):
            backend.apply_adapters([("an adapter", 1.0)])  # type: ignore[list-item]
        assert np.array_equal(logits_of(backend), before)


def test_a_refused_set_leaves_the_one_before_attached(models: Models) -> None:
    with adaptable(models) as (backend, adapter, gone):
        backend.apply_adapters([(adapter, 1.0)])
        expected = told(backend)
        backend.unload_adapter(gone)
        for wrong in ([(adapter, 0.5), (gone, 1.0)], [(adapter, float("nan"))]):
            with pytest.raises((Released, InvalidRequest)):
                backend.apply_adapters(wrong)
            assert np.array_equal(told(backend), expected)


FUZZ = """
import random, sys
from pathlib import Path
from samovar.errors import SamovarError
from tests.native.test_backend import opened

model, adapter, work, count = *map(Path, sys.argv[1:4]), int(sys.argv[4])
whole = adapter.read_bytes()
chance = random.Random(4)
with opened(model) as (backend, _):
    for number in range(count):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            data[chance.randrange(min(len(data), 1500))] = chance.randrange(256)
        work.write_bytes(data)
        try:
            loaded = backend.load_adapter(work)
        except SamovarError:
            continue
        backend.apply_adapters([(loaded, 1.0)])
        backend.seq_rm(0)
        backend.prefill([5, 6, 7])
        backend.unload_adapter(loaded)
print("alive")
"""


def test_no_damaged_adapter_ends_the_process(models: Models, tmp_path: Path) -> None:
    path = models()
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c", FUZZ),
            *(path, models.adapter(path), tmp_path / "damaged.gguf"),
            str(scaled(150, 1000)),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]


# ---- lifetimes ----------------------------------------------------------------------------------


def test_an_adapter_that_is_closed_while_attached_is_freed_when_it_is_detached(
    models: Models,
) -> None:
    with adaptable(models) as (backend, adapter, _):
        plain = told(backend)
        backend.apply_adapters([(adapter, 1.0)])
        changed = told(backend)
        adapter.close()
        assert np.array_equal(told(backend), changed)  # still there
        with pytest.raises(Released):
            backend.apply_adapters([(adapter, 0.5)])
        assert np.array_equal(told(backend), changed)
        backend.unload_adapter(adapter)
        assert np.array_equal(told(backend), plain)


def test_an_adapter_that_nobody_holds_is_freed_once_it_is_detached(models: Models) -> None:
    with opened(models()) as (backend, _):
        adapter = backend.load_adapter(models.adapter(models()))
        handle = adapter.handle
        backend.apply_adapters([(adapter, 1.0)])
        del adapter
        gc.collect()
        assert handle.is_open
        told(backend)
        backend.apply_adapters([])
        gc.collect()
        assert not handle.is_open


def test_an_adapter_keeps_its_model_until_it_is_closed(models: Models) -> None:
    model = Model(models())
    adapter = LoraAdapter(model, models.adapter(models()))
    model.close()
    with pytest.raises(Released):
        LoraAdapter(model, models.adapter(models()))
    assert adapter.handle.pointer
    adapter.close()
    adapter.close()


def test_closing_a_backend_with_adapters_attached_and_not_closes_in_order(models: Models) -> None:
    chance = random.Random(1)
    for _ in range(5):
        with adaptable(models) as (backend, first, second):
            backend.apply_adapters([(first, 1.0)])
            backend.embed([5])
            told(backend)
            for adapter in chance.sample([first, second], chance.randint(0, 2)):
                adapter.close()
        second.close()
        assert not first.handle.is_open
