"""What memory is free, and that what does not fit is refused before it is taken."""

from __future__ import annotations

from pathlib import Path

import llama_cpp.llama_cpp as ll
import pytest

from samovar import gguf
from samovar.errors import OutOfMemory
from samovar.native import memory
from samovar.native.context import Context, ContextOptions
from samovar.native.model import Model, ModelOptions
from tests.conftest import Models
from tests.native.test_backend import OPTIONS, opened

pytestmark = pytest.mark.native

MIB = 2**20

# ---- what is free --------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A system with 1,000 MiB available and no limits."""
    (tmp_path / "proc/self").mkdir(parents=True)
    text = f"MemTotal: 9999999 kB\nMemAvailable: {1000 * 1024} kB\n"
    (tmp_path / "proc/meminfo").write_text(text)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    return tmp_path


def free(system: Path) -> int | None:
    found = memory.available_bytes(system / "proc", system / "cgroup")
    return None if found is None else found // MIB


def limit(folder: Path, limit: object, used: int, **stat: int) -> None:
    """A cgroup of version 2; all figures in MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit if isinstance(limit, str) else limit * MIB}\n")
    (folder / "memory.current").write_text(f"{used * MIB}\n")
    lines = [f"{name} {size * MIB}" for name, size in stat.items()]
    (folder / "memory.stat").write_text("\n".join(lines) + "\n")


def place(system: Path, lines: str) -> None:
    (system / "proc/self/cgroup").write_text(lines)


def test_without_limits_the_kernels_figure_counts(system: Path) -> None:
    assert free(system) == 1000


def test_a_system_that_says_nothing_is_not_guessed_about(tmp_path: Path) -> None:
    assert free(tmp_path) is None


def test_the_limit_of_the_own_cgroup_counts(system: Path) -> None:
    place(system, "0::/user/me\n")
    limit(system / "cgroup/user/me", 500, 300, active_file=0, inactive_file=0)
    assert free(system) == 200


def test_the_limit_of_a_parent_counts_too(system: Path) -> None:
    place(system, "0::/user/me\n")
    limit(system / "cgroup/user/me", "max", 10, active_file=0, inactive_file=0)
    limit(system / "cgroup/user", 400, 100, active_file=0, inactive_file=0)
    assert free(system) == 300


def test_files_in_the_page_cache_can_be_given_back_and_tmpfs_cannot(system: Path) -> None:
    limit(system / "cgroup", 500, 400, file=350, shmem=200, active_file=100, inactive_file=50)
    assert free(system) == 250


def test_a_cgroup_over_its_limit_has_no_room(system: Path) -> None:
    limit(system / "cgroup", 500, 600, active_file=10, inactive_file=0)
    assert free(system) == 0


@pytest.mark.parametrize("lines", ["4:cpu,memory:/docker/x\n0::/\n", "0::/\n4:memory:/docker/x\n"])
@pytest.mark.parametrize("folder", ["docker/x", ""])
def test_limits_of_the_first_version_of_cgroups_count(
    system: Path, lines: str, folder: str
) -> None:
    """Inside of a container the folder of the outside may be missing: its own is the root."""
    place(system, lines)
    group = system / "cgroup/memory" / folder
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{700 * MIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{100 * MIB}\n")
    (group / "memory.stat").write_text(
        f"active_file 1\ntotal_active_file {MIB}\ntotal_inactive_file 0\n"
    )
    assert free(system) == 601


def test_this_system_says_something() -> None:
    found = memory.available_bytes()
    assert found is None or found > MIB


# ---- what does not fit ---------------------------------------------------------------------------


def test_a_context_that_does_not_fit_is_refused_and_says_what_to_do(models: Models) -> None:
    model = Model(models())
    with pytest.raises(OutOfMemory, match="--ctx-size"):
        Context(model, ContextOptions(context_length=2**28, num_sequences=7))
    model.close()


def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bytes] = []
    monkeypatch.setattr(ll, "llama_model_load_from_file", lambda name, _: loaded.append(name))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(OutOfMemory, match="smaller model"):
        Model(models())
    assert loaded == []


def test_a_length_is_halved_until_a_context_of_it_takes_half_of_what_is_free(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = gguf.read_header(models(context_length=2**17))
    for length in (2**17, 2**15, 2**13):
        need = 2 * memory.context_bytes(header, ContextOptions(context_length=length))
        for free, expected in ((need, length), (need - 1, length // 2)):
            monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
            assert memory.fitting_length(header, ContextOptions()) == expected
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert memory.fitting_length(header, ContextOptions()) == 4096
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert memory.fitting_length(header, ContextOptions()) == 2**17


def test_weights_that_are_only_mapped_count_beside_the_context(models: Models) -> None:
    model = Model(models())
    size = models().stat().st_size
    assert 0 <= model.mapped_bytes <= size
    options = ContextOptions(**OPTIONS)
    memory.check_context(model.header, options, mapped_bytes=size)
    with pytest.raises(OutOfMemory, match="beside the weights"):
        memory.check_context(model.header, options, mapped_bytes=2**60)
    model.mapped_bytes = 2**60
    with pytest.raises(OutOfMemory, match="beside the weights"):
        Context(model, options)
    model.close()


@pytest.mark.parametrize(
    "options",
    [
        ModelOptions(use_mmap=False),
        ModelOptions(check_memory=False),
        ModelOptions(vocab_only=True),
        ModelOptions(without_weights=True),
    ],
    ids=["read", "unchecked", "vocabulary", "without weights"],
)
def test_weights_that_are_not_mapped_do_not_count_twice(
    models: Models, options: ModelOptions
) -> None:
    model = Model(models(), options)
    assert model.mapped_bytes == 0
    model.close()


def test_what_is_estimated_for_a_context_grows_with_what_is_asked_for(models: Models) -> None:
    with opened(models()) as (backend, context):
        header = backend.model.header
        base = memory.context_bytes(header, context.options)
        for more in ({"context_length": 4096}, {"num_sequences": 8}, {"micro_batch_size": 32}):
            options = ContextOptions(**(OPTIONS | more))
            estimate = memory.context_bytes(header, options)
            assert (estimate > base) is ("micro_batch_size" not in more)
