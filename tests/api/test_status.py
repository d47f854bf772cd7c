"""Only bugs are answered with a status that nobody chose."""

from __future__ import annotations

import pytest

from samovar.api.status import INTERNAL, STATUS, status_of
from samovar.errors import InternalError, SamovarError
from tests.api.codes import exceptions


@pytest.mark.parametrize("kind", sorted(exceptions(), key=lambda one: one.__name__))
def test_every_exception_but_a_bug_has_a_status_of_its_own(kind: type[SamovarError]) -> None:
    if kind is SamovarError or issubclass(kind, InternalError):
        assert status_of(kind.code) == INTERNAL
    else:
        assert kind.code in STATUS


def test_a_code_that_nobody_knows_is_a_bug() -> None:
    assert status_of("no_such_code") == INTERNAL
