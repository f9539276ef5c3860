"""The supervisor keeps its planes running, and none of them outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mayfly.supervising import Plane, Supervisor

PATIENCE = 20.0


class Watched:
    """A supervisor with what it said, in order."""

    def __init__(self, *planes: Plane, drain: float = 10.0) -> None:
        self.lines: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []
        self._news = asyncio.Condition()
        self.supervisor = Supervisor(planes, drain=drain, log=self._log, note=self._note)
        self.task = asyncio.create_task(self.supervisor.run())

    def _log(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self._tell()

    def _note(self, name: str, text: str) -> None:
        self.notes.append((name, text))
        self._tell()

    def _tell(self) -> None:
        async def notify() -> None:
            async with self._news:
                self._news.notify_all()

        self._teller = asyncio.create_task(notify())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(condition)

    def said(self, name: str) -> list[str]:
        return [line for source, line in self.lines if source == name]


Watching = Callable[..., Watched]


@pytest.fixture
async def watching(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> AsyncIterator[Watching]:
    monkeypatch.setenv("PYTHONPATH", f"{root}:{tmp_path}")
    started: list[Watched] = []

    def start(*planes: Plane, drain: float = 10.0) -> Watched:
        started.append(Watched(*planes, drain=drain))
        return started[-1]

    yield start
    for watched in started:
        watched.task.cancel()
    await asyncio.gather(*(watched.task for watched in started), return_exceptions=True)


@pytest.fixture
def plane(tmp_path: Path) -> Callable[..., Plane]:
    """A plane that runs a few lines of Python, beginning with its process id on a line."""

    def make(name: str, body: str = "time.sleep(1000)", *arguments: str) -> Plane:
        prologue = "import os, signal, sys, time\nprint(os.getpid(), flush=True)\n"
        (tmp_path / f"plane_{name}.py").write_text(prologue + textwrap.dedent(body))
        return Plane(name, f"plane_{name}", arguments)

    return make


Make = Callable[..., Plane]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while alive(pid):  # noqa: ASYNC110 — nobody tells of a process that is not ours
            await asyncio.sleep(0.01)


async def test_planes_get_their_arguments_and_their_lines_come_through(watching: Watching, plane: Make) -> None:
    body = "print(sys.argv[1:], flush=True); print('to stderr', file=sys.stderr, flush=True); time.sleep(1000)"
    watched = watching(plane("one", body, "--data", "x y"), plane("two"))
    await watched.until(lambda: len(watched.said("one")) == 3 and len(watched.said("two")) == 1)
    assert watched.said("one")[1:] == ["['--data', 'x y']", "to stderr"]
    watched.supervisor.stop()
    await asyncio.wait_for(watched.task, PATIENCE)
    assert not any(alive(int(watched.said(name)[0])) for name in ("one", "two"))
    assert watched.notes == []


async def test_a_plane_that_ends_is_started_again_and_the_other_is_left_alone(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one"), plane("two"))
    await watched.until(lambda: len(watched.lines) == 2)
    os.kill(int(watched.said("one")[0]), signal.SIGKILL)
    await watched.until(lambda: len(watched.said("one")) == 2)
    assert watched.notes == [("one", "ended unexpectedly (signal SIGKILL), starting again in 0.5 s")]
    assert len(watched.said("two")) == 1
    assert alive(int(watched.said("two")[0]))


@pytest.mark.slow
async def test_the_pause_doubles_while_a_plane_keeps_ending(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one", "sys.exit(3)"))
    await watched.until(lambda: len(watched.notes) == 3)
    assert [text for _, text in watched.notes] == [
        f"ended unexpectedly (exit status 3), starting again in {pause} s" for pause in ("0.5", "1", "2")
    ]
    assert watched.supervisor.restarts("one") == 3


@pytest.mark.slow
async def test_stopping_ends_a_pause_and_starts_nothing(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one", "sys.exit(3)"))
    await watched.until(lambda: len(watched.notes) == 3)
    watched.supervisor.stop()
    await asyncio.wait_for(watched.task, 1.5)
    assert len(watched.said("one")) == 3


async def test_stopping_lets_planes_finish(watching: Watching, plane: Make, tmp_path: Path) -> None:
    body = """
    def finish(*_):
        print('finishing', flush=True)
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.002)
        print('finished', flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, finish)
    print('serving', flush=True)
    time.sleep(1000)
    """
    watched = watching(plane("one", body, str(tmp_path / "go")))
    await watched.until(lambda: len(watched.said("one")) == 2)
    watched.supervisor.stop()
    await watched.until(lambda: len(watched.said("one")) == 3)
    assert not watched.task.done()
    (tmp_path / "go").touch()
    await asyncio.wait_for(watched.task, PATIENCE)
    assert watched.said("one")[1:] == ["serving", "finishing", "finished"]


STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True)); print('serving', flush=True)\nwhile True: time.sleep(1000)"


async def test_what_does_not_finish_in_time_is_killed(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one", STUBBORN), drain=0.3)
    await watched.until(lambda: len(watched.said("one")) == 2)
    watched.supervisor.stop()
    await asyncio.wait_for(watched.task, PATIENCE)
    assert watched.said("one")[2:] == ["no"]
    assert not alive(int(watched.said("one")[0]))


async def test_asking_twice_does_not_wait(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one", STUBBORN), drain=1000)
    await watched.until(lambda: len(watched.said("one")) == 2)
    watched.supervisor.stop()
    await watched.until(lambda: len(watched.said("one")) == 3)
    watched.supervisor.stop()
    await asyncio.wait_for(watched.task, PATIENCE)


async def test_a_cancelled_supervisor_leaves_nothing(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one", STUBBORN))
    await watched.until(lambda: len(watched.said("one")) == 2)
    watched.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watched.task
    await gone(int(watched.said("one")[0]))


async def test_a_line_without_end_comes_in_pieces(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one", "sys.stdout.write('x' * 200_000 + '\\nshort\\n'); sys.stdout.flush(); time.sleep(1000)"))
    await watched.until(lambda: bool(watched.said("one")) and watched.said("one")[-1] == "short")
    pieces = watched.said("one")[1:-1]
    assert "".join(pieces) == "x" * 200_000
    assert len(pieces) > 1


@pytest.mark.slow
async def test_a_process_that_a_plane_left_behind_holds_nothing_up(watching: Watching, plane: Make) -> None:
    body = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    watched = watching(plane("one", body))
    await watched.until(lambda: len(watched.said("one")) == 2)
    os.kill(int(watched.said("one")[0]), signal.SIGKILL)
    await watched.until(lambda: len(watched.said("one")) == 4)
    watched.supervisor.stop()
    await asyncio.wait_for(watched.task, PATIENCE)
    for left in watched.said("one")[1::2]:
        os.kill(int(left), signal.SIGKILL)


async def test_planes_die_with_a_supervisor_that_is_killed(root: Path, tmp_path: Path, plane: Make) -> None:
    plane("one", STUBBORN)
    program = """
import asyncio
from mayfly.supervising import Plane, Supervisor
say = lambda name, text: print(text, flush=True)
asyncio.run(Supervisor((Plane("one", "plane_one", ()),), drain=1000, log=say, note=say).run())
"""
    environment = {**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=environment)
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    assert await process.stdout.readline() == b"serving\n"
    process.kill()
    await process.wait()
    await gone(child)


async def test_a_child_whose_supervisor_is_gone_does_not_begin(root: Path, tmp_path: Path, plane: Make) -> None:
    plane("one", "print('began')")
    finished = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "mayfly.child", "1", "plane_one"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"},
    )
    assert finished.returncode == 1
    assert "the supervisor, process 1, is gone" in finished.stderr
    assert "began" not in finished.stdout


async def test_a_plane_that_refuses_its_settings_stops_everything(watching: Watching, plane: Make) -> None:
    watched = watching(plane("one", "sys.exit(2)"), plane("two"))
    await asyncio.wait_for(watched.task, PATIENCE)
    assert watched.supervisor.refused == "one"
    assert watched.supervisor.restarts("one") == 0
