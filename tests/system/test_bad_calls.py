"""Functions that misbehave when they are called: each harms its own call, and nobody else's.

After each, the function answers its next call by the same monitor, and its neighbour has noticed nothing.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compiling import compiled
from tests.support.load import Outcome, Target, call, calls
from tests.support.node import Node, until
from tests.support.system import (
    descendants,
    function,
    layout_of,
    log_lines,
    node_with_neighbour,
    receipt,
    resident,
    size,
    undisturbed,
    variables,
)

pytestmark = pytest.mark.slow

MIB = 1 << 20
OUTPUT = size("OUTPUT_MIB", 96)  # MiB of output: 1 GiB for the full proof
LIMIT = OUTPUT * 2 // 3  # MiB of an answer that are let through
MEMORY = 64  # MiB of a function
POOL = 4  # instances that wait for a call, by default
LOG_KEPT = 4 * MIB  # bytes of log lines that a node keeps of a function, and some more until they are cut

# Of the monitor's programs: one that reaches for memory that is not its own, and for what else a guest must not have.
SERVER = Path(__file__).resolve().parent.parent / "monitor" / "programs" / "server.c"


@pytest.fixture(scope="module")
def node(root: Path, monitor: Path, program: bytes) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        place = Path(name)
        with node_with_neighbour(root, place, monitor, program, response_bytes=LIMIT * MIB) as running:
            layout = layout_of(place / "program.oci", program)
            memory = {"memory": f"{MEMORY}Mi", "timeout": "60s"}
            running.deploy(layout, "http", **memory)
            running.deploy(layout, "stdin", contract="stdin", env=variables(CONTRACT="stdin"), **memory)
            server = compiled(place / "server", SERVER.read_text(), "-static").read_bytes()
            running.deploy(layout_of(place / "server.oci", server), "server", **memory)
            yield running


@pytest.fixture(autouse=True)
def _survived(node: Node) -> Iterator[None]:
    """Nothing but the call is harmed."""
    monitors = {name: function(node, name)["serving"]["monitor_pid"] for name in ("http", "stdin", "server")}
    with undisturbed(node):
        yield
        assert call(node.url, "/default/http/version").body == b"- - 1"
        assert call(node.url, "/default/stdin", b"version").body == b"- - 1"
        assert call(node.url, "/default/server/").body == b"1"
    assert {name: function(node, name)["serving"]["monitor_pid"] for name in monitors} == monitors
    until(lambda: all(len(descendants(pid)) <= POOL for pid in monitors.values()), "the end of the instances")


def ended(node: Node, outcome: Outcome) -> tuple[str, int | None]:
    """How the instance ended, by the monitor's word."""
    found = receipt(node, outcome.call)["monitor"]
    return found["cause"], found["code"]


# ---- programs that die


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/server/crash", ("signal", 11)),
        ("/server/low", ("signal", 11)),
        ("/server/stub", ("signal", 11)),
        ("/server/tables", ("signal", 11)),
        ("/server/jump", ("signal", 11)),
        ("/server/port", ("signal", 11)),
        ("/server/abort", ("signal", 6)),
        ("/server/exit", ("exited", 3)),
        ("/http/overflow", ("signal", 11)),
        ("/http/signal/9", ("signal", 9)),
        ("/http/signal/11", ("signal", 11)),
        ("/http/exit/7", ("exited", 7)),
    ],
)
def test_program_that_dies_fails_its_call_alone(node: Node, path: str, end: tuple[str, int]) -> None:
    outcome = call(node.url, f"/default{path}")
    assert outcome.status == 500
    cause = f"exit status {end[1]}" if end[0] == "exited" else f"signal {end[1]}"
    assert outcome.headers["x-mayfly-failure"] == cause
    assert f"the function failed: {cause}" in outcome.body.decode()
    assert ended(node, outcome) == end


