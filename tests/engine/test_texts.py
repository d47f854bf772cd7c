"""A request gets the text that it would get alone, whatever else goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.native.interface import StateKind
from tests.conftest import scaled
from tests.engine.builders import FAULTS, KINDS, MODES, Model, expected, request
from tests.engine.scenarios import BLOCKS, CONTEXT, Client, Scenario, Shape, scenarios

LAYOUTS = {"lanes": None, "roomy pool": 800, "crowded pool": 150}


def check(scenario: Scenario) -> None:
    scenario.judge(scenario.play())


# ---- everything at once -------------------------------------------------------------------------


@settings(max_examples=scaled(60, 3000), database=None, deadline=None)
@given(scenarios())
def test_a_text_does_not_depend_on_who_else_is_served(scenario: Scenario) -> None:
    check(scenario)


@settings(max_examples=scaled(60, 3000), database=None, deadline=None)
@given(scenarios(is_faulty=True))
def test_a_text_does_not_depend_on_decode_calls_that_go_wrong(scenario: Scenario) -> None:
    check(scenario)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_the_same_in_every_kind_of_state_and_layout(
    kind: StateKind, layout: str, mode: str
) -> None:
    shape = st.just(Shape(kind, LAYOUTS[layout], is_deterministic=mode == "deterministic"))

    @settings(max_examples=scaled(8, 300), database=None, deadline=None)
    @given(scenarios(shape, is_faulty=True))
    def run(scenario: Scenario) -> None:
        check(scenario)

    run()


@settings(max_examples=scaled(40, 2000), database=None, deadline=None)
@given(scenarios(st.just(Shape(is_deterministic=True)), is_faulty=True))
def test_in_deterministic_mode_every_call_is_of_a_shape_that_gives_the_same_bits(
    scenario: Scenario,
) -> None:
    """A prompt's chunk is alone and on the grid; a single token never is, nor are its logits."""
    for rows in scenario.play().calls:
        sizes = [len(row.tokens) for row in rows]
        if max(sizes) > 1:
            assert len(rows) == 1
            assert not rows[0].wants_logits
            continue
        ids = [row.seq_id for row in rows]
        assert len(ids) >= 2
        assert ids == list(range(ids[0], ids[-1] + 1))
        assert all(row.wants_logits for row in rows)


# ---- one thing at a time ------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_decode_call_that_goes_wrong_once_harms_nobody(
    kind: StateKind, layout: str, fault: str
) -> None:
    clients = tuple(Client(request(f"r{i}", BLOCKS[i] + BLOCKS[2])) for i in range(3))
    shape = Shape(kind, LAYOUTS[layout], end_bias=0.0)
    undisturbed = Scenario(shape, clients).play()
    for at in range(len(undisturbed.calls)):
        scenario = Scenario(shape, clients, (*[None] * at, fault))
        trial = scenario.play()
        scenario.judge(trial)
        failed = {name for name, answer in trial.answers.items() if answer.end is None}
        assert failed <= trial.excused


def test_choices_draw_with_the_seed_that_was_asked_for_plus_their_number() -> None:
    shape = Shape(end_bias=0.0)
    together = request("n", BLOCKS[0], temperature=0.9, seed=2**64 - 2, choices=4)
    apart = [
        request(f"r{i}", BLOCKS[0], temperature=0.9, seed=(2**64 - 2 + i) % 2**64) for i in range(4)
    ]
    [whole] = shape.trial().serve(together)
    for choice, one in enumerate(apart):
        [alone] = shape.trial().serve(one)
        assert whole.said(choice) == alone.said()
    assert len({whole.text(choice) for choice in range(4)}) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_that_was_computed_only_is_warm_for_the_next_that_begins_with_it(
    kind: StateKind, layout: str
) -> None:
    trial = Shape(kind, LAYOUTS[layout]).trial()
    warm = request("warm", BLOCKS[0] + BLOCKS[1], prefill_only=True, session="s")
    use = request("use", BLOCKS[0] + BLOCKS[1] + BLOCKS[2], session="s")
    done, used = trial.serve(warm)[0], trial.serve(use)[0]
    assert done.finished.usage.generated_tokens == 0
    assert not done.deltas
    assert used.finished.usage.cached.live == len(BLOCKS[0] + BLOCKS[1])
    assert used.said() == expected(use, Shape(kind, LAYOUTS[layout]).model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_begins_alike_at_the_same_time_is_computed_once(kind: StateKind, layout: str) -> None:
    trial = Shape(kind, LAYOUTS[layout], batch_size=16).trial()
    shared = BLOCKS[0]
    alike = [request(f"r{i}", (*shared, 250 + i), max_tokens=1) for i in range(3)]
    trial.serve(*alike)
    computed = sum(len(row.tokens) for rows in trial.calls for row in rows)
    assert computed <= len(shared) + 2 * 3
    assert [trial.answers[f"r{i}"].finished.usage.cached.live for i in range(3)] == [
        0,
        len(shared),
        len(shared),
    ]


def test_an_answer_ends_where_the_room_of_a_sequence_does() -> None:
    for num_cells, room in ((None, CONTEXT), (90, 90)):
        shape = Shape(num_cells=num_cells, end_bias=-100.0)
        endless = request("a", BLOCKS[0], max_tokens=None)
        [answer] = shape.trial().serve(endless)
        assert answer.said() == expected(endless, Model(room, -100.0))
        assert len(answer.tokens()) == room - len(BLOCKS[0])
        assert answer.said().reason == "length"
