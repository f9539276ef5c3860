"""Revisions and their monitors through a whole server: they come, serve, fail, die, drain and go, and calls notice as little as can be."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from faas_resources.image import Image, ImageSpec
from faas_resources.metadata import Metadata
from faas_resources.store.directory import DirectoryStore
from tests.server.conftest import StartNode
from tests.support.nodes import Node, Reply, alive, deploy, unpublish, wait_for


class Load:
    """Calls one after the other on several connections, until it is told to stop; keeps every answer."""

    def __init__(self, node: Node, path: str, clients: int) -> None:
        self.replies: list[Reply] = []
        self._node, self._path = node, path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.replies.append(self._node.call(self._path))

    def goes_on(self, calls: int) -> None:
        """Waits for so many more."""
        seen = len(self.replies)
        wait_for(lambda: len(self.replies) > seen + calls, "calls go on")

    def stop(self) -> list[Reply]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.replies


def pid_of(node: Node, name: str = "peer") -> int:
    """The process id of the monitor that serves."""

    def serving() -> int | None:
        pid = node.wait_ready(name)["serving"]["monitor_pid"]
        return int(pid) if pid else None  # dead, and the server has not heard of it yet

    return wait_for(serving, "a monitor")


def left_by_monitors(node: Node) -> int:
    """How many sockets and directories of monitors there are."""
    return len(list((node.data / "run").glob("m*")))


def state_of(node: Node, which: str, name: str = "peer") -> Any:
    revision = (node.status(name) or {}).get(which)
    return revision["state"] if revision else None


# ---- coming


def test_calls_wait_for_a_function_that_boots(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", "delay=0.7")
    wait_for(lambda: node.status("peer"), "the function is known")
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: node.call("/default/peer/"), range(8)))
    assert [reply.status for reply in replies] == [200] * 8


def test_a_call_whose_budget_ends_while_the_function_boots_is_503(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", "delay=2")
    wait_for(lambda: node.status("peer"), "the function is known")
    reply = node.call("/default/peer/", headers={"X-Mayfly-Timeout": "0.2"})
    assert reply.status == 503
    assert reply.headers["Retry-After"]


def test_a_booting_function_keeps_no_place_of_the_node(start_node: StartNode) -> None:
    node = start_node(calls=2)
    gate = node.data / "gate"
    deploy(node.data, "peer")
    deploy(node.data, "slow", f"gate={gate}")
    node.wait_ready("peer")
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(node.call, "/default/slow/") for _ in range(4)]
        wait_for(lambda: (node.status("slow") or {})["running"] == 4, "calls wait for the function")
        assert node.call("/default/peer/").status == 200
        gate.touch()
        assert [call.result().status for call in waiting] == [200] * 4


def test_functions_that_never_get_ready_hold_nobody_up(start_node: StartNode) -> None:
    node = start_node(boots=1, ready_timeout=30)
    deploy(node.data, "peer")
    node.wait_ready("peer")
    deploy(node.data, "never", "delay=1000")
    wait_for(lambda: state_of(node, "coming", "never") == "booting", "the other one boots")
    os.kill(pid_of(node), signal.SIGKILL)
    began = time.monotonic()
    assert node.call("/default/peer/").status in {200, 502}  # 502: it was sent before the server had heard of the death
    assert node.call("/default/peer/").status == 200
    assert time.monotonic() - began < 10


def test_functions_that_fail_again_and_again_hold_no_new_one_up(start_node: StartNode) -> None:
    node = start_node(boots=1, ready_timeout=0.5)
    deploy(node.data, "never", "delay=1000")
    wait_for(lambda: state_of(node, "coming", "never") == "failed", "it has failed once")
    wait_for(lambda: (node.status("never") or {})["coming"]["monitor_pid"], "it is tried again")
    deploy(node.data, "peer")
    began = time.monotonic()
    node.wait_ready("peer")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("script", "reason", "message"),
    [
        ("boot=failed", "exited", "the program ended with status 3"),
        ("boot=exit", "monitor", "the monitor ended with status 7 before the function was ready"),
        ("boot=garbage", "monitor", "the monitor ended with signal 9 before the function was ready"),
    ],
)
def test_a_function_that_cannot_start_is_503_at_once_and_says_why(start_node: StartNode, script: str, reason: str, message: str) -> None:
    node = start_node()
    deploy(node.data, "peer", script)
    wait_for(lambda: state_of(node, "coming") == "failed", "it has failed")
    began = time.monotonic()
    reply = node.call("/default/peer/")
    assert time.monotonic() - began < 2
    assert (reply.status, reply.error) == (503, f"the function could not be started: {reason}")
    assert int(reply.headers["Retry-After"]) >= 1
    problem = wait_for(lambda: node.status("peer"), "status")["coming"]["problem"]
    assert (problem["reason"], problem["message"]) == (reason, message)
    if script == "boot=failed":
        assert problem["output"] == "Traceback: \x1b[31mno module\n"
        assert not any("\x1b" in line for line in node.lines)


def test_calls_that_wait_are_told_when_the_function_fails(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", "delay=0.7", "boot=failed")
    wait_for(lambda: node.status("peer"), "the function is known")
    assert node.call("/default/peer/").status == 503


def test_a_function_that_failed_is_tried_again(start_node: StartNode) -> None:
    node = start_node()
    revision = deploy(node.data, "peer", "boot=failed")
    wait_for(lambda: state_of(node, "coming") == "failed", "it has failed")
    config = node.data / f"bundles/revisions/default/peer/{revision}/config.json"
    config.write_text(config.read_text().replace("boot=failed", "boot=ready"))  # as if what it lacked is there now
    node.wait_ready("peer")
    assert node.call("/default/peer/").status == 200


def test_a_monitor_that_says_nothing_is_given_up(start_node: StartNode) -> None:
    node = start_node(ready_timeout=0.2)
    deploy(node.data, "peer", "boot=silent")
    wait_for(lambda: state_of(node, "coming") == "failed", "it has failed")
    assert wait_for(lambda: node.status("peer"), "status")["coming"]["problem"]["reason"] == "timeout"


def test_malformed_lines_are_dropped_and_counted(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", "boot=odd")
    os.kill(pid_of(node), signal.SIGKILL)  # the count is taken when a monitor is gone
    count = 'mayfly_monitor_bad_lines_total{function="peer",namespace="default"} 5.0'
    wait_for(lambda: count in node.call("/metrics").body.decode(), "the count")
    assert node.call("/default/peer/").status == 200


def test_without_the_monitors_program_the_server_lives_and_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path, tmp_path / "nothing-here")
    try:
        deploy(node.data, "peer")
        wait_for(lambda: state_of(node, "coming") == "failed", "it has failed")
        assert node.call("/healthz").status == 200
        ready = node.call("/readyz")
        assert ready.status == 503
        assert any("--monitor" in reason for reason in ready.json["reasons"])
        assert node.call("/default/peer/").error == "the function could not be started: monitor"
    finally:
        node.kill()


# ---- taking over


def test_a_new_revision_takes_over_without_a_failed_call(start_node: StartNode) -> None:
    node = start_node()
    revisions = [deploy(node.data, "peer", "delay=0.2")]
    node.wait_ready("peer")
    load = Load(node, "/default/peer/", 16)
    for _ in range(3):
        revisions.append(deploy(node.data, "peer", "delay=0.2"))
        node.wait_ready("peer", revisions[-1])
    seen = len(load.replies)
    load.goes_on(200)
    wait_for(lambda: not (node.status("peer") or {})["draining"], "the old ones are gone")
    replies = load.stop()
    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["X-Mayfly-Revision"] for reply in replies} == set(revisions)
    assert {reply.headers["X-Mayfly-Revision"] for reply in replies[seen + 100 :]} == {revisions[-1]}


def test_a_long_call_ends_on_the_revision_it_began_on(start_node: StartNode) -> None:
    node = start_node()
    old = deploy(node.data, "peer")
    pid = pid_of(node)
    with node.held("peer") as replies:
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "it runs")
        new = deploy(node.data, "peer")
        node.wait_ready("peer", new)
        assert node.call("/default/peer/").headers["X-Mayfly-Revision"] == new
        assert (node.status("peer") or {})["draining"][0]["revision"] == old
    assert replies[0].json["revision"] == old
    wait_for(lambda: not alive(pid), "the old monitor is gone")
    wait_for(lambda: not (node.status("peer") or {})["draining"], "the old revision is gone")
    assert left_by_monitors(node) == 2, "the socket and the scratch directory of the one that serves"


def test_a_new_revision_that_fails_leaves_the_old_one_serving(start_node: StartNode) -> None:
    node = start_node()
    old = deploy(node.data, "peer")
    node.wait_ready("peer")
    load = Load(node, "/default/peer/", 4)
    new = deploy(node.data, "peer", "boot=failed")
    wait_for(lambda: state_of(node, "coming") == "failed", "it has failed")
    replies = load.stop()
    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["X-Mayfly-Revision"] for reply in replies} == {old}
    status = wait_for(lambda: node.status("peer"), "status")
    assert (status["revision"], status["coming"]["revision"]) == (old, new)
    # What comes next takes the failed one's place.
    good = deploy(node.data, "peer")
    node.wait_ready("peer", good)
    assert (node.status("peer") or {})["coming"] is None


def test_going_back_to_the_revision_that_serves_changes_nothing(start_node: StartNode) -> None:
    node = start_node()
    old = deploy(node.data, "peer")
    pid = pid_of(node)
    deploy(node.data, "peer", "delay=30")
    wait_for(lambda: state_of(node, "coming"), "another one comes")
    link = node.data / "bundles/tmp/back"
    link.symlink_to(old)
    link.rename(node.data / "bundles/revisions/default/peer/current")
    wait_for(lambda: not state_of(node, "coming"), "it is not wanted any more")
    assert pid_of(node) == pid


def test_the_limit_follows_the_revision(start_node: StartNode) -> None:
    node = start_node(function_calls_waiting=1)
    deploy(node.data, "peer", concurrency=1)
    node.wait_ready("peer")
    with node.held("peer") as first, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "it runs")
        second = pool.submit(node.call, "/default/peer/")
        wait_for(lambda: (node.status("peer") or {})["waiting"] == 1, "it waits")
        node.wait_ready("peer", deploy(node.data, "peer", concurrency=3))
        assert second.result().status == 200
    assert first[0].status == 200


# ---- dying


def test_a_monitor_that_dies_is_started_again_and_calls_in_flight_are_502(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    pid = pid_of(node)
    with ThreadPoolExecutor(4) as pool:
        hanging = [pool.submit(node.call, "/default/peer/hang", headers={"X-Call-Id": f"hanging-{number}"}) for number in range(4)]
        wait_for(lambda: all(node.log_of(f"hanging-{number}") for number in range(4)), "they run")
        os.kill(pid, signal.SIGKILL)
        assert [call.result().status for call in hanging] == [502] * 4
    assert node.call("/default/peer/").status == 200
    assert pid_of(node) != pid
    assert 'mayfly_monitor_restarts_total{function="peer",namespace="default"} 1.0' in node.call("/metrics").body.decode()


def test_under_load_a_dying_monitor_costs_only_the_calls_it_had(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", concurrency=8)
    deploy(node.data, "other")
    node.wait_ready("other")
    load = Load(node, "/default/peer/sleep?seconds=0.02", 16)
    others = Load(node, "/default/other/", 2)
    kills = 5
    killed = set[int]()
    for _ in range(kills):
        pid = pid_of(node)
        load.goes_on(30)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        wait_for(lambda: pid_of(node) not in killed, "another one serves")
    replies = load.stop()
    failed = [reply for reply in replies if reply.status != 200]
    assert {reply.status for reply in failed} <= {502}
    assert len(failed) <= kills * 8
    assert {reply.status for reply in others.stop()} == {200}
    assert len(killed) == kills
    assert node.call("/default/peer/").status == 200


def test_a_monitor_killed_by_its_own_program_costs_that_call(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    node.wait_ready("peer")
    for _ in range(3):
        assert node.call("/default/peer/die").status == 502
        assert node.call("/default/peer/").status == 200


def test_no_call_is_lost_on_a_monitor_whose_death_is_not_known_yet(start_node: StartNode) -> None:
    """A process that it left behind holds the control stream open, so its last words are waited for."""
    node = start_node()
    deploy(node.data, "peer", "leaves=3")
    os.kill(pid_of(node), signal.SIGKILL)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: node.call("/default/peer/", b"hello"), range(8)))
    assert {reply.status for reply in replies} == {200}


def test_calls_wait_when_a_socket_can_queue_no_more(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", "places=1", "backlog=0", concurrency=30)
    node.wait_ready("peer")
    with ThreadPoolExecutor(30) as pool:
        replies = list(pool.map(lambda _: node.call("/default/peer/sleep?seconds=0.03"), range(60)))
    assert {reply.status for reply in replies} == {200}


def test_an_instance_that_never_greets_is_given_up(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", "greeting=none")
    node.wait_ready("peer")
    reply = node.call("/default/peer/", b"hello", headers={"X-Call-Id": "ungreeted"})
    assert (reply.status, reply.error) == (502, "no instance took the call")
    receipt = node.receipt("ungreeted")
    assert receipt["instance"] is None
    assert receipt["tries"] > 1


# ---- going


def test_an_unpublished_function_is_404_and_its_calls_finish(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    pid = pid_of(node)
    with node.held("peer") as replies:
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "it runs")
        unpublish(node.data, "peer")
        wait_for(lambda: node.status("peer") is None, "the function is gone")
        assert node.call("/default/peer/").status == 404
    assert replies[0].status == 200
    wait_for(lambda: not alive(pid), "the monitor is gone")
    wait_for(lambda: not left_by_monitors(node), "what it kept is gone")
    assert 'function="peer"' not in node.call("/metrics").body.decode()


def test_calls_that_wait_for_a_function_that_goes_are_404(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer", "delay=30")
    wait_for(lambda: node.status("peer"), "the function is known")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.call, "/default/peer/")
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "it waits")
        unpublish(node.data, "peer")
        assert waiting.result().status == 404


def test_an_old_revision_is_held_until_it_has_drained(start_node: StartNode) -> None:
    from bundles.revisions import RevisionStore

    node = start_node()
    store = RevisionStore(node.data / "bundles")
    old = deploy(node.data, "peer")
    node.wait_ready("peer")
    with node.held("peer") as replies:
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "it runs")
        new = deploy(node.data, "peer")
        node.wait_ready("peer", new)
        assert store.collect().revisions == 0
    assert replies[0].status == 200
    wait_for(lambda: not (node.status("peer") or {})["draining"], "the old one is gone")
    wait_for(lambda: store.collect().revisions == 1, "it can be collected")
    assert not (node.data / "bundles/revisions/default/peer" / old).exists()
    assert node.call("/default/peer/").status == 200


# ---- the server itself


def test_sigterm_lets_calls_finish_and_leaves_nothing(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    pid = pid_of(node)
    with node.held("peer") as replies:
        wait_for(lambda: (node.status("peer") or {})["running"] == 1, "it runs")
        node.process.send_signal(signal.SIGTERM)
        wait_for(lambda: any(line["event"] == "draining" for line in node.log()), "it drains")
    assert replies[0].status == 200
    assert node.stop() == 0
    assert not alive(pid)
    assert not left_by_monitors(node)


def test_sigterm_with_a_call_that_never_ends_is_bounded(start_node: StartNode) -> None:
    node = start_node(drain_timeout=1)
    deploy(node.data, "peer", "drain=never")
    pid = pid_of(node)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(node.exchange, b"GET /default/peer/hang HTTP/1.1\r\nHost: x\r\nX-Call-Id: endless\r\n\r\n")
        wait_for(lambda: node.log_of("endless"), "it runs")
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 10
        hanging.result()
    wait_for(lambda: not alive(pid), "the monitor is gone")


def test_kill_9_of_the_server_leaves_nothing_that_hinders_the_next(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    pid = pid_of(node)
    assert node.call("/default/peer/", headers={"X-Call-Id": "before"}).status == 200
    assert node.call("/_mayfly/functions/default/peer/receipts").json["receipts"][0]["call"] == "before"
    node.kill()
    wait_for(lambda: not alive(pid), "the monitor ends by itself")
    assert left_by_monitors(node)
    again = start_node(node.data)
    again.wait_ready("peer")
    assert again.call("/default/peer/").status == 200
    assert left_by_monitors(node) == 2, "the socket and the scratch directory of the one that serves"
    assert again.receipt("before")["status"] == 200


def test_a_second_server_on_the_same_directory_is_refused(start_node: StartNode, monitor_program: Path) -> None:
    node = start_node()
    with pytest.raises(AssertionError, match="another server uses"):
        Node(node.data, monitor_program)
    assert node.call("/healthz").status == 200


def test_monitors_inherit_only_their_own_streams(tmp_path: Path, monitor_program: Path) -> None:
    with (tmp_path / "of-the-starter").open("w") as held:
        node = Node(tmp_path, monitor_program, pass_fds=(held.fileno(),))
    try:
        deploy(node.data, "peer")
        directory = Path(f"/proc/{pid_of(node)}/fd")
        targets = {entry.name: os.readlink(entry) for entry in directory.iterdir()}
        streams = {targets.pop(name) for name in ("0", "1", "2")}
        others = [target for target in targets.values() if target not in streams]
        assert len(others) == 1, "besides its own listening socket"
        assert others[0].startswith("socket:")
    finally:
        node.kill()


def test_readiness_waits_for_the_functions_that_were_there(start_node: StartNode, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    deploy(tmp_path, "peer", "delay=1")
    deploy(tmp_path, "broken", "boot=failed")
    node = start_node()
    assert "functions are still booting" in node.call("/readyz").json["reasons"]
    node.wait_ready("peer")
    assert "functions are still booting" not in node.call("/readyz").json["reasons"]
    deploy(node.data, "later", "delay=30")
    wait_for(lambda: node.status("later"), "it is known")
    assert "functions are still booting" not in node.call("/readyz").json["reasons"]


# ---- status in the store


def image(name: str) -> Image:
    return Image.model_validate(
        {
            "apiVersion": "build.kontain.app/v1",
            "kind": "Image",
            "metadata": Metadata.model_validate({"name": name, "namespace": "default"}),
            "spec": {"image": "docker://registry.test/peer:1"},
        }
    )


async def ready_condition(store: DirectoryStore, name: str) -> tuple[str, str, str] | None:
    condition = (await store.get(Image, "default", name)).status.condition("Ready")
    return None if condition is None else (str(condition.status), condition.reason, condition.message)


async def test_the_condition_ready_says_how_the_function_is(start_node: StartNode) -> None:
    import asyncio

    node = start_node()
    store = DirectoryStore(node.data)

    async def until(status: str, reason: str, *words: str) -> None:
        limit = time.monotonic() + 15
        while True:
            found = await ready_condition(store, "peer")
            if found is not None and found[:2] == (status, reason) and all(word in found[2] for word in words):
                return
            assert time.monotonic() < limit, found
            await asyncio.sleep(0.05)

    await store.apply(image("peer"))
    old = deploy(node.data, "peer", "delay=0.5")
    await until("False", "Booting")
    await until("True", "Serving", old)
    bad = deploy(node.data, "peer", "delay=0.5", "boot=failed")
    await until("True", "Updating", bad, old)
    await until("False", "CannotStart", bad, "the program ended with status 3", "no module", f"revision {old} still serves")
    good = deploy(node.data, "peer")
    await until("True", "Serving", good)
    # A resource that is made anew gets its condition too.
    await store.delete(Image, "default", "peer")
    await store.apply(image("peer"))
    await until("True", "Serving", good)


# ---- snapshots on disk


def source_of(node: Node, name: str = "peer") -> Any:
    return node.wait_ready(name)["serving"]["snapshot"]["source"]


def test_a_restart_begins_from_the_snapshots_that_were_kept(start_node: StartNode) -> None:
    node = start_node()
    revision = deploy(node.data, "peer")
    assert source_of(node) == "boot"
    directory = node.data / "snapshots"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert node.stop() == 0
    assert (directory / revision / "snapshot").read_text() == revision
    assert source_of(start_node(node.data)) == "file"


def test_a_snapshot_goes_with_its_revision(start_node: StartNode) -> None:
    node = start_node()
    first = deploy(node.data, "peer")
    node.wait_ready("peer")
    (node.data / "snapshots" / first / "snapshot.new").write_text("left by a monitor that was killed")
    (node.data / "snapshots" / ("0" * 16)).mkdir()
    second = deploy(node.data, "peer")
    wait_for(lambda: [path.name for path in (node.data / "snapshots").iterdir()] == [second], "the first one's is gone")
    assert first != second
    unpublish(node.data, "peer")
    wait_for(lambda: not list((node.data / "snapshots").iterdir()), "no function, no snapshot")


def test_no_snapshot_is_kept_where_none_is_wanted(start_node: StartNode) -> None:
    node = start_node(snapshot_days=0)
    deploy(node.data, "peer")
    assert source_of(node) == "boot"
    assert not (node.data / "snapshots").exists()


# ---- what repeats


def repeats(node: Node, name: str = "peer") -> Any:
    path = node.data / "status/default/images" / f"{name}.yaml"
    conditions = yaml.safe_load(path.read_text()).get("status", {}).get("conditions", []) if path.exists() else []
    return next((condition for condition in conditions if condition["type"] == "RepeatsAcrossCalls"), None)


def test_what_repeats_across_calls_is_said_in_status(start_node: StartNode) -> None:
    node = start_node()
    store = DirectoryStore(node.data)
    asyncio.run(store.apply(Image(metadata=Metadata(name="peer"), spec=ImageSpec(image="registry.test/peer:1"))))
    revision = deploy(node.data, "peer", "repeats=0.7254686171")
    found = wait_for(lambda: repeats(node), "the condition")
    assert (found["status"], found["reason"]) == ("True", "SeededBeforeSnapshot")
    assert f"revision {revision} gives every call the same values in the answer: 0.7254686171" in found["message"]
    deploy(node.data, "peer")
    wait_for(lambda: repeats(node)["status"] == "Unknown", "the next revision has not been checked")
