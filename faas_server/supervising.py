"""One revision and its monitor: started, watched, started again when it dies, drained when the revision has had its time.

    BOOTING ──ready──▶ READY ◀──ready── RESTARTING
       │               │ ▲ └───died────────▲ │
       │     not called│ │called             │
       │               ▼ │                   │
       │             ASLEEP                  │
       └──failed, died, late──▶ FAILED ◀─────┘      tried again after a pause, READY if it goes better
    any ──retire──▶ DRAINING ──▶ GONE

A revision that sleeps has no monitor, only its snapshot's file; a call wakes it (`wake`), and it is ASLEEP until its monitor is ready.
A revision holds its bundle from its first to its last moment, so nobody collects the files that its instances run on.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from bundles.errors import BundlesError
from bundles.revisions import Bundle
from bundles.runtime_config import NetworkRule
from faas_server import snapshots
from faas_server.errors import MonitorFailed, SettingsError
from faas_server.monitor import Accepted, Checked, Ended, Event, Failed, Launch, Log, Monitor, Parked, Ready, Warned, clear_up, fresh_socket
from faas_server.settings import Settings

BOOT_PAUSE_S = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)  # after a boot that failed: it will hardly go better soon
DEATH_PAUSE_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # after a death in service: callers wait
_STEADY_S = 10.0  # in service, then earlier deaths are forgotten
_READY_MARGIN_S = 5.0  # that the monitor's own limit gets before this process enforces it
_SETTLE_S = 1.0  # before a revision drains: what is on its way to an instance arrives
_DRAIN_MARGIN_S = 5.0
_PARKED = 20_000  # that are counted, whatever the monitor says

_log = structlog.get_logger(__name__)


class State(StrEnum):
    """Where a revision is in its life."""

    BOOTING = "booting"
    READY = "ready"
    RESTARTING = "restarting"
    ASLEEP = "asleep"
    FAILED = "failed"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a revision does not serve: a word, a sentence, and what the program wrote last."""

    reason: str
    message: str
    output: str = ""

    def __str__(self) -> str:
        output = self.output.strip()
        return f"{self.message} ({self.reason})" + (f"; its last output:\n{output}" if output else "")


class Listener(Protocol):
    """Who wants to know of a revision. Called inside event-loop callbacks: must not block."""

    def changed(self, revision: Revision) -> None:
        """Its state is another."""

    def ended(self, revision: Revision, event: Ended) -> None:
        """An instance is gone."""

    def logged(self, revision: Revision, event: Log) -> None:
        """An instance wrote a line."""

    def ran(self, revision: Revision, monitor: Monitor) -> None:
        """That monitor of it is gone."""


