"""What lies beside a model file: one that cannot be read is told and left aside."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from samovar.worker.sidecar import family_beside

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"family": ["hermes"]}',
        b'{"fields": {"content": {}}',
        DEEP.encode(),
        f'{{"fields": {DEEP}'.encode(),
    ],
    ids=["empty", "no text", "no object", "nothing in it", "a list", "cut off", "deep", "deeper"],
)
def test_a_description_that_cannot_be_read_is_told_and_left_aside(
    written: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.response_template.json").write_bytes(written)
    with caplog.at_level(logging.WARNING):
        assert family_beside(tmp_path / "model.gguf") is None
    assert "model.response_template.json is left aside" in caplog.text


def test_the_next_place_is_looked_at_then(tmp_path: Path) -> None:
    (tmp_path / "model.response_template.json").write_text(DEEP)
    (tmp_path / "tokenizer_config.json").write_text('{"response_template": {"family": "hermes"}}')
    found = family_beside(tmp_path / "model-00001-of-00002.gguf")
    assert found is not None
    assert found.name == "hermes"
