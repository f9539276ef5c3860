"""A whole node of an ordinary user in group kvm, without root's help: what it can do, what it lacks, and who says so."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.node import Node, until
from tests.support.ordinary import Ordinary, OrdinaryNode, ordinary_user
from tests.support.registry import running_registry
from tests.support.system import condition, function, function_program, image_of, kept_running, layout_of, management, receipt, variables

pytestmark = pytest.mark.slow

ALWAYS = ["openat2", "landlock", "seccomp", "no-new-privs", "undumpable", "rlimits"]
NAMESPACES = {"mounts": "mnt", "processes": "pid", "network": "net", "names": "ipc"}
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")
REMEDY = "user.max_user_namespaces"


@pytest.fixture(scope="module")
def user(root: Path, monitor: Path) -> Iterator[Ordinary]:
    with ordinary_user(root, monitor.parent) as found:
        yield found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return function_program(tmp_path_factory.mktemp("program"))


@pytest.fixture(params=["with user namespaces", "without"])
def node(root: Path, place: Path, monitor: Path, user: Ordinary, request: pytest.FixtureRequest) -> Iterator[Node]:
    command = user.command if request.param == "with user namespaces" else user.without_namespaces()
    node = OrdinaryNode(root, place, monitor, user, command)
    with kept_running(node):
        yield node


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def checks(node: Node) -> dict[str, Any]:
    report = json.loads(node.ok("doctor", "--output", "json"))
    assert report["able"]
    return {check["name"]: check for check in report["checks"]}


def names(layers: list[dict[str, str]]) -> list[str]:
    return [layer["name"] for layer in layers]


@pytest.mark.timeout(240)
def test_an_ordinary_user_serves_functions_and_is_told_what_is_missing(
    node: Node, user: Ordinary, program: bytes, place: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    allowed = "with user namespaces" in request.node.name
    assert status_of(node.pid)["Uid"] == [str(user.uid)] * 4
    assert status_of(node.pid)["CapPrm"] == ["0" * 16]

    # One image from a directory, one from a registry; umoci unpacks both as this user.
    layout = layout_of(place / "image.oci", program, {"number": b"own"})
    user.own(layout)
    node.deploy(layout, "local", env=variables(VERSION="one"))
    with running_registry(tmp_path / "registry") as registry:
        reference = registry.push(image_of(program, {"number": b"pulled"}), "team/function")
        node.ok("apply", "-f", "-", "--wait", "--timeout", "50s", stdin=json.dumps(manifest(reference)))
        pulled = condition(node, "remote", "Pulled")
        assert pulled is not None
        assert pulled.status == "True"

    answer = subprocess.run(
        ["curl", "-sS", "-i", "-X", "POST", "-H", "X-Call-Id: by-curl", f"{node.url}/default/remote/version"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert answer.startswith("HTTP/1.1 200 ")
    assert answer.endswith("\r\n\r\npulled - 1")
    assert node.call("local", "--path", "/version")["body"] == "own one 1"
    assert node.call("local", "--path", "/signal/11")["status"] == 500
    node.call("local", "--path", "/log/3")
    until(lambda: node.ok("logs", "local"), "its lines")

    # What is in force, and what is not, in the receipt of a call, of the function, at /readyz, in doctor.
    found = receipt(node, "by-curl")["monitor"]
    expected = [] if allowed else [*NAMESPACES, "capabilities"]
    assert found["missing"] == expected
    assert found["layers"] == [*ALWAYS, *(name for name in (*NAMESPACES, "user", "capabilities") if name not in expected)]
    assert "by-curl" in node.ok("receipt", "by-curl")
    serving = function(node, "local")["serving"]
    with urlopen(f"{node.url}/readyz", timeout=30) as text:
        ready = json.load(text)
    for told in (serving, ready, management(node, "/node")):
        assert names(told["missing"]) == expected
        assert told["layers"] == found["layers"]
        assert all(REMEDY in layer["reason"] for layer in told["missing"])
    said = checks(node)
    assert said["kvm"]["state"] == said["umoci"]["state"] == "ok"
    for name in (*ALWAYS, *NAMESPACES, "user", "capabilities"):
        check = said[f"jail: {name}"]
        assert check["state"] == ("advice" if name in expected else "ok"), check
        assert (REMEDY in check["detail"]) == (name in expected), check

    parked_instance(node, user, serving["monitor_pid"], allowed=allowed)


def manifest(reference: str) -> dict[str, Any]:
    metadata = {"apiVersion": "build.kontain.app/v1", "kind": "Image", "metadata": {"name": "remote"}}
    return {**metadata, "spec": {"image": reference}}


def parked_instance(node: Node, user: Ordinary, monitor: int, *, allowed: bool) -> None:
    """What the kernel says of an instance that waits for its call."""

    def parked() -> int:
        children = [int(pid) for task in Path(f"/proc/{monitor}/task").iterdir() for pid in (task / "children").read_text().split()]
        waiting = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() != "mayfly-init\n"]
        serving = function(node, "local")["serving"]
        # All of them are: nothing is being made.
        return min(waiting) if waiting and len(waiting) == serving["parked"] else 0

    pid = until(parked, "a parked instance")
    status = status_of(pid)
    assert status["Uid"] == [str(user.uid)] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    for name in CAPABILITIES + (("CapBnd",) if allowed else ()):
        assert status[name] == ["0" * 16], name
    if os.geteuid() != 0:
        # Not dumpable: not even its own user looks into it.
        for name in ("fd", "ns", "mem"):
            assert not os.access(f"/proc/{pid}/{name}", os.R_OK), name
        return
    own = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in os.listdir(f"/proc/{pid}/ns")}
    different = {name for name in own if own[name] != os.readlink(f"/proc/{node.pid}/ns/{name}")}
    wanted = {"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"}
    assert different - {"pid_for_children"} == (wanted if allowed else set())
    held = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    shown = {name: " ".join(status[name]) for name in ("Uid", "NoNewPrivs", "Seccomp", *CAPABILITIES, "CapBnd")}
    print(f"\n{pid}: {shown}\nns: {own}\nnot the node's: {sorted(different)}\nfd: {held}")
    # Below 2048 the guest's own; above, the monitor's: of files, those that `serve` keeps in its place, the image and the devices.
    monitors = {target for fd, target in held.items() if fd >= 2048}
    files = {target for target in monitors if target.startswith("/") and not target.startswith(("/dev/", "/memfd:mayfly"))}
    own_file = node.environment["MAYFLY_MONITOR"]
    known = {"/proc", "/.image", "/.private"} if allowed else {"/proc"}
    assert {file for file in files if not file.startswith((str(node.data), "/.private/")) and file != own_file} <= known
    assert len({target for target in monitors if target.startswith("socket:")}) == 2
    server = node.plane("faas_server")
    others = {os.readlink(f"/proc/{server}/fd/{fd}") for fd in os.listdir(f"/proc/{server}/fd")} - {"/dev/null"}
    assert others.isdisjoint(held.values()), "the server's are no instance's, the control stream neither"
