"""What a supervisor makes of processes that do not behave, and what a new worker is told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from samovar.config import WorkerConfig
from samovar.errors import LoadFailed, SamovarError, WorkerLost
from samovar.runtime.runtime import Runtime
from samovar.types import Embedded, EmbedRequest
from tests.runtime.faulty_worker import trigger
from tests.runtime.serving import (
    SEQUENCES,
    Place,
    configured,
    heard_of,
    listen,
    load,
    nothing_left_behind,
    request,
    serving,
    undisturbed,
    until,
)

GREETING = """
import os, socket, sys, time
from samovar.ipc import messages as ipc
from samovar.ipc.channel import Channel
sock = socket.socket(fileno=int(sys.argv[1]))
{body}
time.sleep(3600)
"""


def script(folder: Path, body: str) -> tuple[str, ...]:
    path = folder / "worker.py"
    path.write_text(GREETING.format(body=body), encoding="utf-8")
    return (sys.executable, str(path))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "Channel(sock).write(ipc.ENCODER.encode(ipc.Hello(ipc.PROTOCOL + 1, '9', 1)))",
            "another version",
        ),
        ("sock.sendall(b'HTTP/1.1 400 Bad Request')", "another language"),
        ("Channel(sock).write(b'garbage')", "another language"),
    ],
    ids=["version", "frames", "messages"],
)
def test_a_worker_of_another_kind_is_refused_and_ended(place: Place, body: str, says: str) -> None:
    async def main() -> None:
        config = configured(command=script(place.folder, body))
        async with nothing_left_behind(), Runtime(config) as runtime:
            with pytest.raises(LoadFailed, match=says):
                await load(runtime, place)

    asyncio.run(main())


def test_a_worker_that_cannot_be_started_is_an_error_of_ours(place: Place) -> None:
    async def main() -> None:
        config = configured(command=("/nonexistent/python",))
        async with nothing_left_behind(), Runtime(config) as runtime:
            with pytest.raises(LoadFailed, match="cannot be started"):
                await load(runtime, place)

    asyncio.run(main())


def test_a_runtime_that_was_held_up_itself_does_not_blame_its_worker(place: Place) -> None:
    async def main() -> None:
        async with serving(place, config=configured(stuck_seconds=0.5)) as runtime:
            pid = runtime.status()["a"]["pid"]
            for _ in range(3):
                await asyncio.sleep(0.15)
                threading.Event().wait(1.0)  # the whole event loop stands still
            (heard,) = await heard_of(runtime, "a", request(1))
            assert heard.is_finished
            assert runtime.status()["a"]["pid"] == pid

    asyncio.run(main())


def test_a_stopped_process_is_found_out_and_replaced(place: Place) -> None:
    """It answers no heartbeat, though no step of it takes long."""

    async def main() -> None:
        async with serving(place, config=configured(stuck_seconds=1.0), seconds=0.01) as runtime:
            good = request(1, max_tokens=200)
            stream = listen(runtime, "a", good)
            await stream.heard.at_least(3)
            os.kill(runtime.status()["a"]["pid"], signal.SIGSTOP)
            heard = await stream.done()
            assert [(heard.tokens, heard.text)] == undisturbed(good)
            assert runtime.status()["a"]["restarts"] == 1

    asyncio.run(main())


def test_a_worker_that_hangs_leaves_a_dump_of_its_stacks(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(place, config=configured(stuck_seconds=1.0)) as runtime:
            bad = request(1, prompt=b"x" + trigger("hang", 2), request_id="bad", max_tokens=10)
            (heard,) = await heard_of(runtime, "a", bad)
            assert [(heard.tokens, heard.text)] == undisturbed(bad)

    asyncio.run(main())
    assert "in commit" in caplog.text  # where the worker slept


def test_everything_that_a_worker_had_accepted_is_accepted_by_the_next(place: Place) -> None:
    """All at once they are more than may wait: the seats of the new one are not taken yet."""

    async def main() -> None:
        worker = WorkerConfig(num_sequences=2, context_length=512, max_waiting=4)
        async with serving(place, config=configured(), seconds=0.005, worker=worker) as runtime:
            asked = [request(i, max_tokens=40, request_id=f"q{i}") for i in range(6)]
            streams = [listen(runtime, "a", one) for one in asked[:2]]
            for one in streams:
                await one.heard.at_least(1)
            streams += [listen(runtime, "a", one) for one in asked[2:]]
            await status_is(runtime, lambda one: one["waiting"] == 4)
            os.kill(runtime.status()["a"]["pid"], signal.SIGKILL)
            found = [await one.done() for one in streams]
            assert [(one.tokens, one.text) for one in found] == undisturbed(*asked)

    asyncio.run(main())


def test_sessions_end_with_their_process_and_say_so(place: Place) -> None:
    async def main() -> None:
        async with serving(place, config=configured(), seconds=0.01) as runtime:
            begun = request(1, max_tokens=5, session="s")
            (first,) = await heard_of(runtime, "a", begun)
            assert first.is_finished
            going_on = listen(runtime, "a", request(2, max_tokens=300, session="s", continues=True))
            fresh = request(3, max_tokens=200, session="t")
            starting = listen(runtime, "a", fresh)
            await going_on.heard.at_least(2)
            await starting.heard.at_least(2)
            os.kill(runtime.status()["a"]["pid"], signal.SIGKILL)
            lost = await going_on.done()
            assert lost.failure == "worker_lost"
            started = await starting.done()
            assert [(started.tokens, started.text)] == undisturbed(fresh)
            follow = request(4, max_tokens=4, session="t", continues=True)
            (after,) = await heard_of(runtime, "a", follow)
            assert after.is_finished
            old = request(5, max_tokens=4, session="s", continues=True)
            (gone,) = await heard_of(runtime, "a", old)
            assert gone.failure == "session_not_found"

    asyncio.run(main())


def test_a_new_worker_has_the_adapters_that_the_old_one_had_last(place: Place) -> None:
    async def main() -> None:
        worker = WorkerConfig(
            num_sequences=SEQUENCES, context_length=512, adapters=(("x", "x"), ("y", "y"))
        )
        async with serving(place, config=configured(), worker=worker) as runtime:
            await runtime.ask("a", "unload_adapter", name="x")
            await runtime.ask("a", "load_adapter", name="z", path="z")
            with_z = request(1, adapters=(("z", 0.5),), request_id="before")
            (before,) = await heard_of(runtime, "a", with_z)
            os.kill(runtime.status()["a"]["pid"], signal.SIGKILL)
            await until(lambda: runtime.status()["a"]["restarts"] == 1)
            assert await runtime.ask("a", "list_adapters") == ["y", "z"]
            (after,) = await heard_of(
                runtime, "a", request(1, adapters=(("z", 0.5),), request_id="after")
            )
            assert after.tokens == before.tokens

    asyncio.run(main())


def test_vectors_come_through_shared_memory_and_leave_nothing_open(place: Place) -> None:
    async def main() -> None:
        async with nothing_left_behind(), serving(place, config=configured()) as runtime:
            texts = tuple(f"text {i}" for i in range(20))
            for number in range(10):
                asked = EmbedRequest(f"e{number}", texts)
                (end,) = [one async for one in runtime.generate("a", asked)]
                assert isinstance(end, Embedded)
                assert end.vectors.shape[0] == len(texts)
                assert end.vectors.any()
                del end

    asyncio.run(main())


def test_wrong_questions_are_answered_and_kill_nobody(place: Place) -> None:
    async def main() -> None:
        async with serving(place, config=configured()) as runtime:
            pid = runtime.status()["a"]["pid"]
            for operation, arguments in [
                ("no_such", {}),
                ("close", {}),
                ("tokenize", {}),
                ("tokenize", {"text": 5}),
                ("detokenize", {"tokens": [10**9]}),
                ("detokenize", {"tokens": ["x"]}),
                ("detokenize", {"tokens": [2**63 - 1]}),
                ("render", {"messages": "x"}),
                ("render", {"messages": [{"role": 5}]}),
                ("fork_session", {"source": "none", "target": "x"}),
                ("session_tokens", {"name": "none"}),
                ("session_tokens", {"name": ["list"]}),
                ("unload_adapter", {"name": "none"}),
                ("load_adapter", {"name": "x", "path": 5, "more": 1}),
            ]:
                with pytest.raises(SamovarError) as raised:
                    await runtime.ask("a", operation, **arguments)
                assert not isinstance(raised.value, WorkerLost), operation
            assert await runtime.ask("a", "tokenize", text="hi") == [256, 104, 105]
            assert runtime.status()["a"]["pid"] == pid

    asyncio.run(main())


async def status_is(runtime: Runtime, is_so: Callable[[dict[str, int]], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so(await runtime.ask("a", "status")):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
