"""Contexts of every shape that may be asked for: made or refused, and never the process's end."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from samovar.errors import InvalidRequest, StateRejected
from samovar.native.context import Context
from samovar.native.interface import NoRoom, Row, StateKind, Stepped
from samovar.native.llama import LlamaBackend
from tests.conftest import GENERATING_KINDS, ROOT, Models, scaled
from tests.native.test_backend import opened, prompt

pytestmark = pytest.mark.native


def any_shape(chance: random.Random) -> dict[str, object]:
    """Sizes that do not go into each other, the least and the most."""
    sequences = chance.choice([1, 2, 3, 5, 7, 13, 31, 64, 100, 256])
    batch = max(sequences, chance.choice([1, 2, 3, 7, 17, 40, 64, 100, 513]))
    return {
        "num_sequences": sequences,
        "batch_size": batch,
        "micro_batch_size": chance.randint(1, batch),
        "context_length": chance.choice([1, 2, 3, 7, 33, 100, 300]),
        "layout": chance.choice(["lanes", "pool"]),
        "flash_attention": chance.choice(["auto", "off"]),
        "full_window": chance.random() < 0.3,
        "type_k": chance.choice(["f16", "f32", "bf16", "q8_0", "q4_0", "q5_1"]),
        "type_v": chance.choice(["f16", "f16", "f32", "bf16", "q8_0", "q5_0"]),
        "threads": chance.choice([1, 2, 3]),
    }


def try_shapes(path: str, count: str, seed: str) -> None:
    """Make contexts, step in them, and move states; says which it is about to make."""
    chance, made = random.Random(int(seed)), 0
    for _ in range(int(count)):
        shape = any_shape(chance)
        sys.stdout.write(f"{shape}\n")
        sys.stdout.flush()
        try:
            with opened(Path(path), **shape) as (backend, context):
                use(backend, context, chance)
                made += 1
        except InvalidRequest:
            continue
    assert made > int(count) // 3


def use(backend: LlamaBackend, context: Context, chance: random.Random) -> None:
    """A few steps of a few sequences, and a state from one to another."""
    for _ in range(3):
        outcome = backend.step(some_rows(backend, chance))
        assert isinstance(outcome, (Stepped, NoRoom))
        held = [len(backend.tokens(s)) for s in range(backend.num_sequences)]
        assert held == [context.last_position(s) + 1 for s in range(backend.num_sequences)]
    longest = held.index(max(held))
    if backend.state_kind is not StateKind.NONE and held[longest]:
        packed = backend.kv_pack(backend.tokens(longest), longest)
        try:
            backend.kv_unpack(packed, backend.num_sequences - 1)
        except StateRejected:  # the cells of a pool may be full
            assert context.options.layout == "pool"


def some_rows(backend: LlamaBackend, chance: random.Random) -> list[Row]:
    """Rows of several lengths that the batch and each sequence have room for."""
    rows, left = [], backend.batch_size
    count = min(backend.num_sequences, chance.randint(1, 8))
    for seq_id in chance.sample(range(backend.num_sequences), count):
        room = min(left, backend.context_length - len(backend.tokens(seq_id)))
        length = min(room, chance.choice([1, 1, 5, 50]))
        if length:
            rows.append(Row(seq_id, prompt(length, seq_id)))
            left -= length
    return rows


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_context_of_any_shape_is_made_or_refused(models: Models, cache: Path, kind: str) -> None:
    for seed in range(scaled(1, 4)):
        done = subprocess.run(
            [sys.executable, "-c", CALL, str(models(kind)), str(scaled(10, 60)), str(seed)],
            env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "XDG_CACHE_HOME": str(cache)},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, [*done.stdout.splitlines()[-1:], done.stderr[-800:]]


CALL = "import sys; from tests.native.test_contexts import try_shapes; try_shapes(*sys.argv[1:])"


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_pool_too_small_for_its_sequences_is_refused(models: Models, kind: str) -> None:
    with (
        pytest.raises(InvalidRequest, match="pool of 3 tokens"),
        opened(models(kind), layout="pool", context_length=3, num_sequences=4),
    ):
        raise AssertionError
