"""`samovar run`: a prompt in, text out."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from samovar.cli import inprocess
from samovar.cli.input import read_text
from samovar.cli.output import print_json, write_text
from samovar.errors import InvalidRequest
from samovar.types import SamplingParams

INTERRUPTED = 130  # what a shell reports for SIGINT


def add_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    """Declare the command."""
    parser = commands.add_parser("run", help="generate text from a prompt")
    parser.add_argument("model", metavar="MODEL", help="a GGUF file")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="default: standard input")
    parser.add_argument("--raw", action="store_true", help="do not apply the chat template")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="default: until the model ends")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: greedy (default: 0.8)")
    parser.add_argument("--top-k", type=int, default=40, help="0: off (default: 40)")
    parser.add_argument("--top-p", type=float, default=0.95, help="1: off (default: 0.95)")
    parser.add_argument("--min-p", type=float, default=0.05, help="0: off (default: 0.05)")
    parser.add_argument("--seed", type=int, help="same seed, same text (default: a random one)")
    parser.add_argument("--grammar-file", type=Path, metavar="FILE", help="GBNF to follow")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:SCALE]",
        help="an adapter to apply; may be repeated",
    )
    parser.add_argument("--ctx-size", type=int, default=0, metavar="N", help="context in tokens")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: every core")
    parser.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    prompt = read_text(args.prompt, "prompt")
    params = _params(args)
    if args.max_tokens is not None and args.max_tokens < 1:
        raise InvalidRequest("--max-tokens must be 1 or more")
    if args.ctx_size < 0 or args.threads < 0:
        raise InvalidRequest("--ctx-size and --threads must be positive")
    started = time.monotonic()
    with inprocess.open_model(
        args.model,
        context_length=args.ctx_size,
        threads=args.threads,
        gpu_layers=args.gpu_layers,
        adapters=[_adapter(text) for text in args.lora],
    ) as backend:
        load_seconds = time.monotonic() - started
        tokens = inprocess.encode_prompt(backend, prompt, is_raw=args.raw)
        with _interruptible(backend.abort) as cancelled:
            answer = inprocess.generate(
                backend,
                tokens,
                params,
                max_tokens=args.max_tokens,
                on_text=(lambda _: None) if args.json else write_text,
                cancelled=cancelled,
            )
    answer.timings.load_seconds = load_seconds
    _report(answer, as_json=args.json)
    return INTERRUPTED if answer.finish_reason == "cancelled" else 0


def _params(args: argparse.Namespace) -> SamplingParams:
    grammar = None
    if args.grammar_file is not None:
        try:
            grammar = args.grammar_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"cannot read the grammar {args.grammar_file}: {error}") from None
    return SamplingParams(
        grammar=grammar,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        seed=args.seed,
    )


def _adapter(text: str) -> tuple[str, float]:
    """PATH or PATH:SCALE; a colon that is followed by no number belongs to the path."""
    path, _, scale = text.rpartition(":")
    try:
        return (path, float(scale)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0


@contextmanager
def _interruptible(abort: inprocess.Callable[[], None]) -> Iterator[threading.Event]:
    """Turn Ctrl-C into a cancellation that takes effect inside the running decode call."""
    cancelled = threading.Event()

    def on_interrupt(*_: object) -> None:
        cancelled.set()
        abort()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield cancelled
    finally:
        signal.signal(signal.SIGINT, before)


def _report(answer: inprocess.Generation, *, as_json: bool) -> None:
    if not as_json:
        write_text("\n")
        return
    count = len(answer.tokens)
    usage = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": count,
        "total_tokens": answer.prompt_tokens + count,
    }
    print_json(
        {
            "text": answer.text,
            "tokens": answer.tokens,
            "prompt_tokens": answer.prompt_tokens,
            "finish_reason": answer.finish_reason,
            "seed": answer.seed,
            "usage": usage,
            "timings": {name: round(value, 6) for name, value in asdict(answer.timings).items()},
        }
    )
