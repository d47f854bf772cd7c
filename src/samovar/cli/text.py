"""`samovar tokenize` and `samovar detokenize`: text to ids and back."""

from __future__ import annotations

import re
import sys

import click

from samovar.cli.input import model_path, read_text
from samovar.cli.inquiry import inquire
from samovar.cli.output import print_json, write_bytes
from samovar.errors import InvalidRequest

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")  # int() takes more, and refuses long ones
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command()
@click.argument("model", type=model_path)
@click.argument("text", required=False)
@click.option("--parse-special", is_flag=True, help="Recognise control tokens in the text.")
@click.option("--no-bos", is_flag=True, help="No BOS and no other added tokens.")
@_json_option
def tokenize(
    *, model: str, text: str | None, parse_special: bool, no_bos: bool, as_json: bool
) -> None:
    """Print the token ids of TEXT (default: standard input, byte for byte).

    MODEL is a GGUF file, where a vocabulary alone is enough, or a built-in name.
    """
    data = read_text(text, "text")
    tokens = inquire(
        "tokenize", path=model, text=data, add_special=not no_bos, parse_special=parse_special
    )
    if as_json:
        print_json({"tokens": tokens})
    else:
        sys.stdout.write(" ".join(map(str, tokens)) + "\n")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("model", type=model_path)
@click.argument("ids", nargs=-1)
@click.option("--parse-special", is_flag=True, help="Write control tokens out as text.")
@click.option("--no-bos", is_flag=True, help="Leave out a BOS that comes first.")
@_json_option
def detokenize(
    *, model: str, ids: tuple[str, ...], parse_special: bool, no_bos: bool, as_json: bool
) -> None:
    """Print the bytes of token IDS (default: standard input).

    MODEL is a GGUF file, where a vocabulary alone is enough, or a built-in name. In JSON,
    what is not UTF-8 becomes U+FFFD.
    """
    tokens = _ids(" ".join(ids) if ids else read_text(None, "token ids").decode("ascii", "replace"))
    data = inquire("detokenize", path=model, tokens=tokens, special=parse_special, drops_bos=no_bos)
    if as_json:
        print_json({"text": data.decode("utf-8", "replace")})
    else:
        write_bytes(data)


def _ids(text: str) -> list[int]:
    """Token ids, parted by white space or written as a JSON array."""
    words = [word for word in re.split(r"[\s,\[\]]+", text) if word]
    if not all(map(_WHOLE_NUMBER.fullmatch, words)):
        raise InvalidRequest("token ids are whole numbers, parted by spaces")
    return [int(word) for word in words]
