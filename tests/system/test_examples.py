"""The examples do what they say."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.node import Node


def deployed(node: Node, examples: Path, name: str) -> None:
    node.ok("apply", "-f", examples / name / "image.yaml", "--wait", "--timeout", "50s")


def test_hello_answers_with_what_it_is_sent(shared_node: Node, examples: Path) -> None:
    deployed(shared_node, examples, "hello")
    answer = shared_node.call("hello", "-d", "Ada", "--path", "/a?b=c")
    assert (answer["status"], json.loads(answer["body"])) == (200, {"hello": "Ada", "path": "/a?b=c"})
    assert answer["headers"]["Content-Type"] == "application/json"
    assert json.loads(shared_node.call("hello")["body"])["hello"] == "world"


def test_counter_always_counts_one(shared_node: Node, examples: Path) -> None:
    deployed(shared_node, examples, "counter")
    calls = [shared_node.call("counter") for _ in range(5)]
    assert [call["body"] for call in calls] == ["1\n"] * 5
    assert len({call["instance"] for call in calls}) == 5
    assert len({call["revision"] for call in calls}) == 1


def test_filter_turns_letters_into_capitals(shared_node: Node, examples: Path) -> None:
    deployed(shared_node, examples, "filter")
    assert shared_node.call("filter", "-d", "Hello, wörld!")["body"] == "HELLO, WöRLD!"
    assert shared_node.ok("call", "filter", "-d", "@-", stdin="x" * 500_000) == "X" * 500_000


def test_kontain_answers_with_the_request(shared_node: Node, examples: Path) -> None:
    deployed(shared_node, examples, "kontain")
    answer = shared_node.call("kontain", "-d", "body", "--path", "/a?b=c", "-X", "PUT")
    assert answer["status"] == 200
    method, _, rest = answer["body"].partition(" ")
    url, _, body = rest.partition("\n")
    assert (method, body) == ("PUT", "body")
    assert url.endswith("/a?b=c")
