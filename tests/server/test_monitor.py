"""The control stream and the monitor's process."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas_server.errors import MonitorFailed
from faas_server.monitor import BAD_LINES, Ended, Event, Failed, Launch, Lines, Log, Monitor, Parked, Ready, event_of
from tests.support.nodes import alive, deploy, wait_for

INSTANCE = "0011223344556677"


def line(**fields: Any) -> bytes:
    return json.dumps({"time": 1.5, **fields}).encode()


# ---- lines


@given(st.lists(st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")), max_size=20), st.lists(st.integers(0, 200), max_size=20))
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    splitter = Lines(20)
    found = [line for start, end in itertools.pairwise(places) for line in splitter.feed(data[start:end])]
    assert found == [line if len(line) <= 20 else None for line in lines]


def test_an_endless_line_is_told_once_and_takes_no_memory() -> None:
    splitter = Lines(100)
    found = [line for _ in range(1000) for line in splitter.feed(b"x" * 90)]
    assert found == [None]
    assert list(splitter.feed(b"rest\nnext\n")) == [b"next"]


# ---- events


def test_events_are_read_field_by_field() -> None:
    receipt = {"cause": "signal", "code": 11, "message": "SIGSEGV", "cpu_us": 7, "tail": "x", "later": [1]}
    ended = event_of(line(event="ended", instance=INSTANCE, call="c", **receipt))
    assert isinstance(ended, Ended)
    assert (ended.cause, ended.code, ended.cpu_us, ended.tail, ended.run_us) == ("signal", 11, 7, "x", 0)
    ready = event_of(line(event="ready", boot_ms=1, snapshot={"digest": "d", "bytes": 1, "threads": 1}, reason=None, layers=["a"]))
    assert isinstance(ready, Ready)
    assert ready.snapshot is not None
    assert ready.layers == ("a",)
    assert isinstance(event_of(line(event="ready", boot_ms=1.5, snapshot=None, reason="no", layers=[])), Ready)
    assert isinstance(event_of(line(event="failed", reason="kvm", message="m", output="")), Failed)
    assert isinstance(event_of(line(event="parked", instance=INSTANCE, pid=5)), Parked)
    assert isinstance(event_of(line(event="log", instance=INSTANCE, call=None, stream="stderr", line="l", truncated=False)), Log)


def test_an_event_of_a_later_version_is_passed_over() -> None:
    assert event_of(line(event="of a later version")) is None
    assert event_of(b"{}") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"ready"',
        b"{",
        b"\xff",
        line(event="parked", instance="../../etc", pid=1),
        line(event="parked", instance=INSTANCE.upper().replace("0", "A"), pid=1),
        line(event="parked", pid=1),
        line(event="ended", instance=INSTANCE, cause="boredom"),
        line(event="ended", instance=INSTANCE, cause="closed", cpu_us=-1),
        line(event="ended", instance=INSTANCE, cause="closed", cpu_us="many"),
        line(event="log", instance=INSTANCE, stream="stdin", line="x"),
        line(event="ready", boot_ms=-1),
        b'{"event": "parked", "instance": "0011223344556677", "pid": 1}',
    ],
)
def test_a_malformed_line_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which of json's and pydantic's does not matter
        event_of(data)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_fail(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        event_of(data)


# ---- the process


def launch(data: Path, program: Path, *script: str) -> Launch:
    revision = deploy(data, "peer", *script)
    bundle = data / "bundles/revisions/default/peer" / revision
    return Launch((str(program),), bundle, data / "s", pool=2, instances=3, ready_timeout_ms=1000, log_bytes=10, output_bytes=10)


def test_the_command_line_is_the_protocols(tmp_path: Path) -> None:
    argv = Launch(("/m",), Path("/b"), Path("/s"), 1, 2, 3, 4, 5).argv()
    options = "--bundle /b --socket /s --pool 1 --instances 2 --ready-timeout 3 --log-limit 4 --output-limit 5"
    assert argv == ["/m", "serve", *options.split()]
    kept = Launch(("/m",), Path("/b"), Path("/s"), 1, 2, 3, 4, 5, (Path("/kept/r"), 60)).argv()
    assert kept == [*argv, "--snapshot", "/kept/r", "--snapshot-age", "60"]


async def test_events_come_in_order_and_drain_ends_it(tmp_path: Path, monitor_program: Path) -> None:
    events: list[Event] = []

    def told(event: Event) -> None:
        events.append(event)
        if isinstance(event, Ready):
            monitor.drain()

    monitor = await Monitor.start(launch(tmp_path, monitor_program), told)
    assert await monitor.wait() == 0
    assert not monitor.alive
    assert [type(event).__name__ for event in events] == ["Booting", "Parked", "Parked", "Ready"]
    monitor.drain()  # to a dead one: nothing
    monitor.kill()


async def test_what_a_monitor_says_last_is_heard(tmp_path: Path, monitor_program: Path) -> None:
    events: list[Event] = []
    monitor = await Monitor.start(launch(tmp_path, monitor_program, "boot=failed"), events.append)
    assert await monitor.wait() == 1
    assert isinstance(events[-1], Failed)


async def test_a_monitor_that_is_killed_tells_the_signal(tmp_path: Path, monitor_program: Path) -> None:
    monitor = await Monitor.start(launch(tmp_path, monitor_program, "boot=silent"), lambda event: None)
    monitor.kill()
    assert await monitor.wait() == -9


async def test_a_monitor_that_talks_nonsense_is_killed(tmp_path: Path, monitor_program: Path) -> None:
    monitor = await Monitor.start(launch(tmp_path, monitor_program, "boot=garbage"), lambda event: None)
    assert await monitor.wait() == -9
    assert monitor.bad_lines >= BAD_LINES


async def test_a_process_that_holds_the_pipes_open_does_not_hold_the_end_up(tmp_path: Path) -> None:
    program = tmp_path / "forks"
    program.write_text("#!/bin/sh\nsleep 60 &\necho $! >&2\nexit 4\n")
    program.chmod(0o755)
    monitor = await Monitor.start(launch(tmp_path, program), lambda event: None)
    assert await monitor.wait() == 4


async def test_a_program_that_is_none_fails(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for name in ("nothing", "text"):
        with pytest.raises(MonitorFailed, match=name):
            await Monitor.start(launch(tmp_path, tmp_path / name), lambda event: None)


async def test_it_gets_little_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    program = tmp_path / "looks"
    program.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\npwd > {tmp_path}/cwd\n")
    program.chmod(0o755)
    monitor = await Monitor.start(launch(tmp_path, program), lambda event: None)
    assert await monitor.wait() == 0
    names = {entry.partition("=")[0] for entry in (tmp_path / "env").read_text().splitlines()}
    assert "SECRET" not in names
    assert names <= {"PATH", "LANG", "LC_ALL", "TMPDIR", "RUST_BACKTRACE", "RUST_LOG", "PWD", "OLDPWD", "SHLVL", "_"}
    assert (tmp_path / "cwd").read_text() == "/\n"


async def test_it_ends_when_this_process_is_gone(tmp_path: Path, monitor_program: Path) -> None:
    """Its commands end with the pipe; here the pipe is closed, which is what the end of this process does."""
    ready: list[Event] = []
    monitor = await Monitor.start(launch(tmp_path, monitor_program), ready.append)
    assert monitor._transport is not None
    pipe = monitor._transport.get_pipe_transport(0)
    assert pipe is not None
    pipe.close()
    assert await monitor.wait() == 0
    wait_for(lambda: not alive(monitor.pid), "it is gone")
