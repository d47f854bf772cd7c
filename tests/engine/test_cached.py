"""The meeting of the engine and the cache, one thing at a time: moments, plans, accounts."""

from __future__ import annotations

import pytest

from samovar.cache.block import STATE
from samovar.cache.index.node import Tier
from samovar.config import SAVE_MOMENTS, CacheConfig
from samovar.engine.engine import EngineOptions
from samovar.errors import NativeError
from samovar.native.interface import Row, RowFailed, StateKind, Stepped
from samovar.native.weightless import WeightlessBackend
from samovar.types import GenerateRequest, VerifyRequest
from tests.engine.builders import KINDS, MODES, Answer, Model, Trial, block, expected, request
from tests.engine.cached import Place, place

PROMPT = (*block(0, 90), *block(1, 60))
ROOM = 512


def started(
    where: Place | None,
    kind: StateKind = StateKind.DIVISIBLE,
    *,
    is_deterministic: bool = False,
    **more: object,
) -> Trial:
    """An engine on what a place holds."""
    options = {"num_sequences": 3, "batch_size": 16, "end_bias": -1e3, **more}
    backend = WeightlessBackend(state_kind=kind, **options)  # type: ignore[arg-type]
    cache = where and where.open(backend, is_deterministic=is_deterministic)
    trial = Trial(backend, EngineOptions(is_deterministic=is_deterministic), cache=cache or None)
    for name in ("x", "y"):
        trial.engine.load_adapter(name, name)
    return trial


def ask(trial: Trial, asked: GenerateRequest) -> Answer:
    """Its answer, which must be right."""
    [answer] = trial.serve(asked)
    for choice in range(0 if asked.prefill_only else asked.choices):
        assert answer.said(choice) == expected(asked, Model(ROOM, -1e3), choice)
    return answer


def end(trial: Trial) -> None:
    assert not trial.engine.close()
    assert trial.cache.store.close()


def restored(answer: Answer) -> int:
    cached = answer.finished.usage.cached
    return cached.total - cached.live


def computed(trial: Trial) -> int:
    return sum(len(row.tokens) for rows in trial.calls for row in rows)


# ---- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_goes_on_where_the_one_before_ended(kind: StateKind, mode: str) -> None:
    """After a restart only what is new is computed; in deterministic mode from the grid on."""
    is_deterministic = mode == "deterministic"
    with place() as where:
        trial = started(where, kind, is_deterministic=is_deterministic)
        first = ask(trial, request("a", PROMPT, max_tokens=20))
        end(trial)
        prompt = (*PROMPT, *first.tokens(), *block(2, 30))
        trial = started(where, kind, is_deterministic=is_deterministic)
        answer = ask(trial, request("b", prompt, max_tokens=1))
        # The last token of an answer is not computed, nor does it count on the grid.
        assert restored(answer) == (144 if is_deterministic else 169)
        assert answer.finished.usage.cached.disk == restored(answer)
        if not is_deterministic:
            assert computed(trial) == len(prompt) - 169
        end(trial)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_repeat_computes_nothing_where_what_follows_is_stored(kind: StateKind) -> None:
    with place(keeps_logits=True) as where:
        for life in range(2):
            trial = started(where, kind)
            answer = ask(trial, request("a", PROMPT, max_tokens=1, temperature=0.9, seed=4))
            assert computed(trial) == (0 if life else len(PROMPT))
            assert restored(answer) == (len(PROMPT) if life else 0)
            end(trial)


