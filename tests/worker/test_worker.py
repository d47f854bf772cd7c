"""A worker process, by what it says and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samovar.config import CacheConfig, WorkerConfig
from samovar.ipc import messages as ipc
from samovar.types import Begun, Failed, Finished, GenerateRequest, TextDelta
from samovar.version import __version__
from tests.runtime.faulty_worker import trigger
from tests.worker.driven import Driven, driven


def options(folder: Path, **more: object) -> str:
    return json.dumps({"folder": str(folder), **more})


def request(name: str, *, max_tokens: int = 20, prompt: bytes = b"hello") -> GenerateRequest:
    return GenerateRequest(name, prompt, max_tokens=max_tokens)


def ends(reports: list[ipc.Report]) -> dict[str, object]:
    """Terminal events by request."""
    events = [e for one in reports if isinstance(one, ipc.Output) for e in one.events]
    over = [e for e in events if not isinstance(e, Begun | TextDelta)]
    assert len({e.request_id for e in over}) == len(over), "two terminal events"
    return {e.request_id: e for e in over}


def until_over(worker: Driven, *names: str) -> dict[str, object]:
    """Listen until these requests have ended."""
    found: list[ipc.Report] = []
    while not set(names) <= set(ends(found)):
        found.append(worker.hear(ipc.Output))
    return ends(found)


def test_a_worker_says_who_it_is_loads_serves_and_stops(tmp_path: Path) -> None:
    with driven() as worker:
        hello = worker.hear(ipc.Hello)
        assert (hello.protocol, hello.version) == (ipc.PROTOCOL, __version__)
        assert hello.pid == worker.process.pid
        worker.load(options(tmp_path))
        worker.submit(request("a"), request("b"))
        assert all(isinstance(e, Finished) for e in until_over(worker, "a", "b").values())
        worker.say(ipc.Stop(10.0))
        assert worker.rest() == [ipc.Stopped(is_saved=True)]
        assert worker.code() == ipc.ExitCode.OK


def test_stop_finishes_what_runs_and_saves_it(tmp_path: Path) -> None:
    kv = CacheConfig(directory=tmp_path / "kv", block_size=16, min_tokens=8, disk_bytes=2**24)
    with driven() as worker:
        worker.load(options(tmp_path, seconds=0.01), cache=kv)
        worker.submit(request("a", max_tokens=60))
        worker.hear(ipc.Output)
        worker.say(ipc.Stop(100.0))
        worker.submit(request("late"))
        reports = worker.rest()
        over = ends(reports)
        assert isinstance(over["a"], Finished)
        assert isinstance(over["late"], Failed)
        assert over["late"].code == "overloaded"
        assert reports[-1] == ipc.Stopped(is_saved=True)
    assert list((tmp_path / "kv").rglob("*")), "nothing was saved"


def test_stop_hands_back_what_does_not_finish_in_time(tmp_path: Path) -> None:
    with driven() as worker:
        worker.load(options(tmp_path, seconds=0.05), num_sequences=2)
        names = [f"r{i}" for i in range(5)]
        worker.submit(*(request(name, max_tokens=400) for name in names))
        worker.hear(ipc.Output)
        worker.say(ipc.Stop(0.1))
        over = ends(worker.rest())
        assert set(over) == set(names)
        assert {e.code for e in over.values() if isinstance(e, Failed)} == {"overloaded"}
        assert worker.code() == ipc.ExitCode.OK


def test_a_cancellation_overtakes_what_waits_but_not_its_own_request(tmp_path: Path) -> None:
    with driven() as worker:
        worker.load(options(tmp_path, seconds=0.02))
        running, new = request("running", max_tokens=400), request("new", max_tokens=400)
        worker.submit(running)
        worker.hear(ipc.Output)
        worker.say(ipc.Cancel("running"))
        worker.submit(new)
        worker.say(ipc.Cancel("new"))
        for end in until_over(worker, "running", "new").values():
            assert isinstance(end, Finished)
            assert [one.reason for one in end.choices] == ["cancelled"]


def test_a_full_queue_refuses_at_once_and_loses_nothing(tmp_path: Path) -> None:
    with driven() as worker:
        worker.load(options(tmp_path), num_sequences=2, max_waiting=3)
        names = [f"r{i}" for i in range(200)]
        worker.submit(*(request(name, max_tokens=5) for name in names))
        over = until_over(worker, *names)
        refused = [e for e in over.values() if isinstance(e, Failed)]
        assert {e.code for e in refused} == {"overloaded"}
        assert all(e.retryable for e in refused)
        assert len(refused) < len(names)


def test_pings_are_answered_while_a_step_hangs_and_say_for_how_long(tmp_path: Path) -> None:
    with driven() as worker:
        worker.load(options(tmp_path))
        worker.say(ipc.Ping(1))
        assert worker.hear(ipc.Pong).step_seconds == 0
        worker.submit(request("bad", prompt=b"x" + trigger("hang")))
        seconds, number = 0.0, 2
        while seconds < 0.5:
            worker.say(ipc.Ping(number))
            pong = worker.hear(ipc.Pong)
            assert pong.number == number
            assert pong.step_seconds == 0 or pong.step_seconds > seconds
            seconds, number = pong.step_seconds, number + 1
        assert pong.running == 1


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 64, b"\x01\0\0\0\0\xc1", b"\x03\0\0\0\0\x93\x01\x02"],
    ids=["frame", "no message", "no command"],
)
def test_what_makes_no_sense_ends_the_worker(tmp_path: Path, data: bytes) -> None:
    with driven() as worker:
        worker.load(options(tmp_path))
        worker.say_bytes(data)
        assert worker.code() == ipc.ExitCode.PROTOCOL
    with driven() as worker:
        worker.say_bytes(data)
        assert worker.code() == ipc.ExitCode.PROTOCOL


def test_a_request_of_no_sense_fails_alone(tmp_path: Path) -> None:
    with driven() as worker:
        worker.load(options(tmp_path))
        worker.say(ipc.Submit("generate", {"request_id": "bad", "prompt": "", "max_tokens": -1}))
        worker.submit(request("good"))
        over = until_over(worker, "bad", "good")
        assert isinstance(over["bad"], Failed)
        assert over["bad"].code == "invalid_request"
        assert isinstance(over["good"], Finished)


# ---- nobody is left ------------------------------------------------------------------------------


def test_a_worker_whose_parent_is_gone_saves_and_leaves(tmp_path: Path) -> None:
    kv = CacheConfig(directory=tmp_path / "kv", block_size=16, min_tokens=8, disk_bytes=2**24)
    with driven() as worker:
        worker.load(options(tmp_path, seconds=0.02), cache=kv)
        worker.submit(request("a", max_tokens=400, prompt=b"a prompt of some length " * 4))
        worker.hear(ipc.Output)
        worker.hang_up()
        assert worker.code() == ipc.ExitCode.LOST_PARENT
    assert list((tmp_path / "kv").rglob("*")), "nothing was saved"


@pytest.mark.parametrize("before", [True, False], ids=["before Load", "idle"])
def test_an_idle_worker_leaves_as_well(tmp_path: Path, *, before: bool) -> None:
    with driven() as worker:
        if before:
            worker.hear(ipc.Hello)
        else:
            worker.load(options(tmp_path))
        worker.hang_up()
        assert worker.code() == ipc.ExitCode.LOST_PARENT


def test_a_worker_that_still_loads_does_not_outlive_its_parent(tmp_path: Path) -> None:
    with driven() as worker:
        worker.say(ipc.Load(options(tmp_path, boots=["hang"]), WorkerConfig()))
        worker.hear(ipc.Progress)
        worker.hang_up()
        assert worker.code() == ipc.ExitCode.LOST_PARENT


def test_a_worker_that_hangs_does_not_outlive_its_parent_for_long(tmp_path: Path) -> None:
    with driven() as worker:
        worker.load(options(tmp_path))
        worker.submit(request("bad", prompt=b"x" + trigger("hang")))
        worker.say(ipc.Ping(1))
        while not worker.hear(ipc.Pong).step_seconds:
            worker.say(ipc.Ping(1))
        worker.hang_up()
        assert worker.code() == ipc.ExitCode.LOST_PARENT


def test_a_worker_that_is_never_read_ends_with_its_parent(tmp_path: Path) -> None:
    """Its answers fill the socket and its queue, and the engine waits for room."""
    with driven() as worker:
        worker.load(options(tmp_path), num_sequences=8)
        worker.submit(*(request(f"r{i}", max_tokens=400) for i in range(200)))
        worker.hear(ipc.Output)
        worker.hang_up()
        assert worker.code() == ipc.ExitCode.LOST_PARENT
