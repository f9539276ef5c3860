"""All functions of this node, and which revision of each takes calls.

A function has at most one revision that serves and one that is coming. The coming one takes over when its monitor says that it is ready;
then the other drains. Until then, and if it never is, the old one serves. What calls see is `Function.revision`: it waits while something
may yet become ready, and refuses with the reason when nothing will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import structlog

from bundles.revisions import Bundle
from faas_resources.conditions import Truth
from faas_server import snapshots
from faas_server.admission import Gate
from faas_server.errors import Refusal, busy
from faas_server.logs import Logs
from faas_server.metrics import FunctionMetrics, Gauges, Metrics
from faas_server.monitor import Ended, Log, Monitor
from faas_server.receipts import Receipts
from faas_server.reporting import Finding, Report, Reporter
from faas_server.settings import Settings
from faas_server.supervising import BOOT_PAUSE_S, Revision, Starts, State

Key = tuple[str, str]

_HOPEFUL = (
    State.BOOTING,
    State.READY,
    State.RESTARTING,
    State.ASLEEP,
)  # ready, and yet not taking calls: its monitor has died a moment ago

_log = structlog.get_logger(__name__)


class Function:
    """One deployed function, as calls see it."""

    def __init__(self, key: Key, limit: int, queue: int, metrics: FunctionMetrics) -> None:
        self.key = key
        self.metrics = metrics
        self.name = "/".join(key)
        self.gate = Gate(limit, queue, status=429, what="the function has too many calls")
        self.serving: Revision | None = None
        self.coming: Revision | None = None
        self.gone = False
        self._changed: asyncio.Future[None] | None = None

    def revisions(self) -> Iterator[Revision]:
        """Those that take calls or may yet."""
        if self.serving is not None:
            yield self.serving
        if self.coming is not None:
            yield self.coming

    def target(self) -> Revision:
        """The revision that was asked for last."""
        revision = self.coming or self.serving
        assert revision is not None, "a function is made with a revision"
        return revision

    def ready(self) -> Revision | None:
        """The revision that takes calls at this moment."""
        return self.serving if self.serving is not None and self.serving.takes_calls else None

    @property
    def answers(self) -> bool:
        """Whether calls are taken: at once, or as soon as the function is awake."""
        return self.serving is not None and (self.serving.takes_calls or self.serving.state is State.ASLEEP)

    async def revision(self) -> Revision:
        """The revision that takes calls, as soon as there is one; Refusal when there is none and will be none soon."""
        while True:
            if self.gone:
                raise Refusal(404, f"there is no function {self.name}")
            if (revision := self.ready()) is not None:
                return revision
            if self.serving is not None and self.serving.state is State.ASLEEP:
                self.serving.wake()
            if not any(revision.state in _HOPEFUL for revision in self.revisions()):
                problem = self.target().problem
                reason = f": {problem.reason}" if problem is not None else ""
                raise busy(503, f"the function could not be started{reason}", retry_after=int(BOOT_PAUSE_S[2]))
            if self._changed is None or self._changed.done():
                self._changed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._changed)

    def wake(self) -> None:
        """Something about it is different: whoever waits looks again."""
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


class Fleet:
    """Keeps functions and revisions as the table of what is deployed says. Implements `supervising.Listener`."""

    def __init__(self, settings: Settings, reporter: Reporter, receipts: Receipts, logs: Logs, metrics: Metrics) -> None:
        self.functions: dict[Key, Function] = {}
        self._closing = False
        self._first: set[Key] | None = None  # of the first table, those that were neither ready nor failed yet
        self._settings = settings
        self._reporter = reporter
        self._receipts = receipts
        self._logs = logs
        self._metrics = metrics
        self._starts = Starts(settings.boots)
        self._retiring: dict[asyncio.Task[None], Revision] = {}
        metrics.observe(self._gauges)

    def update(self, table: Mapping[Key, Bundle]) -> None:
        """Makes this the set of functions."""
        for key in self.functions.keys() - table.keys():
            self._remove(self.functions[key])
        for key, bundle in table.items():
            self._deploy(key, bundle)
        self._first = set(table) if self._first is None else self._first & table.keys()
        self._collect()

    @property
    def synced(self) -> bool:
        """Each function that there was at the start has been ready, or has failed, once."""
        return self._first is not None and not self._first

    async def close(self, patience: float) -> None:
        """Ends all revisions; calls in flight get `patience` seconds."""
        self._closing = True
        for function in self.functions.values():
            function.gone = True
            for revision in function.revisions():
                self._retire(revision, patience)
            function.wake()
        if self._retiring:
            _, late = await asyncio.wait(self._retiring, timeout=patience)
            for task in late:  # of those that began to drain before with more patience
                self._retiring[task].kill()
            if late:
                await asyncio.wait(late)

    def draining(self, key: Key) -> list[Revision]:
        """Revisions of a function that had their time and still have calls."""
        return [revision for revision in self._retiring.values() if (revision.spec.namespace, revision.spec.name) == key]

    # ---- what is deployed

    def _deploy(self, key: Key, bundle: Bundle) -> None:
        function = self.functions.get(key)
        if function is None:
            function = Function(key, bundle.spec.concurrency, self._settings.function_calls_waiting, FunctionMetrics(self._metrics, key))
            self.functions[key] = function
        elif function.target().id == bundle.spec.revision:
            return
        if function.coming is not None:
            self._retire(function.coming)
            function.coming = None
        if function.serving is not None and function.serving.id == bundle.spec.revision:
            _log.info("back to the revision that serves", function=function.name, revision=function.serving.id)
            self._report(function)
            return
        function.coming = Revision(bundle, self._settings, self, self._starts)
        function.coming.start()
        _log.info("revision is coming", function=function.name, revision=bundle.spec.revision, image=bundle.spec.image)
        self._report(function)

    def _remove(self, function: Function) -> None:
        _log.info("function is gone", function=function.name)
        del self.functions[function.key]
        function.gone = True
        for revision in function.revisions():
            self._retire(revision)
        function.wake()
        self._reporter.forget(function.key)
        function.metrics.forget()

    def _retire(self, revision: Revision, patience: float | None = None) -> None:
        task = asyncio.create_task(revision.retire(patience), name=f"retire {revision.id}")
        self._retiring[task] = revision
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        revision = self._retiring.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("revision did not end well", revision=revision.id, error=repr(error))
        if not self._closing:
            self._collect()

    def _collect(self) -> None:
        """Snapshots go with their revisions; those of a server that stops stay for the next."""
        known = [revision for function in self.functions.values() for revision in function.revisions()]
        snapshots.retain(self._settings, (revision.id for revision in [*known, *self._retiring.values()]))

    # ---- what revisions say (supervising.Listener)

    def changed(self, revision: Revision) -> None:
        """See Listener."""
        function = self.functions.get((revision.spec.namespace, revision.spec.name))
        if function is None or revision not in (function.serving, function.coming):
            return
        if revision is function.coming and revision.state in (State.READY, State.ASLEEP):
            old, function.serving, function.coming = function.serving, revision, None
            function.gate.limit = revision.spec.concurrency
            _log.info("revision takes calls", function=function.name, revision=revision.id, instead_of=old.id if old else None)
            if old is not None:
                self._retire(old)
        if self._first is not None and revision.state in (State.READY, State.ASLEEP, State.FAILED):
            self._first.discard(function.key)
        self._report(function)
        function.wake()

    def ended(self, revision: Revision, event: Ended) -> None:
        """See Listener."""
        self._receipts.ended(revision.function, event)
        function = self.functions.get((revision.spec.namespace, revision.spec.name))
        if function is not None:
            function.metrics.ended(event)

    def logged(self, revision: Revision, event: Log) -> None:
        """See Listener."""
        self._logs.add(revision.function, revision.id, event)

    def ran(self, revision: Revision, monitor: Monitor) -> None:
        """See Listener."""
        function = self.functions.get((revision.spec.namespace, revision.spec.name))
        if function is not None:
            function.metrics.ran(monitor.bad_lines, again=revision.state not in (State.DRAINING, State.ASLEEP))

    # ---- what others see

    def _report(self, function: Function) -> None:
        revision = function.target()
        serving = function.serving
        also = f"; revision {serving.id} still serves" if serving is not None and serving is not revision else ""
        match revision.state:
            case State.READY | State.ASLEEP:  # whether it sleeps is nothing to write a status for
                status, reason, message = Truth.TRUE, "Serving", f"revision {revision.id} serves"
                if revision.spec.runtime is not None:
                    message += f" by the OCI runtime {revision.spec.runtime}, a container for each call"
                elif revision.ready is not None and revision.ready.snapshot is None and revision.ready.reason:
                    message += f", booted anew for each call because there is no snapshot: {revision.ready.reason}"
            case State.FAILED:
                status, reason, message = Truth.FALSE, "CannotStart", f"revision {revision.id}: {revision.problem}{also}"
            case State.RESTARTING:
                status, reason, message = Truth.FALSE, "Restarting", f"revision {revision.id}: its monitor died and is started again"
            case _ if also:
                status, reason, message = Truth.TRUE, "Updating", f"revision {revision.id} is booting{also}"
            case _:
                status, reason, message = Truth.FALSE, "Booting", f"revision {revision.id} is booting"
        self._reporter.report(function.key, Report(status, reason, message, revision.id, _repeats(revision)))

    def _gauges(self) -> Iterator[Gauges]:
        for function in self.functions.values():
            parked = sum(len(revision.parked) for revision in function.revisions())
            yield Gauges(function.key, function.gate.inside, function.gate.waiting, parked, function.answers)


def _repeats(revision: Revision) -> Finding | None:
    """What is known of values that repeat across the calls of a revision."""
    checked = revision.checked
    if checked is None:
        return None
    if checked.repeats:
        told = "; ".join(f"{repeated.what}: {', '.join(repeated.examples)}" for repeated in checked.repeats)
        advice = "seed anew when a connection is accepted (docs/functions.md)"
        return Finding(Truth.TRUE, "SeededBeforeSnapshot", f"revision {revision.id} gives every call the same {told}; {advice}")
    if checked.reason is not None:
        return Finding(Truth.UNKNOWN, "NotChecked", f"revision {revision.id}: {checked.reason}")
    return Finding(Truth.FALSE, "NothingFound", f"two calls of revision {revision.id} and a fresh start had nothing of that kind")
