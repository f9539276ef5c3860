"""`mayfly-monitor serve` as the server sees it: one fresh virtual machine a connection, whatever the guest does."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.serving import PATIENCE, Answer, Serve, make_bundle, read_answer

pytestmark = pytest.mark.system


@pytest.fixture
def serve(server_root: Path, tmp_path: Path) -> Iterator[Serve]:
    bundle = make_bundle(tmp_path / "bundle", server_root, ["/server"])
    with Serve(bundle, tmp_path, "--log-limit", "65536") as running:
        running.wait_for("parked")
        yield running


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        threading.Event().wait(0.005)


def test_every_call_has_a_machine_that_no_other_call_has_seen(serve: Serve) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: serve.call(f"call-{number}"), range(100)))
    assert {answer.body for answer in answers} == {b"1"}
    assert len({answer.instance for answer in answers}) == 100
    receipts = [serve.ended(f"call-{number}") for number in range(100)]
    assert {receipt["cause"] for receipt in receipts} == {"closed"}
    assert all(receipt["syscalls"] > 1 and receipt["exits"] >= receipt["syscalls"] - 1 and receipt["bytes_out"] > 0 for receipt in receipts)
    pids = {event["pid"] for event in serve.events if event["event"] == "parked" and event["instance"] in {a.instance for a in answers}}
    assert len(pids) == 100
    until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("mode", ["accept", "poll", "epoll"])
def test_a_server_is_ready_when_it_first_waits_for_a_connection(server_root: Path, tmp_path: Path, mode: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", server_root, ["/server", mode])
    with Serve(bundle, tmp_path) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"]["digest"].startswith("sha256:")
        assert [serve.call(f"c-{number}").body for number in range(3)] == [b"1"] * 3


@pytest.mark.parametrize(
    ("path", "cause", "failure"),
    [
        ("/crash", "signal", "signal 11"),
        ("/low", "signal", "signal 11"),
        ("/stub", "signal", "signal 11"),
        ("/tables", "signal", "signal 11"),
        ("/port", "signal", "signal 11"),
        ("/abort", "signal", "signal 6"),
        ("/raise", "signal", "signal 11"),
        ("/exit", "exited", "exit status 3"),
    ],
)
def test_a_guest_that_dies_is_told_to_its_caller_and_to_nobody_else(serve: Serve, path: str, cause: str, failure: str) -> None:
    answer = serve.call("bad", path=path)
    assert (answer.status, answer.headers.get("x-mayfly-failure")) == (500, failure)
    receipt = serve.ended("bad")
    assert receipt["cause"] == cause
    assert serve.call("good").body == b"1"
    assert serve.process.poll() is None


def test_the_receipt_of_a_fault_says_where(serve: Serve) -> None:
    serve.call("bad", path="/crash")
    message = serve.ended("bad")["message"]
    assert "SIGSEGV" in message
    assert "address 0x1234" in message
    assert "read" in message.split("last system calls:")[1]


def test_the_receipt_of_an_abort_says_what_came_before(serve: Serve) -> None:
    serve.call("bad", path="/abort")
    receipt = serve.ended("bad")
    assert (receipt["cause"], receipt["code"]) == ("signal", 6)
    reason, last = receipt["message"].split("; last system calls: ")
    assert reason == "signal 6 (SIGABRT) sent by the program itself"
    assert "read=" in last
    assert last.split()[-1] in {"tgkill=?", "tkill=?"}


@pytest.mark.parametrize(
    ("path", "cause", "reason"),
    [("/exit", "exited", "it exited with status 3"), ("/spin", "deadline", "it was still running at its deadline")],
)
def test_the_receipt_of_every_abnormal_end_says_what_came_before(serve: Serve, path: str, cause: str, reason: str) -> None:
    serve.call("bad", path=path, milliseconds=1000)
    receipt = serve.ended("bad")
    assert receipt["cause"] == cause
    told, last = receipt["message"].split("; last system calls: ")
    assert told == reason
    assert "read=" in last or "accept" in last


def test_a_jump_into_the_stub_harms_only_the_guest(serve: Serve) -> None:
    serve.call("bad", path="/jump", milliseconds=1000)
    assert serve.ended("bad")["cause"] in {"signal", "internal", "deadline", "closed"}
    assert serve.call("good").body == b"1"


@pytest.mark.parametrize("path", ["/spin", "/sleep"])
def test_the_deadline_ends_a_guest_that_spins_or_sleeps(serve: Serve, path: str) -> None:
    begun = time.monotonic()
    answer = serve.call("late", path=path, milliseconds=300)
    assert time.monotonic() - begun >= 0.3
    assert (answer.status, answer.headers["x-mayfly-failure"]) == (500, "deadline")
    receipt = serve.ended("late")
    assert receipt["cause"] == "deadline"
    assert 300_000 <= receipt["run_us"] < PATIENCE * 1e6


def test_a_response_cut_half_way_is_handed_on_as_it_is(serve: Serve) -> None:
    answer = serve.call("half", path="/half")
    assert (answer.status, answer.body, answer.whole) == (200, b"half", False)
    assert serve.ended("half")["cause"] == "closed"


def test_a_connection_closed_without_an_answer_carries_no_answer(serve: Serve) -> None:
    answer = serve.call("silent", path="/silent")
    assert (answer.status, answer.body) == (0, b"")
    assert len(answer.instance) == 16


def test_a_guest_that_goes_on_after_its_answer_is_ended_when_the_caller_goes(serve: Serve) -> None:
    with serve.connect() as connection:
        connection.sendall(b"MAYFLY/1 linger 60000 -\nGET /linger HTTP/1.1\r\nHost: f\r\n\r\n")
        received = b""
        while not received.endswith(b"done"):
            received += connection.recv(4096)
    assert serve.ended("linger")["cause"] == "closed"


def test_a_caller_that_goes_away_ends_its_instance(serve: Serve) -> None:
    with serve.connect() as connection:
        connection.sendall(b"MAYFLY/1 gone 60000 -\nGET /sleep HTTP/1.1\r\nHost: f\r\n\r\n")
        serve.wait_for("accepted", lambda event: event["call"] == "gone")
    assert serve.ended("gone")["cause"] == "abandoned"


def test_a_gibibyte_of_log_is_cut_at_the_limit(serve: Serve) -> None:
    assert serve.call("noise", path="/noise", milliseconds=60_000).body == b"quiet"
    serve.ended("noise")
    lines = [event for event in serve.events if event["event"] == "log" and event["call"] == "noise"]
    assert sum(len(event["line"]) for event in lines) < 200_000
    assert "log limit of 65536 bytes reached" in lines[-1]["line"]
    resident = int(Path(f"/proc/{serve.process.pid}/statm").read_text().split()[1]) * 4096
    assert resident < 64 << 20


def test_memory_ends_at_the_limit_with_enomem(serve: Serve) -> None:
    mebibytes, error = (int(word) for word in serve.call("memory", path="/memory").body.split())
    assert error == errno.ENOMEM
    assert 128 <= mebibytes <= 256


def test_hostile_system_calls_get_errors_and_nothing_else(serve: Serve) -> None:
    text = serve.call("hostile", path="/hostile").body.decode()
    numbers, _, rest = text.partition(" closed ")
    assert numbers.split() == [str(errno.ENOSYS)] * 4 + [str(errno.EFAULT)] * 8
    words = rest.split()
    assert words[0] == "0"
    answers = dict(zip(words[1::2], (int(word) for word in words[2::2]), strict=True))
    assert answers["munmap"] == errno.EINVAL
    assert answers["mmap"] == errno.EPERM
    assert answers["ptrace"] == errno.EPERM
    assert answers["mem"] in {errno.EACCES, errno.ENOENT, errno.EPERM}
    assert answers["shadow"] == errno.ENOENT
    assert answers["write"] == errno.EROFS


def test_random_bytes_differ_in_every_clone(serve: Serve) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers: list[Answer] = list(pool.map(lambda number: serve.call(f"r-{number}", path="/random"), range(50)))
    assert len({answer.body for answer in answers}) == 50


def test_private_directories_are_private_and_gone_afterwards(serve: Serve) -> None:
    answers = [serve.call(f"f-{number}", path="/files") for number in range(3)]
    assert [answer.body for answer in answers] == [b"0 1"] * 3
    for number in range(3):
        serve.ended(f"f-{number}")
    scratch = serve.socket.with_suffix(".scratch")
    until(lambda: not any((scratch / answer.instance).exists() for answer in answers))


def test_an_envelope_that_does_not_come_or_is_wrong_ends_the_instance(serve: Serve) -> None:
    for first in (b"", b"GET / HTTP/1.1\r\n\r\n", b"MAYFLY/1 x y z\n", b"M" * 600):
        with serve.connect() as connection:
            connection.sendall(first)
            answer = read_answer(connection)
            assert (answer.status, answer.body) == (0, b"")
    assert serve.call("good").body == b"1"


@pytest.mark.parametrize(
    ("mode", "reason", "told"),
    [
        ("exit", "exited", "exited with status 4"),
        ("never", "timeout", "did not wait for a connection on port 8080"),
        ("elsewhere", "timeout", "listens on port 9999, not on 8080"),
    ],
)
def test_a_function_that_does_not_start_says_why(server_root: Path, tmp_path: Path, mode: str, reason: str, told: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", server_root, ["/server", mode])
    with Serve(bundle, tmp_path, ready_ms=700) as serve:
        failed = serve.wait_for("failed")
        assert failed["reason"] == reason
        assert told in failed["message"]
        if mode != "elsewhere":
            assert {"exit": "cannot start: no configuration", "never": "still thinking"}[mode] in failed["output"]
        assert serve.process.wait(PATIENCE) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "/program"),
        (b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + bytes([2, 0, 183, 0]) + bytes(44), "ARM64"),
        (b"neither", "neither an ELF file nor a script"),
        (b"\x7fELF", "cut short"),
    ],
)
def test_a_program_that_cannot_be_run_is_named(tmp_path: Path, content: bytes | None, told: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if content is not None:
        (root / "program").write_bytes(content)
        (root / "program").chmod(0o755)
    bundle = make_bundle(tmp_path / "bundle", root, ["/program"])
    with Serve(bundle, tmp_path) as serve:
        failed = serve.wait_for("failed")
        assert failed["reason"] == "program"
        assert told in failed["message"]


def test_drain_lets_calls_end_and_takes_no_more(serve: Serve) -> None:
    with serve.connect() as connection:
        connection.sendall(b"MAYFLY/1 last 1000 -\nGET /sleep HTTP/1.1\r\nHost: f\r\n\r\n")
        serve.wait_for("accepted", lambda event: event["call"] == "last")
        serve.command(command="drain")
        serve.wait_for("ended", lambda event: event["cause"] == "drained")
        with pytest.raises(ConnectionRefusedError):
            serve.connect()
        assert serve.process.poll() is None
        assert serve.ended("last")["cause"] == "deadline"
    assert serve.process.wait(PATIENCE) == 0


def test_sigterm_drains(serve: Serve) -> None:
    serve.process.send_signal(signal.SIGTERM)
    assert serve.process.wait(PATIENCE) == 0


def test_instances_die_with_serve_and_serve_with_the_server(serve: Serve) -> None:
    pids = [event["pid"] for event in serve.events if event["event"] == "parked"]
    assert pids
    os.kill(serve.process.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_boot_dies_with_serve(server_root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", server_root, ["/server", "never"])
    with Serve(bundle, tmp_path) as serve:
        pid = serve.wait_for("booting")["pid"]
        serve.wait_for("log", lambda event: event["line"] == "still thinking")
        os.kill(serve.process.pid, signal.SIGKILL)
        until(lambda: not alive(pid))


def test_serve_ends_when_its_commands_end(serve: Serve) -> None:
    assert serve.process.stdin is not None
    serve.process.stdin.close()
    assert serve.process.wait(PATIENCE) == 0


def test_an_instance_killed_from_outside_is_replaced(serve: Serve) -> None:
    parked = next(event for event in serve.events if event["event"] == "parked")
    os.kill(parked["pid"], signal.SIGKILL)
    serve.wait_for("ended", lambda event: event["instance"] == parked["instance"])
    assert serve.call("after").body == b"1"


def test_more_callers_than_instances_wait_their_turn(server_root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", server_root, ["/server"])
    with Serve(bundle, tmp_path, pool=1, instances=2) as serve, concurrent.futures.ThreadPoolExecutor(16) as pool:
        serve.wait_for("ready")
        answers = list(pool.map(lambda number: serve.call(f"call-{number}"), range(48)))
        assert {answer.body for answer in answers} == {b"1"}


def test_a_pool_of_zero_makes_an_instance_when_a_call_comes(server_root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", server_root, ["/server"])
    with Serve(bundle, tmp_path, pool=0) as serve:
        serve.wait_for("ready")
        assert [serve.call(f"call-{number}").body for number in range(3)] == [b"1"] * 3


def test_a_missing_interpreter_is_told_with_the_program_that_wants_it(program: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "program").write_bytes(program("server", "-O1").read_bytes())
    (root / "script").write_text("#!/bin/no-such-shell\n")
    for number, name in enumerate(("program", "script")):
        (root / name).chmod(0o755)
        directory = tmp_path / str(number)
        directory.mkdir()
        with Serve(make_bundle(directory / "bundle", root, [f"/{name}"]), directory) as serve:
            message = serve.wait_for("failed")["message"]
            assert message.startswith(f"/{name}: wants /")


def test_no_attribute_of_a_device_or_of_the_image_can_be_changed(program: Callable[..., Path], server_root: Path, tmp_path: Path) -> None:
    (server_root / "devices").write_bytes(program("devices").read_bytes())
    (server_root / "devices").chmod(0o755)
    watched = [Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom")]
    watched += [server_root, server_root / "devices", server_root / "server", Path("/dev")]
    before = [os.stat(path) for path in watched]
    bundle = make_bundle(tmp_path / "bundle", server_root, ["/devices"])
    with Serve(bundle, tmp_path, "--log-limit", "1000000") as serve:
        assert "status 0" in serve.wait_for("failed")["message"]
        lines = [event["line"] for event in serve.events if event["event"] == "log" and event["stream"] == "stdout"]
    assert len(lines) == 8 * 12 + 8 * 10
    # What is its own may be changed: nothing here is. Truncating a device is no change of it.
    assert [line for line in lines if line.endswith("CHANGED") and not line.startswith(("truncate", "ftruncate"))] == []
    for path, first in zip(watched, before, strict=True):
        now = os.stat(path)
        assert (first.st_mode, first.st_uid, first.st_gid) == (now.st_mode, now.st_uid, now.st_gid), path
        assert first.st_mtime_ns == now.st_mtime_ns, path
