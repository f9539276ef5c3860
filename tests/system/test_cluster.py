"""Nodes of one cluster, with the real API server, kubectl, registry, monitor and KVM; only kubelet and pods are not here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import Cluster
from tests.support.figures import Figure
from tests.support.load import Load, Target, call
from tests.support.node import Node, until
from tests.support.registry import Registry
from tests.support.system import configured_node, image_of, kept_running, size, variables

pytestmark = pytest.mark.slow

NODE_TIMEOUT = 4.0  # seconds; each node says four times as often that it is there
REST_SECONDS = size("REST_SECONDS", 4)  # 300 for the full figures: a watch is begun anew after four to five minutes
RESTARTS = size("API_RESTARTS", 1)  # 20 for the full proof


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, root: Path, monitor: Path) -> Iterator[dict[str, Node]]:
    """Three nodes, each with a data directory and both planes of its own."""
    cluster.empty()
    settings = {
        "store": "kubernetes",
        "kubeconfig": cluster.kubeconfig(),
        "system_namespace": cluster.namespace(),
        "node_timeout": NODE_TIMEOUT,
        "poll_interval": 1,
        "collect_interval": 0.5,
    }
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mf-")))
        started = {}
        for name in ("n1", "n2", "n3"):
            (place / name).mkdir()
            started[name] = stack.enter_context(configured_node(root, place / name, monitor, **settings, node=name))
        yield started


class Functions:
    """`hello` in a namespace of its own, as a person with kubectl has it."""

    def __init__(self, cluster: Cluster, registry: Registry, program: bytes) -> None:
        self.cluster = cluster
        self.place = cluster.namespace()
        self._registry = registry
        self._program = program

    def push(self, tag: str) -> str:
        """An image that says its tag; its reference."""
        return self._registry.push(image_of(self._program, {"number": tag.encode()}), self.place, tag)

    def apply(self, reference: str, **spec: Any) -> None:
        """`kubectl apply`."""
        document = {
            "apiVersion": "build.kontain.app/v1",
            "kind": "Image",
            "metadata": {"name": "hello", "namespace": self.place},
            "spec": {"image": reference, "env": variables(VERSION=1), "pool": 1, **spec},
        }
        self.cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(document))

    def status(self) -> dict[str, Any]:
        """What the cluster says of it."""
        found: dict[str, Any] = self.cluster.objects("get", "image", "hello", "-n", self.place).get("status", {})
        return found

    def ready(self, generation: int, *names: str) -> bool:
        """Whether these nodes, and no others, serve that generation, and the cluster says so."""
        status = self.status()
        entries = {entry["name"]: entry for entry in status.get("nodes", [])}
        return set(entries) == set(names) and all(_ready(each, generation) for each in (status, *entries.values()))

    @property
    def path(self) -> str:
        return f"/{self.place}/hello/version"


def _ready(status: dict[str, Any], generation: int) -> bool:
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    ready = conditions.get("Ready", {})
    about = status.get("observedGeneration") == generation and str(status.get("revision")) in ready.get("message", "")
    serves = (ready.get("status"), ready.get("reason")) == ("True", "Serving")
    return about and serves and conditions.get("Published", {}).get("status") == "True"


@pytest.fixture
def functions(cluster: Cluster, registry: Registry, program: bytes) -> Functions:
    return Functions(cluster, registry, program)


@pytest.mark.timeout(600)
def test_image_is_applied_called_edited_and_deleted_with_kubectl(nodes: dict[str, Node], functions: Functions) -> None:
    cluster, place = functions.cluster, functions.place
    functions.apply(functions.push("a"))
    until(lambda: functions.ready(1, *nodes), "readiness on every node")
    header, line = cluster.kubectl("get", "images", "-n", place).strip().splitlines()
    assert header.split() == ["NAME", "READY", "DIGEST", "AGE", "MESSAGE"]
    assert line.split()[:3] == ["hello", "True", functions.status()["digest"]]
    for node in nodes.values():
        assert call(node.url, functions.path).body == b"a 1 1"
    second = functions.push("b")
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(Target(node.url, functions.path), at_a_time=2, pause=0.02)) for node in nodes.values()]
        cluster.kubectl("patch", "image", "hello", "-n", place, "--type=merge", "-p", f'{{"spec":{{"image":"{second}"}}}}')
        until(lambda: functions.ready(2, *nodes), "readiness of the new revision on every node")
        moment = time.monotonic()
        for load in loads:
            until(lambda load=load: sum(outcome.began > moment for outcome in list(load.outcomes)) > 2, "calls")  # type: ignore[misc]
    for load in loads:
        assert load.failures == []
        assert {outcome.body for outcome in load.outcomes} <= {b"a 1 1", b"b 1 1"}
        assert {outcome.body for outcome in load.outcomes if outcome.began > moment} == {b"b 1 1"}
    cluster.kubectl("delete", "image", "hello", "-n", place)
    for node in nodes.values():
        until(lambda node=node: call(node.url, functions.path).status == 404, "404 after the deletion")  # type: ignore[misc]


@pytest.mark.timeout(300 + 120 * RESTARTS)
def test_api_server_that_is_killed_and_back_fails_no_call(nodes: dict[str, Node], functions: Functions, figure: Figure) -> None:
    functions.apply(functions.push("a"))
    until(lambda: functions.ready(1, *nodes), "readiness on every node")
    slowest = 0.0
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(Target(node.url, functions.path), pause=0.05)) for node in nodes.values()]
        for number in range(RESTARTS):
            functions.cluster.kill_server()
            done = [len(load.outcomes) for load in loads]
            for load, before in zip(loads, done, strict=True):
                until(lambda load=load, before=before: len(load.outcomes) > before + 2, "calls while nothing answers")  # type: ignore[misc]
            assert functions.cluster.start_server(), functions.cluster.log()
            functions.apply(functions.push("a"), env=variables(VERSION=number + 2))
            back = time.monotonic()
            until(lambda number=number: functions.ready(number + 2, *nodes), "convergence")  # type: ignore[misc]
            slowest = max(slowest, time.monotonic() - back)
    for load in loads:
        assert load.failures == []
    figure(f"{RESTARTS} restarts of the API server: all nodes converged within {slowest:.1f} s of its return")


@pytest.mark.timeout(120 + 2 * REST_SECONDS)
def test_nodes_at_rest_ask_for_little(nodes: dict[str, Node], functions: Functions, figure: Figure) -> None:
    functions.apply(functions.push("a"))
    until(lambda: functions.ready(1, *nodes), "readiness on every node")
    before = functions.cluster.requests()
    time.sleep(REST_SECONDS)
    after = functions.cluster.requests()
    asked = {kind: (after.get(kind, 0) - before.get(kind, 0)) / len(nodes) * 60 / REST_SECONDS for kind in ("images", "leases")}
    leases = asked["leases"] * NODE_TIMEOUT / 60  # a minute of an ordinary node
    told = f"{asked['images']:.1f} requests a minute and node for images, {leases:.1f} for leases"
    figure(f"{len(nodes)} nodes at rest for {REST_SECONDS} s: {told}")
    assert asked["images"] * REST_SECONDS / 60 <= 2  # of a node: each of its two watches may have come to its end
    assert leases <= 12


@pytest.mark.timeout(300)
def test_row_12_a_node_that_starts_without_an_api_server_serves_what_it_has(
    nodes: dict[str, Node], functions: Functions, root: Path, place: Path, monitor: Path
) -> None:
    functions.apply(functions.push("a"))
    fourth = Node(root, place, monitor)
    fourth.environment.update({**next(iter(nodes.values())).environment, "MAYFLY_NODE": "n4", "MAYFLY_DATA": str(fourth.data)})
    with kept_running(fourth):
        until(lambda: functions.ready(1, *nodes, "n4"), "readiness on the new node")
        assert fourth.stop() == 0
        functions.cluster.kill_server()
        fourth.start()
        until(lambda: call(fourth.url, functions.path).body == b"a 1 1", "what is on disk")
        assert call(fourth.url, f"/{functions.place}/nobody/").status == 404
        assert functions.cluster.start_server(), functions.cluster.log()
        functions.apply(functions.push("b"))
        until(lambda: functions.ready(2, *nodes, "n4"), "convergence")
        assert call(fourth.url, functions.path).body == b"b 1 1"


@pytest.mark.timeout(300)
def test_a_node_that_is_killed_for_good_is_shown_as_lost_and_the_others_go_on(
    nodes: dict[str, Node], functions: Functions, root: Path, place: Path, monitor: Path
) -> None:
    functions.apply(functions.push("a"))
    until(lambda: functions.ready(1, *nodes), "readiness on every node")
    fourth = Node(root, place, monitor)
    fourth.environment.update({**next(iter(nodes.values())).environment, "MAYFLY_NODE": "n4", "MAYFLY_DATA": str(fourth.data)})
    with ExitStack() as stack:
        stack.callback(fourth.kill)
        fourth.start()
        until(lambda: functions.ready(1, *nodes, "n4"), "readiness on the new node")
        assert call(fourth.url, functions.path).body == b"a 1 1"
        loads = [stack.enter_context(Load(Target(node.url, functions.path), pause=0.05)) for node in nodes.values()]
        fourth.kill()

        def lost() -> bool:
            status = functions.status()
            entries = {entry["name"]: {each["type"]: each for each in entry["conditions"]}["Ready"] for entry in status["nodes"]}
            told = {name: (entry["status"], entry["reason"]) for name, entry in entries.items()}
            return told == {**dict.fromkeys(nodes, ("True", "Serving")), "n4": ("Unknown", "NodeLost")}

        until(lost, "its entry to be stale")
        assert functions.status()["message"].endswith("(not heard of: n4)")
        assert functions.cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "-n", functions.place, "img/hello")
    for load in loads:
        assert load.failures == []
