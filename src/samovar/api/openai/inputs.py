"""What takes one text or several, each as text or as token ids: prompts, and what is embedded."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictInt, StrictStr, ValidationError, ValidatorFunctionWrapHandler
from pydantic.functional_validators import WrapValidator
from pydantic_core import PydanticCustomError

from samovar.api.openai.checks import BadField

Input = str | tuple[int, ...]


def _one_kind(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401
    """One sentence instead of what is wrong with it as each of the four."""
    try:
        return handler(value)
    except ValidationError:
        raise PydanticCustomError(
            "inputs",
            "must be a text, a list of texts, a list of token ids, or a list of such lists",
        ) from None


# As each kind it fails at the first that is none: of the others nobody wants to hear.
_Texts = Annotated[list[StrictStr], Field(fail_fast=True)]
_Ids = Annotated[list[StrictInt], Field(fail_fast=True)]
_Lists = Annotated[list[_Ids], Field(fail_fast=True)]

Inputs = Annotated[StrictStr | _Texts | _Ids | _Lists, WrapValidator(_one_kind)]


def listed(given: Inputs, param: str, most: int) -> list[Input]:
    """Each of them. Raises BadField for too many and for none."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [tuple(one for one in given if isinstance(one, int))]
    if not 1 <= len(given) <= most:
        raise BadField(param, f"has {len(given)} texts; send 1 to {most}")
    return [one if isinstance(one, str) else tuple(one) for one in given]  # type: ignore[arg-type]
