"""llama_cpp with a ggml-cpu that is compiled without regard to the AMX fault.

Where the compiler has the fault and the CPU has AMX, that library is a faulty one. Elsewhere set-up
adds no flag, and the installed library is the plain one.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from samovar.native.probe import library_directory

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import build_llama  # noqa: E402 - the scripts import each other by plain names
from build_llama import Plan  # noqa: E402

# llama.cpp's own project, as build_llama.py configures it through the Python package's.
CMAKE_ARGUMENTS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    *(
        f"-DLLAMA_BUILD_{part}=OFF"
        for part in ("APP", "COMMON", "EXAMPLES", "SERVER", "TESTS", "TOOLS")
    ),
)


@dataclass(frozen=True)
class PlainLibrary:
    """Where the package lies, and whether set-up would say that it is faulty."""

    folder: Path
    """What PYTHONPATH must name for `llama_cpp` to be this one."""
    is_faulty: bool


def plain_library() -> PlainLibrary:
    """The plainly compiled package, compiled on the first call on a machine where it is faulty."""
    installed = library_directory()
    assert installed is not None, "llama-cpp-python is not installed"
    plan = dataclasses.replace(build_llama.this_plan(), cache=_cache())
    if not plan.toolchain.amx_verdict().is_faulty:
        return PlainLibrary(installed.parent.parent, is_faulty=False)
    folder = plan.cache / f"{plan.key}.plain"
    with build_llama.locked(plan.cache / "lock"):
        if not folder.exists():
            _compile(plan, installed, folder)
    return PlainLibrary(folder, is_faulty=True)


def _cache() -> Path:
    """The cache that the installed wheel came from: tests may have another home than set-up."""
    noted = importlib.metadata.distribution("llama-cpp-python").read_text("direct_url.json")
    if noted is None:
        return build_llama.build_cache()
    wheel = Path(unquote(urlsplit(json.loads(noted)["url"]).path))
    return wheel.parent.parent


def _compile(plan: Plan, installed: Path, folder: Path) -> None:
    """Compile ggml-cpu alone, and put it into a copy of the installed package."""
    tools = build_llama.ensure_tools(plan.cache)
    archive = build_llama.ensure_sdist(plan.cache, plan.source, tools)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.new-", dir=plan.cache) as name:
        work, package = Path(name), Path(name, "site", "llama_cpp")
        build_llama.unpack(archive, work)
        source = work / plan.source.stem / "vendor" / "llama.cpp"
        environment = build_llama.with_tools(tools)
        environment |= build_llama.build_environment(plan.toolchain, ())
        arguments = [*build_llama.CMAKE_ARGUMENTS, *CMAKE_ARGUMENTS]
        build = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(work / "build"), *arguments]
        build_llama.run(build, env=environment)
        build = ["cmake", "--build", str(work / "build"), "--target", "ggml-cpu"]
        build_llama.run(build, env=environment)
        shutil.copytree(installed.parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(work / "build" / "bin" / "libggml-cpu.so", package / "lib")
        package.parent.rename(folder)
