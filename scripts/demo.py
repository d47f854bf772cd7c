"""The main job, shown: a long conversation is answered, and goes on in another process.

    python scripts/demo.py FOLDER [QUESTION]

What the first process computed is on disk when it ends; the second one restores it and computes
only what is new. Both are `samovar run` as anyone types it. FOLDER is made anew.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MODEL = "samovar-mini"
QUESTION = "What is the capital of France?"
NEXT_QUESTION = "How many legs does a spider have?"
TURNS = 25  # some 650 tokens; in much longer talks than it was trained on, it loses the thread
THREADS = 1  # several would wait for each other where something else runs, longer than they help
MAX_TOKENS = 48  # more than its answers have; one that goes astray would fill the context

# What was said before. The model knows these, and answers in this form.
OPPOSITES = (
    "hot cold, big small, up down, happy sad, fast slow, open closed, full empty, old young,"
    " wet dry, hard soft, light dark, long short"
)
SOUNDS = "cat meow, dog woof, duck quack, sheep baa, pig oink, frog ribbit, hen cluck, bird tweet"
YOUNG = "cat kitten, dog puppy, sheep lamb, horse foal, duck duckling, pig piglet, bear cub"
COLORS = "grass green, snow white, coal black, chocolate brown, milk white, blood red"
CAPITALS = (
    "England London, Germany Berlin, Norway Oslo, Spain Madrid, Austria Vienna, Egypt Cairo,"
    " Japan Tokyo, Peru Lima, Russia Moscow, Greece Athens"
)
FORMS = (
    (OPPOSITES, "What is the opposite of {0}?", "The opposite of {0} is {1}."),
    (SOUNDS, "What does a {0} say?", "A {0} says {1}."),
    (YOUNG, "What is a young {0} called?", "A young {0} is called a {1}."),
    (COLORS, "What color is {0}?", "{2} is {1}."),
    (CAPITALS, "What is the capital of {0}?", "The capital of {0} is {1}."),
)

Message = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a process said, and what it took."""

    text: str
    prompt_tokens: int
    restored_tokens: int
    restore_seconds: float
    prefill_seconds: float

    @property
    def seconds(self) -> float:
        """To the first token, once the model is loaded."""
        return self.restore_seconds + self.prefill_seconds


def main(folder: Path, question: str) -> None:
    """Ask, ask on in another process, and compare. Raises SystemExit if either fails."""
    if not question.strip():
        raise SystemExit("the question is empty: give some text")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    talk = [*history(), {"role": "user", "content": question}]
    print(f"A conversation of {len(talk) // 2} questions and answers goes on, cold:\n")
    cold = ask(folder, "cold.json", talk)
    talk += [{"role": "assistant", "content": cold.text}]
    talk += [{"role": "user", "content": NEXT_QUESTION}]
    print("And on, in a new process, warm from disk:\n")
    warm = ask(folder, "warm.json", talk)
    print(compared(cold, warm))
    print(f"What is kept: samovar cache ls --cache-dir {folder / 'kv'}")


def history() -> list[Message]:
    """Questions and answers, the kinds taking turns."""
    kinds = []
    for pairs, question, answer in FORMS:
        kinds.append([(question, answer, *pair.split()) for pair in pairs.split(", ")])
    found: list[Message] = []
    for turn in itertools.zip_longest(*kinds):
        for question, answer, one, other in filter(None, turn):
            words = (one, other, one.capitalize())
            found.append({"role": "user", "content": question.format(*words)})
            found.append({"role": "assistant", "content": answer.format(*words)})
    return found[: 2 * TURNS]


def ask(folder: Path, name: str, talk: list[Message]) -> Answer:
    """The answer of a process of its own to a conversation."""
    file = folder / name
    file.write_text(json.dumps(talk, indent=1), encoding="utf-8")
    arguments = ["run", MODEL, "--messages", str(file), "--cache-dir", str(folder / "kv")]
    arguments += ["--temperature", "0", "--max-tokens", str(MAX_TOKENS), "--threads", str(THREADS)]
    print(f"$ samovar {' '.join(arguments)}\n  {talk[-1]['content']}")
    command = [sys.executable, "-m", "samovar", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    said = json.loads(done.stdout)
    usage, timings = said["usage"], said["timings"]
    answer = Answer(
        said["text"].strip(),
        usage["prompt_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
        timings["restore_seconds"],
        timings["prefill_seconds"],
    )
    print(f"  {answer.text}\n")
    return answer


def compared(cold: Answer, warm: Answer) -> str:
    """A table of both, and the ratio of their times."""
    head = ("", "prompt", "restored", "computed", "restore", "prefill", "first token")
    rows: list[tuple[str, ...]] = [head]
    for label, one in (("cold", cold), ("warm", warm)):
        counts = (one.prompt_tokens, one.restored_tokens, one.prompt_tokens - one.restored_tokens)
        seconds = (one.restore_seconds, one.prefill_seconds, one.seconds)
        rows.append((label, *map(str, counts), *(f"{1000 * value:.1f} ms" for value in seconds)))
    lines = [row[0].ljust(4) + "".join(cell.rjust(12) for cell in row[1:]) for row in rows]
    ratio = cold.seconds / max(warm.seconds, 1e-6)
    return "\n".join([*lines, "", f"Time to the first token, cold over warm: {ratio:.1f}"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python scripts/demo.py FOLDER [QUESTION]")
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else QUESTION)
