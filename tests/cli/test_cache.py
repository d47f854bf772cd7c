"""`samovar cache`, in real processes: what is kept, why no more, and how it goes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Samovar
from tests.conftest import GENERATING_KINDS, Models, scaled

SECRET = "xylophone"
TEXT = f"The fox has a {SECRET} and plays all day long beside the old red barn. " * 12
KINDS = ("llama", "lfm2", "mamba")


@pytest.fixture
def samovar(samovar: Samovar) -> Samovar:
    """On one thread: several would wait for each other where other tests run beside them."""

    def run(*args: object, **more: bytes) -> subprocess.CompletedProcess[bytes]:
        opens = args[0] == "run" or args[1] in ("warm", "explain", "pin", "unpin")
        threads = ("--threads", 1) if opens and "--threads" not in args else ()
        return samovar(*args, *threads, **more)

    return run


@pytest.fixture
def kv() -> Path:
    """Where the commands of this test keep blocks."""
    return Path(os.environ["SAMOVAR_CACHE_DIR"])


def said(done: subprocess.CompletedProcess[bytes], code: int = 0) -> str:
    assert done.returncode == code, (done.returncode, done.stderr.decode())
    return done.stdout.decode()


def parsed(done: subprocess.CompletedProcess[bytes], code: int = 0) -> dict[str, Any]:
    text = said(done, code)
    assert text.count("\n") == 1
    found: dict[str, Any] = json.loads(text)
    return found


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The message of a command that failed as it should: one line, exit code 1."""
    message = done.stderr.decode()
    assert done.returncode == 1, (done.returncode, message)
    assert message.startswith("samovar: ")
    assert message.count("\n") == 1, message
    assert done.stdout == b""
    assert SECRET not in message
    return message


