"""The boundary between a guest and its monitor, attacked: hostile arguments, memory that changes during a call, the monitor's tables.

That a call means in the machine what it means natively is `tests/monitor/test_cases.py` and `test_sequences.py`; calls with any
arguments at all are `tests/monitor/test_conformance.py::test_no_call_harms_the_monitor`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cases import Shown, cases_in, judge, shown_once
from tests.support.compiling import SHARED, compiled, programs_of
from tests.support.figures import Figure
from tests.support.serving import MONITOR, Event, Serve, make_bundle

pytestmark = pytest.mark.system

PROGRAMS = Path(__file__).parent / "programs"
BOUNDARY = PROGRAMS / "boundary.c"
# Calls for each kind of argument that is changed under them.
RACES = int(os.environ.get("MAYFLY_TEST_RACES", "4000"))


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds programs/<name>.c."""
    return programs_of(PROGRAMS, tmp_path_factory)


@pytest.fixture(scope="session")
def boundary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    return shown_once(BOUNDARY, MONITOR, tmp_path_factory)


@pytest.mark.parametrize("case", cases_in(BOUNDARY))
def test_hostile_arguments_fail_as_the_kernel_fails_them(boundary: dict[str, Shown], case: str) -> None:
    judge(boundary, case)


def wait_long(serve: Serve, seconds: float) -> Event:
    """The end of a program that may take longer than anything of the monitor does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return serve.wait_for("failed")
        except AssertionError:
            if time.monotonic() > deadline or serve.process.poll() is not None:
                raise


class Function:
    """A program as a function that ends before it is ready: what it wrote, how it ended, and that `serve` lives on."""

    def __init__(self, path: Path, directory: Path, *arguments: str) -> None:
        self.root = directory / "root"
        for name in ("proc", "sys", "dev", "tmp", "etc"):
            (self.root / name).mkdir(parents=True)
        (self.root / "program").write_bytes(path.read_bytes())
        (self.root / "program").chmod(0o755)
        (self.root / "etc" / "file").write_text("content")
        self._directory = directory
        self._arguments = arguments
        self.failed: Event = {}
        self.said = ""

    def run(self, ready_ms: int = 60_000) -> list[str]:
        bundle = make_bundle(self._directory / "bundle", self.root, ["/program", *self._arguments], cwd="/tmp")
        with Serve(bundle, self._directory, "--log-limit", "1000000", ready_ms=ready_ms) as serve:
            self.failed = wait_long(serve, ready_ms / 1000)
            assert serve.process.poll() is None, "serve has ended with its guest"
            self.said = serve.errors()
            assert "panicked" not in self.said
            return [event["line"] for event in serve.events if event["event"] == "log" and event["stream"] == "stdout"]


def test_policy_gaps_a_read_only_file_is_not_truncated_and_statx_tells_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("of the host")
    path = compiled(
        tmp_path / "gaps",
        f"""
        #include "show.h"
        int main(void) {{
            struct statx about = {{0}}, untouched = {{0}};
            SHOW(open("/etc/file", O_RDONLY | O_TRUNC));
            SHOW(open("/etc/file", O_WRONLY | O_TRUNC));
            SHOW(open("/etc/new", O_RDONLY | O_CREAT, 0600));
            SHOW(open("/etc/new", O_RDWR | O_CREAT | O_EXCL, 0600));
            SHOW(truncate("/etc/file", 0));
            SHOW(statx(AT_FDCWD, "{canary}", 0, STATX_ALL, &about));
            SHOW(memcmp(&about, &untouched, sizeof about));
            SHOW(statx(AT_FDCWD, "/etc/shadow", 0, STATX_ALL, &about));
            SHOW(statx(AT_FDCWD, "/proc/1/root/etc/shadow", 0, STATX_ALL, &about));
            SHOW(memcmp(&about, &untouched, sizeof about));
            show_file("/etc/file");
            return 0;
        }}
        """,
        f"-I{SHARED}",
        "-static",
    )
    function = Function(path, tmp_path)
    shown = [line.split(" = ")[-1].strip() for line in function.run()]
    assert shown[:2] == ["-1 EROFS", "-1 EROFS"]
    assert set(shown[2:5]) <= {"-1 EROFS", "-1 EACCES"}
    assert shown[5:7] == ["-1 ENOENT", "0"]
    assert shown[7] == "-1 ENOENT"
    assert shown[8] in ("-1 ENOENT", "-1 EACCES")
    assert shown[9] == "0"
    assert shown[10] == "/etc/file: content"
    assert (function.root / "etc" / "file").read_text() == "content"
    assert not (function.root / "etc" / "new").exists()


def test_a_guest_that_writes_the_monitors_tables_meets_faults(program: Callable[..., Path], tmp_path: Path) -> None:
    lines = Function(program("tables"), tmp_path, "write").run()
    assert lines == ["13 of 13 stores met a fault"]


def test_a_guest_cannot_unmap_or_change_the_monitors_tables(program: Callable[..., Path], tmp_path: Path) -> None:
    lines = Function(program("tables"), tmp_path, "change").run()
    assert lines == ["65 of 65 changes were refused"]


@pytest.mark.parametrize("where", ["0x23000", "0x23001", "0x23002", "0x23100", "0x23104", "0x40000", "0x20000"])
def test_a_guest_that_runs_the_stub_harms_only_itself(program: Callable[..., Path], tmp_path: Path, where: str) -> None:
    function = Function(program("tables"), tmp_path, "jump", where)
    lines = function.run(ready_ms=5000)
    assert lines[0] == "jumps"
    assert function.failed["message"], "the end is told with its reason"


def test_thread_exhaustion_ends_with_eagain_and_leaves_no_trace(program: Callable[..., Path], tmp_path: Path) -> None:
    rounds = [line.split() for line in Function(program("threads"), tmp_path).run()]
    assert [error for _, error in rounds] == ["EAGAIN", "EAGAIN"]
    made = [int(count) for count, _ in rounds]
    assert made[0] >= 16
    assert made[0] == made[1]


@pytest.mark.timeout(180 + RACES * 6 // 1000)
def test_arguments_that_change_during_a_call_are_copied_once_and_checked_once(
    program: Callable[..., Path], tmp_path: Path, figure: Figure
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "host.sock"))
        listener.listen(8)
        listener.settimeout(0)
        function = Function(program("flips"), tmp_path, str(RACES), str(secret), str(tmp_path / "host.sock"))
        lines = function.run(ready_ms=60_000 + 6 * RACES)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "exited with status 0" in function.failed["message"], function.failed
    figure("; ".join(lines))
    assert lines == [
        f"paths: {RACES} calls, 0 wrong",
        "some were opened",
        f"vectors: {RACES} calls, 0 wrong",
        f"addresses: {RACES} calls, 0 wrong",
    ]


def test_a_number_that_is_no_call_is_logged_once(tmp_path: Path) -> None:
    path = compiled(
        tmp_path / "numbers",
        "#include <unistd.h>\nint main(void) { for (int i = 0; i < 1000; i++) syscall(1000000000 + i); return 0; }",
        "-static",
    )
    finished = subprocess.run([MONITOR, "run", "--", path], capture_output=True, check=False, timeout=60)
    assert finished.returncode == 0
    assert finished.stderr.decode().count("does not exist: ENOSYS") == 1
