"""OCI runtimes in the monitor's place: real ones, as root, each with the same bundle and the same boundary as the monitor."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bundles.manifests import ImageConfig
from bundles.runtime_config import Deployment, runtime_config
from tests.support.compiling import compiled
from tests.support.nodes import Node, scripted_monitor, wait_for
from tests.support.serving import Event, Serve, make_bundle

pytestmark = [pytest.mark.system, pytest.mark.slow]

RUNTIMES = ("crun", "runc", "runsc")
# Debian's runsc of 2022 answers a blocking read of an accepted connection with EAGAIN about every third time.
HTTP = ("crun", "runc")
SERVER = Path(__file__).parent.parent / "monitor/programs/server.c"
IMAGE = ImageConfig.model_validate({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}})

pytestmark.append(pytest.mark.skipif(os.geteuid() != 0, reason="namespaces for containers are made by root"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with busybox and the tests' server."""
    root = tmp_path_factory.mktemp("root")
    root.chmod(0o755)
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    compiled(root / "server", SERVER.read_text(), f"-I{SERVER.parent}", "-static", "-O1", "-pthread")
    return root


@pytest.fixture(params=RUNTIMES)
def start(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Starts a function on a runtime, as a context manager."""
    name: str = request.param
    program = shutil.which(name)
    assert program, f"{name} is missing: `make test` installs it"

    @contextmanager
    def started(*words: str, comes: str = "ready", **function: Any) -> Iterator[Serve]:
        bundle = make_bundle(tmp_path / "bundle", root, words, runtime=name, **function)
        deployment = Deployment(namespace="default", name="test", reference="oci:test", command=words, port=8080)
        (bundle / "config.json").write_text(json.dumps(runtime_config(IMAGE, deployment, root)))
        command = (sys.executable, "-m", "faas_server.runtimes", "--runtime", name, "--program", program)
        with Serve(bundle, tmp_path, "--log-limit", "65536", "--output-limit", "1048576", program=command) as serve:
            serve.isolation = f"oci:{name}"
            serve.wait_for(comes)
            yield serve
            assert serve.process.stdin is not None
            serve.process.stdin.close()  # the server is gone: all of it ends
            serve.process.wait(20)
        assert not list(tmp_path.glob("*.scratch"))

    return started


@pytest.mark.parametrize("start", HTTP, indirect=True)
def test_each_call_has_a_container_that_no_other_call_has_seen(start: Callable[..., Any]) -> None:
    with start("/server") as serve:
        ready: Event = serve.wait_for("ready")
        assert ready["isolation"] == serve.isolation
        assert ready["snapshot"] is None
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda number: serve.call(f"call-{number}", milliseconds=60_000), range(6)))
        assert {answer.body for answer in answers} == {b"1"}
        assert len({answer.instance for answer in answers}) == 6
        receipt = serve.ended("call-3")
        assert (receipt["cause"], receipt["isolation"]) == ("closed", serve.isolation)
        assert receipt["bytes_out"] > 0
        assert receipt["cpu_us"] > 0


def test_the_body_is_stdin_and_there_is_no_network(start: Callable[..., Any]) -> None:
    script = "busybox cat; busybox ls /sys/class/net 2>/dev/null; busybox wget -q -T 2 http://192.0.2.1/ || echo unreachable"
    with start("/bin/sh", "-c", f"PATH=/bin; {script}", contract="stdin") as serve:
        answer = serve.call("call-1", b"from the caller\n", milliseconds=60_000)
        assert answer.status == 200
        lines = answer.body.decode().split()
        assert answer.body.startswith(b"from the caller\n")
        assert lines[-1] == "unreachable"
        assert not any(line.startswith(("eth", "veth")) for line in lines)
        assert serve.ended("call-1")["cause"] == "exited"


def test_a_failed_program_is_told_with_its_last_words(start: Callable[..., Any]) -> None:
    with start("/bin/sh", "-c", "echo worse >&2; exit 3", contract="stdin") as serve:
        answer = serve.call("call-1", milliseconds=60_000)
        assert (answer.status, answer.headers["x-mayfly-failure"]) == (500, "exit status 3")
        receipt = serve.ended("call-1")
        assert (receipt["cause"], receipt["code"]) == ("exited", 3)
        assert "worse" in receipt["tail"]
        assert serve.wait_for("log")["line"] == "worse"


def test_a_call_that_takes_too_long_is_ended_with_its_container(start: Callable[..., Any]) -> None:
    mark = secrets.token_hex(8)  # of this test's processes, whatever runs beside it
    with start("/bin/sh", "-c", f"while :; do : {mark}; done", contract="stdin") as serve:
        answer = serve.call("call-1", milliseconds=1500)
        assert (answer.status, answer.headers["x-mayfly-failure"]) == (500, "deadline")
        receipt = serve.ended("call-1")
        assert receipt["cause"] == "deadline"
        assert not _processes(mark)


def test_the_request_is_a_file_and_so_is_the_reply(start: Callable[..., Any]) -> None:
    data = base64.b64encode(b"hello").decode()
    reply = json.dumps({"Status": 201, "Headers": {"X-Kind": "reply"}, "Data": data})
    with start("/bin/sh", "-c", f"/bin/busybox cat /.request >&2; echo '{reply}' > /.reply", contract="kontain") as serve:
        answer = serve.call("call-1", b"abc", path="/x?y=1", milliseconds=60_000)
        assert (answer.status, answer.body, answer.headers["x-kind"]) == (201, b"hello", "reply")
        request = json.loads(serve.wait_for("log")["line"])
        assert (request["Method"], request["Url"], base64.b64decode(request["Data"])) == ("POST", "/x?y=1", b"abc")
    with start("/bin/sh", "-c", "echo no > /.reply", contract="kontain") as serve:
        answer = serve.call("call-1", milliseconds=60_000)
        assert (answer.status, answer.headers["x-mayfly-failure"]) == (500, "bad reply")


def test_a_program_that_never_listens_is_said_to_have_failed(start: Callable[..., Any]) -> None:
    with start("/bin/sh", "-c", "echo missing module >&2; exit 4", comes="failed") as serve:
        failed = serve.wait_for("failed")
        assert failed["reason"] == "exited"
        assert "status 4" in failed["message"]
        assert "missing module" in failed["output"]
        assert serve.process.wait(20) == 1


def test_calls_in_flight_end_with_the_server(start: Callable[..., Any]) -> None:
    mark = secrets.token_hex(8)
    with start("/bin/sh", "-c", f"/bin/busybox sleep 1001; : {mark}", contract="stdin") as serve:
        with serve.connect() as connection:
            connection.sendall(b"MAYFLY/1 call-1 60000 -\nPOST / HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\n\r\n")
            instance = serve.wait_for("accepted")["instance"]
            wait_for(lambda: _processes(f"/{instance} {instance}"), "the runtime runs")
            assert serve.process.stdin is not None
            serve.process.stdin.close()
            assert serve.process.wait(20) == 0
        assert not _processes(instance)
        assert not _processes(mark)


def test_calls_in_flight_end_before_it_drains(start: Callable[..., Any]) -> None:
    with start("/bin/sh", "-c", "/bin/busybox sleep 1; echo late", contract="stdin") as serve:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(serve.call, "call-1", milliseconds=60_000)
            serve.wait_for("accepted")
            serve.process.send_signal(signal.SIGTERM)
            assert call.result().body == b"late\n"
        assert serve.process.wait(20) == 0


@pytest.mark.parametrize(("offered", "said"), [("", "this node offers none"), ("crun", "this node offers crun")])
def test_a_runtime_that_the_operator_does_not_offer_is_refused_by_name(tmp_path: Path, root: Path, offered: str, said: str) -> None:
    _deploy(tmp_path, root, "runc")
    assert said in _refusal(tmp_path, offered)


def test_a_network_that_a_runtime_cannot_give_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    _deploy(tmp_path, root, "runc", network=[{"cidr": "10.0.0.0/8", "ports": [[443, 443]]}])
    said = _refusal(tmp_path, "runc")
    assert "spec.network.allow must be empty" in said
    assert "leave spec.runtime out" in said


def _refusal(data: Path, offered: str) -> str:
    """What a node that offers some runtimes says against the function that asks for runc."""
    node = Node(data, scripted_monitor(data), {"runtimes": offered})
    try:
        status = wait_for(lambda: node.status("function"), "the function is known")
        problem = wait_for(
            lambda: (node.status("function") or status)["serving" if status["serving"] else "coming"]["problem"], "its problem"
        )
        assert problem["reason"] == "runtime"
        assert "spec.runtime runc" in problem["message"]
        return str(problem["message"])
    finally:
        node.kill()


def test_a_node_serves_a_function_by_the_runtime_it_asks_for(tmp_path: Path, root: Path) -> None:
    _deploy(tmp_path, root, "crun")
    node = Node(tmp_path, scripted_monitor(tmp_path), {"runtimes": "crun, runc"})
    try:
        node.wait_ready("function")
        reply = node.call("/default/function/", headers={"X-Call-Id": "first"})
        assert reply.body == b"1"
        assert node.receipt("first")["monitor"]["isolation"] == "oci:crun"
        assert node.stop() == 0
    finally:
        node.kill()


def _deploy(data: Path, root: Path, runtime: str, network: Sequence[object] = ()) -> None:
    """A bundle as bundles.revisions lays it out."""
    revision = "0123456789abcdef"
    unpacked = data / "bundles/unpacked" / f"sha256-{'0' * 64}"
    unpacked.mkdir(parents=True)
    (unpacked / "rootfs").symlink_to(root)
    bundle = data / "bundles/revisions/default/function" / revision
    make_bundle(bundle, root, ["/server"], name="function", runtime=runtime, revision=revision, network=list(network))
    deployment = Deployment(namespace="default", name="function", reference="oci:test", command=("/server",), port=8080)
    (bundle / "config.json").write_text(json.dumps(runtime_config(IMAGE, deployment, root)))
    (bundle.parent / "current").symlink_to(revision)


def _processes(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if words in line and "faas_server.runtimes" not in line and str(os.getpid()) != path.parent.name:
            found.append(line)
    return found
