"""A small run of the whole harness on a real node: contenders stand, are called and loaded, and the results have all that they should."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import Run
from bench.results import Results
from bench.stages.plan import PLANS

pytestmark = [pytest.mark.system, pytest.mark.slow]

NAMES = ["parked", "reuse", "fork", "floor"]


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as place:
        yield Run(PLANS["test"], ["contenders", "load", "profile", "streaming"], NAMES).all(Path(place))


def test_all_contenders_were_called_and_cost_something(results: Results) -> None:
    assert [contender.name for contender in results.contenders] == NAMES
    for contender in results.contenders:
        assert contender.latency is not None
        assert contender.latency.calls == PLANS["test"].rounds
        assert 0 < contender.latency.p50_ms <= contender.latency.p95_ms <= contender.latency.p99_ms <= contender.latency.max_ms
        assert contender.cpu_ms is not None
        assert contender.to_floor is not None
        assert contender.instance_mib is not None
    ours, reuse = (results.contender(name) for name in ("parked", "reuse"))
    assert ours is not None
    assert reuse is not None
    assert ours.to_reuse is not None
    assert ours.latency is not None
    assert reuse.latency is not None
    assert ours.to_reuse.p50 == pytest.approx(ours.latency.p50_ms / reuse.latency.p50_ms)


def test_load_was_answered(results: Results) -> None:
    for contender in results.contenders:
        assert contender.saturation
        assert len(contender.load) == len(PLANS["test"].loads)
        assert all(point.answered + point.refused + point.failed == point.calls for point in contender.load)
        assert sum(point.failed for point in contender.load) == 0


def test_the_profile_is_of_spans_that_follow_each_other(results: Results) -> None:
    names = [part.name for part in results.profile]
    assert names[0] == "front"
    assert {"wake", "guest", "exits", "socket", "answer"} <= set(names)
    assert all(part.value >= 0 for part in results.profile)


def test_streams_and_large_bodies_arrived_whole(results: Results) -> None:
    assert results.streaming is not None
    assert results.streaming.first_byte_ms.calls > 0
    assert min(results.streaming.down_mb_s, results.streaming.up_mb_s) > 0


def test_what_was_not_asked_for_is_named_and_the_rest_is_told(results: Results) -> None:
    assert {"overload", "arrival", "workloads"} <= results.missing.keys()
    text = report.tables(results)
    assert all(f"| {name} " in text for name in NAMES)


def test_no_process_is_left(results: Results) -> None:
    mark = b"-m\0bench.standins"
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [command for command in commands if mark in command]
