"""One call's whole way, top to bottom.

`Calls.run` reads as the call goes: a place at the function's gate, a revision that serves, a place at the node's gate, a connection to an
instance, the request in and the answer out. One clock runs over all of it, `asyncio.timeout_at` in `run`: waiting, running and streaming
share the function's timeout. What goes wrong before the first byte of an answer becomes an answer of the server's own; after it, the
client's connection is cut, so that no client takes half an answer for a whole one.

Who may get a call twice: nobody. A call goes to another instance only if the connection ended before an instance greeted, because then no
program has seen a byte of it; what was sent by then is kept for that, and nothing more is sent before the greeting.

A client that closes its connection, also only its sending half, has gone: its call is abandoned and the instance killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import struct
import time
from dataclasses import dataclass, field

from aiohttp import HttpVersion11, web

from faas_server.admission import Gate
from faas_server.errors import BrokenPromise, NotTaken, Refusal, ServerError, busy
from faas_server.fleet import Function
from faas_server.framing import FAILURE_FIELD, Framing, ResponseHead, request_head, response_head
from faas_server.instances import Instance
from faas_server.receipts import Receipts
from faas_server.settings import Settings
from faas_server.supervising import Revision

CALL_ID = "X-Call-Id"
REVISION = "X-Mayfly-Revision"
ABANDONED = 499  # the status of a call whose client has gone, in receipts and metrics; nobody gets it

FAILURE = "X-Mayfly-Failure"  # why the function failed
TIMEOUT = "X-Mayfly-Timeout"  # seconds; a caller may shorten the function's timeout

_TOKEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_CAUSE = re.compile(rb"[ -~]{1,100}")
_TRIES = 8  # instances that do not greet, before the call is given up
_PAUSE_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.25)  # between tries
_FULL_S = 0.01  # between looks at a socket whose queue is full
_ENDING_S = 2.0  # that the receipt may take where it decides whether the answer is whole


class Answer(web.StreamResponse):
    """A response whose bytes were written already: the head as the program sent it, which aiohttp would complete and re-encode."""

    def __init__(self, status: int, *, goes_on: bool) -> None:
        super().__init__(status=status)
        self._goes_on = goes_on

    @property
    def keep_alive(self) -> bool:
        """Whether the connection goes on."""
        return self._goes_on

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to prepare."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


@dataclass(slots=True)
class Call:
    """One call: who, for what, until when, and what has become of it."""

    request: web.Request
    function: Function
    target: bytes
    id: str
    budget: float  # seconds
    deadline: float  # in loop time, which has milliseconds and wakes tasks
    began: float = field(default_factory=time.perf_counter)  # in a clock that has microseconds and measures
    at: float = field(default_factory=time.time)  # Unix time
    opening: bytes = b""  # the part of the body that is sent before the greeting, and again to another instance
    streams: bool = False  # more of the body follows
    revision: Revision | None = None
    instance: str | None = None
    tries: int = 0
    waited: float = 0.0
    connected: float | None = None  # to an instance's socket, and the request is written
    greeted: float | None = None  # the instance runs
    first_byte: float | None = None  # the answer has begun
    answered: bool = False  # and is through
    status: int = 0
    error: str | None = None
    request_bytes: int = 0
    response_bytes: int = 0

    def since(self, moment: float | None) -> float | None:
        """Seconds from its beginning to a moment that may not have come."""
        return None if moment is None else moment - self.began

    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.began

    def headers(self) -> dict[str, str]:
        """What every answer to it carries; a program's answer also has `X-Mayfly-Instance`."""
        return {CALL_ID: self.id} if self.revision is None else {CALL_ID: self.id, REVISION: self.revision.id}


def asked_seconds(request: web.Request) -> float | None:
    """The time that the caller gives; Refusal for what is none."""
    asked = request.headers.get(TIMEOUT)
    if asked is None:
        return None
    if not _SECONDS.fullmatch(asked) or not float(asked):
        raise Refusal(400, f"{TIMEOUT} must be a number of seconds, such as 2.5")
    return float(asked)


