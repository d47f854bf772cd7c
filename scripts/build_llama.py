"""Compiles llama-cpp-python for this machine, once, and prints the path of the wheel.

    build_llama.py              make the wheel if there is none yet, and print its path
    build_llama.py --install    the same, then install it for the Python that runs this
    build_llama.py --check      only see whether there are compilers

pip keeps wheels it has built, but under a name that knows neither CPU nor compiler nor flags. So
the wheel is kept here, under a digest of all three, in $SAMOVAR_BUILD_CACHE, or
$XDG_CACHE_HOME/samovar/wheels, or ~/.cache/samovar/wheels:

    lock            held by the set-up that is making anything below
    sdist/          the source distribution, checked against requirements/llama.txt
    tools-DIGEST/   the environment of requirements/build.txt, made by one Python
    KEY.work/       a build that has not ended; the next one goes on from there
    KEY/            the wheel, and build.json, which says what it was made from; appears whole

build.json: `key_fields` (what KEY is the digest of), `amx` (why AMX is in or out), `flags` (those
added), `sha256` of the wheel, `seconds` the build took, `built_at`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from toolchain import SetUpError, Toolchain, this_toolchain

ROOT = Path(__file__).resolve().parent.parent
LLAMA_REQUIREMENT = ROOT / "requirements" / "llama.txt"
BUILD_REQUIREMENTS = ROOT / "requirements" / "build.txt"

# Counts the ways of building that this script has had: a new way gives new keys.
RECIPE = 1

# GGML_NATIVE: llama.cpp turns it off where SOURCE_DATE_EPOCH is set. GGML_CCACHE: a compiler cache
# may know -march=native only by its name. The last one keeps a wheel, which cannot hold links, from
# carrying every library three times.
CMAKE_ARGUMENTS = (
    "-DLLAVA_BUILD=OFF",
    "-DGGML_NATIVE=ON",
    "-DGGML_CCACHE=OFF",
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
)

# The build turns the helper library of llama.cpp's own programs on by force. A plain variable, set
# this early, is stronger; it halves the compile.
ONLY_THE_LIBRARY = "set(LLAMA_BUILD_COMMON OFF)\n"

# Headers and second copies of the libraries, which would land outside the package's own folder.
NOT_IN_THE_WHEEL = "/include/**;/lib/**"

_NINJA_PROGRESS = re.compile(r"\[(\d+)/(\d+)\]")


@dataclass(frozen=True)
class Source:
    """The pinned source distribution."""

    name: str
    version: str
    sha256: str

    @property
    def stem(self) -> str:
        """What the archive unpacks to."""
        return f"{self.name.replace('-', '_')}-{self.version}"


def read_source(requirement: str) -> Source:
    """The pin in the text of requirements/llama.txt."""
    found = re.search(r"^([\w-]+)==(\S+)[\s\\]+--hash=sha256:([0-9a-f]{64})$", requirement, re.M)
    if found is None:
        raise SetUpError("requirements/llama.txt does not pin one version with one sha256")
    return Source(*found.groups())


@dataclass(frozen=True)
class Plan:
    """What is to be built, and where it will lie."""

    cache: Path
    source: Source
    toolchain: Toolchain

    @property
    def key_fields(self) -> dict[str, object]:
        """Everything that decides the bytes of the wheel.

        The flags that leave AMX out follow from the CPU, the compiler and the recipe, and so are
        not among them: finding the wheel again needs no compile.
        """
        source = {"name": self.source.name, "version": self.source.version}
        source["sha256"] = self.source.sha256
        return {"recipe": RECIPE, "source": source, **self.toolchain.fields()}

    @property
    def key(self) -> str:
        """The name of the wheel's folder."""
        text = json.dumps(self.key_fields, sort_keys=True)
        return f"{self.source.version}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"

    @property
    def folder(self) -> Path:
        """Where the wheel lies once it is whole."""
        return self.cache / self.key


