"""What lies beside a model file and says how to read what the model writes.

`NAME.response_template.json`, or the key `response_template` of a `tokenizer_config.json` in the
same folder. It wins over what the template's markers tell. A bad one is told and left aside: the
model itself is sound.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from samovar.chat.response_template import NAME, UnreadableError, described_family
from samovar.chat.shapes import Family

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20  # a tokenizer's whole configuration; more is another kind of file
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def family_beside(path: Path) -> Family | None:
    """The family that is described beside a model file; None: nothing is, or nothing usable."""
    stem = _PART.sub("", path.stem)
    own = path.with_name(f"{stem}.{NAME}.json")
    for file, is_own in ((own, True), (path.with_name("tokenizer_config.json"), False)):
        try:
            value = _read(file)
            if value is None or (not is_own and NAME not in value):
                continue
            return described_family(value if is_own else value[NAME])
        except (OSError, ValueError, RecursionError) as error:
            words = str(error) if isinstance(error, UnreadableError) else type(error).__name__
            logger.warning("%s is left aside: %s", file.name, words)
    return None


def _read(file: Path) -> dict[str, Any] | None:
    """A JSON object; None: there is no such file. Raises OSError, ValueError."""
    if not file.is_file():
        return None
    if file.stat().st_size > MAX_BYTES:
        raise UnreadableError(f"it has more than {MAX_BYTES} bytes")
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise UnreadableError("it holds no JSON object")
    return value