def test_an_exact_repeat_computes_one_token_where_it_is_not() -> None:
    with place() as where:
        for life in range(2):
            trial = started(where)
            answer = ask(trial, request("a", PROMPT, max_tokens=1))
            assert computed(trial) == (1 if life else len(PROMPT))
            assert answer.finished.usage.divergence.reason == ("none" if life else "new")
            end(trial)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_repeats_under_different_adapters_at_the_same_time(kind: StateKind) -> None:
    """Each is picked from its own logits, before the next one's adapters come."""
    sets = ((), (("x", 1.0),), (("y", 0.5),))
    asked = [request(f"r{i}", PROMPT, max_tokens=3, adapters=sets[i]) for i in range(3)]
    with place(keeps_logits=True) as where:
        for life in range(2):
            trial = started(where, kind)
            answers = trial.serve(*asked)
            for one, answer in zip(asked, answers, strict=True):
                assert answer.said() == expected(one, Model(ROOM, -1e3))
                assert restored(answer) == (len(PROMPT) if life else 0)
            end(trial)


def check_adapters_are_told_apart() -> None:
    """The same prompt under every set, cold and from the cache."""
    sets = ((), (("x", 1.0),), (("x", 0.5),), (("y", 1.0),), (("x", 1.0), ("y", 0.5)))
    with place() as where:
        for life in range(2):
            trial = started(where, num_sequences=1)
            for at, adapters in enumerate(sets):
                asked = request(f"r{at}", (*PROMPT, 7), max_tokens=3, adapters=adapters)
                assert restored(ask(trial, asked)) == (len(PROMPT) if life else 0)
            end(trial)


def test_adapters_are_told_apart() -> None:
    check_adapters_are_told_apart()


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_verified_behind_what_was_restored(kind: StateKind) -> None:
    with place(keeps_logits=True) as where:
        trial = started(where, kind)
        said = ask(trial, request("a", PROMPT, max_tokens=6)).tokens()
        end(trial)
        for guesses, accepted in ((said[:4], 4), ((*said[:2], 255, 1), 2)):
            engine = started(where, kind).engine
            engine.submit(VerifyRequest("v", PROMPT, guesses))
            [verified] = engine.run()
            assert (verified.accepted, verified.next_token) == (accepted, said[accepted])
            engine.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_memory_tier_checkpoints_are_kept_as_well(kind: StateKind) -> None:
    """Their rows are still being written when they come."""
    with place(memory_bytes=0) as where:
        trial = started(where, kind)
        ask(trial, request("a", PROMPT, max_tokens=1))
        end(trial)
        trial = started(where, kind)
        assert restored(ask(trial, request("b", (*PROMPT, 1, 2), max_tokens=1))) == len(PROMPT)
        end(trial)


# ---- when ---------------------------------------------------------------------------------------


def saved(trial: Trial) -> dict[str, int]:
    return dict(trial.cache.store.counters.saved_blocks)


@pytest.mark.parametrize("moment", sorted(SAVE_MOMENTS))
@pytest.mark.parametrize("kind", KINDS)
def test_each_moment_saves_alone(kind: StateKind, moment: str) -> None:
    with place(save_moments=frozenset({moment}), continued_tokens=16) as where:
        trial = started(where, kind, num_cells=300)
        trial.submit(request("a", PROMPT[:90], max_tokens=150))
        if moment == "evict":
            trial.submit(request("b", block(3, 90), max_tokens=150))
        trial.step(20 if moment == "shutdown" else 0)
        if moment == "shutdown":
            assert [one.code for one in trial.engine.close()] == ["overloaded"]
        else:
            trial.finish()
        assert set(saved(trial)) == {moment}
        assert trial.cache.store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_to_be_stored_is_not_and_still_takes(kind: StateKind) -> None:
    with place() as where:
        trial = started(where, kind)
        ask(trial, request("a", PROMPT, is_stored=False, max_tokens=30))
        assert saved(trial) == {}
        assert len(trial.cache.store.index) == 0
        ask(trial, request("b", PROMPT, max_tokens=30))
        end(trial)
        trial = started(where, kind)
        answer = ask(trial, request("c", (*PROMPT, 1, 2), is_stored=False))
        assert restored(answer) >= 100
        assert saved(trial) == {}
        end(trial)