def build_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that keeps what was built."""
    named = environment.get("SAMOVAR_BUILD_CACHE")
    xdg = Path(environment.get("XDG_CACHE_HOME", ""))
    try:
        if named:
            return Path(named).expanduser().absolute()
        # The XDG specification has relative paths ignored.
        home = xdg if xdg.is_absolute() else Path.home() / ".cache"
    except RuntimeError as problem:
        raise SetUpError(f"{problem}: set HOME, or SAMOVAR_BUILD_CACHE to a folder") from problem
    return home / "samovar" / "wheels"


def this_plan() -> Plan:
    """The build that belongs to this machine and this environment."""
    source = read_source(LLAMA_REQUIREMENT.read_text(encoding="utf-8"))
    return Plan(build_cache(), source, this_toolchain())


def find_wheel(plan: Plan) -> Path | None:
    """The finished wheel, if there is one and it is what was built."""
    try:
        expected = json.loads((plan.folder / "build.json").read_text(encoding="utf-8"))["sha256"]
        wheel = next(plan.folder.glob("*.whl"))
        return wheel if sha256_of(wheel) == expected else None
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def ensure_wheel(plan: Plan, build: Callable[[Plan], Path] | None = None) -> Path:
    """The wheel of this plan, built now if it must be. Safe to call from several processes."""
    wheel = find_wheel(plan)
    if wheel is not None:
        return wheel
    plan.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(plan.cache / "lock"):
        wheel = find_wheel(plan)
        if wheel is None:
            wheel = (build or build_wheel)(plan)
    return wheel


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel takes back when this process ends, however it ends."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another set-up to finish its build")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build_wheel(plan: Plan) -> Path:
    """Build and publish; the caller holds the lock."""
    started = time.monotonic()
    tools = ensure_tools(plan.cache)
    source = unpacked_source(plan, tools)
    verdict = plan.toolchain.amx_verdict()
    if verdict.flags:
        tell(f"building without AMX: {verdict.reason}")
    wheel = compile_wheel(plan, tools, source, verdict.flags)
    record = {
        "key_fields": plan.key_fields,
        "amx": verdict.reason,
        "flags": list(verdict.flags),
        "sha256": sha256_of(wheel),
        "seconds": round(time.monotonic() - started),
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    published = publish(plan, wheel, record)
    shutil.rmtree(work_folder(plan), ignore_errors=True)
    return published


def publish(plan: Plan, wheel: Path, record: Mapping[str, object]) -> Path:
    """Make the wheel and its record appear together, or not at all."""
    for leaving in plan.cache.glob(f"{plan.key}.new-*"):
        shutil.rmtree(leaving)
    staging = Path(tempfile.mkdtemp(prefix=f"{plan.key}.new-", dir=plan.cache))
    shutil.copyfile(wheel, staging / wheel.name)
    text = json.dumps(record, indent=2, sort_keys=True)
    (staging / "build.json").write_text(f"{text}\n", encoding="utf-8")
    # Whatever lies there was damaged, or it would have been found.
    shutil.rmtree(plan.folder, ignore_errors=True)
    staging.rename(plan.folder)
    return plan.folder / wheel.name


def work_folder(plan: Plan) -> Path:
    """Where an unfinished build lies."""
    return plan.cache / f"{plan.key}.work"


def ensure_tools(cache: Path) -> Path:
    """The folder of the programs in requirements/build.txt; the caller holds the lock."""
    pins = BUILD_REQUIREMENTS.read_bytes()
    maker = f"{sys.version_info[:2]} {sys.base_prefix}".encode()
    folder = cache / f"tools-{hashlib.sha256(maker + pins).hexdigest()[:12]}"
    programs = folder / "bin"
    complete = folder / "complete"
    if not complete.exists() or not (programs / "python").exists():
        tell("installing the build tools")
        run([sys.executable, "-m", "venv", "--clear", folder])
        install = pip(programs / "python", "install", "--quiet", "--require-hashes")
        run([*install, "--requirement", BUILD_REQUIREMENTS])
        complete.touch()
    return programs


def ensure_sdist(cache: Path, source: Source, tools: Path) -> Path:
    """The source distribution, downloaded if it is not there; the caller holds the lock."""
    archive = cache / "sdist" / f"{source.stem}.tar.gz"
    if archive.exists() and sha256_of(archive) == source.sha256:
        return archive
    tell(f"downloading {source.name} {source.version}")
    archive.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as folder:
        download = pip(tools / "python", "download", "--quiet", "--no-deps", "--require-hashes")
        download += ["--no-binary", ":all:", "--no-build-isolation", "--dest", folder]
        run([*download, "--requirement", LLAMA_REQUIREMENT], env=with_tools(tools))
        # pip has compared the hash.
        Path(folder, archive.name).rename(archive)
    return archive


def unpacked_source(plan: Plan, tools: Path) -> Path:
    """The unpacked source at a place that stays the same, so that a build can be resumed."""
    work = work_folder(plan)
    source = work / plan.source.stem
    complete = work / "unpacked"
    if not complete.exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        unpack(ensure_sdist(plan.cache, plan.source, tools), work)
        complete.touch()
    return source


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a source distribution whose hash has been compared."""
    with tarfile.open(archive) as opened:
        # The first releases of Python 3.11 have no filters; the later ones ask for a choice.
        opened.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
        opened.extractall(folder)


