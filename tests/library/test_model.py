"""A model as a library: each method, from one thread and from several."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import samovar
from samovar import models
from samovar.config import CacheConfig
from samovar.errors import (
    GrammarRejected,
    InvalidRequest,
    ModelNotFound,
    SamovarError,
    SessionNotFound,
    WorkerLost,
)
from samovar.model import Model
from samovar.types import Finished, Grammar, ReasoningDelta, TextDelta, ToolChoice
from tests.runtime.serving import children

STORY = "Once upon a time there was a fox"


def test_the_same_prompt_completes_streams_and_reports_alike(model: Model) -> None:
    done = model.complete(STORY, max_tokens=30)
    assert done.text
    assert len(done.tokens) <= 30
    assert done.finish_reason in ("stop", "length")
    assert "".join(model.stream(STORY, max_tokens=30)) == done.text
    events = list(model.events(STORY, max_tokens=30))
    assert isinstance(events[-1], Finished)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == done.text


def test_options_of_requests_are_those_of_types(model: Model) -> None:
    drawn = [model.complete(STORY, max_tokens=20, temperature=1.0, seed=n).text for n in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    two = model.complete(STORY, max_tokens=8, choices=2, temperature=1.0, seed=3)
    assert [one.seed for one in two.answers] == [3, 4]
    ended = model.complete(STORY, max_tokens=60, stop=["."])
    assert "." not in ended.text
    forced = model.complete(STORY, max_tokens=10, grammar='root ::= "yes" | "no"')
    assert forced.text in ("yes", "no")
    scored = model.complete(STORY, max_tokens=3, logprobs=2)
    assert all(len(one.top) == 2 for one in scored.answers[0].logprobs)
    by_ids = model.complete(model.tokenize(STORY), max_tokens=30)
    assert by_ids.tokens == model.complete(STORY, max_tokens=30).tokens


def test_a_conversation_is_rendered_by_the_models_own_template(model: Model) -> None:
    messages = [{"role": "user", "content": "What does a cow say?"}]
    ids = model.render(messages)
    assert "cow" in model.detokenize(ids)
    assert model.chat(messages, max_tokens=20).text == model.complete(ids, max_tokens=20).text


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}
TOM = [{"role": "user", "content": "Tom has 5 apples and gets 7 more. How many does he have?"}]


def test_an_answer_has_reasoning_and_calls(model: Model) -> None:
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    done = model.chat(asked, tools=[WEATHER], max_tokens=60)
    assert done.finish_reason == "tool_calls"
    assert [(one.name, one.values()) for one in done.tool_calls] == [
        ("get_weather", {"city": "Paris"})
    ]
    assert not model.chat(asked, tools=[WEATHER], tool_choice="none", max_tokens=60).tool_calls
    named = ToolChoice(name="get_weather")
    assert model.chat(TOM, tools=[WEATHER], tool_choice=named, max_tokens=60).tool_calls
    thought = model.chat(TOM, max_tokens=80)
    assert thought.reasoning
    assert thought.text.startswith("Tom has")
    assert len(thought.tokens) == thought.usage.generated_tokens
    short = model.chat(TOM, reasoning_tokens=3, max_tokens=80)
    assert thought.reasoning.startswith(short.reasoning)
    assert not model.chat(TOM, thinks=False, max_tokens=80).reasoning
    assert not model.chat(TOM, variables={"enable_thinking": False}, max_tokens=80).reasoning
    begun = [*TOM, {"role": "assistant", "content": thought.text[:4]}]
    rest = model.chat(begun, continues_last=True, max_tokens=80)
    assert rest.text
    assert not rest.reasoning


def test_a_conversation_comes_in_events_by_kind(model: Model) -> None:
    whole = model.chat(TOM, max_tokens=80)
    events = list(model.stream_chat(TOM, max_tokens=80))
    assert isinstance(events[-1], Finished)
    texts = [e.text for e in events if isinstance(e, TextDelta)]
    assert "".join(texts) == whole.text
    thoughts = [e.text for e in events if isinstance(e, ReasoningDelta)]
    assert "".join(thoughts) == whole.reasoning
    with pytest.raises(InvalidRequest):
        model.chat(TOM, reasoning_tokens=-1)
    with pytest.raises(InvalidRequest):
        model.chat(TOM, tool_choice="required")


def test_one_stop_string_is_a_text_and_not_its_letters(model: Model) -> None:
    whole = model.complete("Once upon a time", max_tokens=20).text
    word = max(whole.split(), key=len)
    done = model.complete("Once upon a time", max_tokens=20, stop=word)
    assert (done.text, done.answers[0].stop) == (whole[: whole.index(word)], word)


def test_a_grammar_is_of_a_kind_that_there_is(model: Model) -> None:
    with pytest.raises(InvalidRequest, match="json_schema"):
        model.chat(TOM, grammar=Grammar("yaml", "a: b"))  # type: ignore[arg-type]


def test_what_a_conversation_becomes_is_chosen_alike(model: Model) -> None:
    ids = model.render(TOM, tools=[WEATHER], thinks=False)
    done = model.chat(TOM, tools=[WEATHER], thinks=False, max_tokens=1)
    assert done.usage.prompt_tokens == len(ids)
    assert "get_weather" in model.detokenize(ids)


def test_what_is_wrong_is_raised_and_changes_nothing(model: Model) -> None:
    before = model.complete(STORY, max_tokens=10).text
    with pytest.raises(GrammarRejected):
        model.complete(STORY, grammar="root ::= (")
    with pytest.raises(InvalidRequest):
        model.complete("")
    with pytest.raises(InvalidRequest):
        model.complete(STORY, temperature=float("nan"))
    with pytest.raises(InvalidRequest):
        model.complete(STORY, adapters=[("none", 1.0)])
    with pytest.raises(SamovarError):
        model.complete("x " * 5000, max_tokens=1)
    with pytest.raises(TypeError):
        model.complete(STORY, max_token=1)  # type: ignore[call-arg]
    assert model.complete(STORY, max_tokens=10).text == before


def test_texts_and_ids(model: Model) -> None:
    ids = model.tokenize("hello world")
    assert model.count_tokens("hello world") == len(ids)
    assert "hello world" in model.detokenize(ids)
    assert "hello" in model.detokenize(model.tokenize("hello", add_special=False))


def test_vectors_are_of_length_one_and_alike_for_like_texts(model: Model) -> None:
    vectors = model.embed(["the fox runs", "the fox runs", "42"])
    assert vectors.shape[0] == 3
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-4)
    one = model.embed("the fox runs")
    assert one.shape == (1, vectors.shape[1])
    ids = tuple(model.tokenize("the fox runs"))
    np.testing.assert_allclose(model.embed(ids), one, rtol=1e-4)


def test_a_prefilled_prompt_is_warm(model: Model) -> None:
    long = "A hen and a goat went to the market together. " * 5
    done = model.prefill(long)
    assert done.tokens == ()
    usage = model.complete(long, max_tokens=1).usage
    assert sum((usage.cached.live, usage.cached.memory, usage.cached.disk)) > 16
    info = model.cache_info()
    assert info["is_on"]
    assert info["tiers"]["memory"]["budget"] == 2**24


def test_a_session_goes_on_where_it_was_and_forks(model: Model) -> None:
    whole = model.complete(STORY, max_tokens=10)
    talk = model.session()
    talk.complete(STORY, max_tokens=4)
    assert model.detokenize(talk.tokens()).endswith(whole.text[:3]) or talk.tokens()
    fork = talk.fork()
    length = len(talk.tokens())
    more = talk.complete(" and a hen", max_tokens=4)
    other = fork.complete(" and a hen", max_tokens=4)
    assert more.tokens == other.tokens
    assert len(talk.tokens()) == len(fork.tokens()) > length
    fork.end()
    with pytest.raises(SessionNotFound):
        fork.tokens()
    talk.reset()
    begun = talk.complete(STORY, max_tokens=4)
    assert begun.tokens == whole.tokens[:4]
    talk.end()


def test_adapters_are_used_by_name_and_scale_and_disturb_nobody(model: Model) -> None:
    path = str(models.path_of("samovar-mini-rhymes"))
    plain = model.complete(STORY, max_tokens=40).text
    running = model.stream(STORY, max_tokens=40)
    pieces = [next(running)]
    model.load_adapter("rhymes", path)
    assert model.list_adapters() == {"rhymes": 1.0}
    rhymed = model.complete(STORY, max_tokens=40).text
    assert rhymed != plain
    assert model.complete(STORY, max_tokens=40, adapters=[]).text == plain
    model.set_adapter_scale("rhymes", 0.0)
    assert model.complete(STORY, max_tokens=40).text == plain
    model.set_adapter_scale("rhymes", 1.0)
    assert model.complete(STORY, max_tokens=40).text == rhymed
    assert "".join([*pieces, *running]) == plain
    model.unload_adapter("rhymes")
    assert model.list_adapters() == {}
    assert model.complete(STORY, max_tokens=40).text == plain
    with pytest.raises(InvalidRequest):
        model.set_adapter_scale("rhymes", 1.0)


def test_leaving_a_stream_early_ends_its_request(model: Model) -> None:
    stream = model.stream(STORY, max_tokens=400, ignore_eos=True)
    next(stream)
    stream.close()
    assert model.complete(STORY, max_tokens=1).text
    assert model.status()["open_requests"] == 0


def test_many_threads_use_one_model(model: Model) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(
            pool.map(lambda n: model.complete(f"{n % 4} foxes", max_tokens=10).text, range(24))
        )
    assert len(texts) == 24


@pytest.fixture
def heeded_interrupts() -> Iterator[None]:
    """What runs in the background of a shell ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupts")
