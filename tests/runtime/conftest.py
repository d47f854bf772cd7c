"""What tests of the runtime share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where the models of a test count their faults."""
    return Place(tmp_path)
