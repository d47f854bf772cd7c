"""What goes wrong with responses that are kept."""

from __future__ import annotations

from typing import ClassVar

from samovar.api.openai.checks import BadField
from samovar.errors import InvalidRequest, RequestError


class ResponseNotFound(RequestError):
    """No response of this id is kept for whoever asks."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__(
            "there is no such response (any more): only the latest are kept, until the server ends,"
            " and those only that were not sent with store: false"
        )


class PreviousNotFound(BadField):
    """The response that is to be continued is not kept."""

    code: ClassVar[str] = "previous_response_not_found"

    def __init__(self) -> None:
        super().__init__(
            "previous_response_id",
            "there is no such response (any more); send the conversation as input",
        )


class NotRunning(InvalidRequest):
    """A response that has ended cannot be cancelled."""

    def __init__(self) -> None:
        super().__init__("the response has ended; only one in progress can be cancelled")