def test_an_interrupt_ends_a_call_and_the_model_goes_on(model: Model) -> None:
    """Ctrl-C while a call blocks: the request ends as well."""
    main = threading.main_thread().ident
    assert main is not None
    stream = model.stream(STORY, max_tokens=450, ignore_eos=True)
    next(stream)
    threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        complete_for_ever(model)
    stream.close()
    assert model.complete(STORY, max_tokens=3).tokens
    assert model.status()["open_requests"] == 0


def complete_for_ever(model: Model) -> None:
    while True:
        model.complete(STORY, max_tokens=400, ignore_eos=True)


def test_a_model_outlives_its_process(model: Model) -> None:
    text = model.complete(STORY, max_tokens=100, ignore_eos=True).text
    stream = model.stream(STORY, max_tokens=100, ignore_eos=True)
    said = next(stream)
    os.kill(model.status()["pid"], signal.SIGKILL)
    assert said + "".join(stream) == text
    talk = model.session()
    talk.complete(STORY, max_tokens=2)
    os.kill(model.status()["pid"], signal.SIGKILL)
    with pytest.raises((SessionNotFound, WorkerLost)):
        talk.complete(" and", max_tokens=400, ignore_eos=True)
    talk.reset()
    assert talk.complete(STORY, max_tokens=2).tokens


def test_several_models_in_one_program(folder: Path) -> None:
    options = {"threads": 1, "context_length": 256}
    cache = CacheConfig(directory=folder)
    before = children()
    with (
        samovar.load("samovar-mini", cache=cache, **options) as one,
        samovar.load("samovar-mini", cache=cache, **options) as two,
    ):
        assert len(children() - before) == 2
        assert one.complete(STORY, max_tokens=5).text == two.complete(STORY, max_tokens=5).text
        one.unload()
        one.unload()
        with pytest.raises(ModelNotFound):
            one.complete(STORY)
        assert two.complete(STORY, max_tokens=5).text
    assert children() == before


def test_what_was_said_once_is_warm_for_the_next_program(folder: Path) -> None:
    long = "A hen and a goat went to the market together. " * 8
    cache = CacheConfig(directory=folder, block_size=16, min_tokens=16)
    cached = []
    for _ in range(2):
        with samovar.load("samovar-mini", cache=cache, threads=1, context_length=512) as loaded:
            cached.append(loaded.complete(long, max_tokens=2).usage.cached.disk)
    assert cached[0] == 0
    assert cached[1] > 0


def test_a_file_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(ModelNotFound, match=r"none\.gguf"):
        samovar.load("none.gguf")
