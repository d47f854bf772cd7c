"""Conversations whose turns are generated and sent back, on a tokenizer that anyone can follow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from samovar.chat.choosing import choose
from samovar.chat.literal import Segment
from samovar.chat.messages import plain_messages
from samovar.chat.prompt import render_chat
from samovar.chat.replay import Asked, Prompt, Replay
from samovar.chat.replay_shown import Form
from samovar.chat.replay_turns import Turns
from samovar.chat.specials import Specials
from samovar.chat.template import Template
from samovar.types import Message, Tool
from tests.chat.turns import TOOLS, Case, source, template, turn

_WRITTEN = """
<|im_start|> <|im_end|> <|im_user|> <|im_assistant|> <|im_system|> <|im_middle|> <|eot_id|> <|end|>
<|user|> <|assistant|> <|start_header_id|> <|end_header_id|> <|system|> [INST] [/INST] [TOOL_CALLS]
[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [ARGS]
[/TOOL_RESULTS] [e~[ ]~b] <start_of_turn> <end_of_turn> <|turn> <turn|> <|start|> <|return|>
<|call|> <|start_of_role|> <|end_of_role|> <|end_of_text|> <\uff5cUser\uff5c>
<\uff5cAssistant\uff5c>
<\uff5cend\u2581of\u2581sentence\uff5c> <|message|> <|channel|> <|constrain|> <seed:bos> <seed:eos>
[gMASK] <sop> <|observation|> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> <BOS>
<EOS>
"""
_ENDING = """<|im_end|> <|eot_id|> <|end_of_text|> <end_of_turn> <turn|> <EOS> [e~[ <seed:eos>
<\uff5cend\u2581of\u2581sentence\uff5c> <|END_OF_TURN_TOKEN|> <|return|> <|call|>"""
CONTROLS = tuple(_WRITTEN.split())
ENDS = frozenset(_ENDING.split())
# Which of those that other models use for other things end a turn here.
OWN_ENDS = {
    "GLM-4.6": {"<|user|>", "<|observation|>"},
    "microsoft-Phi-3.5-mini-instruct": {"<|end|>"},
}
_CHUNK = 4


class ChunkTokenizer:
    """Control tokens are one id each; other text is cut in fours, from where a stretch begins."""

    def __init__(self, controls: Iterable[str] = CONTROLS, ends: Iterable[str] = ENDS) -> None:
        self._texts: list[str] = list(controls)
        self._num_controls = len(self._texts)
        self._known = {text: number for number, text in enumerate(self._texts)}
        self._ends = frozenset(ends)
        longest_first = sorted(self._texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self.specials = Specials(self._texts)

    @property
    def control_tokens(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self._texts[: self._num_controls])}

    def ids(
        self,
        text: str,
        *,
        parse_special: bool,
        is_first: bool,  # noqa: ARG002 - only SentencePiece minds
    ) -> list[int]:
        found: list[int] = []
        end = 0
        for match in self._pattern.finditer(text) if parse_special else ():
            found += self.chunks(text[end : match.start()], _CHUNK)
            found.append(self._known[match[0]])
            end = match.end()
        return found + self.chunks(text[end:], _CHUNK)

    def chunks(self, text: str, size: int) -> list[int]:
        """Plain text, in pieces of so many characters."""
        return [self._id(text[at : at + size]) for at in range(0, len(text), size)]

    def generated(self, text: str, size: int) -> list[int]:
        """A text as a model may have written it: control tokens, and pieces of a size."""
        found: list[int] = []
        end = 0
        for match in self._pattern.finditer(text):
            found += [*self.chunks(text[end : match.start()], size), self._known[match[0]]]
            end = match.end()
        return found + self.chunks(text[end:], size)

    def begun(self, ids: list[int]) -> list[int]:
        return ids

    def spelled(self, ids: Sequence[int], shown: frozenset[int]) -> bytes:
        texts = (
            self._texts[token] if token >= self._num_controls or token in shown else ""
            for token in ids
        )
        return "".join(texts).encode()

    def text(self, ids: Iterable[int]) -> str:
        """All of it."""
        return "".join(self._texts[token] for token in ids)

    def controls(self, ids: Iterable[int]) -> list[int]:
        return [token for token in ids if token < self._num_controls]

    def is_end(self, token: int) -> bool:
        return self._texts[token] in self._ends

    def _id(self, text: str) -> int:
        # Text that spells a control token is other ids than the token.
        key = f"\0{text}"
        if key not in self._known:
            self._known[key] = len(self._texts)
            self._texts.append(text)
        return self._known[key]


@dataclass
class Talk:
    """A conversation with a model of one template, which forgets nothing unless told to."""

    name: str
    tools: Sequence[Tool] = tuple(TOOLS)
    now: float = 0.0
    tokenizer: ChunkTokenizer = field(init=False)

    def __post_init__(self) -> None:
        self.tokenizer = ChunkTokenizer(ends=ENDS | OWN_ENDS.get(self.name, set()))
        self.turns = Turns(b"test", lambda: self.now)
        self.replay = self.replaying(self.turns)
        family = choose(source(self.name))
        self.form = Form(family, tuple(self.tools), self.shown(family))

    def replaying(self, turns: Turns) -> Replay:
        """A replay of this template over some memory."""
        return Replay(self.tokenizer, self.tokenizer.specials, turns, source=source(self.name))

    @staticmethod
    def shown(_family: object) -> frozenset[int]:
        """All control tokens: what a family leaves in the text makes no difference here."""
        return frozenset(range(len(CONTROLS)))

    @property
    def template(self) -> Template:
        return template(self.name)

    def render(self, messages: list[Message]) -> list[Segment]:
        """The segments of a prompt."""
        return render_chat(
            self.template, messages, list(self.tools), specials=self.tokenizer.specials
        )

    def ask(
        self,
        messages: Sequence[Message],
        replay: Replay | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Prompt:
        """The prompt of a conversation."""
        plain = plain_messages(list(messages))
        asked = Asked(plain, self.render, self.form, **more)
        return (replay or self.replay).prompt(asked)


def respelled(text: str) -> str:
    """A turn with its JSON written as compactly as models like to."""

    def compact(match: re.Match[str]) -> str:
        try:
            return json.dumps(json.loads(match[0]), separators=(",", ":"), ensure_ascii=False)
        except ValueError:
            return match[0]

    return re.sub(r"\{.*\}", compact, text)


QUESTION: Message = {"role": "user", "content": "QUESTION"}
SIZE = 3
"""Characters of a generated piece: not those that the tokenizer would take."""


@dataclass
class Answered:
    """A turn that a model generated, and what was asked before."""

    talk: Talk
    prompt: Prompt
    ids: list[int]
    """Without the end."""
    text: str
    message: Message
    """What the client is told."""

    def back(self, message: Message | None = None) -> list[Message]:
        """The conversation with the turn, and what comes next."""
        said = message or self.message
        calls = said.get("tool_calls", [])
        told = [
            {"role": "tool", "tool_call_id": call["id"], "content": f"drizzle {number}"}
            for number, call in enumerate(calls)
        ]
        return [QUESTION, said, *(told or [{"role": "user", "content": "And tomorrow?"}])]


def answered(talk: Talk, case: Case, *, size: int = SIZE, **more: Any) -> Answered:  # noqa: ANN401
    """A conversation of one question, answered as a template would have it, in other tokens."""
    prompt = talk.ask([QUESTION], **more)
    before, text = turn(talk.template, case)
    asked, full = talk.tokenizer.text(prompt.tokens), before + text
    text = respelled(full[len(asked) :] if full.startswith(asked) else text)
    return spoken(talk, prompt, talk.tokenizer.generated(text, size))


def spoken(talk: Talk, prompt: Prompt, ids: list[int]) -> Answered:
    """A conversation of one question, answered in these tokens."""
    assert prompt.origin is not None
    text = talk.tokenizer.text(ids)
    talk.replay.remember(prompt.origin, [*ids, talk.tokenizer.control_tokens["<EOS>"]])
    message = talk.form.read(text, prompt.origin.tail)
    for number, call in enumerate(message.get("tool_calls", [])):
        call["id"] = f"abcdefgh{number}"
    return Answered(talk, prompt, ids, text, message)
