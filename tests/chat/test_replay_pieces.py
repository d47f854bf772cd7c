"""Cut before control tokens, a prompt has the ids that it has as a whole: on real vocabularies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar import models
from samovar.chat.literal import Segment
from samovar.chat.replay_pieces import Pieces, clean_starts
from samovar.chat.specials import Specials
from samovar.native.model import Model, ModelOptions
from samovar.native.segments import SegmentTokenizer, tokenize_segments
from samovar.native.vocabulary import Vocabulary
from tests.conftest import scaled, shared_vocabularies

pytestmark = pytest.mark.native

MINI = models.path_of("samovar-mini")
# Those of models that chat; the others are made for other things.
PATHS = [MINI, *(path for path in shared_vocabularies() if "bert" not in path.stem)]


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.stem)
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    path: Path = request.param
    model = Model(path, ModelOptions(vocab_only=True))
    yield model.vocabulary
    model.close()


PARTS = st.lists(
    st.one_of(
        st.sampled_from(["\n", " ", "  ", "\n\n", "user", "Hello", " world", "<", "|", "é", "漢"]),
        st.integers(0, 40),
        st.text(max_size=5),
    ),
    max_size=12,
)


@given(parts=st.lists(st.tuples(PARTS, st.booleans()), min_size=1, max_size=5))
@settings(max_examples=scaled(80, 4000), deadline=None)
def test_pieces_have_the_ids_of_the_whole(
    vocabulary: Vocabulary, parts: list[tuple[list[str | int], bool]]
) -> None:
    texts = sorted(vocabulary.control_texts)
    segments = [
        Segment(
            "".join(
                one if isinstance(one, str) else texts[one % len(texts)] if texts else ""
                for one in spelled
            ),
            parse_special,
        )
        for spelled, parse_special in parts
    ]
    tokenizer = SegmentTokenizer(vocabulary)
    pieces = Pieces(tokenizer, Specials(vocabulary.control_texts))
    first = pieces.ids(segments)
    assert first == tokenize_segments(vocabulary, segments)
    assert pieces.ids(segments) == first  # from what is remembered


def test_a_piece_is_tokenized_once_and_forgotten_when_there_is_no_room(
    vocabulary: Vocabulary,
) -> None:
    pieces = Pieces(SegmentTokenizer(vocabulary), Specials(()), max_bytes=1000)
    segments = [Segment(f"text {number}", parse_special=True) for number in range(3)]
    first = pieces.ids(segments)
    size = pieces.num_tokenized
    assert pieces.ids(segments) == first
    assert pieces.num_tokenized == size
    pieces.ids([Segment(f"other {number}", parse_special=True) for number in range(9)])
    pieces.ids(segments[:1])
    assert pieces.num_tokenized > size + 9 * 7


def test_nothing_is_cut_within_a_token_that_holds_another() -> None:
    specials = Specials(["<a>", "<<a>>", "a>>b"])
    assert clean_starts(specials, "x<a>y<<a>>b<a>") == [1, 5, 11]
    assert clean_starts(specials, "<a>") == []
