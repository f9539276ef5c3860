"""A function is updated, rolled back and deleted while it is called: no call fails, and after Ready only what is wanted answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.figures import Figure
from tests.support.load import Load, Outcome, Target, call, spread
from tests.support.node import Node, manifest, processes, until
from tests.support.system import configured_node, edit, failed, function, layout_of, size, variables

pytestmark = pytest.mark.slow

UPDATES = size("UPDATES", 3)
AT_A_TIME = 16


@pytest.fixture
def node(root: Path, place: Path, monitor: Path) -> Iterator[Node]:
    with configured_node(root, place, monitor, retry_steady=1, collect_interval=0.5) as running:
        yield running


@pytest.fixture(scope="module")
def layouts(program: bytes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two images of one program, which say their names."""
    place = tmp_path_factory.mktemp("layouts")
    return layout_of(place / "a", program, {"number": b"a"}), layout_of(place / "b", program, {"number": b"b"})


def since(load: Load, moment: float) -> list[Outcome]:
    """The calls that began after a moment."""
    return [outcome for outcome in list(load.outcomes) if outcome.began > moment]


def goes_on(load: Load) -> None:
    """Waits for some calls more."""
    done = len(load.outcomes)
    until(lambda: len(load.outcomes) > done + 2, "calls")


def answered(load: Load, moment: float) -> set[bytes]:
    """What the calls that began after a moment were answered with, once each client has made one."""
    until(lambda: len(since(load, moment)) >= AT_A_TIME, "calls")
    return {outcome.body for outcome in since(load, moment)}


@pytest.mark.timeout(120 + 10 * UPDATES)
def test_no_call_fails_while_a_function_is_updated(node: Node, layouts: tuple[Path, Path], figure: Figure) -> None:
    def update(number: int) -> bytes:
        """Every update has another environment, every other one another image; what it answers with."""
        node.deploy(layouts[number % 2], "fn", env=variables(VERSION=number))
        return f"{'ab'[number % 2]} {number} 1".encode()

    first = update(0)
    revision = call(node.url, "/default/fn/version").revision
    with Load(Target(node.url, "/default/fn/sleep/20"), at_a_time=AT_A_TIME) as load:
        assert answered(load, time.monotonic()) == {first}
        for number in range(1, UPDATES + 1):
            expected = update(number)
            assert answered(load, time.monotonic()) == {expected}
        # Back to the first specification: it is the first revision again.
        assert update(0) == first
        ready = time.monotonic()
        assert answered(load, ready) == {first}
        assert {outcome.revision for outcome in since(load, ready)} == {revision}
    assert load.failures == []
    assert {outcome.body for outcome in load.outcomes} >= {f"{'ab'[number % 2]} {number} 1".encode() for number in range(UPDATES + 1)}
    _one_instance_a_call(load)
    # What had its time is gone, from the machine and from the disk.
    until(lambda: not function(node, "fn")["draining"], "the end of old revisions")
    revisions = node.data / "bundles" / "revisions" / "default" / "fn"
    until(lambda: {path.name for path in revisions.iterdir()} == {"current", revision}, "the end of old bundles")
    monitors = [command for command in processes(str(node.data)).values() if "mayfly-monitor serve" in command]
    assert all(revision in command for command in monitors)
    figure(f"{UPDATES + 1} updates: {spread(load.outcomes)}")


def test_no_call_fails_when_updates_follow_each_other_faster_than_they_are_done(node: Node, layouts: tuple[Path, Path]) -> None:
    node.deploy(layouts[0], "fn", env=variables(VERSION="first"))
    with Load(Target(node.url, "/default/fn/version"), at_a_time=AT_A_TIME) as load:
        for number in range(20):
            edit(node, "fn", f"oci:{layouts[number % 2]}", env=variables(VERSION=number))
            goes_on(load)
        node.deploy(layouts[1], "fn", env=variables(VERSION="last"))
        assert answered(load, time.monotonic()) == {b"b last 1"}
    assert load.failures == []
    _one_instance_a_call(load)


def test_an_update_that_does_not_start_leaves_the_old_revision_to_its_calls(node: Node, layouts: tuple[Path, Path]) -> None:
    node.deploy(layouts[0], "fn", env=variables(VERSION="good"))
    before = call(node.url, "/default/fn/version").revision
    with Load(Target(node.url, "/default/fn/version"), at_a_time=AT_A_TIME) as load:
        bad = manifest(layouts[1], "fn", env=variables(VERSION="bad", START="exit"))
        finished = node.mayfly("apply", "-f", "-", "--wait", "--timeout", "50s", stdin=bad)
        assert finished.returncode == 1, finished.stderr
        assert "cannot start: no configuration" in finished.stderr
        assert f"revision {before} still serves" in " ".join(failed(node, "fn", "Ready").message.split())
        assert answered(load, time.monotonic()) == {b"a good 1"}
        node.deploy(layouts[1], "fn", env=variables(VERSION="mended"))
        assert answered(load, time.monotonic()) == {b"b mended 1"}
    assert load.failures == []
    assert {outcome.body for outcome in load.outcomes} == {b"a good 1", b"b mended 1"}


def test_a_deleted_function_ends_its_calls_and_leaves_nothing(node: Node, layouts: tuple[Path, Path]) -> None:
    node.deploy(layouts[0], "fn", env=variables(VERSION="v"))
    node.deploy(layouts[0], "neighbour", env=variables(VERSION="n"))
    with (
        Load(Target(node.url, "/default/neighbour/version"), pause=0.01) as neighbour,
        Load(Target(node.url, "/default/fn/sleep/3000"), at_a_time=AT_A_TIME) as load,
    ):
        until(lambda: function(node, "fn")["serving"]["calls"] == AT_A_TIME, "calls in flight")
        node.ok("delete", "image", "fn")
        until(lambda: call(node.url, "/default/fn/version").status == 404, "the end of the function")
        gone = time.monotonic()
        until(lambda: len(since(load, gone)) >= AT_A_TIME, "calls after the end")
    in_flight = [outcome for outcome in load.outcomes if outcome.began < gone and outcome.status != 404]
    assert len(in_flight) >= AT_A_TIME
    assert all(outcome.ok and outcome.body == b"a v 1" for outcome in in_flight), [found for found in in_flight if not found.ok]
    assert {outcome.status for outcome in since(load, gone)} == {404}
    assert neighbour.failures == []
    until(lambda: not any("/default/fn/" in command for command in processes(str(node.data)).values()), "the end of its processes")
    bundles = node.data / "bundles"
    until(lambda: not (bundles / "revisions/default/fn").exists(), "the end of its bundle")
    assert node.mayfly("get", "images", "fn").returncode == 4
    # The image is the neighbour's, too; without it, nothing is left.
    assert len(list((bundles / "unpacked").iterdir())) == 1
    node.ok("delete", "image", "neighbour")
    until(lambda: not list((bundles / "unpacked").iterdir()), "the end of the image")
    until(lambda: not list((bundles / "layout/blobs/sha256").iterdir()), "the end of its blobs")


def _one_instance_a_call(load: Load) -> None:
    assert len({outcome.instance for outcome in load.outcomes}) == len(load.outcomes)