def test_short_prompts_are_neither_saved_nor_looked_up() -> None:
    with place(min_tokens=64) as where:
        trial = started(where)
        answer = ask(trial, request("a", PROMPT[:63], max_tokens=1))
        assert answer.finished.usage.divergence.reason == "short"
        assert saved(trial) == {}
        answer = ask(trial, request("b", block(3, 64), max_tokens=1))
        assert answer.finished.usage.divergence.reason == "new"
        assert set(saved(trial)) == {"cold"}
        end(trial)


@pytest.mark.parametrize("kind", KINDS)
def test_a_preempted_sequence_comes_back_from_the_cache(kind: StateKind) -> None:
    with place() as where:
        trial = started(where, kind, num_cells=300)
        asked = [request(f"r{i}", block(i, 80), max_tokens=120) for i in range(3)]
        for one, answer in zip(asked, trial.serve(*asked), strict=True):
            assert answer.said() == expected(one, Model(300, -1e3))
        counters = trial.cache.store.counters
        assert counters.saved_blocks["evict"] > 0
        assert counters.hits > 0
        assert sum(counters.restored_tokens.values()) > 80
        end(trial)


def test_a_save_in_the_midst_of_a_step_leaves_its_adapters_applied() -> None:
    """Rows are computed one by one after an error; one needs room, whose owner is saved."""
    sets = ((), (), (("x", 1.0),))
    with place() as where:
        for at in range(40):
            trial = started(where, num_cells=330)
            trial.faults.extend([None] * at)
            trial.faults.extend(["error", "no_room", None, "error", "no_room"])
            asked = [
                request(f"r{i}", (*block(i, 70), at), max_tokens=20, adapters=sets[i])
                for i in range(3)
            ]
            trial.submit(*asked)
            trial.finish()
            for one in asked:
                answer = trial.answers[one.request_id]
                said = expected(one, Model(330, -1e3)).tokens
                assert answer.tokens() == said[: len(answer.tokens())]
                assert one.request_id in trial.excused or answer.tokens() == said
            end(trial)


def test_a_row_that_fails_is_not_saved() -> None:
    """Cells that gave no numbers are of use to nobody."""
    with place() as where:
        trial = started(where)
        compute = trial.backend.step

        def fail(rows: list[Row]) -> Stepped:
            stepped = compute(rows)
            failed = RowFailed(NativeError("the logits are no numbers"))
            return Stepped(tuple(failed if one is not None else None for one in stepped.results))

        trial.backend.step = fail
        [answer] = trial.serve(request("a", PROMPT))
        assert answer.failed.code == "native_error"
        assert saved(trial) == {}
        end(trial)


# ---- why ----------------------------------------------------------------------------------------


def why(trial: Trial, name: str, prompt: tuple[int, ...], **more: object) -> tuple[int, str]:
    answer = ask(trial, request(name, prompt, max_tokens=1, **more))
    divergence = answer.finished.usage.divergence
    return divergence.position, divergence.reason


def test_a_request_is_told_where_it_left_what_was_known_and_why() -> None:
    with place() as where:
        trial = started(where, num_sequences=1)
        assert why(trial, "a", PROMPT) == (0, "new")
        assert why(trial, "a2", PROMPT) == (len(PROMPT), "none")
        assert why(trial, "b", (*PROMPT, 1, 2)) == (len(PROMPT), "new")
        other = (*PROMPT[:100], 251, 252)
        assert why(trial, "c", other) == (100, "other_tokens")  # live: to the token
        assert why(trial, "d", PROMPT, adapters=(("x", 1.0),)) == (0, "other_adapters")
        assert why(trial, "e", PROMPT, tenant="t") == (0, "new")
        end(trial)
    trial = started(None)
    assert why(trial, "a", PROMPT) == (0, "off")


