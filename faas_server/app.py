"""Assembly: which parts there are, in which order they start and stop.

Stopping is draining, in the reverse order of starting: no new connections, calls in flight finish, no new revisions, the monitors go, what
is to be kept is written. A server owns its data directory by a lock, so that two never clean up behind each other.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from bundles.errors import BundlesError
from bundles.revisions import RevisionStore
from faas_resources.store.choosing import opened
from faas_server.calling import Calls, error_response
from faas_server.errors import Refusal, SettingsError
from faas_server.fleet import Fleet
from faas_server.framing import check_request
from faas_server.fronts.kontain import KontainFront
from faas_server.fronts.management import ManagementFront, layers
from faas_server.logs import Logs
from faas_server.metrics import Metrics
from faas_server.monitor import clear_up
from faas_server.node import Machine, Machines, monitor_program
from faas_server.receipts import Receipts
from faas_server.records import Records
from faas_server.reporting import Reporter
from faas_server.routing import tables
from faas_server.settings import Settings
from faas_server.wanted import Wanted

_BACKLOG = 1024
_LINGER_S = 2.0  # that the rest of a refused body is read, so that the client sees the answer and not a reset
_EXPIRE_S = 1.0
_CUT_S = 0.5  # for whoever has not ended when its time to drain is over, to notice that it is cancelled
_MONITORS_S = 5.0  # for monitors to end, once there are no calls
# A front's word has one spelling: aiohttp's router would find /_mayfly under /%5fmayfly too, past whoever guards the first.
_ONE_SPELLING = re.compile(r"/[A-Za-z0-9._-]*(?:[/?].*)?", re.DOTALL)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that takes calls."""

    address: tuple[str, int]
    fleet: Fleet
    broken: asyncio.Future[None]  # raises when a part that must never end has ended


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Server]:
    """A server, until the block ends. Raises SettingsError when the data directory or the address cannot be had."""
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if (program := monitor_program(settings.monitor)) is not None:
        settings = settings.model_copy(update={"monitor": program})
    async with AsyncExitStack() as stack:
        stack.enter_context(_owned(settings.sockets))
        try:
            store = RevisionStore(settings.bundles)
        except BundlesError as error:
            raise SettingsError(str(error)) from error
        records = Records(
            settings.state / "records.sqlite", bytes_per_function=settings.kept_bytes_per_function, bytes_total=settings.kept_bytes
        )
        await records.open()
        stack.push_async_callback(records.close)
        resources = await stack.enter_async_context(opened(settings, settings.data))
        wanted = Wanted(settings.fetch_timeout, settings.calls_waiting)
        metrics, receipts, logs, reporter = Metrics(), Receipts(records), Logs(records), Reporter(resources, wanted.told)
        await stack.enter_async_context(_running(reporter.run(), "reporting", broken))
        await stack.enter_async_context(_running(resources.attend(), "attending", broken))
        await stack.enter_async_context(_running(_expire(receipts), "receipts", broken))
        fleet = Fleet(settings, reporter, receipts, logs, metrics)
        stack.push_async_callback(fleet.close, _MONITORS_S)
        await stack.enter_async_context(_running(_follow(store, fleet, wanted), "routing", broken))
        calls = Calls(settings, receipts)
        machines = Machines(settings.monitor)
        management = ManagementFront(settings, fleet, calls, receipts, logs, machines)
        ready = Readiness(settings, fleet, wanted, machines)
        app = _application(metrics, management, KontainFront(settings, fleet, wanted, calls), ready)
        address = await _listen(app, calls, settings, stack)
        _log.info("listening", host=address[0], port=address[1], data=str(settings.data), pid=os.getpid())
        yield Server(address, fleet, broken)
        _log.info("draining", seconds=settings.drain_timeout)


# ---- parts that run beside the calls


@asynccontextmanager
async def _running(work: Coroutine[object, object, None], name: str, broken: asyncio.Future[None]) -> AsyncIterator[None]:
    """Runs a part that never ends by itself, until the block ends."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not broken.done():
            _log.critical("a part of the server has ended", part=name, exc_info=task.exception())
            broken.set_exception(task.exception() or RuntimeError(f"{name} has ended"))

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _follow(store: RevisionStore, fleet: Fleet, wanted: Wanted) -> None:
    async for table in tables(store):
        fleet.update(table)
        wanted.wake()


async def _expire(receipts: Receipts) -> None:
    while True:
        await asyncio.sleep(_EXPIRE_S)
        receipts.expire()


@contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """Makes this the only server of a data directory, and removes what the monitors of a killed one left behind."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"data: {directory} cannot be used: {error.strerror}; give another with --data") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"data: another server uses {directory.parent}; stop it, or give another directory with --data") from error
        clear_up(directory)
        yield
    finally:
        os.close(lock)


