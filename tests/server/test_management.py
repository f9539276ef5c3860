"""`/_mayfly/…`."""

from __future__ import annotations

import json
import time

import pytest

from tests.server.conftest import StartNode
from tests.support.nodes import Node, deploy, until_closed, wait_for


def test_functions_and_their_status(node: Node) -> None:
    listed = node.call("/_mayfly/functions").json["functions"]
    assert [(function["namespace"], function["name"]) for function in listed] == [("default", "peer")]
    status = node.call("/_mayfly/functions/default/peer").json
    assert status == listed[0] | {"running": status["running"], "serving": status["serving"]}
    assert status["ready"] is True
    serving = status["serving"]
    assert (serving["state"], serving["revision"], serving["boot_ms"]) == ("ready", status["revision"], 12.5)
    assert serving["snapshot"] == {"digest": "sha256:" + "5" * 64, "bytes": 1 << 20, "threads": 1, "source": "boot"}
    assert serving["layers"] == ["seccomp", "landlock"]
    assert serving["monitor_pid"] > 0
    assert status["spec"]["timeout_ms"] == 20_000
    assert status["coming"] is None
    assert status["draining"] == []


@pytest.mark.parametrize(
    "path",
    ["/functions/default/nobody", "/functions/default", "/receipts/none", "/receipts/", "/receipts/a%2Fb", "/nothing", "", "/", "x"],
)
def test_what_is_not_there_is_404(node: Node, path: str) -> None:
    reply = node.call(f"/_mayfly{path}")
    assert reply.status == 404
    assert reply.error


def test_a_receipt_has_what_both_sides_saw(node: Node) -> None:
    body = b"x" * 1000
    reply = node.call("/default/peer/", body, headers={"X-Call-Id": "with-receipt"})
    receipt = node.call("/_mayfly/receipts/with-receipt").json
    assert receipt["call"] == "with-receipt"
    assert (receipt["namespace"], receipt["function"], receipt["method"], receipt["status"]) == ("default", "peer", "POST", 200)
    assert receipt["revision"] == reply.headers["X-Mayfly-Revision"]
    assert receipt["instance"] == reply.headers["X-Mayfly-Instance"]
    assert receipt["image"].startswith("sha256:")
    assert receipt["request_bytes"] == 1000
    assert receipt["response_bytes"] == len(reply.body)
    assert receipt["snapshot"] is None or receipt["snapshot"].startswith("sha256:")
    assert 0 < receipt["waited_us"] < receipt["first_byte_us"] <= receipt["total_us"] < 20_000_000
    assert abs(receipt["time"] - time.time()) < 60
    assert receipt["error"] is None
    monitor = receipt["monitor"]
    assert (monitor["cause"], monitor["cpu_us"], monitor["syscalls"]) == ("closed", 1500, 5)
    assert node.call("/_mayfly/functions/default/peer/receipts?limit=1").json["receipts"] == [receipt]


def test_log_lines_are_kept_with_their_call(node: Node) -> None:
    node.call("/default/peer/write?lines=3&stream=stderr&text=%1b%5b31mred+{}", headers={"X-Call-Id": "writes"})
    reply = node.call("/_mayfly/functions/default/peer/logs?tail=2")
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert b"\x1b" not in reply.body
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert [line["line"] for line in lines] == ["\x1b[31mred 1", "\x1b[31mred 2"]
    assert {(line["call"], line["stream"], line["truncated"]) for line in lines} == {("writes", "stderr", False)}
    assert lines[0]["number"] < lines[1]["number"]
    assert node.call("/_mayfly/functions/default/nobody/logs").body == b""


def test_logs_are_followed_as_they_come(node: Node) -> None:
    with node.connected() as connection:
        connection.sendall(b"GET /_mayfly/functions/default/peer/logs?tail=0&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        came = connection.recv(65536)
        assert came.startswith(b"HTTP/1.1 200")
        for number in range(3):
            node.call(f"/default/peer/write?text=followed-{number}")
            wanted = f"followed-{number}".encode()
            while wanted not in came:
                came += connection.recv(65536)


@pytest.mark.parametrize("query", ["tail=x", "tail=-1", "tail=99999999999999999999", "tail=%D9%A5"])
def test_a_number_that_is_none_is_400(node: Node, query: str) -> None:
    assert node.call(f"/_mayfly/functions/default/peer/logs?{query}").status == 400


def test_followers_are_few(start_node: StartNode) -> None:
    node = start_node()
    connections = []
    try:
        for number in range(70):
            context = node.connected()
            connection = context.__enter__()
            connections.append(context)
            connection.sendall(b"GET /_mayfly/functions/default/peer/logs?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            status = connection.recv(12)
            assert status == (b"HTTP/1.1 200" if number < 64 else b"HTTP/1.1 503")
    finally:
        for context in connections:
            context.__exit__(None, None, None)
    wait_for(lambda: node.call("/_mayfly/functions/default/peer/logs").status == 200, "it still answers")


def test_a_follower_does_not_hold_the_end_up(start_node: StartNode) -> None:
    node = start_node()
    deploy(node.data, "peer")
    node.wait_ready("peer")
    with node.connected() as connection:
        connection.sendall(b"GET /_mayfly/functions/default/peer/logs?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 10
        until_closed(connection)


def test_the_node_tells_about_itself(node: Node) -> None:
    told = node.call("/_mayfly/node").json
    assert told["kvm"] == {"usable": True, "problem": None}
    assert told["monitor"].endswith("scripted-monitor")
    assert (told["layers"], told["missing"]) == (["seccomp"], [{"name": "mounts", "reason": "allow user namespaces"}])
    assert told["functions"] == 1
    assert told["calls"]["limit"] > 0
    assert told["versions"]["python"]


def test_health_readiness_and_metrics(node: Node) -> None:
    assert node.call("/healthz").json == {"alive": True}
    ready = node.call("/readyz")
    assert (ready.status, ready.json["reasons"]) == (200, [])
    assert (ready.json["layers"], ready.json["missing"]) == (["seccomp"], [{"name": "mounts", "reason": "allow user namespaces"}])
    node.call("/default/peer/")
    page = node.call("/metrics")
    assert page.headers["Content-Type"].startswith("text/plain")
    assert 'mayfly_calls_total{code="200",function="peer",namespace="default"}' in page.body.decode()
    assert 'mayfly_function_ready{function="peer",namespace="default"} 1.0' in page.body.decode()


def test_other_methods_on_the_nodes_own_paths_are_405(node: Node) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert node.call(path, b"x").status in (404, 405)
    assert node.call("/_mayfly/functions", b"x").status in (404, 405)