class Starts:
    """How many monitors start at a time. Each kind has places of its own: what never gets ready keeps nobody waiting who will."""

    def __init__(self, places: int) -> None:
        self.first = asyncio.Semaphore(places)
        self.restart = asyncio.Semaphore(places)  # after a death in service: callers wait
        self.retry = asyncio.Semaphore(max(1, places // 2))  # after a start that failed


class Revision:
    """One revision. `start` once, `retire` once."""

    def __init__(self, bundle: Bundle, settings: Settings, listener: Listener, starts: Starts) -> None:
        self.bundle = bundle
        self.spec = bundle.spec
        self.id = bundle.spec.revision
        self.function = f"{bundle.spec.namespace}/{bundle.spec.name}"
        self.state = State.BOOTING
        self.ready: Ready | None = None
        self.checked: Checked | None = None
        self.problem: Problem | None = None
        self.parked: set[str] = set()
        self.socket = settings.sockets
        self._calls = 0
        self._used = time.monotonic()  # when the last call ended
        self._wanted = asyncio.Event()  # it sleeps, and a call waits
        self._dozing = False  # its monitor ends because it falls asleep
        self._quiet = asyncio.Event()
        self._settings = settings
        self._listener = listener
        self._starts = starts
        self._retiring = asyncio.Event()
        self._verdict = asyncio.Event()  # the monitor that boots is ready, has failed, is gone, or is not wanted any more
        self._monitor: Monitor | None = None
        self._task: asyncio.Task[None] | None = None
        self._log = _log.bind(function=self.function, revision=self.id)

    def start(self) -> None:
        """Begins its life."""
        self._task = asyncio.create_task(self._live(), name=f"revision {self.id}")

    def enter(self) -> None:
        """A call uses it now."""
        self._calls += 1
        self._quiet.clear()

    def leave(self) -> None:
        """A call has used it."""
        self._calls -= 1
        self._used = time.monotonic()
        if self._calls == 0:
            self._quiet.set()

    def wake(self) -> None:
        """A call waits for it, if it sleeps."""
        self._wanted.set()

    @property
    def calls(self) -> int:
        """Calls that use it."""
        return self._calls

    @property
    def takes_calls(self) -> bool:
        """Instances can be had from it."""
        return self.state is State.READY and self._monitor is not None and self._monitor.alive

    @property
    def monitor_pid(self) -> int | None:
        """The monitor's process id, while it lives."""
        return self._monitor.pid if self._monitor is not None and self._monitor.alive else None

    async def retire(self, patience: float | None = None) -> None:
        """Ends its life: calls in flight finish (for at most `patience` seconds, else the function's timeout), then it is gone."""
        if self._task is None or self._retiring.is_set():
            return
        served = self.state is State.READY
        self._turn(State.DRAINING)
        # A call that chose this revision a moment ago is not with an instance yet; to drain under its feet would only make it try another.
        if self._calls:
            await _within(_SETTLE_S, self._quiet.wait())
        self._retiring.set()
        self._verdict.set()
        if self._monitor is not None:
            self._monitor.drain() if served else self._monitor.kill()
        limit = self.spec.timeout_ms / 1000 + _DRAIN_MARGIN_S if patience is None else patience
        if not await _within(limit, asyncio.shield(self._task)):
            self._log.warning("monitor has not drained in time and is killed", seconds=limit)
            self.kill()
            await self._task

    def kill(self) -> None:
        """Ends its monitor, and with it the calls in flight, at once."""
        if self._monitor is not None:
            self._monitor.kill()

    # ---- its life

    async def _live(self) -> None:
        try:
            with ExitStack() as held:
                await asyncio.to_thread(held.enter_context, self.bundle.hold())
                failures = deaths = 0
                place = self._starts.first
                if self._settings.sleep_after and snapshots.was_asleep(self._settings, self.id):
                    place = self._starts.restart
                    self._turn(State.ASLEEP)
                    await self._sleep()
                while not self._retiring.is_set():
                    began = time.monotonic()
                    if await self._serve(place):
                        if self._dozing:
                            await self._sleep()
                        place, failures = self._starts.restart, 0
                        if self._dozing:
                            deaths = 0
                            continue
                        deaths = 1 if time.monotonic() - began > _STEADY_S else deaths + 1
                        pause = DEATH_PAUSE_S[min(deaths, len(DEATH_PAUSE_S)) - 1]
                    else:
                        place, failures = self._starts.retry, failures + 1
                        pause = BOOT_PAUSE_S[min(failures, len(BOOT_PAUSE_S)) - 1]
                    await _within(pause, self._retiring.wait())
        except BundlesError as error:
            await self._give_up(Problem("config", str(error)))
        except Exception:  # noqa: BLE001 - a fault of this module must not leave a function that looks alive
            self._log.exception("supervision of a revision broke")
            self.kill()
            await self._give_up(Problem("internal", "the server's supervision of it broke; the server's log says why"))
        self._turn(State.GONE)

    async def _sleep(self) -> None:
        """Until a call waits for it, or it has had its time. Preconditions: it is ASLEEP and has no monitor."""
        snapshots.mark_asleep(self._settings, self.id, True)
        ends = [asyncio.create_task(event.wait()) for event in (self._wanted, self._retiring)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        if not self._retiring.is_set():
            snapshots.mark_asleep(self._settings, self.id, False)

    async def _fall_asleep(self, monitor: Monitor) -> None:
        """Ends a monitor that nobody has called for a while, if there is a snapshot to wake from."""
        after = self._settings.sleep_after
        began = time.monotonic()
        while True:
            quiet = time.monotonic() - max(self._used, began)
            if self.state is not State.READY or self._calls or not snapshots.is_kept(self._settings, self.id):
                await asyncio.sleep(after)
            elif quiet < after:
                await asyncio.sleep(after - quiet)
            else:
                break
        # From here to the drain nothing else runs: whoever calls now waits until it is awake again.
        self._dozing = True
        self._wanted.clear()
        self._turn(State.ASLEEP)
        monitor.drain()
        await asyncio.sleep(_DRAIN_MARGIN_S)
        monitor.kill()

    async def _give_up(self, problem: Problem) -> None:
        self._fail(problem)
        await self._retiring.wait()

    async def _serve(self, place: asyncio.Semaphore) -> bool:
        """One monitor, from its start, for which it needs a place, to its end; whether the function was ever ready."""
        self.ready = None
        self._dozing = False
        async with place:
            self._verdict.clear()
            if self._retiring.is_set():
                return False
            self.socket = fresh_socket(self._settings.sockets)
            try:
                launch = self._launch()
            except SettingsError as error:
                self._fail(Problem("runtime", str(error)))
                return False
            try:
                monitor = await Monitor.start(launch, self._told, function=self.function, revision=self.id)
            except MonitorFailed as error:
                self._fail(Problem("monitor", str(error)))
                return False
            self._monitor = monitor
            ended = asyncio.create_task(monitor.wait())
            ended.add_done_callback(lambda _: self._verdict.set())
            if not await _within(self._settings.ready_timeout + _READY_MARGIN_S, self._verdict.wait()):
                self._fail(Problem("timeout", f"not ready within {self._settings.ready_timeout:g} s, and the monitor did not say so"))
                monitor.kill()
        dozing: asyncio.Task[None] | None = None
        try:
            if not self._was_ready() and not await _within(_READY_MARGIN_S, asyncio.shield(ended)):
                monitor.kill()  # it said that it failed, or is not wanted any more, and does not go
            if self._was_ready() and self._settings.sleep_after and self.spec.runtime is None:
                dozing = asyncio.create_task(self._fall_asleep(monitor), name=f"sleep {self.id}")
            status = await ended
        finally:
            if dozing is not None:
                dozing.cancel()
            monitor.kill()
            self.parked.clear()
            await asyncio.to_thread(clear_up, self._settings.sockets, self.socket)
        self._listener.ran(self, monitor)
        if not self._retiring.is_set() and not self._dozing:
            self._died(f"signal {-status}" if status < 0 else f"status {status}")
        return self._was_ready()

    @property
    def snapshot(self) -> str | None:
        """The digest of the snapshot that its instances begin from; None if they boot."""
        return None if self.ready is None or self.ready.snapshot is None else self.ready.snapshot.digest

    def _was_ready(self) -> bool:
        return self.ready is not None

    def _died(self, how: str) -> None:
        if self._was_ready():
            self._log.warning("monitor died and is started again", how=how)
            self._turn(State.RESTARTING)
        elif self.state is not State.FAILED:
            self._fail(Problem("monitor", f"the monitor ended with {how} before the function was ready"))

    def _launch(self) -> Launch:
        settings, spec = self._settings, self.spec
        return Launch(
            program=(str(settings.monitor),) if spec.runtime is None else _adapter(settings, spec.runtime, spec.network),
            bundle=self.bundle.path,
            socket=self.socket,
            pool=spec.pool,
            instances=min(spec.concurrency, settings.calls) + spec.pool,
            ready_timeout_ms=int(settings.ready_timeout * 1000),
            log_bytes=settings.log_bytes,
            output_bytes=settings.output_bytes,
            snapshot=None if spec.runtime is not None else snapshots.place(settings, self.id),
            cpu_seconds=settings.cpu_seconds,
            require=settings.require_layers,
        )

    def _told(self, event: Event) -> None:
        match event:
            case Ready():
                self.ready = event
                self.problem = None
                self._verdict.set()
                if self.state is not State.DRAINING:
                    self._turn(State.READY)
            case Checked():
                self.checked = event
                if self.state is State.READY:
                    self._listener.changed(self)
            case Failed():
                self._fail(Problem(event.reason, event.message, event.output))
                self._verdict.set()
            case Parked():
                if len(self.parked) < _PARKED:
                    self.parked.add(event.instance)
            case Accepted():
                self.parked.discard(event.instance)
            case Ended():
                self.parked.discard(event.instance)
                self._listener.ended(self, event)
            case Log():
                self._listener.logged(self, event)
            case Warned():
                self._log.warning("monitor", warns=event.message)

    def _fail(self, problem: Problem) -> None:
        self.problem = problem
        if self.state in (State.DRAINING, State.GONE):
            return
        self._log.warning("revision cannot serve", reason=problem.reason, message=problem.message, output=problem.output[-500:])
        self.state = State.FAILED
        self._listener.changed(self)

    def _turn(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._listener.changed(self)


def _adapter(settings: Settings, runtime: str, network: tuple[NetworkRule, ...]) -> tuple[str, ...]:
    """What serves by an OCI runtime. Raises SettingsError where the node does not offer it, or where more is asked for than it can do."""
    if settings.require_layers:
        required = ", ".join(settings.require_layers)
        raise SettingsError(
            f"spec.runtime {runtime}: this node requires {required} (MAYFLY_REQUIRE_LAYERS), and those are layers of Mayfly's own monitor"
        )
    if network:
        raise SettingsError(
            f"spec.runtime {runtime}: its containers have no network, so spec.network.allow must be empty; "
            "a function that connects to the outside needs Mayfly's own monitor: leave spec.runtime out"
        )
    return (sys.executable, "-m", "faas_server.runtimes", "--runtime", runtime, "--program", str(settings.runtime(runtime)))


async def _within(seconds: float, waiting: Awaitable[object]) -> bool:
    """Waits for something, but not for longer; whether it came."""
    try:
        await asyncio.wait_for(waiting, seconds)
    except TimeoutError:
        return False
    return True
