"""How much of a prompt and its answer the next prompt begins with, over ten turns with calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from samovar.chat.choosing import starts_in_reasoning
from samovar.chat.replay import Prompt
from samovar.types import Message, Tool
from tests.chat.replaying import Talk, respelled
from tests.chat.turns import CASES, NAMES, TOOLS, Case, turn
from tests.conftest import FULL_SCALE

ANSWER = Case("A little drizzle, I think.")

# Where a template itself writes the past otherwise than it was.
HEADS_ANSWERS = {  # what it writes before an answer is not there any more behind it
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "google-gemma-4-31B-it",
}
DROPS_REASONING = {"MiniMax-M2", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"}
MOVES_TOOLS = {"Mistral-Small-3.2-24B-Instruct-2506", "mistralai-Mistral-Nemo-Instruct-2407"}
ENDS_RESULTS = {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use"}  # otherwise when they are last
CHANGES = HEADS_ANSWERS | DROPS_REASONING | MOVES_TOOLS | ENDS_RESULTS
KINDS: dict[str, Sequence[Tool]] = {"tools": TOOLS, **({"plain": ()} if FULL_SCALE else {})}


@dataclass
class History:
    """A conversation of ten questions; every second one is answered with a call first."""

    talk: Talk
    replays: bool
    messages: list[Message] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    """The last prompt, and what was generated behind it."""

    def run(self) -> None:
        """All of it."""
        for number in range(10):
            question = f"Question {number}: is it raining in Visby or in Oslo?"
            self.messages.append({"role": "user", "content": question})
            if self.talk.tools and number % 2 == 0 and self._answer(CASES["one call"]):
                self.messages.append(
                    {"role": "tool", "tool_call_id": "abcdefgh0", "content": "drizzle"}
                )
            if self.messages[-1]["role"] != "assistant":
                self._answer(ANSWER)

    def _answer(self, case: Case) -> bool:
        """A turn. Whether it is a call."""
        prompt = self.talk.ask(self.messages, replays=self.replays)
        if self.before:
            pairs = zip(self.before, prompt.tokens, strict=False)
            same = next((at for at, (one, two) in enumerate(pairs) if one != two), None)
            self.shares.append(1.0 if same is None else same / len(self.before))
        # Without replaying, nothing is remembered that this could find.
        tail = self._tail(prompt if self.replays else self.talk.ask(self.messages))
        text = self._generated(case, tail)
        ids = self.talk.tokenizer.generated(text, 3)
        if prompt.origin is not None:
            self.talk.replay.remember(prompt.origin, ids)
        self.before = [*prompt.tokens, *ids]
        said = self.talk.form.read(text, tail)
        for call in said.get("tool_calls", []):
            call["id"] = "abcdefgh0"
        self.messages.append(said)
        return "tool_calls" in said

    def _tail(self, prompt: Prompt) -> str:
        assert prompt.origin is not None
        return prompt.origin.tail

    def _generated(self, case: Case, tail: str) -> str:
        text = respelled(turn(self.talk.template, case)[1]) if self.talk.tools else case.content
        family = self.talk.form.family
        if family.reasoning is None or not starts_in_reasoning(family, tail):
            return text
        close = family.reasoning.close.strip()
        return f"Hm.\n{close}\n\n{text.rpartition(close)[2].lstrip()}"


def history(name: str, tools: Sequence[Tool], *, replays: bool) -> list[float]:
    """For every prompt but the first: which part of all before it is its beginning."""
    made = History(Talk(name, tools=tuple(tools)), replays)
    made.run()
    return made.shares


@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_stable_where_the_template_allows_it(name: str) -> None:
    found = {
        (kind, replays): history(name, tools, replays=replays)
        for kind, tools in KINDS.items()
        for replays in (True, False)
    }
    told = "  ".join(f"{sum(one) / len(one):.3f} {min(one):.3f}" for one in found.values())
    print(f"\n| {name} | {told}")  # noqa: T201 - the figures of docs/stability.md, with -s
    for kind in KINDS:
        on, off = found[kind, True], found[kind, False]
        assert sum(on) >= sum(off)
        if name not in CHANGES or (kind == "plain" and name in MOVES_TOOLS):
            assert on == [1.0] * len(on)
            assert min(off) < 1
