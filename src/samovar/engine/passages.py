"""What a text becomes before it is embedded or scored: token ids, checked, and cut if need be."""

from __future__ import annotations

from array import array

from samovar.engine.prompts import Prompts
from samovar.errors import ContextOverflow, InvalidRequest
from samovar.native.interface import RANK, Backend, Passage
from samovar.types import EmbeddingText, EmbedRequest, RankRequest

TextRequest = EmbedRequest | RankRequest

_TOKEN_BYTES = 256  # longer than tokens of real vocabularies are on the average of any text


class Passages:
    """Turns the texts of requests into passages.

    Everything that can be wrong with them is found here, before any of them is computed.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._check = Prompts(backend).check

    def pooling(self, request: TextRequest) -> str:
        """How the request is computed. Raises OperationUnsupported if the model cannot."""
        if isinstance(request, RankRequest):
            self._backend.embedder.pair("", "")  # which tells a model without a head
            return RANK
        return self._backend.embedder.pooling_of(request.pooling)

    def passage(self, request: TextRequest, text: EmbeddingText) -> Passage:
        """One of the request's texts.

        Raises InvalidRequest for a text that has no token, InvalidToken, and ContextOverflow for
        one that is too long and must not be cut.
        """
        if request.truncates:  # of more than this nothing will be looked at
            text = text[: self._backend.embedder.longest * _TOKEN_BYTES]
        if isinstance(request, RankRequest):
            tokens = self._pair(request, text)
        else:
            tokens = self._text(request, text)
        if not tokens:
            raise InvalidRequest("this vocabulary has no token for a text; give other text")
        return Passage(array("i", tokens))  # an eighth of a list: requests may hold many

    def _text(self, request: EmbedRequest, text: EmbeddingText) -> list[int]:
        longest = self._backend.embedder.longest
        end: list[int] = []
        if isinstance(text, (str, bytes)):
            if not request.truncates:
                self._backend.require_fits(text, longest)
            tokens = self._backend.tokenize(text)
            end = _end_of(tokens, self._backend.tokenize(""))
        else:
            self._check(text)
            tokens = list(text)
        if len(tokens) <= longest:
            return tokens
        if not request.truncates:
            raise ContextOverflow(
                f"a text has {len(tokens)} tokens and the model sees {longest} at once; split it,"
                " or let it be truncated"
            )
        return tokens[: longest - len(end)] + end

    def _pair(self, request: RankRequest, document: EmbeddingText) -> list[int]:
        embedder = self._backend.embedder
        for text in (request.query, document):
            if not isinstance(text, (str, bytes)):
                self._check(text)
        tokens = embedder.pair(request.query, document)
        if len(tokens) <= embedder.longest:
            return tokens
        around = len(embedder.pair(request.query, ()))
        if not request.truncates or around >= embedder.longest:
            raise ContextOverflow(
                f"the query and a document have {len(tokens)} tokens together, {around} without the"
                f" document, and the model sees {embedder.longest} at once; shorten them"
            )
        if isinstance(document, (str, bytes)):
            document = tuple(self._backend.tokenize(document, add_special=False))
        return embedder.pair(request.query, document[: embedder.longest - around])


def _end_of(tokens: list[int], around: list[int]) -> list[int]:
    """What the model expects behind a text, of what it expects around one: no cut takes it away."""
    begins = tokens[:1] == around[:1]
    count = 0
    while count < len(around) - begins and tokens[-count - 1 :][:1] == around[-count - 1 :][:1]:
        count += 1
    return tokens[len(tokens) - count :]
