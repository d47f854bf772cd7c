"""What the process that serves imports, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from samovar import models
from tests.runtime.serving import wait_until_gone

COUNT = """
import sys
import samovar
loaded = {name.partition(".")[0] for name in sys.modules}
assert not {"numpy", "llama_cpp", "asyncio", "msgspec"} & loaded, loaded
"""
SERVE = """
import sys
import samovar
with samovar.load("samovar-mini", threads=1, context_length=256) as model:
    model.complete("Once", max_tokens=3)
    model.chat([{"role": "user", "content": "hello"}], max_tokens=3)
    model.embed("hello")
    model.load_adapter("r", sys.argv[1])
    model.session().complete("Once", max_tokens=3)
ours = ("samovar.native", "samovar.engine", "samovar.cache", "samovar.chat", "samovar.worker")
assert "llama_cpp" not in sys.modules
assert not [name for name in sys.modules if name.startswith(ours)]
"""


def test_importing_the_package_imports_next_to_nothing() -> None:
    subprocess.run([sys.executable, "-c", COUNT], check=True, timeout=60)


def test_a_program_that_uses_models_never_imports_llama_cpp(tmp_path: Path) -> None:
    env = {**os.environ, "SAMOVAR_CACHE_DIR": str(tmp_path / "kv")}
    adapter = models.path_of("samovar-mini-rhymes")
    subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVE, str(adapter)], check=True, timeout=240, env=env
    )


def test_a_program_that_ends_without_unloading_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "import samovar, sys\n"
        "m = samovar.load('samovar-mini', threads=1, context_length=256)\n"
        "s = m.stream('Once', max_tokens=50)\n"
        "next(s)\n"
        "print(m.status()['pid'])\n"
    )
    env = {**os.environ, "SAMOVAR_CACHE_DIR": str(tmp_path / "kv")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wait_until_gone([int(done.stdout)])
