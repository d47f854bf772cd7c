"""The decision to leave AMX out: only where the CPU has it and the compiler has the fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import toolchain
from toolchain import Compiler, Cpu, Evidence, SetUpError

X86 = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Processor
stepping	: 8
cpu MHz		: 2000.000
flags		: fpu sse2 avx512f amx_tile amx_int8 cpuid_fault hypervisor

processor	: 1
vendor_id	: GenuineIntel
stepping	: 9
"""
ARM = """\
processor	: 0
BogoMIPS	: 50.00
Features	: fp asimd sve
CPU implementer	: 0x41
CPU part	: 0xd40
"""
AMX_CPU = Cpu("x86_64", {}, ("amx_int8", "amx_tile"))

LOST = Evidence(is_lost=True, words="dies")
WHOLE = Evidence(is_lost=False, words="arrives")
UNKNOWN = Evidence(is_lost=None, words="could not be tried")


def test_an_x86_cpu_is_its_first_processor_without_what_changes() -> None:
    cpu = toolchain.parse_cpuinfo(X86, "x86_64")
    assert cpu.identity == {
        "vendor_id": "GenuineIntel",
        "cpu family": "6",
        "model": "143",
        "stepping": "8",
    }
    assert cpu.flags == ("amx_int8", "amx_tile", "avx512f", "sse2")
    assert cpu.has_amx


def test_an_arm_cpu_is_its_part_and_features() -> None:
    cpu = toolchain.parse_cpuinfo(ARM, "aarch64")
    assert cpu.identity == {"CPU implementer": "0x41", "CPU part": "0xd40"}
    assert cpu.flags == ("asimd", "fp", "sve")
    assert not cpu.has_amx


@pytest.mark.parametrize(
    "cpu",
    [
        Cpu("x86_64", {}, ("avx512f",)),
        Cpu("x86_64", {}, ("amx_tile",)),
        Cpu("aarch64", {}, ("asimd",)),
        Cpu("x86_64", {}, ()),
    ],
)
def test_a_cpu_without_amx_changes_no_flag_and_compiles_nothing(cpu: Cpu) -> None:
    verdict = toolchain.judge_amx(cpu, _never_tried, _never_asked)
    assert not verdict.is_faulty
    assert verdict.flags == ()


def _never_tried() -> Evidence:
    pytest.fail("tried on a CPU without AMX")


def _never_asked() -> tuple[int, ...]:
    pytest.fail("asked for the version although trying gave an answer")


def test_a_lost_configuration_leaves_amx_out() -> None:
    verdict = toolchain.judge_amx(AMX_CPU, lambda: LOST, _never_asked)
    assert verdict.flags == ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
    assert verdict.reason == "dies"


def test_a_whole_configuration_keeps_amx_whatever_the_version() -> None:
    verdict = toolchain.judge_amx(AMX_CPU, lambda: WHOLE, _never_asked)
    assert verdict.flags == ()


def test_the_version_decides_where_it_cannot_be_tried() -> None:
    old = toolchain.judge_amx(AMX_CPU, lambda: UNKNOWN, lambda: (12, 2))
    new = toolchain.judge_amx(AMX_CPU, lambda: UNKNOWN, lambda: (14, 1))
    other = toolchain.judge_amx(AMX_CPU, lambda: UNKNOWN, lambda: ())
    assert [old.is_faulty, new.is_faulty, other.is_faulty] == [True, False, False]
    assert old.reason == "GCC 12.2 is known to lose it; could not be tried"


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        ((10, 2), False),
        ((11, 0), True),
        ((11, 4), True),
        ((11, 5), False),
        ((12, 3), True),
        ((12, 4), False),
        ((13, 2), True),
        ((13, 3), False),
        ((14, 1), False),
        ((15, 0), False),
        ((), False),
    ],
)
def test_the_releases_of_gcc_with_the_fault(version: tuple[int, ...], *, loses: bool) -> None:
    assert toolchain.loses_tile_configuration(version) is loses


@pytest.mark.parametrize(
    ("status", "is_lost"), [(0, False), (1, True), (-11, True), (-4, True), (2, None), (127, None)]
)
def test_what_the_exit_status_of_the_trial_means(status: int, *, is_lost: bool | None) -> None:
    assert toolchain.read_amx_status(status).is_lost is is_lost


def test_a_compiler_that_cannot_compile_proves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    evidence = toolchain.try_amx(Compiler(str(broken), str(broken), ""), ())
    assert evidence.is_lost is None


def test_trying_agrees_with_the_version_on_this_machine() -> None:
    cxx = toolchain.find_compilers()["CXX"]
    evidence = toolchain.try_amx(cxx, ())
    if not toolchain.this_cpu().has_amx:
        # Without AMX nothing is configured, so nothing is lost.
        assert not evidence.is_lost
    elif evidence.is_lost is not None:
        version = toolchain.gcc_version(cxx)
        assert evidence.is_lost is toolchain.loses_tile_configuration(version)


def test_the_flags_that_leave_amx_out_cure_this_compiler() -> None:
    cxx = toolchain.find_compilers()["CXX"]
    cpu = toolchain.this_cpu()
    flags = toolchain.WITHOUT_AMX if cpu.machine == "x86_64" else ()
    assert not toolchain.try_amx(cxx, flags).is_lost


def test_a_missing_compiler_is_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SetUpError, match=r"no C compiler found: install one .*g\+\+") as caught:
        toolchain.find_compilers()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["no-such-compiler -O2", "c++ 'half a quotation"])
def test_a_named_compiler_that_does_not_run_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.raises(SetUpError, match=f"CXX={re.escape(command)} does not run"):
        toolchain.find_compilers()


def test_a_blank_name_names_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    found = toolchain.find_compilers()["CXX"]
    monkeypatch.setenv("CXX", " ")
    assert toolchain.find_compilers()["CXX"] == found


def test_a_named_compiler_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = toolchain.find_compilers()["CXX"]
    monkeypatch.setenv("CXX", f"{found.path} -pipe")
    assert toolchain.find_compilers()["CXX"].command == f"{found.path} -pipe"
