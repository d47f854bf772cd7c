"""The probe: what a child's end means, what is remembered, and the real thing."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from ctypes import Array, c_char
from pathlib import Path

import pytest

from samovar.native import probe, probe_child
from samovar.native.probe import ProbeResult, extra_buffers_are_safe, probe_result

from .plain_library import PlainLibrary, plain_library

ROOT = Path(__file__).resolve().parents[2]

Weights = Array[c_char]

ASK = """
import dataclasses, json, sys
from pathlib import Path
from samovar.native.probe import extra_buffers_are_safe, probe_result
command = json.loads(sys.argv[2])
result = probe_result(cache_dir=Path(sys.argv[1]), command=command)
assert extra_buffers_are_safe(cache_dir=Path(sys.argv[1]), command=command) is result.ok
assert not any(name.partition(".")[0] == "llama_cpp" for name in sys.modules)
print(json.dumps(dataclasses.asdict(result)))
"""


def ask(
    cache_dir: Path, command: Sequence[str] | None = None, package: Path | None = None
) -> tuple[ProbeResult, str]:
    """The answer of a fresh process, and what it logged; `package` is where its llama_cpp lies."""
    paths = [str(package)] if package else []
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT / "src")])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK, str(cache_dir), json.dumps(command)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ProbeResult(**json.loads(done.stdout)), done.stderr


class Child:
    """A command that leaves a mark each time it runs."""

    def __init__(self, folder: Path, code: str = "") -> None:
        self.marks = folder / "marks"
        mark = f"open({str(self.marks)!r}, 'a').write('x')"
        self.command = [sys.executable, "-c", f"import os, signal, sys, time; {mark}; {code}"]

    @property
    def runs(self) -> int:
        return len(self.marks.read_text()) if self.marks.exists() else 0


@pytest.fixture(scope="session")
def plain() -> PlainLibrary:
    return plain_library()


# --- what the end of a child means ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ok", "reason", "is_remembered"),
    [
        ("", True, "all products are right", True),
        ("sys.stderr.write('off by 90%'); sys.exit(3)", False, "off by 90%", True),
        ("sys.exit(3)", False, "wrong products", True),
        ("os.kill(os.getpid(), signal.SIGSEGV)", False, "killed by SIGSEGV", True),
        ("os.kill(os.getpid(), signal.SIGILL)", False, "killed by SIGILL", True),
        (
            "print('AMX, Q4_0, 8 rows', flush=True); os.abort()",
            False,
            "killed by SIGABRT (AMX, Q4_0, 8 rows)",
            True,
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", False, "killed by SIGKILL", False),
        ("sys.exit('no module')", False, "exit status 1: no module", False),
    ],
)
def test_how_the_child_ends_is_the_answer(
    tmp_path: Path, code: str, reason: str, *, ok: bool, is_remembered: bool
) -> None:
    # A death on purpose needs no core file.
    code = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {code}"
    child = Child(tmp_path, code)
    result = probe_result(cache_dir=tmp_path / "cache", command=child.command)
    assert (result.ok, result.reason) == (ok, reason)
    assert bool(list(tmp_path.glob("cache/probe-*.json"))) is is_remembered


def test_a_child_that_hangs_is_stopped_and_proves_nothing(tmp_path: Path) -> None:
    child = Child(tmp_path, "time.sleep(600)")
    started = time.monotonic()
    result = probe_result(cache_dir=tmp_path, command=child.command, timeout_seconds=1)
    assert time.monotonic() - started < 30
    assert (result.ok, result.reason) == (False, "no answer within 1 s")
    assert not list(tmp_path.glob("probe-*"))


def test_a_child_that_does_not_start_proves_nothing(tmp_path: Path) -> None:
    result = probe_result(cache_dir=tmp_path, command=[str(tmp_path / "no-such-program")])
    assert not result.ok
    assert result.reason.startswith("the probe did not start")
    assert not list(tmp_path.glob("probe-*"))


def test_an_unsafe_answer_warns_once_and_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    child = Child(tmp_path, "sys.stderr.write('off by 77%'); sys.exit(3)")
    with caplog.at_level(logging.WARNING, logger="samovar.native.probe"):
        for _ in range(2):
            assert not extra_buffers_are_safe(cache_dir=tmp_path, command=child.command)
    (message,) = caplog.messages
    assert "off by 77%" in message
    assert "make setup" in message
    assert "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" in message


# --- what is remembered --------------------------------------------------------------------------


def test_an_answer_is_remembered_by_later_processes(tmp_path: Path) -> None:
    child = Child(tmp_path)
    first, _ = ask(tmp_path / "cache", child.command)
    second, _ = ask(tmp_path / "cache", child.command)
    assert first == second
    assert child.runs == 1


def test_only_the_owner_can_read_what_is_remembered(tmp_path: Path) -> None:
    cache = tmp_path / "a" / "cache"
    probe_result(cache_dir=cache, command=Child(tmp_path).command)
    (memory,) = cache.iterdir()
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"ok": true}',
        b'{"ok": 1, "reason": "", "when": "", "library": ""}',
        b'{"ok": true, "reason": 1, "when": "", "library": ""}',
        b'{"ok": true, "reason": "", "when": "", "library": "another"}',
        b'{"ok": true, "reason": "", "when": "", "library": "", "more": 1}',
    ],
)
def test_a_damaged_memory_is_no_memory(tmp_path: Path, told: bytes) -> None:
    child = Child(tmp_path, "sys.exit(3)")
    cache = tmp_path / "cache"
    key = probe_result(cache_dir=cache, command=child.command).library
    memory = cache / f"probe-{key}.json"
    memory.write_bytes(told)
    result, _ = ask(cache, child.command)
    assert (result.ok, result.library) == (False, key)
    assert child.runs == 2
    assert json.loads(memory.read_text())["reason"] == "wrong products"


def test_without_a_place_to_remember_it_asks_once_per_process(tmp_path: Path) -> None:
    child = Child(tmp_path)
    (tmp_path / "file").touch()
    for _ in range(2):
        assert extra_buffers_are_safe(cache_dir=tmp_path / "file" / "x", command=child.command)
    assert child.runs == 1


def test_without_a_home_it_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert extra_buffers_are_safe(command=Child(tmp_path).command)


def test_the_memory_lies_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    result = probe_result(command=Child(tmp_path).command)
    assert (tmp_path / "xdg" / "samovar" / f"probe-{result.library}.json").exists()


def test_another_library_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib" / "libggml-cpu.so"
    library.parent.mkdir()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(library.parent))
    child = Child(tmp_path)

    def key() -> str:
        return probe_result(cache_dir=tmp_path / "cache", command=child.command).library

    library.write_bytes(b"one")
    keys = [key(), key()]
    library.write_bytes(b"another")
    keys.append(key())
    os.utime(library, (1, 1))
    keys.append(key())
    assert len(set(keys)) == 3
    assert child.runs == 3


def test_without_the_library_the_answer_is_no(tmp_path: Path) -> None:
    source = str(ROOT / "src")
    code = f"import sys; sys.path.insert(0, {source!r}); {ASK}"
    # Without site-packages nothing is installed.
    command = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "cache"), "null"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["reason"] == "llama-cpp-python is not installed"
    assert not (tmp_path / "cache").exists()


# --- the child -----------------------------------------------------------------------------------


def test_a_difference_is_measured_in_units_of_the_largest_value() -> None:
    assert probe_child.error(array("f", [1, 2]), array("f", [1, 4])) == 0.5
    assert probe_child.error(array("f", [1, float("nan")]), array("f", [1, 4])) == float("inf")
    assert probe_child.error(array("f", [float("nan"), 1]), array("f", [1, 4])) == float("inf")
    assert probe_child.error(array("f", [float("inf"), 1]), array("f", [1, 4])) == float("inf")


@pytest.mark.native
def test_the_library_that_set_up_installed_is_safe(tmp_path: Path) -> None:
    result, logged = ask(tmp_path)
    assert (result.ok, result.reason) == (True, "all products are right")
    assert "extra weight buffers" not in logged


class OneWrong(probe_child.Ggml):
    """Offers the plain buffer as an extra one, and falsifies one number of one product in it."""

    calls = 0

    def extra_buffers(self) -> Iterator[int]:
        yield self.base.ggml_backend_cpu_buffer_type()

    def product(
        self, buffer_type: int, kind: int, weights: Weights, inputs: array[float]
    ) -> array[float] | None:
        values = super().product(buffer_type, kind, weights, inputs)
        self.calls += 1
        is_extra = self.calls % 2 == 0
        rows = len(inputs) // probe_child.DEPTH
        if values and is_extra and kind == probe_child.TYPES["Q8_0"] and rows == 24:
            values[100] += 100
        return values


@pytest.mark.native
def test_one_wrong_number_is_noticed() -> None:
    directory = probe.library_directory()
    assert directory is not None
    (complaint,) = probe_child.complaints(OneWrong(directory))
    assert complaint.startswith("wrong product (CPU, Q8_0, 24 rows: off by ")


@pytest.mark.native
def test_a_folder_without_the_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no library ggml-base in"):
        probe_child.Ggml(tmp_path)


# --- the real thing: compiled without regard to the fault ----------------------------------------

# Compiling takes a minute on two cores, once per machine.
COMPILES = pytest.mark.timeout(1800)

DECODE = """
import sys
import llama_cpp.llama_cpp as ll
params = ll.llama_model_default_params()
params.use_extra_bufts = sys.argv[2] == "extra"
model = ll.llama_model_load_from_file(sys.argv[1].encode(), params)
options = ll.llama_context_default_params()
options.n_ctx = 256
context = ll.llama_init_from_model(model, options)
tokens = (ll.llama_token * 64)(*range(10, 74))
sys.exit(ll.llama_decode(context, ll.llama_batch_get_one(tokens, 64)))
"""


@pytest.mark.native
@COMPILES
def test_the_probe_judges_as_set_up_does(plain: PlainLibrary, tmp_path: Path) -> None:
    result, logged = ask(tmp_path, package=plain.folder)
    assert result.ok is not plain.is_faulty
    assert ("extra weight buffers do not work here" in logged) is plain.is_faulty
    if plain.is_faulty:
        assert result.reason.startswith("killed by SIG")
        assert "(AMX, " in result.reason
    assert ask(tmp_path, package=plain.folder)[0] == result


@pytest.mark.native
@COMPILES
def test_a_model_fares_as_the_probe_says(plain: PlainLibrary, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    make = [sys.executable, "-m", "modelmaker", "llama", str(model), "--quant", "Q8_0"]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    environment = dict(os.environ) | {"PYTHONPATH": str(plain.folder)}

    def decode(buffers: str) -> int:
        command = ["sh", "-c", 'ulimit -c 0; exec "$0" "$@"']
        command += [sys.executable, "-P", "-c", DECODE, str(model), buffers]
        return subprocess.run(command, env=environment, check=False, capture_output=True).returncode

    assert decode("plain") == 0
    assert (decode("extra") != 0) is plain.is_faulty


@pytest.mark.native
@COMPILES
def test_a_run_answers_whatever_the_library(plain: PlainLibrary, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    make = [sys.executable, "-m", "modelmaker", "llama", str(model), "--quant", "Q8_0"]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    paths = os.pathsep.join([str(plain.folder), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "samovar", "run", str(model), "word " * 64, "--raw"]
    for warns in (plain.is_faulty, plain.is_faulty):  # the first asks, the second remembers
        done = subprocess.run(
            [*command, "--max-tokens", "8"], env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.strip()
        assert (b"make setup" in done.stderr) is warns
