"""The cache of compiled wheels: keyed by what decides the bytes, published whole, built once."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import build_llama
import pytest
from build_llama import Plan, Source
from toolchain import Compiler, Cpu, SetUpError, Toolchain

GCC = Compiler("c++", "/usr/bin/c++", "c++ 12.2.0")
CPU = Cpu("x86_64", {"model": "143"}, ("avx2",))
FLAGS = {"CFLAGS": "", "CXXFLAGS": "-O2", "CMAKE_ARGS": ""}
TOOLCHAIN = Toolchain(CPU, {"CC": GCC, "CXX": GCC}, "glibc 2.36", FLAGS)
SOURCE = Source("llama-cpp-python", "0.3.36", "0" * 64)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "wheels", SOURCE, TOOLCHAIN)


def finished(plan: Plan) -> Path:
    """Publish a wheel as a build does."""
    wheel = plan.cache.parent / "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    wheel.write_bytes(b"compiled")
    plan.cache.mkdir(parents=True, exist_ok=True)
    return build_llama.publish(plan, wheel, {"sha256": build_llama.sha256_of(wheel)})


def test_the_pin_is_read_from_the_requirement_file() -> None:
    source = build_llama.read_source(build_llama.LLAMA_REQUIREMENT.read_text())
    assert (source.name, source.version) == ("llama-cpp-python", "0.3.36")
    assert source.stem == "llama_cpp_python-0.3.36"


def test_the_pin_is_the_one_the_package_asks_for() -> None:
    project = (build_llama.ROOT / "pyproject.toml").read_text()
    source = build_llama.read_source(build_llama.LLAMA_REQUIREMENT.read_text())
    assert f'"{source.name}=={source.version}"' in project


@pytest.mark.parametrize("text", ["", "llama-cpp-python==0.3.36\n", "llama-cpp-python\n"])
def test_a_requirement_without_a_hash_is_refused(text: str) -> None:
    with pytest.raises(SetUpError):
        build_llama.read_source(text)


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": dataclasses.replace(CPU, identity={"model": "106"})},
        {"cpu": dataclasses.replace(CPU, flags=("avx2", "avx512f"))},
        {"compilers": {"CC": GCC, "CXX": dataclasses.replace(GCC, version="c++ 14.1.0")}},
        {"compilers": {"CC": GCC, "CXX": dataclasses.replace(GCC, path="/opt/bin/c++")}},
        {"libc": "glibc 2.39"},
        {"flags": {**FLAGS, "CXXFLAGS": "-O3"}},
        {"flags": {**FLAGS, "CMAKE_ARGS": "-DGGML_CUDA=ON"}},
    ],
)
def test_whatever_decides_the_bytes_changes_the_key(plan: Plan, change: dict[str, object]) -> None:
    other = dataclasses.replace(
        plan,
        toolchain=dataclasses.replace(TOOLCHAIN, **change),  # type: ignore[arg-type]
    )
    assert other.key != plan.key


def test_another_source_changes_the_key_and_another_cache_does_not(plan: Plan) -> None:
    assert dataclasses.replace(plan, cache=Path("/elsewhere")).key == plan.key
    other = dataclasses.replace(plan, source=dataclasses.replace(SOURCE, sha256="1" * 64))
    assert other.key != plan.key


def test_where_the_cache_lies() -> None:
    places = [
        {"SAMOVAR_BUILD_CACHE": "/a", "XDG_CACHE_HOME": "/b"},
        {"XDG_CACHE_HOME": "/b"},
        {"XDG_CACHE_HOME": "relative"},
        {},
    ]
    home = Path.home() / ".cache" / "samovar" / "wheels"
    expected = [Path("/a"), Path("/b/samovar/wheels"), home, home]
    assert [build_llama.build_cache(place) for place in places] == expected


def test_a_published_wheel_is_found_with_its_record(plan: Plan) -> None:
    assert build_llama.find_wheel(plan) is None
    wheel = finished(plan)
    assert build_llama.find_wheel(plan) == wheel
    assert json.loads((plan.folder / "build.json").read_text())["sha256"]
    assert [path.name for path in plan.cache.iterdir()] == [plan.key]


def test_a_damaged_wheel_is_built_again(plan: Plan) -> None:
    finished(plan).write_bytes(b"comp")
    assert build_llama.find_wheel(plan) is None
    assert build_llama.ensure_wheel(plan, finished).read_bytes() == b"compiled"


@pytest.mark.parametrize("record", ["", "{", "[]", "{}"])
def test_a_damaged_record_is_built_again(plan: Plan, record: str) -> None:
    finished(plan)
    (plan.folder / "build.json").write_text(record)
    assert build_llama.find_wheel(plan) is None


def test_what_a_crash_left_behind_is_removed(plan: Plan) -> None:
    leaving = plan.cache / f"{plan.key}.new-abc"
    leaving.mkdir(parents=True)
    (leaving / "half.whl").touch()
    finished(plan)
    assert not leaving.exists()


def test_several_set_ups_at_once_build_once(plan: Plan) -> None:
    builds: list[Plan] = []

    def build(plan: Plan) -> Path:
        builds.append(plan)
        time.sleep(0.05)
        return finished(plan)

    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(build_llama.ensure_wheel(plan, build)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert len(set(found)) == 1
    assert len(found) == 4


def test_a_failed_build_lets_the_next_one_try(plan: Plan) -> None:
    def fail(_plan: Plan) -> Path:
        raise SetUpError("no memory")

    with pytest.raises(SetUpError):
        build_llama.ensure_wheel(plan, fail)
    assert build_llama.ensure_wheel(plan, finished).exists()


def test_only_the_added_flags_differ_from_the_callers() -> None:
    plain = build_llama.build_environment(TOOLCHAIN, ())
    assert plain == {"CC": "c++", "CXX": "c++", "CFLAGS": "", "CXXFLAGS": "-O2"}
    added = build_llama.build_environment(TOOLCHAIN, ("-mno-amx-tile",))
    assert added == plain | {"CFLAGS": "-mno-amx-tile", "CXXFLAGS": "-O2 -mno-amx-tile"}


def test_the_installed_wheel_is_known_by_where_it_came_from(plan: Plan, tmp_path: Path) -> None:
    info = tmp_path / "llama_cpp_python-0.3.36.dist-info"
    assert not build_llama.is_installed(plan, tmp_path)
    info.mkdir()
    # As pip notes it for a wheel from an index: not at all.
    assert not build_llama.is_installed(plan, tmp_path)
    (info / "direct_url.json").write_text(json.dumps({"url": f"file:///x/{plan.key}/l.whl"}))
    assert build_llama.is_installed(plan, tmp_path)
    other = dataclasses.replace(plan, toolchain=dataclasses.replace(TOOLCHAIN, libc="musl"))
    assert not build_llama.is_installed(other, tmp_path)


def test_a_failing_step_says_which(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SetUpError, match="exit status 3 from: sh -c exit 3"):
        build_llama.run(["sh", "-c", "exit 3"])
    build_llama.run(["sh", "-c", "echo progress"])
    assert capfd.readouterr().out == ""


def test_the_long_step_shows_tenths_and_keeps_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "build.log"
    steps = 'for i in 1 2 3 4; do echo "  [$i/4] Building"; done'
    build_llama.run_showing_progress(["sh", "-c", steps], {}, log)
    assert capsys.readouterr().err.split("\n")[:-1] == [f"  {i} of 4" for i in (1, 2, 3, 4)]
    assert log.read_text().count("Building") == 4


def test_a_failing_compile_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    with pytest.raises(SetUpError, match="did not compile; the whole story is in"):
        build_llama.run_showing_progress(["sh", "-c", "echo error: no; exit 1"], {}, log)
    assert "error: no" in log.read_text()


def set_up(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """The script as `make setup` calls it."""
    script = build_llama.ROOT / "scripts" / "build_llama.py"
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_cache_that_cannot_be_made_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    done = set_up(SAMOVAR_BUILD_CACHE=str(in_the_way / "wheels"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("set-up stopped: ")
    assert str(in_the_way) in done.stderr
    assert "SAMOVAR_BUILD_CACHE" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_home_that_is_nobodys_is_one_line_that_says_what_to_do() -> None:
    done = set_up("--check", SAMOVAR_BUILD_CACHE="~no-such-user/wheels")
    assert done.returncode == 1
    assert "set HOME, or SAMOVAR_BUILD_CACHE" in done.stderr
    assert done.stderr.count("\n") == 1


INTERRUPTIBLE = """
import build_llama
def build():
    build_llama.run(["sh", "-c", "echo up; exec sleep 60"])
build_llama.this_plan = build
raise SystemExit(build_llama.main())
"""


def test_an_interrupted_set_up_says_so_in_one_line() -> None:
    # What runs in the background of a shell ignores interrupts, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE],
        cwd=build_llama.ROOT / "scripts",
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "up\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=60)
    signal.signal(signal.SIGINT, before)
    assert process.returncode == 130
    assert said.startswith("set-up stopped: interrupted")
    assert said.count("\n") == 1
