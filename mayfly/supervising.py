"""The supervisor of one node: keeps the planes running as child processes, in the foreground.

Invariants: at most one process of a plane at a time; a plane that ends is started again, after a pause that doubles while it keeps ending
(a run of `STEADY` seconds resets it); nothing is started once stopping began; when `run` returns or this process dies, no child is left.
The planes drain on SIGTERM by themselves; what has not ended after `drain` seconds is killed.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY = 30.0
# A longer line of a child's log is passed on in pieces.
_LINE_LIMIT = 64 << 10
# A plane ends with it when its settings cannot be.
_WRONG_USAGE = 2
# How long to wait for the last lines when a process that a plane left behind still holds its log open.
_LAST_LINES = 1.0


@dataclass(frozen=True)
class Plane:
    """A program of ours to keep running: `python -m MODULE ARGUMENTS`."""

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """Runs planes until it is told to stop.

    `log` gets each line that a plane writes, `note` what the supervisor itself has to say; both with the plane's name first.
    """

    def __init__(
        self, planes: tuple[Plane, ...], *, drain: float, log: Callable[[str, str], None], note: Callable[[str, str], None]
    ) -> None:
        self._planes = planes
        self._restarts: Counter[str] = Counter()
        self._drain = drain
        self._log = log
        self._note = note
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self.refused: str | None = None
        """The plane that cannot run as it was told to, which is why everything stops; it would only say so again."""

    def stop(self) -> None:
        """Let the planes drain; the second time, kill them."""
        if self._stopping.is_set():
            self._killing.set()
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def restarts(self, name: str) -> int:
        """How often a plane was started again."""
        return self._restarts[name]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for plane in self._planes:
                group.create_task(self._keep(plane))

    async def _keep(self, plane: Plane) -> None:
        pause = FIRST_PAUSE
        clock = asyncio.get_running_loop().time
        async with self._log_pipe(plane.name) as log:
            while not self._stopping.is_set():
                started = clock()
                status = await self._run_once(plane, log)
                if self._stopping.is_set():
                    return
                if status == _WRONG_USAGE:
                    self.refused = plane.name
                    self.stop()
                    return
                if clock() - started >= STEADY:
                    pause = FIRST_PAUSE
                self._restarts[plane.name] += 1
                self._note(plane.name, f"ended unexpectedly ({_described(status)}), starting again in {pause:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _run_once(self, plane: Plane, log: int) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "mayfly.child", str(os.getpid()), plane.module, *plane.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **plane.environment},
            # Its own session: an interrupt at the terminal reaches the supervisor alone, which stops the planes in order.
            start_new_session=True,
        )
        stopper = asyncio.create_task(self._stop_when_asked(process))
        try:
            return await process.wait()
        except asyncio.CancelledError:
            # Whoever cancels does not wait for anything to drain.
            _signal(process, signal.SIGKILL)
            await process.wait()
            raise
        finally:
            stopper.cancel()

    @contextlib.asynccontextmanager
    async def _log_pipe(self, name: str) -> AsyncIterator[int]:
        """A pipe for all that a plane writes in this life of the supervisor, through all its restarts."""
        reading, writing = os.pipe()
        reader = asyncio.StreamReader(limit=_LINE_LIMIT)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
        )
        passing = asyncio.create_task(self._pass_on(name, reader))
        try:
            yield writing
        finally:
            os.close(writing)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(passing, _LAST_LINES)
            transport.close()

    async def _pass_on(self, name: str, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    self._log(name, error.partial.decode("utf-8", "replace"))
                return
            except asyncio.LimitOverrunError as error:
                line = await reader.readexactly(error.consumed)
            self._log(name, line.decode("utf-8", "replace").rstrip("\r\n"))

    async def _stop_when_asked(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._killing.wait(), self._drain)
        _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _described(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return f"signal {signal.Signals(-status).name}"
