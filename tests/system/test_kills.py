"""kill -9 at any moment: of the downloader while it updates, of a function's monitor while it is called.

After each kill the store on disk is whole and the next call answers; the only calls that may fail are those that were with the killed
monitor, and they fail with a 502.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.figures import Figure
from tests.support.load import Load, Outcome, Target, call, spread
from tests.support.node import Node, processes, until
from tests.support.registry import Registry, running_registry
from tests.support.system import (
    check_store,
    configured_node,
    descendants,
    edit,
    function,
    function_program,
    image_of,
    layout_of,
    size,
    variables,
)

pytestmark = pytest.mark.slow

DOWNLOADER_KILLS = size("KILLS", 8)
MONITOR_KILLS = size("MONITOR_KILLS", 6)
AT_A_TIME = 16
IMAGES = 4
# The supervisor waits longer and longer before it starts a plane that keeps ending; a new supervisor begins with half a second again.
KILLS_PER_SUPERVISOR = 3


@pytest.fixture
def chance() -> random.Random:
    seed = os.environ.get("MAYFLY_TEST_SEED", str(time.time_ns()))
    print(f"MAYFLY_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def node(root: Path, place: Path, monitor: Path) -> Iterator[Node]:
    with configured_node(root, place, monitor, retry_first=0.1, retry_steady=0.5, collect_interval=0.5) as running:
        yield running


def content(number: int) -> dict[str, bytes]:
    """Some hundred files that tell the image's number."""
    return {"number": str(number).encode(), **{f"data/{index}": f"{number} {index} ".encode() * 500 for index in range(200)}}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of a killed process")


@pytest.mark.timeout(120 + 20 * DOWNLOADER_KILLS)
def test_downloader_killed_at_any_moment_leaves_the_store_whole(
    node: Node, registry: Registry, chance: random.Random, tmp_path: Path, figure: Figure
) -> None:
    program = function_program(tmp_path / "program")
    made = [image_of(program, content(number)) for number in range(IMAGES)]
    expected = {image.digest: {"app": program, **content(number)} for number, image in enumerate(made)}
    references = [registry.push(image, "killed", str(number)) for number, image in enumerate(made)]
    bundles = node.data / "bundles"

    def update(turn: int) -> None:
        edit(node, "fn", references[turn % IMAGES], env=variables(VERSION=turn), pool=1)

    def answer() -> tuple[int, int]:
        """Image and version of the revision that answers."""
        outcome = call(node.url, "/default/fn/version")
        assert outcome.ok, outcome
        number, turn, count = outcome.body.decode().split()
        assert count == "1"
        return int(number), int(turn)

    def answers(turn: int) -> None:
        until(lambda: answer() == (turn % IMAGES, turn), f"update {turn}")

    began = time.monotonic()
    update(0)
    until(lambda: function(node, "fn") and call(node.url, "/default/fn/version").ok, "the first answer")
    took = time.monotonic() - began  # to see, pull, unpack, publish and boot
    server = node.plane("faas_server")
    watching = node.said().count(" watching ")
    kill(node.plane("faas_downloader"))
    until(lambda: node.plane("faas_downloader"), "the next downloader")
    began = time.monotonic()
    until(lambda: node.said().count(" watching ") > watching, "the next downloader watches")
    starts = time.monotonic() - began
    moved = 0
    for turn in range(1, DOWNLOADER_KILLS + 1):
        before = answer()
        downloader = until(lambda: node.plane("faas_downloader"), "the downloader")
        # Some updates find it watching, the others find it starting: then the last update is often not done either.
        if turn % 2:
            answers(turn - 1)
        update(turn)
        time.sleep(chance.uniform(0, 1.2) * (took if turn % 2 else starts + took))  # the moment is what is tried out here
        kill(downloader)
        check_store(bundles, expected)
        after = answer()
        assert after[1] >= before[1], "it went back"
        assert after[0] == after[1] % IMAGES, "image and specification are not of one update"
        moved += after[1] == turn
        if turn % KILLS_PER_SUPERVISOR == 0:
            assert node.stop() == 0, node.said()
            node.start()
            server = until(lambda: node.plane("faas_server"), "the server")
            until(lambda: function(node, "fn") is not None, "the function")
        else:
            assert node.plane("faas_server") == server, "the server has ended"
    last = DOWNLOADER_KILLS
    answers(last)
    # Nothing is left of what was begun and not ended, and nothing of what is not wanted any more.
    until(lambda: not list((bundles / "tmp").iterdir()), "the end of leftovers")
    until(lambda: [path.name[7:] for path in (bundles / "unpacked").iterdir()] == [made[last % IMAGES].digest[7:]], "the end of old images")
    until(lambda: len(list((bundles / "revisions/default/fn").iterdir())) == 2, "the end of old revisions")
    until(lambda: len(list((bundles / "layout/blobs/sha256").iterdir())) == 1 + len(made[0].blobs), "the end of old blobs")
    check_store(bundles, expected)
    within = f"{1.2 * took:.1f} s of an update or {1.2 * (starts + took):.1f} s of a start"
    figure(f"{DOWNLOADER_KILLS} kills within {within}; {moved} came when the update was done")