def compile_wheel(plan: Plan, tools: Path, source: Path, flags: Sequence[str]) -> Path:
    """Compile into the work folder."""
    work = work_folder(plan)
    early = work / "only_the_library.cmake"
    early.write_text(ONLY_THE_LIBRARY, encoding="utf-8")
    environment = with_tools(tools) | build_environment(plan.toolchain, flags)
    arguments = [*CMAKE_ARGUMENTS, f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={early}"]
    # The caller's own arguments come last and win.
    environment["CMAKE_ARGS"] = f"{shlex.join(arguments)} {environment.get('CMAKE_ARGS', '')}"
    command = pip(tools / "python", "wheel", "--verbose", "--no-deps", "--no-index")
    command += ["--no-build-isolation", "--no-cache-dir"]
    command += ["--config-settings", f"build-dir={work / 'build'}"]
    command += ["--config-settings", f"wheel.exclude={NOT_IN_THE_WHEEL}"]
    command += ["--wheel-dir", work / "wheel", source]
    cxx = plan.toolchain.compilers["CXX"]
    tell(f"compiling llama.cpp with {cxx.version}; this takes some minutes, once")
    run_showing_progress(command, environment, work / "build.log")
    return next((work / "wheel").glob("*.whl"))


def build_environment(toolchain: Toolchain, flags: Sequence[str]) -> dict[str, str]:
    """What the compiler is called, and its flags: the caller's, and those that are added."""
    environment = {name: found.command for name, found in toolchain.compilers.items()}
    for name in ("CFLAGS", "CXXFLAGS"):
        environment[name] = " ".join([toolchain.flags.get(name, ""), *flags]).strip()
    return environment


def with_tools(tools: Path) -> dict[str, str]:
    """This process's environment with the build tools found first."""
    return dict(os.environ) | {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def pip(python: Path, *arguments: str) -> list[str | Path]:
    """The beginning of a call of the pip that belongs to this Python."""
    return [python, "-m", "pip", "--disable-pip-version-check", *arguments]


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Run a step; what it prints goes to stderr, for stdout carries the path of the wheel."""
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=env, check=True)
    except subprocess.CalledProcessError as problem:
        words = " ".join(map(str, command))
        raise SetUpError(f"exit status {problem.returncode} from: {words}") from problem


def run_showing_progress(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path
) -> None:
    """Run the long step: all of its output into the log, ninja's tenths to stderr."""
    with (
        log.open("a", encoding="utf-8") as written,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        shown = -1
        for line in process.stdout:
            written.write(line)
            progress = _NINJA_PROGRESS.search(line)
            if progress and (tenth := 10 * int(progress[1]) // int(progress[2])) > shown:
                shown = tenth
                tell(f"  {progress[1]} of {progress[2]}")
    if process.returncode != 0:
        tell("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-40:]))
        raise SetUpError(f"llama.cpp did not compile; the whole story is in {log}")


def sha256_of(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_installed(plan: Plan, site_packages: Path) -> bool:
    """Whether the wheel of this plan is what is installed: pip notes the file it came from."""
    info = f"{plan.source.stem}.dist-info"
    try:
        noted = (site_packages / info / "direct_url.json").read_text(encoding="utf-8")
    except OSError:
        return False
    return f"/{plan.key}/" in noted


def install(plan: Plan) -> None:
    """Install the wheel for the Python that runs this, unless it is."""
    if is_installed(plan, Path(sysconfig.get_path("platlib"))):
        return
    wheel = ensure_wheel(plan)
    tell(f"installing {wheel.name}")
    command = pip(Path(sys.executable), "install", "--quiet", "--no-deps", "--no-index")
    run([*command, "--force-reinstall", wheel])


def tell(message: str) -> None:
    """Say how set-up gets on."""
    print(message, file=sys.stderr, flush=True)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Compile llama-cpp-python for this machine, once.")
    parser.add_argument("--install", action="store_true", help="install it for this Python as well")
    parser.add_argument("--check", action="store_true", help="only see whether it can be done")
    arguments = parser.parse_args()
    try:
        plan = this_plan()
        if arguments.install:
            install(plan)
        elif not arguments.check:
            print(ensure_wheel(plan))
    except SetUpError as problem:
        tell(f"set-up stopped: {problem}")
        return 1
    except OSError as problem:  # a cache that is read-only, full or in the way
        tell(
            f"set-up stopped: {problem}: make room there, or name a folder that can be written"
            " with SAMOVAR_BUILD_CACHE"
        )
        return 1
    except KeyboardInterrupt:
        tell("set-up stopped: interrupted; the next one goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
