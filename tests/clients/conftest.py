"""Only the long run comes here: the tools are an environment of their own, half a gigabyte."""

from __future__ import annotations

from tests.conftest import FULL_SCALE

collect_ignore_glob = [] if FULL_SCALE else ["test_*.py"]