@pytest.mark.parametrize("kind", [StateKind.DIVISIBLE_WITH_TAIL, StateKind.INDIVISIBLE])
def test_where_ways_part_a_checkpoint_is_kept_for_the_third_who_comes(kind: StateKind) -> None:
    with place(checkpoint_tokens=2048) as where:
        shared = PROMPT[:128]
        found = []
        for index in range(3):
            trial = started(where, kind)
            answer = ask(trial, request("a", (*shared, *block(index, 40)), max_tokens=1))
            found.append(restored(answer))
            if index == 1:
                assert answer.finished.usage.divergence.reason == "no_checkpoint"
            end(trial)
        assert found[0] == 0
        assert found[1] < found[2] == 128


# ---- what there is of it ------------------------------------------------------------------------


def share_of_a_trace(kind: StateKind, config: dict[str, int]) -> float:
    """What part of the prompts of some conversations was there, by and by."""
    system = block(3, 100)
    histories = [(*system, *block(i, 20 + 7 * i)) for i in range(5)]
    there = total = 0
    with place(**config) as where:
        trial = started(where, kind, num_sequences=1)
        for turn in range(6):
            for i in range(5):
                asked = request(f"c{i}t{turn}", histories[i], max_tokens=10)
                answer = ask(trial, asked)
                there += answer.finished.usage.cached.total
                total += len(histories[i])
                histories[i] += (*answer.tokens(), *block(turn, 18))
        end(trial)
    return there / total


@pytest.mark.parametrize("kind", [StateKind.DIVISIBLE_WITH_TAIL, StateKind.INDIVISIBLE])
def test_as_much_comes_back_of_states_that_cannot_be_cut(kind: StateKind) -> None:
    attention = share_of_a_trace(StateKind.DIVISIBLE, {})
    assert attention > 0.75
    assert share_of_a_trace(kind, {}) >= 0.9 * attention


def test_a_state_without_logits_is_not_taken_for_one_with() -> None:
    """The name of one copy promises what the copy that is read does not have."""
    with place() as where:
        trial = started(where, StateKind.DIVISIBLE_WITH_TAIL)
        trial.backend.has_logits = lambda _: False  # as in the midst of a prompt
        ask(trial, request("a", PROMPT, prefill_only=True))
        del trial.backend.has_logits
        store = trial.cache.store
        store.flush(60)
        match = store.match(store.scope(), list(PROMPT), needs_state=True)
        assert match.state is not None
        assert match.state.kind == STATE
        memory, shm, disk = match.state.copies
        assert disk is not None
        match.state.copies = (memory, shm, disk._replace(logits_bytes=1032))
        answer = ask(trial, request("b", PROMPT, max_tokens=4))
        assert answer.finished.usage.cached.total < len(PROMPT)
        match.state.copies = (memory, shm, disk)
        end(trial)


# ---- the grid -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_in_deterministic_mode_chunks_are_cut_as_without_a_cache(kind: StateKind) -> None:
    """Where something ends in a cache is no place to cut a prompt at."""
    with place() as where:
        for index, shared in enumerate((137, 90, 101, 75, 120, 149)):
            trial = started(where, kind, is_deterministic=True)
            prompt = (*PROMPT[:shared], *block(3 + index, 40))
            ask(trial, request("a", prompt, max_tokens=5))
            chunks = [rows[0].tokens for rows in trial.calls if len(rows[0].tokens) > 1]
            assert chunks
            assert all(len(one) in (16, (len(prompt) - 1) % 16) for one in chunks)
            assert restored(trial.answers["a"]) % 16 == 0
            end(trial)


def test_a_cache_of_nothing_is_no_cache() -> None:
    """Budgets of zero, and an engine without one, say and do the same."""
    assert CacheConfig(memory_bytes=0, disk_bytes=0).is_off
    with place(memory_bytes=0, disk_bytes=0) as where:
        trial = started(where)
        assert restored(ask(trial, request("a", PROMPT))) == 0
        assert trial.cache.store.index.count_of(Tier.MEMORY) == 0
        end(trial)
