"""How to pick tokens and how long a model stays, as Ollama's clients say it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from samovar.api.ollama.keeping import keep_of
from samovar.api.ollama.options import Options, option_warnings, sampling_of
from samovar.api.ollama.requests import ChatBody
from samovar.errors import InvalidRequest
from tests.conftest import scaled

# ---- keep_alive ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (90, 90),
        (1.5, 1.5),
        (-1, None),
        (1e300, None),
        ("0", 0),
        ("0s", 0),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("500ms", 0.5),
        (" 10s ", 10),
        ("+10s", 10),
        ("-1", None),
        ("-1m", None),
        ("9999999h", None),
    ],
)
def test_how_long_a_model_stays(value: float | str, seconds: float | None) -> None:
    found = keep_of(value)
    assert found is not None
    assert found.seconds == seconds
    assert found.is_leaving == (seconds == 0)


def test_nothing_said_of_it() -> None:
    assert keep_of(None) is None


@pytest.mark.parametrize("value", ["", "soon", "5 m", "m", "1d", "5m!", "1h-5m", "nan", "--1s"])
def test_no_duration(value: str) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        keep_of(value)


@given(st.text(alphabet="0123456789.hmsun\u00b5-+ e", max_size=30))
@settings(max_examples=scaled(200, 20_000), deadline=None)
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        found = keep_of(text)
    except InvalidRequest:
        return
    assert found is not None
    assert found.seconds is None or (found.seconds >= 0 and math.isfinite(found.seconds))


# ---- options -------------------------------------------------------------------------------------


def test_defaults_are_ollamas() -> None:
    found = sampling_of(Options())
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.8, 40, 0.9, 0.0)
    assert (found.penalty_last_n, found.repeat_penalty, found.typical_p) == (64, 1.0, 1.0)
    assert found.seed is None
    assert found.grammar is None
    assert Options().max_tokens is None
    assert Options().stops == ()


def test_every_option_of_sampling_is_taken() -> None:
    said = {
        "temperature": 0.1,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.2,
        "typical_p": 0.3,
        "repeat_last_n": 5,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.25,
        "frequency_penalty": 0.75,
        "mirostat": 2,
        "mirostat_tau": 3.0,
        "mirostat_eta": 0.4,
        "seed": 11,
    }
    found = sampling_of(Options.model_validate(said))
    ours = {"repeat_last_n": "penalty_last_n"}
    assert {name: getattr(found, ours.get(name, name)) for name in said} == said


@pytest.mark.parametrize(
    ("num_predict", "most"), [(None, None), (-1, None), (-2, None), (0, None), (1, 1), (64.0, 64)]
)
def test_how_much_is_generated(num_predict: float | None, most: int | None) -> None:
    assert Options.model_validate({"num_predict": num_predict}).max_tokens == most


def test_a_negative_seed_is_none() -> None:
    assert sampling_of(Options(seed=-1)).seed is None
    assert sampling_of(Options(seed=0)).seed == 0
    with pytest.raises(InvalidRequest, match="seed"):
        sampling_of(Options(seed=2**64))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": "warm"},
        {"top_p": 1.5},
        {"top_k": 1.5},
        {"mirostat": 3},
        {"stop": [""]},
        {"stop": [1]},
        {"repeat_penalty": 0},
        {"num_predict": [1]},
    ],
)
def test_options_of_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatBody.model_validate({"model": "m", "options": options})


def test_what_is_ignored_is_told() -> None:
    options = Options.model_validate(
        {"num_gpu": 99, "num_thread": 4, "tfs_z": 1, "wibble": 1, "num_ctx": 4096, "use_mmap": None}
    )
    found = option_warnings(options, 2048)
    assert len(found) == 4
    assert "num_gpu, num_thread" in found[0]
    assert "tfs_z" in found[1]
    assert "wibble" not in " ".join(found)
    assert "2048" in found[3]
    assert option_warnings(Options(num_ctx=2048), 2048) == []
    assert option_warnings(Options(), 2048) == []


def test_stops() -> None:
    assert Options(stop="END").stops == ("END",)
    assert Options(stop=["a", "b"]).stops == ("a", "b")
