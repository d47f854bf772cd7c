"""A conversation that makes no sense is refused where it is made."""

from __future__ import annotations

import pytest

from samovar.errors import InvalidRequest
from samovar.types import Chat, ToolChoice

USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize("budget", [-1, True, 1.5, "x"])
def test_a_budget_is_a_whole_number(budget: object) -> None:
    with pytest.raises(InvalidRequest, match="reasoning_tokens"):
        Chat((USER,), reasoning_tokens=budget)  # type: ignore[arg-type]
    assert Chat((USER,), reasoning_tokens=0).reasoning_tokens == 0


def test_a_choice_of_tools_is_one_that_there_is() -> None:
    with pytest.raises(InvalidRequest, match="tool_choice"):
        ToolChoice("sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("messages", [(), (USER,)])
def test_only_what_the_assistant_has_begun_goes_on(messages: tuple[dict[str, str], ...]) -> None:
    with pytest.raises(InvalidRequest):
        Chat(messages, continues_last=True)
