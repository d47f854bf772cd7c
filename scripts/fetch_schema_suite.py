"""Fetches the official test suite of JSON Schema, for the tests of JSON schemas as grammars.

    python scripts/fetch_schema_suite.py FOLDER

It comes in the source distribution of jsonschema, whose version and hash are those that the tests
are run with (requirements/test.txt); pip compares the hash. Only the suite is unpacked: `tests`,
`remotes` and its licence. Run by set-up, from the environment that has requirements/suite.txt.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
WANTED = ("tests", "remotes", "LICENSE")


def main(folder: Path) -> None:
    """Fill the folder, which is there afterwards with all of it, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="schema-suite-", dir=folder.parent) as work:
        archive = download(pin(REQUIREMENTS / "test.txt"), Path(work))
        made = Path(work, "made")
        unpack(archive, made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def pin(requirements: Path) -> str:
    """The lines that pin jsonschema, hashes included."""
    found = re.search(r"^jsonschema==(?:.*\\\n)*.*", requirements.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{requirements.name} does not pin jsonschema; run `make lock`")
    return found[0]


def download(requirement: str, folder: Path) -> Path:
    """The source distribution. pip prepares its metadata on the way, with what is installed."""
    listed = folder / "requirement.txt"
    listed.write_text(f"{requirement}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    command += ["--no-build-isolation", "--dest", str(folder), "--requirement", str(listed)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("the test suite of JSON Schema could not be fetched; see above")
    return next(folder.glob("jsonschema-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> None:
    """The files of the suite, and nothing else."""
    with tarfile.open(archive) as opened:
        for member in opened:
            _top, *inner = PurePosixPath(member.name).parts
            if not member.isfile() or inner[:1] != ["json"] or inner[1] not in WANTED:
                continue
            if ".." in inner:
                raise SystemExit(f"{archive.name} holds a path that leads out of it; do not use it")
            target = folder.joinpath(*inner[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            content = opened.extractfile(member)
            assert content is not None  # it is a file
            target.write_bytes(content.read())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: fetch_schema_suite.py FOLDER")
    main(Path(sys.argv[1]).absolute())