class Calls:
    """Runs calls."""

    def __init__(self, settings: Settings, receipts: Receipts) -> None:
        self.node = Gate(settings.calls, settings.calls_waiting, status=503, what="this node has too many calls")
        self._settings = settings
        self._receipts = receipts
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._quiet = asyncio.Event()

    async def run(self, request: web.Request, function: Function, target: bytes, spent: float = 0.0) -> web.StreamResponse:
        """Answers a request by an instance of the function; raises nothing but CancelledError, when the client has gone.

        `spent` seconds of its time went by before.
        """
        call = self._accept(request, function, target, spent)
        self._under_way += 1
        self._quiet.clear()
        try:
            async with asyncio.timeout_at(call.deadline):
                self._open_body(call)
                await function.gate.enter()
                try:
                    return await self._on_some_instance(call)
                finally:
                    function.gate.leave()
        except TimeoutError:
            return self._failed(call, self._late(call))
        except ServerError as error:
            return self._failed(call, error)
        except ConnectionError:
            self._abandoned(call)
            return Answer(ABANDONED, goes_on=False)
        except asyncio.CancelledError:
            self._abandoned(call)
            raise
        finally:
            self._account(call)
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()

    async def quiet(self, patience: float) -> None:
        """Waits until no call is under way, but not for longer."""
        if self._under_way:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), patience)

    # ---- the way there

    def _accept(self, request: web.Request, function: Function, target: bytes, spent: float) -> Call:
        given = request.headers.get(CALL_ID, "")
        call_id = given if _TOKEN.fullmatch(given) else secrets.token_hex(16)
        budget = function.target().spec.timeout_ms / 1000
        if (asked := asked_seconds(request)) is not None:
            budget = min(budget, asked)
        return Call(request, function, target, call_id, budget, self._loop.time() + budget - spent)

    def _open_body(self, call: Call) -> None:
        """Takes what is here of the body; raises Refusal when it is known to be too large or malformed."""
        content = call.request.content
        if (call.request.content_length or 0) > self._settings.request_bytes:
            raise self._too_large()
        try:
            call.opening = content.read_nowait()
        except web.RequestPayloadError as error:
            raise _malformed_body() from error
        call.streams = not content.is_eof()
        self._count(call, len(call.opening))

    async def _on_some_instance(self, call: Call) -> web.StreamResponse:
        while True:
            await call.function.revision()  # so that nobody has a place at the node's gate who waits for a function to boot
            await self.node.enter()
            try:
                if (revision := call.function.ready()) is not None:
                    return await self._on_an_instance(call, revision)
                continue
            except NotTaken as error:
                call.tries += 1
                if call.tries >= _TRIES:
                    raise BrokenPromise(str(error)) from error
            finally:
                self.node.leave()
            await asyncio.sleep(_PAUSE_S[min(call.tries, len(_PAUSE_S)) - 1])

    async def _on_an_instance(self, call: Call, revision: Revision) -> web.StreamResponse:
        call.revision = revision
        if not call.tries:
            call.waited = call.elapsed()
        bodiless = call.request.method == "HEAD"
        instance = Instance(self._loop, self._envelope(call), bodiless=bodiless, streams=call.streams)
        upload: asyncio.Task[None] | None = None
        revision.enter()
        try:
            await self._connect(instance, revision)
            if call.streams:
                await instance.greeted()
                upload = asyncio.create_task(self._upload(call, instance))
            head = await instance.head()
            call.instance = instance.id
            return await self._answer(call, revision, instance, head)
        finally:
            call.instance = instance.id
            call.connected, call.greeted = call.since(instance.connected_at), call.since(instance.greeted_at)
            instance.close()
            revision.leave()
            if upload is not None:
                await _stopped(upload)

    async def _connect(self, instance: Instance, revision: Revision) -> None:
        while True:
            try:
                await self._loop.create_unix_connection(lambda: instance, str(revision.socket))
            except BlockingIOError:  # as many connections wait there as the kernel allows
                await asyncio.sleep(_FULL_S)
            except OSError as error:  # nobody listens any more
                raise NotTaken("no instance took the call") from error
            else:
                return

    # ---- the request

    def _envelope(self, call: Call) -> bytes:
        """Envelope, request head and the part of the body that is here. Only checked words of the client get into the first line."""
        request = call.request
        left = max(1, int((call.deadline - self._loop.time()) * 1000))
        trace = request.headers.get("traceparent", "")
        framing = b""
        if call.streams and request.content_length is None:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif call.streams or call.opening or request.content_length is not None:
            length = request.content_length if call.streams else len(call.opening)
            framing = b"Content-Length: %d\r\n" % (length or 0)
        head = request_head(
            request,
            call.target,
            framing=framing,
            added=b"X-Call-Id: %s\r\n" % call.id.encode(),
            trusted=self._settings.trusts(request.remote),
        )
        envelope = f"MAYFLY/1 {call.id} {left} {trace if _TRACE.fullmatch(trace) else '-'}\n".encode()
        return envelope + head + (self._framed(call, call.opening) if call.opening else b"")

    def _framed(self, call: Call, part: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(part), part) if call.streams and call.request.content_length is None else part

    async def _upload(self, call: Call, instance: Instance) -> None:
        """Streams the rest of the body in; a problem ends the instance and is raised to whoever waits for its answer."""
        content = call.request.content
        try:
            if "Expect" in call.request.headers and call.request.version >= HttpVersion11 and not call.opening:
                await call.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            while not instance.ended and (part := await content.readany()):
                self._count(call, len(part))
                instance.write(self._framed(call, part))
                await instance.drain()
            if call.request.content_length is None:
                instance.write(b"0\r\n\r\n")
        except Refusal as error:
            instance.fail(error)
        except web.RequestPayloadError:
            instance.fail(_malformed_body())
        except ConnectionError:
            instance.fail(BrokenPromise("the client has gone"))

    def _count(self, call: Call, size: int) -> None:
        call.request_bytes += size
        if call.request_bytes > self._settings.request_bytes:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request's body has more than {self._settings.request_bytes} bytes", close=True)

    # ---- the answer

    async def _answer(self, call: Call, revision: Revision, instance: Instance, head: ResponseHead) -> web.StreamResponse:
        """Sends the instance's answer to the client as it comes."""
        failure = head.get(FAILURE_FIELD)
        if failure is not None and head.status == 500:
            raise self._ended_by_the_monitor(call, failure)
        request, writer = call.request, call.request.writer
        part = instance.take()
        if head.framing is Framing.LENGTH and head.length and not part and request.content.is_eof():
            # A client that has said all wins nothing by a head without its body, and until then an instance that dies can be answered for.
            part = await instance.read()
        whole = instance.whole and head.framing is not Framing.EOF
        chunked, framing, goes_on = self._answer_framing(call, head, len(part) if whole else None)
        self._count_answer(call, len(part), head.length if head.framing is Framing.LENGTH else None)
        first = response_head(head, request.version, framing=framing, added=self._added(call, revision, head), close=not goes_on)
        call.status = head.status
        call.first_byte = call.elapsed()
        await writer.write(first + _chunk(part) if chunked and part else first + part)
        if not whole:
            while part := await instance.read():
                self._count_answer(call, len(part), None)
                await writer.write(_chunk(part) if chunked else part)
            if head.framing is Framing.EOF:
                await self._vouched(call, instance)
            if chunked:
                await writer.write(b"0\r\n\r\n")
        call.answered = True
        return Answer(head.status, goes_on=goes_on)

    def _answer_framing(self, call: Call, head: ResponseHead, whole: int | None) -> tuple[bool, bytes, bool]:
        """How the client learns the answer's end: in chunks or not, the field that says so, and whether the connection goes on after it."""
        request = call.request
        goes_on = request.keep_alive and request.content.is_eof()
        if head.framing is Framing.NONE:
            known = head.length is not None and head.status != 204
            return False, b"Content-Length: %d\r\n" % (head.length or 0) if known else b"", goes_on
        length = head.length if whole is None else whole
        if length is not None:
            return False, b"Content-Length: %d\r\n" % length, goes_on
        if request.version == HttpVersion11:
            return True, b"Transfer-Encoding: chunked\r\n", goes_on
        return False, b"", False

    def _added(self, call: Call, revision: Revision, head: ResponseHead) -> bytes:
        added = f"{CALL_ID}: {call.id}\r\n{REVISION}: {revision.id}\r\nX-Mayfly-Instance: {call.instance}\r\n".encode()
        if self._settings.cors_origins and "Origin" in call.request.headers and head.get(b"access-control-allow-origin") is None:
            added += b"Access-Control-Allow-Origin: %s\r\n" % self._settings.cors_origins.encode()
        return added

    def _count_answer(self, call: Call, size: int, announced: int | None) -> None:
        call.response_bytes += size
        if max(call.response_bytes, announced or 0) > self._settings.response_bytes:
            raise BrokenPromise(f"the answer has more than {self._settings.response_bytes} bytes")

    def _ended_by_the_monitor(self, call: Call, failure: bytes) -> ServerError:
        """What the monitor's word for an instance that is gone without an answer means. A program that forges it harms itself alone."""
        if failure == b"deadline":  # its clock was a moment ahead of this one's
            return self._late(call)
        if failure == b"internal":
            return BrokenPromise("the instance broke down")
        cause = failure.decode("latin-1") if _CAUSE.fullmatch(failure) else "unknown"
        return Refusal(500, f"the function failed: {cause}", headers={FAILURE: cause})

    async def _vouched(self, call: Call, instance: Instance) -> None:
        """An answer that ends with its connection is whole if the program ended it; a program that was killed ends it too."""
        assert instance.id is not None, "an answer comes from an instance that has greeted"
        ended = await self._receipts.ending(call.function.name, instance.id, _ENDING_S)
        if ended is None or not ended.well:
            raise BrokenPromise("the instance was ended in the middle of its answer")

    # ---- the end

    def _abandoned(self, call: Call) -> None:
        """The client has gone; if it has its whole answer, as it may."""
        if not call.answered:
            call.status = ABANDONED
            call.error = "the client has gone"

    def _late(self, call: Call) -> Refusal:
        """Its time is over. A call that never reached an instance may well be tried again."""
        if call.instance is None:
            return busy(503, f"no instance was free within {call.budget:g} s")
        return Refusal(408, f"the function did not answer within {call.budget:g} s")

    def _failed(self, call: Call, error: ServerError) -> web.StreamResponse:
        """An answer of the server's own; if the program's has begun, the end of the client's connection."""
        call.error = str(error)
        if call.first_byte is not None:
            _cut(call.request.transport)
            return Answer(call.status, goes_on=False)
        call.status = error.status if isinstance(error, Refusal) else 502
        response = error_response(call.status, call.error, call=call.id)
        response.headers.update(call.headers())
        if isinstance(error, Refusal):
            response.headers.update(error.headers)
        if not call.request.content.is_eof() or (isinstance(error, Refusal) and error.close):
            response.force_close()
        return response

    def _account(self, call: Call) -> None:
        seconds = call.elapsed()
        call.function.metrics.call(call.status, seconds, call.waited)
        if call.revision is None:
            return
        view = {
            "call": call.id,
            "namespace": call.function.key[0],
            "function": call.function.key[1],
            "revision": call.revision.id,
            "image": call.revision.spec.image,
            "snapshot": call.revision.snapshot,
            "instance": call.instance,
            "time": call.at,
            "began_at": int(call.began * 1e6),
            "method": call.request.method,
            "status": call.status,
            "error": call.error,
            "tries": call.tries + 1,
            "waited_us": int(call.waited * 1e6),
            "connected_us": _microseconds(call.connected),
            "greeted_us": _microseconds(call.greeted),
            "first_byte_us": _microseconds(call.first_byte),
            "total_us": int(seconds * 1e6),
            "request_bytes": call.request_bytes,
            "response_bytes": call.response_bytes,
        }
        self._receipts.answered(call.function.name, call.instance, view)


def error_response(status: int, message: str, *, call: str | None = None) -> web.Response:
    """An answer of the server's own: `{"error": {"message", "call"?}}`."""
    error = {"message": message} if call is None else {"message": message, "call": call}
    return web.json_response({"error": error}, status=status)


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e6)


def _cut(transport: asyncio.Transport | None) -> None:
    """Resets a client's connection: an ordinary end would be the end of the answer to a client of HTTP/1.0."""
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def _stopped(task: asyncio.Task[None]) -> None:
    """Cancels a task of this call; raises what it failed of, if not of that."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


def _malformed_body() -> Refusal:
    return Refusal(400, "the request's body is malformed", close=True)


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)
