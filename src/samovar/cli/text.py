"""`samovar tokenize` and `samovar detokenize`: text to ids and back."""

from __future__ import annotations

import argparse
import sys

from samovar.cli import inprocess
from samovar.cli.input import read_text
from samovar.cli.output import print_json, write_bytes
from samovar.errors import InvalidRequest


def add_parsers(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    """Declare the commands."""
    parser = commands.add_parser("tokenize", help="text to token ids")
    parser.add_argument("model", metavar="MODEL", help="a GGUF file; a vocabulary is enough")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="default: standard input")
    parser.add_argument(
        "--parse-special", action="store_true", help="recognise control tokens written in the text"
    )
    parser.add_argument("--no-bos", action="store_true", help="no BOS or other added tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=tokenize)
    parser = commands.add_parser("detokenize", help="token ids to text")
    parser.add_argument("model", metavar="MODEL", help="a GGUF file; a vocabulary is enough")
    parser.add_argument("ids", metavar="ID", nargs="*", help="default: standard input")
    parser.add_argument(
        "--parse-special", action="store_true", help="write control tokens out as text"
    )
    parser.add_argument("--no-bos", action="store_true", help="leave out a BOS that comes first")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=detokenize)


def tokenize(args: argparse.Namespace) -> int:
    """Print the ids of a text."""
    text = read_text(args.text, "text")
    with inprocess.open_vocabulary(args.model) as model:
        tokens = model.vocabulary.tokenize(
            text, add_special=not args.no_bos, parse_special=args.parse_special
        )
    if args.json:
        print_json({"tokens": tokens})
    else:
        sys.stdout.write(" ".join(map(str, tokens)) + "\n")
    return 0


def detokenize(args: argparse.Namespace) -> int:
    """Print the bytes of ids. In JSON, what is not UTF-8 becomes U+FFFD."""
    words = args.ids or read_text(None, "token ids").decode("ascii", "replace").split()
    try:
        tokens = [int(word.strip("[],")) for word in words if word.strip("[],")]
    except ValueError:
        raise InvalidRequest("token ids are whole numbers, parted by spaces") from None
    with inprocess.open_vocabulary(args.model) as model:
        vocabulary = model.vocabulary
        if args.no_bos and tokens[:1] == [vocabulary.bos]:
            tokens = tokens[1:]
        data = vocabulary.detokenize(tokens, special=args.parse_special)
    if args.json:
        print_json({"text": data.decode("utf-8", "replace")})
    else:
        write_bytes(data)
    return 0
