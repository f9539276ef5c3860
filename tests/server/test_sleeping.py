"""A function that nobody calls sleeps: no process is left of it, the next call wakes it, and no caller notices but by the time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.server.conftest import StartNode
from tests.support.nodes import Node, alive, deploy, unpublish, wait_for

SOON = 0.4  # seconds without a call


def serving(node: Node, name: str = "peer") -> dict[str, Any]:
    status = node.status(name)
    assert status is not None
    found: dict[str, Any] = status["serving"]
    return found


def asleep(node: Node, name: str = "peer") -> dict[str, Any]:
    """The status once it sleeps."""
    node.wait_ready(name)
    return wait_for(lambda: found if (found := serving(node, name))["state"] == "asleep" else None, f"{name} sleeps")


def test_a_function_that_nobody_calls_has_no_process_and_is_ready_all_the_same(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    deploy(node.data, "peer")
    pid = node.wait_ready("peer")["serving"]["monitor_pid"]
    asleep(node)
    wait_for(lambda: not alive(pid), "its monitor has ended")
    wait_for(lambda: serving(node)["monitor_pid"] is None or None, "the server knows")
    status = node.status("peer")
    assert status is not None
    assert status["ready"] is True
    assert status["serving"]["parked"] == 0
    assert "booting" not in str(node.call("/readyz").json["reasons"])


def test_the_next_call_wakes_it_from_its_snapshot(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    deploy(node.data, "peer")
    first = node.wait_ready("peer")["serving"]
    assert first["snapshot"]["source"] == "boot"
    for _ in range(3):
        asleep(node)
        assert node.call("/default/peer/").status == 200
        awake = serving(node)
        assert awake["state"] == "ready"
        assert awake["snapshot"]["source"] == "file"
        assert awake["monitor_pid"] != first["monitor_pid"]


def test_many_calls_at_once_wake_it_once(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    deploy(node.data, "peer", "delay=0.2")
    asleep(node)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: node.call("/default/peer/"), range(16)))
    assert {reply.status for reply in replies} == {200}
    assert sum(line["event"] == "revision takes calls" for line in node.log()) == 1


def test_it_does_not_sleep_while_it_is_called(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    deploy(node.data, "peer")
    pid = node.wait_ready("peer")["serving"]["monitor_pid"]
    until = time.monotonic() + 4 * SOON
    while time.monotonic() < until:
        assert node.call("/default/peer/").status == 200
        assert serving(node)["monitor_pid"] == pid


def test_a_call_that_takes_long_keeps_it_awake_and_gets_its_answer(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    deploy(node.data, "peer")
    pid = node.wait_ready("peer")["serving"]["monitor_pid"]
    with node.held("peer") as replies:
        until = time.monotonic() + 4 * SOON
        while time.monotonic() < until:
            assert serving(node)["monitor_pid"] == pid
            time.sleep(0.02)
    assert [reply.status for reply in replies] == [200]
    asleep(node)


def test_no_call_is_lost_at_the_moment_of_falling_asleep(start_node: StartNode) -> None:
    """Calls that come about as often as it falls asleep: each is answered, whether it was awake, fell asleep or woke."""
    node = start_node(sleep_after=0.05)
    deploy(node.data, "peer")
    node.wait_ready("peer")
    states = set()
    for number in range(60):
        time.sleep(0.045 + 0.0005 * (number % 20))
        assert node.call("/default/peer/").status == 200
        states.add(serving(node)["snapshot"]["source"])
    assert "file" in states, "it slept in between"


def test_what_sleeps_is_left_asleep_by_the_next_server(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    deploy(node.data, "peer")
    deploy(node.data, "hot")
    asleep(node)
    with node.held("hot"):
        pass
    node.stop()
    again = start_node(node.data, sleep_after=60)
    found = again.wait_ready("peer")
    assert (found["serving"]["state"], found["serving"]["monitor_pid"]) == ("asleep", None)
    assert again.call("/default/peer/").status == 200
    assert serving(again)["snapshot"]["source"] == "file"
    # What was awake when the server ended is awake again.
    again.stop()
    third = start_node(node.data, sleep_after=60)
    assert third.wait_ready("peer")["serving"]["state"] == "ready"


def test_without_a_snapshot_on_disk_it_stays_awake(start_node: StartNode) -> None:
    node = start_node(sleep_after=0.1, snapshot_days=0)
    deploy(node.data, "peer")
    pid = node.wait_ready("peer")["serving"]["monitor_pid"]
    until = time.monotonic() + 1
    while time.monotonic() < until:
        assert serving(node)["monitor_pid"] == pid
        time.sleep(0.05)


def test_what_sleeps_can_be_replaced_and_removed(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    old = deploy(node.data, "peer")
    asleep(node)
    new = deploy(node.data, "peer")
    assert node.wait_ready("peer", new)["serving"]["revision"] == new != old
    asleep(node)
    unpublish(node.data, "peer")
    wait_for(lambda: node.status("peer") is None or None, "it is gone")
    assert node.call("/default/peer/").status == 404
    wait_for(lambda: not list((node.data / "snapshots").iterdir()) or None, "its snapshots are gone")


def test_a_snapshot_that_is_gone_costs_a_boot_and_nothing_else(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    deploy(node.data, "peer")
    asleep(node)
    for path in (node.data / "snapshots").glob("*/snapshot"):
        path.unlink()
    assert node.call("/default/peer/").status == 200
    assert serving(node)["snapshot"]["source"] == "boot"


def test_one_that_cannot_be_woken_says_so_and_is_tried_again(start_node: StartNode) -> None:
    node = start_node(sleep_after=SOON)
    revision = deploy(node.data, "peer")
    asleep(node)
    config = next(node.data.glob(f"bundles/revisions/default/peer/{revision}/config.json"))
    good = config.read_text()
    config.write_text(good.replace('"scripted"', '"scripted", "boot=failed"'))
    reply = node.call("/default/peer/")
    assert reply.status == 503
    assert "could not be started" in reply.error
    config.write_text(good)
    wait_for(lambda: node.call("/default/peer/").status == 200 or None, "it is tried again")
