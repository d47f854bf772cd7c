"""What decides the bytes of a compiled llama.cpp: the CPU, the compilers, and the AMX fault.

llama.cpp is compiled with `-march=native`. Some GCC releases lose the tile configuration of its
AMX kernels (amx_fault.cpp says how), and quantised models then die of a general protection fault.
Where the CPU has AMX and the compiler has the fault, and only there, AMX is left out.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

WITHOUT_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
AMX_FAULT_SOURCE = Path(__file__).with_name("amx_fault.cpp")

# Generous: the compile takes a third of a second.
AMX_FAULT_TIMEOUT_SECONDS = 60

_IDENTITY_FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "uarch",
    "isa",
    "cpu",
    "machine",
)

# Instruction sets only. The other x86 flags (mitigations, topology, virtualisation) change with
# kernels and hypervisors and decide no instruction.
_INSTRUCTION_SETS = re.compile(
    r"^(3dnow|abm|adx|aes|amx|avx|bmi|clflushopt|clwb|cx16|f16c|fma|fxsr|gfni|lzcnt|mmx|mov|pclmul"
    r"|pku|pni|popcnt|rdrnd|rdrand|rdseed|sha|sse|ssse|tbm|vaes|vpclmul|xop|xsave)"
)


class SetUpError(Exception):
    """Set-up cannot go on; the message is one line that says what to do."""


@dataclass(frozen=True)
class Cpu:
    """The CPU as far as a compiler looks at it."""

    machine: str
    identity: dict[str, str]
    flags: tuple[str, ...]

    @property
    def has_amx(self) -> bool:
        """Whether llama.cpp would be compiled with its AMX kernels here."""
        return self.machine == "x86_64" and {"amx_tile", "amx_int8"} <= set(self.flags)


def this_cpu() -> Cpu:
    """The CPU of this machine; little is known of it where there is no /proc/cpuinfo."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Cpu(platform.machine(), {"processor": platform.processor()}, ())
    return parse_cpuinfo(cpuinfo, platform.machine())


def parse_cpuinfo(cpuinfo: str, machine: str) -> Cpu:
    """The first processor of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    flags = fields.get("flags", "").split()
    wanted = [flag for flag in flags if _INSTRUCTION_SETS.match(flag)]
    wanted += fields.get("Features", "").split()
    identity = {name: fields[name] for name in _IDENTITY_FIELDS if name in fields}
    return Cpu(machine, identity, tuple(sorted(wanted)))


@dataclass(frozen=True)
class Compiler:
    """One compiler: how it is called, where it is, and what it says it is."""

    command: str
    path: str
    version: str


def find_compilers() -> dict[str, Compiler]:
    """The C and the C++ compiler that the build will use, CC and CXX before all others."""
    return {
        "CC": _find_compiler("CC", ("cc", "gcc", "clang"), "C"),
        "CXX": _find_compiler("CXX", ("c++", "g++", "clang++"), "C++"),
    }


def _find_compiler(variable: str, names: Sequence[str], language: str) -> Compiler:
    named = os.environ.get(variable, "").strip()
    for command in [named] if named else names:
        try:
            words = shlex.split(command)
            path = shutil.which(words[0])
            if path is None:
                continue
            version = _output([*words, "--version"])
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        return Compiler(command, path, version.splitlines()[0] if version else "")
    asked = f" ({variable}={named} does not run)" if named else ""
    raise SetUpError(
        f"no {language} compiler found{asked}: install one (Debian, Ubuntu: apt-get install g++; "
        "Fedora: dnf install gcc-c++; Alpine: apk add g++) or set CC and CXX"
    )


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=60,
    )
    return done.stdout


@dataclass(frozen=True)
class Evidence:
    """What trying showed: whether the configuration is lost (None: it cannot be told), in words."""

    is_lost: bool | None
    words: str


@dataclass(frozen=True)
class AmxVerdict:
    """Whether AMX has to be left out of the build, and why."""

    is_faulty: bool
    reason: str

    @property
    def flags(self) -> tuple[str, ...]:
        """What is added to the C and the C++ flags."""
        return WITHOUT_AMX if self.is_faulty else ()


def judge_amx(
    cpu: Cpu, try_it: Callable[[], Evidence], gcc_version: Callable[[], Sequence[int]]
) -> AmxVerdict:
    """Decide by trying; by the compiler's version only where it cannot be tried."""
    if not cpu.has_amx:
        return AmxVerdict(is_faulty=False, reason="this CPU has no AMX")
    evidence = try_it()
    if evidence.is_lost is not None:
        return AmxVerdict(is_faulty=evidence.is_lost, reason=evidence.words)
    version = tuple(gcc_version())
    name = f"GCC {'.'.join(map(str, version))}" if version else "this compiler"
    if loses_tile_configuration(version):
        return AmxVerdict(is_faulty=True, reason=f"{name} is known to lose it; {evidence.words}")
    return AmxVerdict(is_faulty=False, reason=f"{name} is not known to lose it; {evidence.words}")