def test_hostile_system_calls_get_errors_and_nothing_else(node: Node) -> None:
    outcome = call(node.url, "/default/server/hostile")
    assert outcome.ok
    numbers, _, names = outcome.body.decode().partition(" closed ")
    assert set(numbers.split()) == {"38", "14"}, numbers  # ENOSYS for what does not exist, EFAULT for what is not the guest's
    assert names.startswith("0 "), "it closed a descriptor of the monitor"


def test_stdin_function_that_fails_keeps_its_stderr_from_the_client(node: Node) -> None:
    outcome = call(node.url, "/default/stdin", b"exit/3")
    assert (outcome.status, outcome.headers["x-mayfly-failure"]) == (500, "exit status 3")
    assert b"not for the client" not in outcome.body
    assert "not for the client" not in str(outcome.headers)
    until(lambda: "not for the client: failing as told" in log_lines(node, "stdin"), "the line in the log")
    assert ended(node, outcome) == ("exited", 3)
    assert "not for the client" in receipt(node, outcome.call)["monitor"]["tail"]


# ---- programs that take their time


@pytest.mark.parametrize(
    ("path", "body"), [("/http/spin", b""), ("/http/sleep/100000", b""), ("/stdin", b"spin"), ("/stdin", b"sleep/100000")]
)
def test_program_that_does_not_end_is_ended_at_its_time(node: Node, path: str, body: bytes) -> None:
    target = Target(node.url, f"/default{path}", body=body, headers={"X-Mayfly-Timeout": "1"})
    outcomes = calls(target, 8, at_a_time=8)
    assert {outcome.status for outcome in outcomes} == {408}
    assert all(1 <= outcome.seconds < 10 for outcome in outcomes), [outcome.seconds for outcome in outcomes]
    assert {ended(node, outcome)[0] for outcome in outcomes} <= {"deadline", "abandoned"}


# ---- answers that are none


@pytest.mark.parametrize("path", ["half-length", "half-chunk", "half-chunks", "half-killed"])
def test_answer_that_is_cut_half_way_is_never_a_whole_one_to_the_client(node: Node, path: str) -> None:
    outcome = call(node.url, f"/default/http/{path}")
    assert not outcome.whole
    assert outcome.body == b"half"
    assert "in the middle of its answer" in receipt(node, outcome.call)["error"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/http/half-head", "closed the connection without an answer"),
        ("/server/silent", "closed the connection without an answer"),
        ("/http/nonsense", "not sound HTTP/1.1"),
        (f"/http/flood-head/{OUTPUT}", "head has more than"),
    ],
)
def test_what_is_no_answer_is_a_502_with_the_reason(node: Node, path: str, said: str) -> None:
    outcome = call(node.url, f"/default{path}")
    assert outcome.whole
    assert outcome.status == 502
    assert said in outcome.body.decode()


# ---- programs that say too much


class Memory:
    """How much memory the server and the monitors have grown by since this was made, in MiB."""

    def __init__(self, node: Node) -> None:
        self._pids = [node.plane("faas_server"), *(function(node, name)["serving"]["monitor_pid"] for name in ("http", "stdin"))]
        self._before = [resident(pid) for pid in self._pids]

    def growth(self) -> float:
        return max(resident(pid) - before for pid, before in zip(self._pids, self._before, strict=True)) / MIB


