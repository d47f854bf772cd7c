"""The command line writes what the functions write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelmaker import build_adapter, build_vocab_only
from modelmaker.__main__ import main
from modelmaker.gguf_head import read_head

Made = Callable[..., Path]


def test_models(tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "model.gguf"
    options = "--quant Q8_0 --vocab spm --seed 3 --context-length 99 --chat-template chatml"
    assert main(["gemma2", str(path), *options.split()]) == 0
    assert capsys.readouterr().out == f"{path} {path.stat().st_size:,} bytes\n"
    same = made(
        "gemma2", quant="Q8_0", vocab="spm", seed=3, context_length=99, chat_template="chatml"
    )
    assert path.read_bytes() == same.read_bytes()


def test_adapters(tmp_path: Path, made: Made) -> None:
    base = made("llama")
    assert main(["adapter", str(base), str(tmp_path / "a.gguf"), "--rank", "8"]) == 0
    same = build_adapter(tmp_path / "b.gguf", base, rank=8)
    assert (tmp_path / "a.gguf").read_bytes() == same.read_bytes()


def test_vocabularies(tmp_path: Path) -> None:
    assert main(["vocabulary", str(tmp_path / "a.gguf"), "--vocab", "wpm"]) == 0
    same = build_vocab_only(tmp_path / "b.gguf", "wpm")
    assert (tmp_path / "a.gguf").read_bytes() == same.read_bytes()
    assert not read_head(same).tensors


def test_what_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "model.gguf")
    assert main(["mamba", out, "--shape", "1b"]) == 1
    assert (
        capsys.readouterr().err == "modelmaker: the shape '1b' is for llama only, not for mamba\n"
    )
    assert main(["llama", out, "--vocab", str(tmp_path / "none.gguf")]) == 1
    assert "none.gguf" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["llama"])


@pytest.mark.parametrize(
    "options", [["--rank", "0"], ["--rank", "-1"], ["--alpha", "0"]], ids=" ".join
)
def test_an_adapter_that_changes_nothing_is_not_made(
    tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["adapter", str(made("llama")), str(tmp_path / "a.gguf"), *options]) == 1
    assert "change nothing" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("length", ["0", "-5"])
def test_a_context_of_nothing_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: str
) -> None:
    assert main(["bert", str(tmp_path / "b.gguf"), "--context-length", length]) == 1
    assert "holds nothing" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("size", [0, 3, 4, 20, 30, 300])
def test_a_file_that_is_cut_is_no_base_and_no_vocabulary(
    tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(made("llama").read_bytes()[:size])
    assert main(["adapter", str(cut), str(tmp_path / "a.gguf")]) == 1
    assert main(["vocabulary", str(tmp_path / "v.gguf"), "--vocab", str(cut)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"modelmaker: {cut} is ") for line in lines] == [True, True]
