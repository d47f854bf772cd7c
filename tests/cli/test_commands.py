"""The commands as a person types them: real processes, real models, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Samovar, obey_file_modes
from tests.conftest import Models, shared_vocabularies

TEXT = "The fox has a xylophone and plays all day long beside the old red barn. " * 12


def _json(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"\n") == 1, "one object on one line"
    return json.loads(done.stdout)


def _refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The message of a command that failed as it should: one line, exit code 1."""
    message = done.stderr.decode()
    assert done.returncode == 1, (done.returncode, message)
    assert message.startswith("samovar: ")
    assert message.count("\n") == 1, message
    assert done.stdout == b""
    return message


# ---- run ------------------------------------------------------------------------------------


def test_run_streams_text_and_says_nothing_else(samovar: Samovar, models: Models) -> None:
    done = samovar("run", models(), "Once upon a time", "--max-tokens", 12, "--seed", 1)
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stderr == b""


def test_run_as_json_reports_what_happened(samovar: Samovar, models: Models) -> None:
    args = ("run", models(), "Once", "--raw", "--json", "--max-tokens", 7, "--temperature", 0)
    found = _json(samovar(*args))
    assert len(found["tokens"]) == 7
    assert found["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 7
    assert found["prompt_tokens"] == found["usage"]["prompt_tokens"]
    assert set(found["timings"]) == {
        "load_seconds",
        "restore_seconds",
        "prefill_seconds",
        "decode_seconds",
    }


def test_a_seed_repeats_a_sampled_run_and_its_report_repeats_a_random_one(
    samovar: Samovar, models: Models
) -> None:
    args = ("run", models(), "Once", "--json", "--max-tokens", 16, "--temperature", 1.2)
    first = _json(samovar(*args))
    again = _json(samovar(*args, "--seed", first["seed"]))
    other = _json(samovar(*args, "--seed", first["seed"] ^ 1))
    assert first["tokens"] == again["tokens"] != other["tokens"]


def test_run_reads_the_prompt_from_standard_input(samovar: Samovar, models: Models) -> None:
    args = ("run", models(), "--raw", "--json", "--max-tokens", 5, "--temperature", 0)
    assert (
        _json(samovar(*args, stdin=b"Hello"))["tokens"] == _json(samovar(*args, "Hello"))["tokens"]
    )


def test_run_applies_the_chat_template_unless_raw(samovar: Samovar, models: Models) -> None:
    model = models(chat_template="chatml")
    args = ("run", model, "Hi", "--json", "--max-tokens", 1, "--temperature", 0)
    assert _json(samovar(*args))["prompt_tokens"] > _json(samovar(*args, "--raw"))["prompt_tokens"]


def test_a_grammar_file_decides_what_can_be_said(
    samovar: Samovar, models: Models, tmp_path: Path
) -> None:
    grammar = tmp_path / "yes-no.gbnf"
    grammar.write_text('root ::= "yes" | "no"')
    found = _json(samovar("run", models(), "Well?", "--json", "--grammar-file", grammar))
    assert found["text"] in ("yes", "no")
    assert found["finish_reason"] == "stop"


def test_an_adapter_changes_the_text_and_at_scale_zero_does_not(
    samovar: Samovar, models: Models
) -> None:
    base = models()
    lora = models.adapter(base)
    args = ("run", base, "Once", "--raw", "--json", "--max-tokens", 12, "--temperature", 0)
    plain, full, none = (
        _json(samovar(*args, *more))["tokens"]
        for more in ((), ("--lora", lora), ("--lora", f"{lora}:0"))
    )
    assert plain == none != full


def test_a_second_run_finds_the_prompt_of_the_first_on_the_disk(
    samovar: Samovar, models: Models
) -> None:
    args = ("run", models(context_length=2048), TEXT, "--json", "--max-tokens", 4)
    cold = _json(samovar(*args, "--temperature", 0))
    warm = _json(samovar(*args, "--temperature", 0))
    assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    details = warm["usage"]["prompt_tokens_details"]
    assert details["disk"] == details["cached_tokens"] > warm["prompt_tokens"] - 32
    assert warm["tokens"] == cold["tokens"]
    without = _json(samovar(*args, "--no-cache"))
    assert without["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_warning_of_the_model_s_process_is_told(
    samovar: Samovar, models: Models, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    args = ("run", models(), "Once", "--max-tokens", 2, "--seed", 1)
    done = samovar(*args, "--cache-dir", file / "below")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == samovar(*args, "--no-cache").stdout
    assert done.stderr.startswith(b"samovar: WARNING: ")


def test_llama_cpp_s_own_log_is_shown_when_asked_for(samovar: Samovar, models: Models) -> None:
    args = ("run", models(), "Once", "--max-tokens", 2)
    assert b"llama_model_loader" in samovar("-v", *args).stderr
    assert b"llama_model_loader" in samovar("-v", "tokenize", models(), "Once").stderr
    assert samovar("tokenize", models(), "Once").stderr == b""


def test_control_c_ends_a_run_cleanly(models: Models) -> None:
    command = [sys.executable, "-m", "samovar", "run", models(context_length=8192), "Once"]
    process = subprocess.Popen(
        [*map(str, command), "--raw"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(1)  # it is generating
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b""
    assert out.endswith(b"\n")


def test_a_reader_that_leaves_does_not_upset_a_run(models: Models) -> None:
    command = f'"{sys.executable}" -m samovar run "{models(context_length=4096)}" Once --raw'
    done = subprocess.run(
        ["bash", "-c", f"{command} --max-tokens 400 | head -c 1"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""


# ---- tokenize and detokenize -------------------------------------------------------------------


def test_tokenize_and_detokenize_are_each_others_reverse(samovar: Samovar, models: Models) -> None:
    path = models.vocabulary()
    text = "Grüße, \tworld\n".encode() + b"\x00 and more"
    found = _json(samovar("tokenize", path, "--no-bos", "--json", stdin=text))
    back = samovar("detokenize", path, *found["tokens"])
    assert back.stdout == text
    piped = samovar("detokenize", path, stdin=samovar("tokenize", path, stdin=text).stdout)
    assert piped.stdout == text
    compact = json.dumps(found["tokens"], separators=(",", ":"))
    assert samovar("detokenize", path, compact).stdout == text


def test_special_tokens_are_parsed_only_when_asked(samovar: Samovar, models: Models) -> None:
    path = models.vocabulary()
    plain = _json(samovar("tokenize", path, "<|im_end|>", "--json"))["tokens"]
    parsed = _json(samovar("tokenize", path, "<|im_end|>", "--parse-special", "--json"))["tokens"]
    assert len(parsed) < len(plain)
    assert samovar("detokenize", path, *parsed).stdout == b""
    assert samovar("detokenize", path, *parsed, "--parse-special").stdout == b"<|im_end|>"


@pytest.mark.parametrize("path", shared_vocabularies(), ids=lambda p: p.stem)
def test_real_vocabularies_work_without_weights(samovar: Samovar, path: Path) -> None:
    found = _json(samovar("tokenize", path, "Hello world", "--json"))["tokens"]
    assert b"ello" in samovar("detokenize", path, *found).stdout


# ---- embed, info, doctor -----------------------------------------------------------------------


def test_embed_prints_one_vector_of_length_one_per_text(samovar: Samovar, models: Models) -> None:
    found = _json(samovar("embed", models("bert"), "one text", "another", "--json"))
    vectors = found["embeddings"]
    assert len(vectors) == 2
    assert vectors[0] != vectors[1]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-5 for vector in vectors)
    lines = samovar("embed", models("bert"), "one text").stdout.splitlines()
    assert [float(word) for word in lines[0].split()] == pytest.approx(vectors[0], rel=1e-4)


def test_embed_reads_a_text_from_standard_input(samovar: Samovar, models: Models) -> None:
    expected = _json(samovar("embed", models(), "Grüße", "--json"))
    assert _json(samovar("embed", models(), "--json", stdin="Grüße".encode())) == expected
    assert _json(samovar("embed", models(), "-", "--json", stdin="Grüße".encode())) == expected
    assert "no tokens" in _refused(samovar("embed", models(), stdin=b""))


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("llama", "divisible"),
        ("qwen2", "divisible"),
        ("gemma2", "divisible+tail"),
        ("lfm2", "divisible+tail"),
        ("mamba", "indivisible"),
        ("bert", "none"),
    ],
)
def test_info_tells_what_a_model_is(
    samovar: Samovar, models: Models, kind: str, state: str
) -> None:
    found = _json(samovar("info", models(kind, "Q8_0"), "--json"))
    assert found["architecture"] == kind
    assert found["state_kind"] == state
    assert found["quantization"] == "Q8_0"
    assert found["context_length"] > 0
    people = samovar("info", models(kind, "Q8_0")).stdout.decode()
    assert "architecture" in people
    assert kind in people


def test_info_knows_template_family_vocabularies_and_adapters(
    samovar: Samovar, models: Models
) -> None:
    found = _json(samovar("info", models(chat_template="chatml"), "--json"))
    assert found["chat_template"] == "hermes"  # ChatML with tools in the Hermes form
    assert _json(samovar("info", models.vocabulary(), "--json"))["kind"] == "vocabulary"
    assert _json(samovar("info", models.adapter(models()), "--json"))["kind"] == "adapter"


def test_doctor_finds_a_sound_installation_sound(samovar: Samovar) -> None:
    done = samovar("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, found["advice"]
    assert found["probe"]["ok"] is True
    assert found["library"]["version"] == "0.3.36"
    assert found["advice"] == []
    assert b"advice" in samovar("doctor").stdout


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("run", "{model}", "Hi", "--temperature", "nan"), "temperature"),
        (("run", "{model}", "Hi", "--top-p", "-1"), "top_p"),
        (("run", "{model}", "Hi", "--seed", "-1"), "seed"),
        (("run", "{model}", "Hi", "--max-tokens", "0"), "--max-tokens"),
        (("run", "{model}", "Hi", "--threads", "100000"), "threads"),
        (("run", "{model}", "Hi", "--ctx-size", "-5"), "--ctx-size"),
        (("run", "{model}", "Hi", "--ctx-size", "2000000000"), "memory"),
        (("run", "{model}", "Hi", "--grammar-file", "/nowhere"), "grammar"),
        (("run", "{model}", "Hi", "--lora", "/nowhere.gguf"), "nowhere"),
        (("run", "{model}", "Hi", "--lora", "{model}"), "not an adapter"),
        (("run", "{lora}", "Hi"), "adapter"),
        (("run", "{vocab}", "Hi"), "vocabulary"),
        (("run", "{bert}", "Hi"), "encoder"),
        (("run", "/nowhere.gguf", "Hi"), "nowhere"),
        (("run", "{folder}", "Hi"), "director"),
        (("run", "{model}", ""), "empty"),
        (("run", "{model}"), "empty"),
        (("detokenize", "{vocab}", "99999999"), "vocabulary"),
        (("detokenize", "{vocab}", "-7"), "vocabulary"),
        (("detokenize", "{vocab}", "seven"), "whole numbers"),
        (("detokenize", "{vocab}", "1_0"), "whole numbers"),
        (("run", "{model}", "Hi", "--grammar-file", "/dev/zero"), "grammar"),
        (("embed", "{vocab}", "Hi"), "vocabulary"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else value,
)
def test_what_cannot_work_is_one_line_that_says_why(
    samovar: Samovar, models: Models, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    paths = {
        "model": models(vocab="spm") if args[-1] == "" else models(),
        "lora": models.adapter(models()),
        "vocab": models.vocabulary(),
        "bert": models("bert"),
        "folder": tmp_path,
    }
    message = _refused(samovar(*(arg.format(**paths) for arg in args)))
    assert says in message


@pytest.mark.parametrize("args", [("run",), ("brew",), ("run", "{model}", "Hi", "--seed", "x")])
def test_wrong_usage_is_told_from_failure(
    samovar: Samovar, models: Models, args: tuple[str, ...]
) -> None:
    done = samovar(*(arg.format(model=models()) for arg in args))
    assert done.returncode == 2
    assert b"Usage: samovar" in done.stderr
    assert done.stdout == b""


def test_a_blank_chat_template_is_none(samovar: Samovar, models: Models) -> None:
    model = models(chat_template=" \n ")
    args = ("Hi", "--json", "--max-tokens", 2, "--temperature", 0)
    assert (
        _json(samovar("run", model, *args))["tokens"]
        == (_json(samovar("run", models(), *args))["tokens"])
    )
    assert _json(samovar("info", model, "--json"))["chat_template"] is None


def test_a_damaged_adapter_is_not_described(
    samovar: Samovar, models: Models, tmp_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(models.adapter(models()).read_bytes()[:-100])
    assert "cut short" in _refused(samovar("info", path))


def test_what_a_file_calls_itself_cannot_command_the_terminal(
    samovar: Samovar, models: Models
) -> None:
    done = samovar("info", models(name="evil\x1b]0;title\x07\nname\u202e"))
    assert done.returncode == 0
    assert rb"evil\x1b]0;title\x07\nname\u202e" in done.stdout
    assert b"\x1b" not in done.stdout


def test_an_error_is_one_line_whatever_it_quotes(samovar: Samovar, tmp_path: Path) -> None:
    message = _refused(samovar("run", "/nowhere", "Hi", "--grammar-file", tmp_path / "a\nb\x1b"))
    assert r"a\nb\x1b" in message


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(
    samovar: Samovar, models: Models
) -> None:
    prompt = b"word " * 4000
    message = _refused(samovar("run", models(), "--ctx-size", 256, stdin=prompt))
    assert "256" in message
    assert "--ctx-size" in message


def test_sixty_megabytes_of_prompt_are_refused_before_they_are_tokenized(
    samovar: Samovar, models: Models
) -> None:
    message = _refused(samovar("run", models(), stdin=b"all work and no play " * 3_000_000))
    assert "at least" in message  # an estimate; the exact number would have taken a minute


def test_nul_and_invalid_utf8_are_a_prompt_like_any_other(samovar: Samovar, models: Models) -> None:
    args = ("run", models(), "--raw", "--json", "--max-tokens", 3)
    assert len(_json(samovar(*args, stdin=b"\x00\xff\xfe\xc3(\xed\xa0\x80"))["tokens"]) == 3


def test_an_unreadable_file_is_refused(samovar: Samovar, models: Models, tmp_path: Path) -> None:
    path = tmp_path / "closed.gguf"
    path.write_bytes(models().read_bytes())
    path.chmod(0)
    assert "closed.gguf" in _refused(samovar("run", path, "Hi", preexec_fn=obey_file_modes))


HOMELESS = """
import pathlib, sys
def no_home(_):
    raise RuntimeError("no home")
pathlib.Path.home = classmethod(no_home)
from samovar.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_without_a_home_a_run_keeps_nothing_and_says_so(models: Models) -> None:
    argv = [sys.executable, "-c", HOMELESS, "run", str(models()), "Once", "--max-tokens", "2"]
    bare = {name: value for name, value in os.environ.items() if name == "PATH"}
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False, env=bare)
    assert done.returncode == 0, done.stderr.decode()
    assert b"SAMOVAR_CACHE_DIR" in done.stderr
    assert b"Traceback" not in done.stderr
