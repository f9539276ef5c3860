"""A function that is wanted and not here yet: its calls wait, and no node says that there is none."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from faas_resources import ConditionReport, Image, ImageSpec, Metadata, StatusPatch, Truth
from faas_resources.store.directory import DirectoryStore
from tests.server.conftest import StartNode
from tests.support.nodes import Node, Reply, deploy, wait_for


def want(data: Path, name: str = "peer", **spec: Any) -> None:
    """Puts a resource into the store, as somebody does who applies it."""
    image = Image(metadata=Metadata(name=name, namespace="default"), spec=ImageSpec(**{"image": "docker://registry.test/peer:1", **spec}))
    asyncio.run(DirectoryStore(data).apply(image))


def reasons(node: Node) -> str:
    reply = node.call("/readyz")
    assert (reply.status == 503) == bool(reply.json["reasons"])
    return "; ".join(reply.json["reasons"])


def failed_to_come(node: Node) -> Reply | None:
    reply = node.call("/default/peer/", headers={"X-Mayfly-Timeout": "0.1"})
    return reply if "could not" in reply.error else None


def known(node: Node, name: str = "peer") -> None:
    """Waits until the server has heard of it: then it is no 404 any more."""
    wait_for(lambda: node.call(f"/default/{name}/", headers={"X-Mayfly-Timeout": "0.001"}).status == 503, "the server knows it")


def test_a_call_waits_for_a_function_that_is_fetched(start_node: StartNode) -> None:
    node = start_node()
    want(node.data)
    known(node)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.call, "/default/peer/")
        assert not waiting.done()
        deploy(node.data, "peer")
        assert waiting.result().status == 200


def test_a_call_that_has_no_more_time_is_told_to_try_again(start_node: StartNode) -> None:
    node = start_node()
    want(node.data)
    known(node)
    reply = node.call("/default/peer/", headers={"X-Mayfly-Timeout": "0.2"})
    assert (reply.status, reply.headers["Retry-After"], reply.error) == (503, "5", "the function is still fetched")
    want(node.data, "hasty", timeout="100ms")
    known(node, "hasty")
    assert node.call("/default/hasty/").status == 503


def test_a_function_that_cannot_be_fetched_is_not_waited_for(start_node: StartNode) -> None:
    node = start_node()
    want(node.data)
    report = ConditionReport(type="Pulled", status=Truth.FALSE, reason="NotFound", message="no such tag", observed_generation=1)
    asyncio.run(DirectoryStore(node.data).patch_status(Image, "default", "peer", StatusPatch(conditions=(report,))))
    known(node)
    reply = wait_for(lambda: failed_to_come(node), "what the status says is known")
    assert (reply.error, reply.headers["Retry-After"]) == ("the function could not be fetched; its status says why", "5")


def test_a_call_that_waits_is_404_when_the_function_is_not_wanted_any_more(start_node: StartNode) -> None:
    node = start_node()
    want(node.data)
    known(node)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.call, "/default/peer/")
        asyncio.run(DirectoryStore(node.data).delete(Image, "default", "peer"))
        assert waiting.result().status == 404
    assert node.call("/default/peer/").status == 404


def test_no_more_calls_wait_than_the_node_allows(start_node: StartNode) -> None:
    node = start_node(calls_waiting=1)
    want(node.data)
    known(node)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(node.call, "/default/peer/") for _ in range(2)]
        wait_for(lambda: any(call.done() for call in calls), "one has found no place")
        deploy(node.data, "peer")
        served, refused = sorted((call.result() for call in calls), key=lambda reply: reply.status)
    assert (served.status, refused.status, refused.headers["Retry-After"]) == (200, 503, "5")
    assert refused.error == "too many calls wait for functions that are still fetched"


def test_a_node_that_starts_takes_calls_when_it_has_what_is_wanted(start_node: StartNode, tmp_path: Path) -> None:
    want(tmp_path)
    want(tmp_path, "other")
    node = start_node()
    wait_for(lambda: reasons(node) == "2 functions are still fetched or booted: default/other, default/peer", "the node knows them")
    deploy(node.data, "peer")
    wait_for(lambda: reasons(node) == "1 functions are still fetched or booted: default/other", "one is there")
    report = ConditionReport(type="Pulled", status=Truth.FALSE, reason="NotFound", message="no such tag", observed_generation=1)
    asyncio.run(DirectoryStore(node.data).patch_status(Image, "default", "other", StatusPatch(conditions=(report,))))
    wait_for(lambda: reasons(node) == "", "what cannot be fetched keeps it back no longer")
    want(node.data, "late")
    known(node, "late")
    assert reasons(node) == ""


def test_a_node_that_starts_does_not_wait_for_ever(start_node: StartNode, tmp_path: Path) -> None:
    want(tmp_path)
    node = start_node(fetch_timeout=0.1)
    wait_for(lambda: reasons(node) == "", "it takes calls")
    known(node)
