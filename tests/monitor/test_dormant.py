"""Threads that wait at the snapshot are records until woken: whatever wakes them, they behave as threads do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.monitor.test_rehearsal import root_of
from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system

# What each path of the program answers, however its threads were made.
ANSWERS = {
    "/nothing": "tasks 11",
    "/wake": "woken 1",
    "/all": "woken 3",
    "/join": "sum 303 tasks 8",
    "/set": "answered 12",
    "/signal": "there 0 none 3 handled 1 still 1",
    "/process-signal": "handled 1",
    "/time": "timed out",
    "/requeue": "refused 11 requeued 1",
    "/wake-op": "both 1 requeued 1",
    "/condition": "served 50",
    "/new": "woken 3",
    "/fork": "child 1, woken 3",
}


@pytest.mark.parametrize("way", ["threads", "records", "hybrid"])
def test_a_thread_that_waits_is_woken_by_whatever_wakes_it(program: Callable[..., Path], tmp_path: Path, way: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", root_of(tmp_path, program("sleepers")), ["/main"])
    with Serve(bundle, tmp_path, "--clones", way) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        assert ready["snapshot"]["threads"] == 11
        for turn in range(4):
            for path, expected in ANSWERS.items():
                call = f"{turn}{path.replace('/', '-')}"
                answer = serve.call(call, path=path)
                assert answer.body.decode() == expected, (path, answer, serve.ended(call))
            if way != "threads":
                assert serve.call(f"{turn}-counts", path="/counts").body == b"wrong 0 right 1 zero 1 nobody 0"


@pytest.mark.parametrize("way", ["records", "hybrid"])
def test_the_end_of_the_process_ends_its_records(program: Callable[..., Path], tmp_path: Path, way: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", root_of(tmp_path, program("sleepers")), ["/main"])
    with Serve(bundle, tmp_path, "--clones", way) as serve:
        serve.wait_for("parked")
        assert serve.call("end", path="/exit").headers["x-mayfly-failure"] == "exit status 3"
        assert serve.ended("end")["cause"] == "exited"
