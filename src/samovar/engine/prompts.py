"""What a request becomes before it is scheduled: its token ids, checked, and its samplers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from samovar.errors import ContextOverflow, InvalidRequest, InvalidToken
from samovar.native.interface import Backend, Sampler
from samovar.types import GenerateRequest


class Prompts:
    """Turns requests into ids and samplers.

    Everything that can be wrong with them is found here, before it can harm another sequence.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def tokens(self, request: GenerateRequest, room: int) -> list[int]:
        """The ids of the prompt as given.

        Raises InvalidRequest for a text that has no token, InvalidToken, and ContextOverflow for
        a text that cannot fit whatever its tokens are.
        """
        prompt = request.prompt
        if isinstance(prompt, (str, bytes)):
            self._backend.require_fits(prompt, room)
            tokens = self._backend.tokenize(prompt, add_special=not request.continues)
        else:
            tokens = list(prompt)
            self.check(tokens)
        if not tokens and not request.continues:
            raise InvalidRequest("this vocabulary has no token for the prompt; give other text")
        return tokens

    def check(self, tokens: Sequence[int]) -> None:
        """Raise InvalidToken unless every id is in the vocabulary."""
        size = self._backend.vocabulary_size
        if any(isinstance(token, bool) or not isinstance(token, int) for token in tokens):
            raise InvalidToken("token ids are whole numbers")
        if tokens and not (min(tokens) >= 0 and max(tokens) < size):
            wrong = next(token for token in tokens if not 0 <= token < size)
            raise InvalidToken(
                f"token id {wrong} is outside the vocabulary; use ids from 0 to {size - 1}"
            )

    @staticmethod
    def require_fits(request: GenerateRequest, num_tokens: int, room: int) -> None:
        """Raise ContextOverflow unless the prompt and one generated token fit into `room`."""
        needed = num_tokens + (0 if request.prefill_only else 1)
        if not num_tokens:
            raise InvalidRequest(
                "there is nothing to continue: the session and the prompt are empty"
            )
        if needed > room:
            raise ContextOverflow(
                f"the prompt has {num_tokens} tokens and a sequence has room for {room}, answer"
                " included; shorten the prompt or load the model with a larger context"
            )

    def samplers(
        self, request: GenerateRequest, seeds: list[int], tokens: list[int]
    ) -> list[Sampler | None]:
        """One for each choice, with its seed. Raises GrammarRejected, InvalidRequest."""
        if request.prefill_only:
            return [None] * len(seeds)
        made: list[Sampler | None] = []
        try:
            for seed in seeds:
                params = replace(request.sampling, seed=seed)
                made.append(self._backend.new_sampler(params, tokens))
        except BaseException:
            for sampler in made:
                if sampler is not None:
                    sampler.close()
            raise
        return made
