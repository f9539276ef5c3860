"""`mayfly up`: one node under one supervisor, whatever happens to its parts."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from mayfly.image_building import Plan, build
from tests.support.compiling import compiled
from tests.support.node import Node, processes, until


def answers(node: Node, text: str) -> bool:
    finished = node.mayfly("call", "filter", "-d", text)
    return finished.returncode == 0 and finished.stdout == text.upper()


def test_it_says_what_it_does_and_ends_in_order(node: Node, filter_image: Path) -> None:
    node.deploy(filter_image, "filter", contract="stdin")
    assert answers(node, "abc")
    assert node.stop() == 0
    said = node.said()
    for sentence in ("✓ this machine can run functions", "✓ the server answers at http://127.0.0.1:", "✓ ready", "✓ stopped"):
        assert sentence in said
    assert processes(str(node.data)) == {}
    assert not (node.data / "run" / "up.json").exists()
    assert node.mayfly("call", "filter").returncode == 5
    node.start()
    assert answers(node, "again")


def test_an_interrupt_ends_it_in_order(node: Node) -> None:
    os.kill(node.pid, signal.SIGINT)
    assert node.wait() == 0
    assert processes(str(node.data)) == {}
    assert "✓ stopped" in node.said()
    node.start()


def test_nothing_outlives_a_killed_supervisor_and_the_next_one_takes_up(node: Node, filter_image: Path) -> None:
    node.deploy(filter_image, "filter", contract="stdin")
    assert node.monitors()
    node.kill()
    until(lambda: not processes(str(node.data)), "the end of the children", 10)
    assert node.mayfly("call", "filter").returncode == 5
    node.start()
    until(lambda: answers(node, "abc"), "an answer of the next supervisor")


def test_a_restart_of_the_node_begins_from_snapshots(node: Node, filter_image: Path) -> None:
    node.deploy(filter_image, "filter", contract="stdin")
    assert _serving(node, "filter")["snapshot"]["source"] == "boot"
    digest = _serving(node, "filter")["snapshot"]["digest"]
    until(lambda: list((node.data / "snapshots").glob("*/snapshot")), "the file")
    assert node.stop() == 0
    node.start()
    until(lambda: answers(node, "abc"), "an answer")
    snapshot = _serving(node, "filter")["snapshot"]
    assert (snapshot["source"], snapshot["digest"]) == ("file", digest)


@pytest.mark.parametrize("module", ["faas_server", "faas_downloader"])
def test_a_plane_that_is_killed_comes_back(node: Node, filter_image: Path, module: str) -> None:
    node.deploy(filter_image, "filter", contract="stdin")
    before = node.plane(module)
    os.kill(before, signal.SIGKILL)
    until(lambda: node.plane(module) not in {0, before}, f"another {module}")
    until(lambda: answers(node, "abc"), "an answer")
    node.deploy(filter_image, "second", contract="stdin")
    assert "ended unexpectedly (signal SIGKILL), starting again in 0.5 s" in node.said()


def test_one_directory_has_one_supervisor(node: Node) -> None:
    finished = node.mayfly("up", "--listen", "127.0.0.1:0")
    assert finished.returncode == 8
    assert f"error: another `mayfly up` serves {node.data}" in finished.stderr
    assert node.ok("get", "images", "-o", "name") == ""


def test_a_taken_address_is_said_at_once(node: Node, place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        finished = node.mayfly("up", "--data", str(place / "other"), "--listen", address)
    assert finished.returncode == 8
    assert f"error: {address}: Address already in use" in finished.stderr


def test_a_directory_that_the_server_refuses_ends_it_with_the_servers_words(node: Node, place: Path) -> None:
    finished = node.mayfly("up", "--data", str(place / ("x" * 100)), "--listen", "127.0.0.1:0")
    assert finished.returncode == 1
    assert "is too long for the sockets in it" in finished.stderr
    assert "error: the server does not start" in finished.stderr


def test_calls_in_flight_come_to_their_end_when_it_stops(node: Node, place: Path) -> None:
    source = r"""
    #include <stdio.h>
    #include <unistd.h>
    int main(void) { char byte; while (read(0, &byte, 1) == 1) write(1, &byte, 1); return 0; }
    """
    compiled(place / "cat" / "cat", source, "-static")
    build(Plan(place / "cat", place / "cat.oci"))
    node.deploy(place / "cat.oci", "cat", contract="stdin")
    host, port = node.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /default/cat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\nhalf")
        until(lambda: "cat" in node.ok("get", "images", "-o", "name"), "the node")
        until(lambda: _running(node) == 1, "the call")
        os.kill(node.pid, signal.SIGTERM)
        until(lambda: "calls come to their end" in node.said() or "draining" in node.said(), "draining")
        connection.sendall(b"done")
        received = b""
        while block := connection.recv(65536):
            received += block
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"halfdone")
    assert node.wait() == 0
    node.start()


def _serving(node: Node, name: str) -> dict[str, Any]:
    with urlopen(f"{node.url}/_mayfly/functions/default/{name}", timeout=10) as answer:
        return dict(json.load(answer)["serving"])


def _running(node: Node) -> int:
    with urlopen(f"{node.url}/_mayfly/functions/default/cat", timeout=10) as answer:
        return int(json.load(answer)["running"])