def loses_tile_configuration(gcc_version: Sequence[int]) -> bool:
    """Whether this GCC release has the fault (GCC bug 114098); an empty version is not GCC."""
    version = tuple(gcc_version)
    # GCC 11 was the first to know AMX, GCC 14 the first to be born without the fault.
    repaired = {11: (11, 5), 12: (12, 4), 13: (13, 3)}.get(version[0]) if version else None
    return repaired is not None and version < repaired


def try_amx(cxx: Compiler, flags: Sequence[str]) -> Evidence:
    """Compile and run amx_fault.cpp with the flags of the build."""
    with tempfile.TemporaryDirectory(prefix="samovar-amx-") as directory:
        program = Path(directory, "amx_fault")
        # -O3 and -march=native are what llama.cpp's own build adds.
        command = [*shlex.split(cxx.command), *flags, "-O3", "-DNDEBUG", "-march=native"]
        try:
            _output([*command, str(AMX_FAULT_SOURCE), "-o", str(program)])
            status = subprocess.run(
                [program],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=AMX_FAULT_TIMEOUT_SECONDS,
            ).returncode
        except (OSError, subprocess.SubprocessError) as problem:
            return Evidence(None, f"it could not be tried ({type(problem).__name__})")
    return read_amx_status(status)


def read_amx_status(status: int) -> Evidence:
    """What an exit status of amx_fault.cpp means."""
    if status == 0:
        return Evidence(is_lost=False, words="a tile configuration arrives whole")
    if status == 1:
        return Evidence(is_lost=True, words="a tile configuration arrives changed")
    if status < 0:
        return Evidence(
            is_lost=True, words=f"loading a tile configuration dies of signal {-status}"
        )
    return Evidence(None, "the kernel does not let it be tried")


def gcc_version(cxx: Compiler) -> tuple[int, ...]:
    """The version where the compiler is GCC itself, () where it only says so, as clang does."""
    command = [*shlex.split(cxx.command), "-dM", "-E", "-x", "c++", os.devnull]
    try:
        lines = _output(command).splitlines()
    except (OSError, subprocess.SubprocessError):
        return ()
    macros = dict(line.split(" ", 2)[1:] for line in lines if line.count(" ") >= 2)
    if "__clang__" in macros or "__GNUC__" not in macros:
        return ()
    return (int(macros["__GNUC__"]), int(macros.get("__GNUC_MINOR__", "0")))


@dataclass(frozen=True)
class Toolchain:
    """Everything about this machine that decides the bytes of the library."""

    cpu: Cpu
    compilers: dict[str, Compiler]
    libc: str
    flags: dict[str, str]

    def fields(self) -> dict[str, object]:
        """The same in a form that can be written down."""
        return asdict(self)

    def amx_verdict(self) -> AmxVerdict:
        """Whether this CPU and this compiler need AMX left out."""
        cxx = self.compilers["CXX"]
        flags = shlex.split(self.flags.get("CXXFLAGS", ""))
        return judge_amx(self.cpu, lambda: try_amx(cxx, flags), lambda: gcc_version(cxx))


def this_toolchain() -> Toolchain:
    """The CPU, the compilers and the flags that a build started now would use."""
    flags = {
        name: os.environ.get(name, "") for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS", "CMAKE_ARGS")
    }
    return Toolchain(this_cpu(), find_compilers(), _libc(), flags)


def _libc() -> str:
    """A library built against a newer libc does not load with an older one."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return " ".join(platform.libc_ver())