def goes_on(load: Load) -> None:
    """Waits for a call more of every client."""
    done = len(load.outcomes)
    until(lambda: len(load.outcomes) >= done + AT_A_TIME, "calls")


@contextmanager
def monitors_gone(monitor: int) -> Iterator[None]:
    """Around the kill of a monitor: none of its instances outlives it."""
    instances = descendants(monitor)
    yield
    until(lambda: not instances & processes("mayfly-monitor").keys(), "the end of the instances of a killed monitor", 20)


@pytest.mark.timeout(120 + 20 * MONITOR_KILLS)
def test_monitor_killed_under_load_costs_the_calls_that_it_had(node: Node, chance: random.Random, tmp_path: Path, figure: Figure) -> None:
    program = function_program(tmp_path / "program")
    layout = layout_of(tmp_path / "image", program, content(1))
    expected = {image_of(program, content(1)).digest: {"app": program, **content(1)}}
    node.deploy(layout, "fn", env=variables(VERSION="v"))
    node.deploy(layout, "neighbour", env=variables(VERSION="n"))
    kills: list[tuple[float, float]] = []
    with (
        Load(Target(node.url, "/default/neighbour/version"), pause=0.01) as neighbour,
        Load(Target(node.url, "/default/fn/sleep/50"), at_a_time=AT_A_TIME) as load,
    ):
        for _ in range(MONITOR_KILLS):
            monitor = until(lambda: (function(node, "fn") or {})["serving"]["monitor_pid"], "a monitor")
            until(lambda: function(node, "fn")["ready"], "the function")
            goes_on(load)
            time.sleep(chance.uniform(0, 0.5))  # the moment of the kill is what is tried out here
            with monitors_gone(monitor):
                at = time.monotonic()
                kill(monitor)
                kills.append((at, time.monotonic()))
            check_store(node.data / "bundles", expected)
            outcome = call(node.url, "/default/fn/version")
            assert (outcome.status, outcome.body) == (200, b"1 v 1"), outcome
        goes_on(load)
    assert neighbour.failures == []
    assert {outcome.body for outcome in load.outcomes if outcome.status == 200} == {b"1 v 1"}
    lost = load.failures
    assert [outcome for outcome in lost if not (outcome.whole and outcome.status == 502 and _met(outcome, kills))] == []
    assert 0 < len(lost) <= AT_A_TIME * MONITOR_KILLS
    instances = [outcome.instance for outcome in load.outcomes if outcome.ok]
    assert len(set(instances)) == len(instances)
    figure(f"{MONITOR_KILLS} kills, {len(lost)} calls lost; {spread(load.outcomes)}; neighbour: {spread(neighbour.outcomes)}")


def _met(outcome: Outcome, kills: list[tuple[float, float]]) -> bool:
    """Whether the call was under way when a monitor was killed."""
    return any(outcome.began <= gone and killed <= outcome.ended for killed, gone in kills)
