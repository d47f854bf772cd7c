"""`samovar cache`: what is kept on disk, whether it is sound, and what shall go."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from samovar.cache.house import Directory, House
from samovar.cache.opening import disk_budget
from samovar.cli.cache_input import cache_config
from samovar.cli.cache_prompts import explain, pin, unpin, warm
from samovar.cli.output import print_json, size
from samovar.cli.sizes import read_size
from samovar.cli.streams import complain
from samovar.errors import InvalidRequest, Unavailable
from samovar.gguf.show import shown

_SHOWN_DIGITS = 12  # of a namespace's name, where it is one of many
_UNUSED_DAYS = 30.0

_directory_option = click.option(
    "--cache-dir", type=Path, metavar="DIR", help="Default: ~/.cache/samovar/kv."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def cache() -> None:
    """Look after the prompts that are kept on disk."""


for _command in (warm, explain, pin, unpin):
    cache.add_command(_command)


@cache.command("ls")
@_directory_option
@_json_option
def list_(*, cache_dir: Path | None, as_json: bool) -> None:
    """List what is kept, by model and settings: a namespace each."""
    config = cache_config(cache_dir)
    house = House(config.directory)
    found = [_facts(house, one) for one in house.directories()]
    budget = disk_budget(config)
    used = sum(one["bytes"] for one in found)
    if as_json:
        print_json(
            {
                "directory": str(config.directory),
                "used_bytes": used,
                "budget_bytes": budget,
                "namespaces": found,
            }
        )
        return
    if found:
        sys.stdout.write(_table([_HEAD, *map(_row, found)]))
    where = shown(str(config.directory))
    sys.stdout.write(f"{size(used)} of {size(budget)} in {where}\n")


@cache.command()
@click.argument("namespace", required=False)
@click.option("--deep/--quick", default=True, help="Read contents too, or only heads. [deep]")
@click.option("--repair", is_flag=True, help="Set bad blocks aside and clear up.")
@_directory_option
@_json_option
def check(
    *, namespace: str | None, deep: bool, repair: bool, cache_dir: Path | None, as_json: bool
) -> int:
    """Check all blocks; the exit code is 1 when something is wrong and stays so.

    NAMESPACE is the beginning of a name that `samovar cache ls` shows. Default: all of them.
    """
    house = House(cache_config(cache_dir).directory)
    found: list[dict[str, Any]] = []
    for one in _chosen(house, namespace):
        checked = house.check(one, deep=deep, repairs=repair)
        found.append(
            {
                "namespace": one.name,
                "problems": [problem._asdict() for problem in checked.problems],
                "left": [problem._asdict() for problem in checked.left],
                "removed_leavings": checked.num_removed,
            }
        )
    if as_json:
        print_json({"namespaces": found})
    else:
        for each in found:
            _say(each, repair=repair)
    return 1 if any(each["left"] for each in found) else 0


@cache.command()
@click.argument("namespace", required=False)
@click.option("--days", type=float, metavar="N", help="What nobody used for so long. [30]")
@click.option("--bytes", "most", metavar="SIZE", help="The least useful, down to this: 500M, 2G.")
@_directory_option
def prune(
    *, namespace: str | None, days: float | None, most: str | None, cache_dir: Path | None
) -> None:
    """Delete what is of no use any more: namespaces that nobody used for 30 days.

    Or one, NAMESPACE, by the beginning of its name; or with --bytes single blocks, those of the
    longest unused namespace first. What is pinned, or in use by a process, stays.
    """
    if sum(given is not None for given in (namespace, days, most)) > 1:
        raise InvalidRequest("give a NAMESPACE, --days or --bytes, not several of them")
    house = House(cache_config(cache_dir).directory)
    house.sweep()
    if most is not None:
        freed = house.shrink(read_size(most))
        sys.stdout.write(f"deleted {size(freed)}; {size(house.used_bytes())} are left\n")
        return
    if namespace is not None:
        (one,) = _chosen(house, namespace)
        _delete(house, one)
        return
    limit = _UNUSED_DAYS if days is None else days
    if not limit >= 0:
        raise InvalidRequest("--days must be 0 or more")
    _list_deleted(house.prune(limit * 86_400))


@cache.command()
@click.argument("namespace", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_directory_option
def clear(*, namespace: str | None, yes: bool, cache_dir: Path | None) -> int:
    """Delete everything, or one NAMESPACE, what is pinned included."""
    house = House(cache_config(cache_dir).directory)
    house.sweep()
    found = _chosen(house, namespace)
    if not found:
        sys.stdout.write("nothing to delete\n")
        return 0
    total = size(sum(one.used_bytes for one in found))
    what = f"{len(found)} namespace{'s' * (len(found) > 1)} ({total})"
    if not yes and not _agrees(f"Delete {what} in {shown(str(house.root))}?"):
        sys.stdout.write("nothing was deleted\n")
        return 1
    gone = [one for one in found if house.delete(one)]
    if gone:
        _list_deleted(gone)
    left = [one.name[:_SHOWN_DIGITS] for one in found if one not in gone]
    if left:
        raise Unavailable(_in_use(", ".join(left)))
    return 0


# ---- which ------------------------------------------------------------------------------------


def _chosen(house: House, prefix: str | None) -> list[Directory]:
    """The one namespace whose name begins so; all of them without a prefix."""
    if prefix is not None and not re.fullmatch("[0-9a-f]{1,32}", prefix):
        raise InvalidRequest(
            f"{shown(prefix)} begins no namespace: give hex digits as `samovar cache ls` shows"
        )
    found = [one for one in house.directories() if one.name.startswith(prefix or "")]
    if prefix is not None and len(found) != 1:
        many = f"{len(found)} namespaces begin" if found else "no namespace begins"
        advice = "give more digits" if found else "see `samovar cache ls`"
        raise InvalidRequest(f"{many} with {prefix}: {advice}")
    return found


def _delete(house: House, one: Directory) -> None:
    if one.num_pins:
        raise InvalidRequest(
            f"{one.name[:_SHOWN_DIGITS]} has pinned prompts: unpin them, or use `samovar cache"
            " clear`"
        )
    if not house.delete(one):
        raise Unavailable(_in_use(one.name[:_SHOWN_DIGITS]))
    _list_deleted([one])


def _in_use(names: str) -> str:
    return f"{names} is in use by a process, or may not be deleted: try again when it has ended"


def _list_deleted(gone: list[Directory]) -> None:
    for one in gone:
        sys.stdout.write(f"deleted {one.name[:_SHOWN_DIGITS]} ({size(one.used_bytes)})\n")
    if not gone:
        sys.stdout.write("nothing to delete\n")


def _agrees(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:  # there is nobody to ask; Ctrl-C has ended the process before
        sys.stderr.write("\n")
        raise InvalidRequest("nobody answered: add --yes to delete without being asked") from None


# ---- what is said -----------------------------------------------------------------------------

_HEAD = ("NAMESPACE", "MODEL", "SIZE", "BLOCKS", "TOKENS", "PINS", "LAST USED")


def _facts(house: House, one: Directory) -> dict[str, Any]:
    contents, namespace = house.contents(one), house.namespace(one)
    return {
        "namespace": one.name,
        "model": None if namespace is None else namespace.fields.get("model"),
        "bytes": one.used_bytes,
        "blocks": contents.num_blocks,
        "states": contents.num_states,
        "tokens": contents.num_tokens,
        "pins": one.num_pins,
        "last_used": datetime.fromtimestamp(one.last_used, UTC).isoformat(timespec="seconds"),
        "in_use": one.is_in_use,
        "settings": None if namespace is None else dict(namespace.fields),
    }


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    when = datetime.fromisoformat(facts["last_used"]).astimezone()
    return (
        facts["namespace"][:_SHOWN_DIGITS],
        shown(str(facts["model"] or "unknown")),
        size(facts["bytes"]),
        str(facts["blocks"]),
        str(facts["tokens"]),
        str(facts["pins"]),
        "now" if facts["in_use"] else f"{when:%Y-%m-%d %H:%M}",
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as what is in them; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if 2 <= place <= 5 else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def _say(each: dict[str, Any], *, repair: bool) -> None:
    name, problems, left = each["namespace"][:_SHOWN_DIGITS], each["problems"], each["left"]
    for problem in problems:
        sys.stdout.write(f"{name}  {problem['kind']:11}  {shown(problem['where'])}\n")
    if not problems:
        sys.stdout.write(f"{name}  sound\n")
    elif not left:
        sys.stdout.write(f"{name}  repaired\n")
    elif repair:
        complain(f"{name}: {len(left)} problems cannot be repaired; move those files away yourself")
