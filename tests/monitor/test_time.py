"""Time in a guest: told without leaving the machine, true, and never going back."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.figures import Figure
from tests.support.serving import Answer, Serve, make_bundle

pytestmark = pytest.mark.system

# The guest asks by a system call when the line it reads from is a second old, or is just being drawn by a thread that lost its processor.
FEW = 10

NODE = "const s = require('http').createServer((q, r) => r.end('x')); s.listen(0, () => { console.log('listening'); process.exit(0); });"
PYTHON = "import asyncio, http.server, logging, random, time; [time.time() for _ in range(1000)]; print('listening')"
GO = """
package main

import (
    "fmt"
    "time"
)

func main() {
    for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
    }
    fmt.Println("listening")
}
"""


def clock_calls(monitor: Path, command: Sequence[str | Path]) -> int:
    """How often a program asks the monitor for the time until it says that it listens."""
    words = [str(word) for word in (monitor, "run", "--trace", "--", *command)]
    finished = subprocess.run(words, capture_output=True, timeout=120, check=True)
    assert b"listening" in finished.stdout
    calls = finished.stderr.decode().splitlines()
    assert len(calls) > 50
    return sum(name in line for line in calls for name in (" clock_gettime(", " gettimeofday(", " time("))


@pytest.mark.parametrize("command", [["node", "-e", NODE], ["python3", "-c", PYTHON]], ids=["node", "python"])
def test_a_start_does_not_leave_the_machine_for_the_time(monitor: Path, command: Sequence[str]) -> None:
    assert clock_calls(monitor, command) <= FEW


def test_go_reads_the_time_in_the_vdso(monitor: Path, tmp_path: Path) -> None:
    source = tmp_path / "main.go"
    source.write_text(GO)
    subprocess.run(["go", "build", "-o", "main", str(source)], cwd=tmp_path, check=True, timeout=300)
    assert clock_calls(monitor, [tmp_path / "main"]) <= FEW


MILLISECOND = 1_000_000
SECOND = 1_000_000_000
CLONES = int(os.environ.get("MAYFLY_TEST_CLONES", "40"))


@pytest.fixture
def clocks_root(program: Callable[..., Path], tmp_path: Path) -> Path:
    root = tmp_path / "image"
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "server").write_bytes(program("clocks_server").read_bytes())
    (root / "server").chmod(0o755)
    return root


def numbers(answer: Answer) -> dict[str, int]:
    """What a call of the program `clocks_server` tells."""
    assert (answer.status, answer.whole) == (200, True), answer
    return {name: int(value) for name, value in (line.split() for line in answer.body.decode().splitlines())}


def test_clocks_stand_still_from_the_snapshot_to_the_call_and_realtime_is_true(clocks_root: Path, tmp_path: Path, figure: Figure) -> None:
    bundle = make_bundle(tmp_path / "bundle", clocks_root, ["/server"])
    off: list[int] = []
    with Serve(bundle, tmp_path) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        taken = time.monotonic_ns()
        booted = ready["boot_ms"] * MILLISECOND
        # Until much more time has passed than the boot took, so that a clock that had gone on meanwhile would be seen.
        while len(off) < CLONES or time.monotonic_ns() - taken < booted + 2 * SECOND:
            before = time.time_ns()
            told = numbers(serve.call(f"call-{len(off)}", path="/clocks"))
            after = time.time_ns()
            # 0 if the guest's time lies between the moments at which the host's was read.
            off.append(max(before - told["now"], told["now"] - after, before - told["asked"], told["asked"] - after, 0))
            for name in ("monotonic", "raw", "coarse", "boottime", "asked-monotonic", "asked-raw", "asked-coarse", "asked-boottime"):
                assert 0 <= told[name] <= after - before + booted, (name, told)
            # The processor's time in the boot is the program's, too.
            for name in ("cpu", "asked-cpu", "used", "statistics"):
                assert told[name] >= 0, (name, told)
            assert told["realtime"] > 0
            assert 0 <= told["uptime"] * MILLISECOND <= after - before + booted + 20 * MILLISECOND
            assert 0 <= told["ticks"] * 10 * MILLISECOND <= after - before + booted + 20 * MILLISECOND
            assert -1000 <= told["sysinfo"] <= (after - before + booted) / MILLISECOND + 20
    figure(f"{len(off)} clones: realtime at most {max(off) / MILLISECOND:.3f} ms beside the host's")
    assert max(off) < 50 * MILLISECOND


def test_a_clone_does_not_leave_the_machine_for_the_time(clocks_root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", clocks_root, ["/server"])
    with Serve(bundle, tmp_path) as serve:
        assert serve.wait_for("ready")["snapshot"] is not None
        assert numbers(serve.call(path="/many"))["back"] == 0
        receipt = serve.ended("call-1")
    # For 20,000 readings; the rest of the call makes some.
    assert receipt["syscalls"] < 100 + FEW, receipt


def test_children_of_a_clone_count_the_time_as_it_does(clocks_root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", clocks_root, ["/server"])
    with Serve(bundle, tmp_path) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        told = numbers(serve.call(path="/child"))
    # Since the reading before, each: in the child after the fork, after its exec, by system call; and in the parent when all is over.
    assert min(told.values()) >= 0, told
    assert told["forked"] + told["executed"] + told["asked"] <= told["all"]


def test_a_wait_goes_on_with_what_is_left_of_its_time(clocks_root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", clocks_root, ["/server", "waits"], timeout_ms=30_000)
    with Serve(bundle, tmp_path, ready_ms=30_000) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        told = numbers(serve.call(path="/waits", milliseconds=30_000))
    assert len(told) == 9
    # Five seconds are asked for, two of them pass before the snapshot: a wait begun anew would take seven.
    assert {name: took for name, took in told.items() if not 5 * SECOND <= took < 6.8 * SECOND} == {}


def test_timers_run_on_in_a_clone(clocks_root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", clocks_root, ["/server", "timers"], timeout_ms=30_000)
    with Serve(bundle, tmp_path, ready_ms=30_000) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is not None, ready["reason"]
        taken = time.monotonic_ns()
        # Time that passes for realtime only.
        while time.monotonic_ns() - taken < 1.5 * SECOND:
            assert serve.call(path="/").status == 200
        told = numbers(serve.call(path="/timers", milliseconds=30_000))
    # Five seconds, of the guest's own time but for those that wait for a moment of everybody's.
    own = ["alarm", "posix", "thread", "fd", "fd-absolute", "fd-boottime"]
    assert {name: told[name] for name in own if not 5 * SECOND <= told[name] < 7 * SECOND} == {}
    for name in ("moment", "fd-moment"):
        assert 0 <= told[f"{name}-late"] < 2 * SECOND, told
        assert told[name] < 4.9 * SECOND
    assert {told[f"{name}-count"] for name in [*own, "moment", "fd-moment"]} == {1}
    assert told["expired"] == 1
    assert {name: told[name] for name in ("again0", "again1") if not SECOND / 10 <= told[name] < 3 * SECOND} == {}
    assert told["alarm-interval"] == told["posix-interval"] == told["fd-interval"] == 1000
    assert told["wrong"] == 0


@pytest.mark.parametrize(
    ("mode", "reason"), [("thread-time", "the processor time of one thread"), ("pending", "(SIGUSR1) waits to be delivered")]
)
def test_what_a_clone_cannot_be_given_refuses_the_snapshot(clocks_root: Path, tmp_path: Path, mode: str, reason: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", clocks_root, ["/server", mode])
    with Serve(bundle, tmp_path) as serve:
        ready = serve.wait_for("ready")
        assert ready["snapshot"] is None
        assert reason in ready["reason"]
        assert numbers(serve.call(path="/clocks"))["monotonic"] >= 0


def test_timers_of_a_process_over_fork_and_exec(monitor: Path, program: Callable[..., Path]) -> None:
    path = program("timers_of_processes")
    native = subprocess.run([str(path)], capture_output=True, timeout=60, check=False)
    inside = subprocess.run([str(monitor), "run", str(path)], capture_output=True, timeout=60, check=False)
    assert native.returncode == 0
    assert (inside.returncode, inside.stdout) == (0, native.stdout)