def listed(samovar: Samovar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parsed(samovar("cache", "ls", "--json"))["namespaces"]
    return found


def blocks(kv: Path) -> list[Path]:
    return sorted(kv.glob("*/blocks/*"))


# ---- one prompt --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS if not scaled(0, 1) else GENERATING_KINDS)
def test_what_is_explained_is_what_a_run_finds(samovar: Samovar, models: Models, kind: str) -> None:
    model = models(kind, context_length=2048)
    warmed = parsed(samovar("cache", "warm", model, TEXT, "--json"))
    assert warmed["kept_tokens"] == warmed["prompt_tokens"]
    texts = (TEXT, f"{TEXT} And then?", f"{TEXT[: len(TEXT) // 2]} But not today.")
    for text in texts:
        found = parsed(samovar("cache", "explain", model, text, "--json"))
        usage = parsed(samovar("run", model, text, "--json", "--max-tokens", 1))["usage"]
        cached = usage["prompt_tokens_details"]
        assert found["prompt_tokens"] == usage["prompt_tokens"]
        assert found["cached_tokens"] == {each: cached[each] for each in ("memory", "shm", "disk")}
        assert found["computed_tokens"] == usage["prompt_tokens"] - cached["cached_tokens"]
        if text is not TEXT:
            assert found["divergence"]["position"] == cached["cached_tokens"]
            assert found["divergence"]["reason"] in ("new", "other_tokens", "no_checkpoint")


def test_an_explanation_in_words(samovar: Samovar, models: Models) -> None:
    args = ("cache", "explain", models(context_length=2048))
    before = said(samovar(*args, TEXT))
    count = re.match(r"prompt of (\d+) tokens; \1 to compute\n", before)
    assert count is not None
    assert "from token 0: nothing is kept" in before
    said(samovar("cache", "warm", args[2], TEXT))
    after = said(samovar(*args, TEXT))
    assert f"{int(count[1]) - 1} from disk; 1 to compute\nnothing is left to restore" in after
    assert "as short as this" in said(samovar(*args, "Hi"))
    assert "goes on with other tokens" in said(samovar(*args, f"{TEXT[:-9]} bed"))


def test_what_was_computed_under_another_adapter_is_told(samovar: Samovar, models: Models) -> None:
    base = models(context_length=2048)
    lora = models.adapter(base)
    said(samovar("cache", "warm", base, TEXT, "--lora", f"{lora}:0.5"))
    ask = ("cache", "explain", base, TEXT, "--json")
    assert parsed(samovar(*ask))["divergence"] == {"position": 0, "reason": "other_adapters"}
    found = parsed(samovar(*ask, "--lora", f"{lora}:0.5"))
    assert found["divergence"]["reason"] == "none"
    assert found["cached_tokens"]["disk"] > 0


def test_a_prompt_comes_from_wherever_run_takes_it(
    samovar: Samovar, models: Models, tmp_path: Path
) -> None:
    model, file = models(context_length=2048, chat_template="chatml"), tmp_path / "prompt"
    file.write_text(TEXT)
    messages = tmp_path / "messages"
    messages.write_text(json.dumps([{"role": "user", "content": TEXT}]))
    assert parsed(samovar("cache", "warm", model, "--file", file, "--json"))["kept_tokens"] > 32
    for args in (("--messages", messages), ("-",), ()):
        stdin = b"" if args[:1] == ("--messages",) else TEXT.encode()
        found = parsed(samovar("cache", "explain", model, *args, "--json", stdin=stdin))
        assert found["divergence"]["reason"] == "none", args
    raw = parsed(samovar("cache", "explain", model, TEXT, "--raw", "--json"))
    assert raw["cached_tokens"]["disk"] == 0


def test_what_cannot_all_be_kept_is_said_and_fails(samovar: Samovar, models: Models) -> None:
    done = samovar("cache", "warm", models(), "Hi")
    assert re.fullmatch(r"0 of \d+ tokens are kept\n", said(done, 1))
    assert done.stderr.count(b"\n") == 1
    assert b"give a longer one" in done.stderr


def test_a_pinned_prompt_outlives_everything_but_clear(
    samovar: Samovar, models: Models, kv: Path
) -> None:
    model, other = models(context_length=2048), TEXT[::-1]
    assert "warm` it first" in refused(samovar("cache", "pin", model, TEXT))
    for text in (TEXT, other):
        said(samovar("cache", "warm", model, text))
    pinned = parsed(samovar("cache", "pin", model, TEXT, "--json"))
    assert pinned["pinned_tokens"] == pinned["prompt_tokens"]
    assert [one["pins"] for one in listed(samovar)] == [1]
    said(samovar("cache", "prune", "--bytes", 0))
    said(samovar("cache", "prune", "--days", 0))
    ask = ("cache", "explain", model, "--json")
    assert parsed(samovar(*ask, TEXT))["divergence"]["reason"] == "none"
    assert parsed(samovar(*ask, other))["cached_tokens"]["disk"] == 0
    assert "unpin" in refused(samovar("cache", "prune", listed(samovar)[0]["namespace"]))
    assert "no beginning" in refused(samovar("cache", "unpin", model, other))
    said(samovar("cache", "unpin", model, TEXT))
    said(samovar("cache", "prune", "--bytes", 0))
    assert blocks(kv) == []


# ---- all of it ---------------------------------------------------------------------------------


def test_a_list_says_what_lies_there(samovar: Samovar, models: Models, kv: Path) -> None:
    assert said(samovar("cache", "ls")).startswith("0 B of ")
    model = models(context_length=2048)
    count = parsed(samovar("cache", "warm", model, TEXT, "--json"))["kept_tokens"]
    whole = parsed(samovar("cache", "ls", "--json"))
    (one,) = whole["namespaces"]
    assert whole["directory"] == str(kv)
    assert whole["used_bytes"] == one["bytes"] <= whole["budget_bytes"]
    assert one["bytes"] >= sum(block.stat().st_size for block in blocks(kv))
    assert (one["blocks"], one["tokens"]) == (len(blocks(kv)), count)
    assert (one["pins"], one["states"], one["in_use"]) == (0, 0, False)
    assert one["settings"]["llama_cpp"]
    lines = said(samovar("cache", "ls")).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(one["namespace"][:12])
    assert lines[2].endswith(f"in {kv}")


def test_a_flipped_bit_is_found_and_repaired(samovar: Samovar, models: Models, kv: Path) -> None:
    model = models(context_length=2048)
    said(samovar("cache", "warm", model, TEXT))
    assert "sound" in said(samovar("cache", "check"))
    file = blocks(kv)[0]
    data = bytearray(file.read_bytes())
    data[-9] ^= 16
    file.write_bytes(data)
    assert "sound" in said(samovar("cache", "check", "--quick"))
    found = parsed(samovar("cache", "check", "--json"), 1)["namespaces"]
    assert [problem["where"] for problem in found[0]["problems"]] == [f"blocks/{file.name}"]
    assert "repaired" in said(samovar("cache", "check", "--repair"))
    assert "sound" in said(samovar("cache", "check", found[0]["namespace"][:6]))
    assert not file.exists()
    done = parsed(samovar("run", model, TEXT, "--json", "--max-tokens", 1))
    assert done["prompt_tokens"] > 32  # what is gone is computed again


def test_what_cannot_be_repaired_fails(samovar: Samovar, models: Models, kv: Path) -> None:
    said(samovar("cache", "warm", models(context_length=2048), TEXT))
    (blocks(kv)[0].parent / "mine").write_text("not a block")
    done = samovar("cache", "check", "--repair")
    assert "foreign" in said(done, 1)
    assert b"cannot be repaired" in done.stderr


def test_prune_deletes_by_age_by_name_and_by_size(
    samovar: Samovar, models: Models, kv: Path
) -> None:
    for seed in (1, 2, 3):
        said(samovar("cache", "warm", models(seed=seed, context_length=2048), TEXT))
    assert said(samovar("cache", "prune")) == "nothing to delete\n"
    oldest = kv / listed(samovar)[2]["namespace"]
    for name in ("used", "usage", "blocks"):
        if (oldest / name).exists():
            os.utime(oldest / name, (1, 1))
    assert oldest.name[:12] in said(samovar("cache", "prune"))
    assert not oldest.exists()
    first, second = listed(samovar)
    assert first["namespace"][:12] in said(samovar("cache", "prune", first["namespace"][:20]))
    assert [one["namespace"] for one in listed(samovar)] == [second["namespace"]]
    size = f"{second['bytes'] * 2 // 3 / 1024:.3f}k"
    assert "deleted" in said(samovar("cache", "prune", "--bytes", size))
    (left,) = listed(samovar)
    assert second["bytes"] // 3 < left["bytes"] <= second["bytes"] * 2 // 3


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\n", 1), (b"y\n", 0)])
def test_clear_asks(samovar: Samovar, models: Models, kv: Path, answer: bytes, code: int) -> None:
    assert "nothing to delete" in said(samovar("cache", "clear"))
    said(samovar("cache", "warm", models(context_length=2048), TEXT))
    done = samovar("cache", "clear", stdin=answer)
    assert b"Delete 1 namespace (" in done.stderr
    assert ("nothing was deleted" in said(done, code)) == bool(code)
    assert bool(blocks(kv)) == bool(code)


def test_clear_that_cannot_ask_deletes_nothing(samovar: Samovar, models: Models, kv: Path) -> None:
    said(samovar("cache", "warm", models(context_length=2048), TEXT))
    done = samovar("cache", "clear")
    assert done.returncode == 1
    assert b"add --yes" in done.stderr.splitlines()[-1]
    assert blocks(kv)
    name = listed(samovar)[0]["namespace"][:12]
    assert name in said(samovar("cache", "clear", name, "--yes"))
    assert list(kv.iterdir()) == []


def test_what_a_process_uses_is_not_deleted_until_it_is_gone(
    samovar: Samovar, models: Models, kv: Path
) -> None:
    command = [sys.executable, "-m", "samovar", "run", str(models(context_length=8192)), TEXT]
    command += ["--raw", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)  # it is generating
        assert [one["in_use"] for one in listed(samovar)] == [True]
        assert "in use" in refused(samovar("cache", "clear", "--yes"))
        assert said(samovar("cache", "prune", "--days", 0)) == "nothing to delete\n"
        process.send_signal(signal.SIGKILL)
    assert [one["in_use"] for one in listed(samovar)] == [False]
    said(samovar("cache", "clear", "--yes"))
    assert list(kv.iterdir()) == []


def test_another_directory_is_another_cache(
    samovar: Samovar, models: Models, kv: Path, tmp_path: Path
) -> None:
    model, other = models(context_length=2048), tmp_path / "other"
    said(samovar("cache", "warm", model, TEXT, "--cache-dir", other))
    assert listed(samovar) == []
    found = parsed(samovar("cache", "ls", "--json", "--cache-dir", other))
    assert len(found["namespaces"]) == 1
    explained = parsed(samovar("cache", "explain", model, TEXT, "--json", "--cache-dir", other))
    assert explained["cached_tokens"]["disk"] > 0
    said(samovar("cache", "clear", "--yes", "--cache-dir", other))
    assert list(other.iterdir()) == []
    assert not kv.exists() or list(kv.iterdir()) == []


# ---- what is never said, and what is refused ---------------------------------------------------


def test_no_command_says_or_names_what_a_prompt_holds(
    samovar: Samovar, models: Models, kv: Path
) -> None:
    model, heard = models(context_length=2048), b""
    for command in (("warm",), ("explain",), ("pin",), ("unpin",)):
        for more in ((), ("--json",)):
            done = samovar("cache", *command, model, TEXT, *more)
            heard += done.stdout + done.stderr
    for command in (("ls",), ("check",), ("ls", "--json"), ("check", "--json"), ("prune",)):
        done = samovar("cache", *command)
        heard += done.stdout + done.stderr
    assert heard
    assert SECRET.encode() not in heard
    files = [path for path in kv.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not any(SECRET in path.name or SECRET.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("prune", "--bytes", "lots"), "500M"),
        (("prune", "--bytes", "-1"), "500M"),
        (("prune", "--bytes", "1M", "--days", "3"), "not several"),
        (("prune", "--days", "-1"), "0 or more"),
        (("prune", "--days", "nan"), "0 or more"),
        (("prune", "xyz"), "hex digits"),
        (("prune", "abc"), "samovar cache ls"),
        (("clear", "abc", "--yes"), "samovar cache ls"),
        (("check", "../.."), "hex digits"),
        (("ls", "--cache-dir", "{file}"), "no directory"),
        (("ls", "--cache-dir", "{file}/below"), "--cache-dir"),
        (("warm", "{model}", "Hi", "--file", "{file}"), "not several"),
        (("warm", "{model}", "--file", "/nowhere"), "cannot read the prompt"),
        (("warm", "{model}", "--messages", "/nowhere"), "cannot read the messages"),
        (("warm", "{model}", "Hi", "--threads", "-1"), "positive"),
        (("warm", "{model}", "Hi", "--lora", "/nowhere.gguf"), "nowhere"),
        (("explain", "/nowhere.gguf", "Hi"), "nowhere"),
        (("explain", "{bert}", TEXT), "no state"),
        (("pin", "{model}"), "empty"),
        (("unpin", "{model}", TEXT), "pinned"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_one_line_that_says_what_to_do(
    samovar: Samovar, models: Models, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    file = tmp_path / "file"
    file.write_text('[{"role": "user", "content": "Hi"}]')
    paths = {"model": models(context_length=2048), "bert": models("bert"), "file": file}
    message = refused(samovar("cache", *(arg.format(**paths) for arg in args)))
    assert says in message