# ---- HTTP


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether calls should come here."""

    settings: Settings
    fleet: Fleet
    wanted: Wanted
    machines: Machines

    def lacking(self, machine: Machine) -> list[str]:
        """Why they should not yet, for people."""
        reasons = machine.lacking(self.settings.require_layers)
        program = monitor_program(self.settings.monitor)
        if program is not None and machine.problem is not None and not self.settings.runtimes:
            reasons.append(machine.problem)
        if program is None:
            reasons.append(f"the monitor's program {self.settings.monitor} is not there; give it with --monitor")
        if not self.fleet.synced:
            reasons.append("functions are still booting")
        elif (lacking := self.wanted.lacking(self.fleet.functions)) is not None:
            reasons.append(lacking)
        return reasons


class _Connection(web.RequestHandler):
    """aiohttp's end of a client's connection, with answers of our own to what its parser refuses.

    aiohttp would repeat the request's bytes in the answer and write a trace into the operator's log for whatever a client sends; and it
    would let a call wait for the rest of a body that turned out to be malformed.
    """

    __slots__ = ("handled",)

    handled: web.Request | None  # the request whose handler runs

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.handled = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if (request := self.handled) is None or request.content.is_eof():
            super().data_received(data)
            return
        # aiohttp drops what comes to a connection that is to close after its answer, as all are when the server drains; but this is the
        # rest of a body that a call waits for.
        closing, self._close = self._close, False
        super().data_received(data)
        self._close = closing
        # Nothing can follow a body that is not at its end but the news that it never gets there. The queue is a private name of aiohttp:
        # without it the call would end at its deadline.
        if getattr(self, "_messages", None) and request.content.exception() is None:
            request.content.set_exception(web.RequestPayloadError("the request's body is malformed"))

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = error_response(status, "the request is malformed" if status == 400 else "the server failed")
        response.force_close()
        return response


def _application(metrics: Metrics, management: ManagementFront, kontain: KontainFront, readiness: Readiness) -> web.Application:
    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(request: web.Request) -> web.Response:
        machine = await readiness.machines.now()
        reasons = readiness.lacking(machine)
        answer = {"ready": not reasons, "reasons": reasons, **layers(machine)}
        return web.json_response(answer, status=503 if reasons else 200)

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def stop_followers(app: web.Application) -> None:
        management.stop()

    app = web.Application(middlewares=[_guarding(metrics)])
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", page), *management.routes()])
    app.router.add_route("*", "/{path:.*}", kontain.handle, expect_handler=_expectation)
    app.on_shutdown.append(stop_followers)
    return app


def _guarding(metrics: Metrics) -> Middleware:
    """What every request meets first and every error last."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check_request(request)
            if not _ONE_SPELLING.fullmatch(request.raw_path):
                raise Refusal(404, "there is nothing under that name")
            if isinstance(request.protocol, _Connection):
                request.protocol.handled = request
            return await handler(request)
        except Refusal as refusal:
            response = error_response(refusal.status, refusal.message)
            response.headers.update(refusal.headers)
            if refusal.close:
                response.force_close()
        except web.HTTPException as error:
            response = error_response(error.status, error.reason)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ConnectionError:
            raise  # the client has gone
        except Exception:  # noqa: BLE001 - whatever a handler has wrong, its client gets an answer and the operator the trace
            _log.exception("a request was not handled", path=request.raw_path[:200])
            response = error_response(500, "the server failed; its log says why")
            response.force_close()
        finally:
            if isinstance(request.protocol, _Connection):
                request.protocol.handled = None
        metrics.refused.labels(str(response.status)).inc()
        return response

    return guard


async def _expectation(request: web.Request) -> None:
    """`100 Continue` is sent when an instance is there to read the body (see calling), not before."""
    if request.version >= HttpVersion11 and request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def _listen(app: web.Application, calls: Calls, settings: Settings, stack: AsyncExitStack) -> tuple[str, int]:
    """Answers requests until the stack is unwound; then no new connections, and calls in flight finish."""
    runner = web.AppRunner(app, handle_signals=False, handler_cancellation=True, shutdown_timeout=_CUT_S)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    manager = runner.server
    assert manager is not None, "the runner is set up"
    loop = asyncio.get_running_loop()

    def connection() -> _Connection:
        return _Connection(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # no access log, as web.AppRunner documents it
            auto_decompress=False,  # bodies pass as they are
            keepalive_timeout=settings.idle_timeout,
            lingering_time=_LINGER_S,
        )

    host, port = settings.address
    try:
        server = await loop.create_server(connection, host, port, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(f"listen: {settings.listen}: {error.strerror or error}; give another with --listen") from error
    stack.push_async_callback(calls.quiet, settings.drain_timeout)
    stack.callback(manager.pre_shutdown)  # connections without a request end now, others after their answer
    stack.callback(server.close)
    found = server.sockets[0].getsockname()
    return found[0], found[1]
