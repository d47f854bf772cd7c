"""How much of a prompt comes from the cache, by template and by the client that sends it.

    python -m benchmarks.stability [NAME]... [--clients NAME]... [--threads 1]

A conversation of five turns with tools, led through a real server by the SDKs of OpenAI, Anthropic
and Ollama, each of which sends turns back its own way. Models are random, and write calls in the
form of their template's family because they are held to a tool. Prints one JSON object a line: for
every template and client the least share of cached tokens of all prompts after the first, with
exact replay and without. With `--table` prints rows of docs/stability.md instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stability_clients import CLIENTS, Prompt, Tool
from benchmarks.stability_models import KINDS, model_of

_CONTEXT = 8192
_PARTS_MADE, _PARTS_REAL = 4, 12  # of a system prompt: 1,400 and 1,900 tokens without tools
# Of all arguments there are so many: where parameters are no JSON, a text has no greatest length.
_WORD = {"type": "string", "enum": ["def heat(water)", "tea leaves", 'say "no" & <why>']}
_TOOLS = (
    Tool(
        "read_file",
        "Read a part of a file of the project. Lines count from 1; what is longer is cut.",
        {
            "type": "object",
            "properties": {
                "path": {"type": "string", "enum": ["src/kettle.py", "src/tea.py", "README.md"]},
                "first": {"type": "string", "enum": ["1", "101", "201"]},
            },
            "required": ["path", "first"],
        },
    ),
    Tool(
        "search",
        "Search all files of the project for a text, and tell where it stands.",
        {
            "type": "object",
            "properties": {"text": _WORD, "kind": {"type": "string", "enum": ["code", "docs"]}},
            "required": ["text", "kind"],
        },
    ),
    Tool(
        "set_option",
        "Change one option of the project's configuration, and tell what it was before.",
        {
            "type": "object",
            "properties": {
                "option": {"type": "string", "enum": ["colour", "depth", "lines"]},
                "is_on": {"type": "boolean"},
                "note": _WORD,
            },
            "required": ["option", "is_on", "note"],
        },
    ),
)
_TURNS = (
    ("Where is the water heated?", "search", "src/kettle.py:12: def heat(water)"),
    ("Show me that file.", "read_file", "def heat(water):\n    return water.at(96)"),
    ("Make it use colours.", "set_option", "it was off"),
    ("And who calls it?", "search", "src/tea.py:31: heat(fresh)"),
    ("Show me that as well.", "read_file", "def tea(leaves):\n    heat(fresh)"),
)
_RULES = (
    "Before you change a file, read the whole of it and of those that call what you change.",
    "Say what you are going to do in one sentence, then do it, and say what came of it.",
    "Keep every change as small as it can be, and leave alone what nobody asked you about.",
    "Names are words that the rest of the project uses; look for them before you make up others.",
    "When a tool says that something went wrong, find out why before you try it once more.",
    "Never guess what a file holds, which option is on, or what a command would print.",
    "Tests come with every change, and they fail without it; run them, and tell what they said.",
    "What you write is for people who read it months later and know nothing of this talk.",
)


def system_prompt(beginning: str, parts: int) -> str:
    """What agents are told, and no two conversations alike; 800 characters a part."""
    rules = [
        f"{part}.{number} {rule}"
        for part, of in enumerate(_PARTS.split()[:parts], 1)
        for number, rule in enumerate((f"This is about {of}.", *_RULES), 1)
    ]
    return "\n".join([f"You help with a project. {beginning}", *rules])


_PARTS = "code tests documents commands names errors files options numbers tools people questions"


@contextmanager
def served(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """The URL of a server, a process of its own; its cache and log lie in the folder."""
    command = [sys.executable, "-m", "samovar", "serve", "--port", "0", "--sequences", "2"]
    command += ["--ctx-size", str(_CONTEXT), "--cache-dir", str(folder / "kv"), *arguments]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # ends with the process, if that fails
            if " on " not in line:
                raise RuntimeError((folder / "log").read_text())
            yield line.split()[-1]
        finally:
            process.terminate()


@dataclass(frozen=True, slots=True)
class Measured:
    """One conversation."""

    template: str
    client: str
    replays: bool
    prompts: tuple[Prompt, ...]

    @property
    def shares(self) -> list[float]:
        """Of every prompt after the first: which part of it came from the cache."""
        return [one.share for one in self.prompts[1:]]

    @property
    def least(self) -> float:
        """The least of them."""
        return min(self.shares)


def measured(
    name: str,
    folder: Path,
    clients: Iterable[str] = CLIENTS,
    *,
    ways: Iterable[bool] = (True, False),
    threads: int = 1,
) -> Iterator[Measured]:
    """Every client's conversation with one template's model; `ways`: with replay, without."""
    kind, path = KINDS[name], model_of(name, folder)
    with served([f"{name}={path}", "--threads", str(threads)], folder) as url:
        for client in clients:
            for replays in ways:
                whose = f"{client}, {'with' if replays else 'without'} replay."
                parts = _PARTS_REAL if kind.vocabulary else _PARTS_MADE
                system = system_prompt(whose, parts + (0 if kind.shows_tools else 2))
                talk = CLIENTS[client](url, name, system, _TOOLS, replays, kind.reasons)
                with closing(talk):
                    talk.lead(_TURNS)
                yield Measured(name, client, replays, tuple(talk.prompts))


def _row(found: Sequence[Measured]) -> str:
    pairs = zip(found[::2], found[1::2], strict=True)
    told = [f"{on.least:.3f}, {off.least:.3f}" for on, off in pairs]
    return f"| {' | '.join([found[0].template, *told])} |"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("templates", nargs="*", default=list(KINDS), metavar="NAME")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="rows of docs/stability.md")
    args = parser.parse_args()
    for name in args.templates:
        with tempfile.TemporaryDirectory(prefix="samovar-benchmark-") as folder:
            found = []
            for one in measured(name, Path(folder), args.clients, threads=args.threads):
                found.append(one)
                if not args.table:
                    _print(json.dumps(_report(one)))
            if args.table:
                _print(_row(found))


def _report(one: Measured) -> dict[str, object]:
    return {
        "template": one.template,
        "client": one.client,
        "replays": one.replays,
        "least": round(one.least, 3),
        "shares": [round(share, 3) for share in one.shares],
        "tokens": [prompt.tokens for prompt in one.prompts],
    }


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