@pytest.mark.timeout(120 + OUTPUT // 2)
@pytest.mark.parametrize(("path", "body"), [("/http/log", b""), ("/stdin", b"log")])
def test_log_without_end_is_cut(node: Node, path: str, body: bytes) -> None:
    memory = Memory(node)
    outcome = call(node.url, f"/default{path}/{OUTPUT}" if not body else f"/default{path}", body and body + b"/%d" % OUTPUT)
    assert (outcome.status, outcome.body) == (200, b"written")
    name = path.split("/")[1]
    assert sum(map(len, log_lines(node, name))) < LOG_KEPT
    assert sum(file.stat().st_size for file in (node.data / "state").rglob("*") if file.is_file()) < 16 * LOG_KEPT
    assert memory.growth() < 64


@pytest.mark.timeout(120 + OUTPUT // 2)
@pytest.mark.parametrize("path", ["flood-length", "flood-chunked"])
def test_answer_without_end_is_cut_at_the_limit(node: Node, path: str) -> None:
    memory = Memory(node)
    allowed = call(node.url, f"/default/http/{path}/{LIMIT}")
    assert (allowed.ok, allowed.size) == (True, LIMIT * MIB)
    outcome = call(node.url, f"/default/http/{path}/{OUTPUT}")
    if path == "flood-length":  # it is known to be too long before a byte of it has passed
        assert (outcome.status, outcome.size < 1000) == (502, True)
    else:
        assert not outcome.whole
        assert outcome.size <= LIMIT * MIB
    assert f"the answer has more than {LIMIT * MIB} bytes" in receipt(node, outcome.call)["error"]
    assert memory.growth() < 64


@pytest.mark.timeout(120 + OUTPUT // 2)
def test_output_of_a_stdin_function_is_cut_at_the_limit(node: Node) -> None:
    memory = Memory(node)
    outcome = call(node.url, "/default/stdin", b"flood/%d" % OUTPUT)
    assert (outcome.status, outcome.headers["x-mayfly-failure"]) == (500, "output limit")
    assert ended(node, outcome)[0] == "output"
    assert memory.growth() < 64


def test_client_that_does_not_read_holds_nothing_but_its_instance(node: Node) -> None:
    memory = Memory(node)
    host, port = node.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"GET /default/http/flood-length/{LIMIT} HTTP/1.1\r\nHost: x\r\nX-Mayfly-Timeout: 3\r\nX-Call-Id: unread\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
        limit = time.monotonic() + 30
        while function(node, "http")["running"]:
            assert memory.growth() < 32
            assert time.monotonic() < limit
            time.sleep(0.05)
    assert receipt(node, "unread")["status"] == 200
    assert receipt(node, "unread")["error"] == "the function did not answer within 3 s"


# ---- programs that take what they can get


def taken(node: Node, what: str) -> tuple[int, int]:
    """How much a call got of something, and the number of the error that it got then."""
    outcome = call(node.url, f"/default/http/take-{what}")
    assert outcome.ok, outcome
    got, error = outcome.body.decode().split()
    return int(got), int(error)


@pytest.mark.parametrize(
    ("what", "errors"),
    [
        pytest.param("memory", {12}, id="private memory"),  # ENOMEM
        pytest.param("shared", {12}, id="shared memory"),
        pytest.param("memfds", {28}, id="files in memory"),  # ENOSPC
        pytest.param("room", {28}, id="files in memory that nobody has written"),
        pytest.param("file", {27, 28}, id="a file"),  # EFBIG: if it is one file that is too large
        pytest.param("disk", {28}, id="many files"),
    ],
)
def test_what_a_program_takes_ends_at_its_limit(node: Node, what: str, errors: set[int]) -> None:
    got, error = taken(node, what)
    assert error in errors
    assert MEMORY / 2 < got <= MEMORY


@pytest.mark.parametrize("what", ["pipes", "sockets"])
def test_what_the_kernel_holds_for_a_program_ends(node: Node, what: str) -> None:
    got, error = taken(node, what)
    assert error in {11, 24, 28}  # EAGAIN: the last one is full; EMFILE; ENOSPC
    assert got <= 2 * MEMORY


def test_names_of_files_end(node: Node) -> None:
    got, error = taken(node, "names")
    assert error == 28  # ENOSPC
    assert got < 50_000


def test_descriptors_end(node: Node) -> None:
    got, error = taken(node, "files")
    assert error == 24  # EMFILE
    assert got < 10_000


def test_threads_end(node: Node) -> None:
    got, error = taken(node, "threads")
    assert error == 11  # EAGAIN
    assert got < 10_000


def test_processes_end(node: Node) -> None:
    got, error = taken(node, "processes")
    assert error in {11, 12}  # EAGAIN; ENOMEM: they count together, whichever comes first
    assert 0 < got < 256
