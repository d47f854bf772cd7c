"""What a run has generated, as far as it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from samovar.errors import from_code
from samovar.types import Event, Failed, Finished, FinishReason, TextDelta, Usage


@dataclass(slots=True)
class Generation:
    """One answer."""

    prompt_tokens: int
    load_seconds: float = 0.0
    seed: int = 0
    """What it drew with."""
    tokens: list[int] = field(default_factory=list)
    """Generated ids, the end-of-generation token excluded."""
    text: str = ""
    finish_reason: FinishReason = "length"
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def take(self, event: Event) -> None:
        """The next event of its request. Raises what ended it otherwise than as asked."""
        match event:
            case TextDelta(text=text, tokens=tokens):
                self.tokens += tokens
                self.text += text
            case Finished():
                self._finish(event)
            case Failed(code=code, message=message):
                raise from_code(code, message)

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent."""
        spent = self.usage.timings
        return {
            "load_seconds": self.load_seconds,
            "restore_seconds": spent.restore_seconds,
            "prefill_seconds": spent.prefill_seconds,
            "decode_seconds": spent.decode_seconds,
        }

    def _finish(self, event: Finished) -> None:
        (choice,) = event.choices
        self.finish_reason, self.seed, self.usage = choice.reason, choice.seed, event.usage
        if choice.reason == "stop" and choice.stop is None:
            self.tokens.pop()  # the end of generation
