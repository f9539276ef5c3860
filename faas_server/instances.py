"""One connection to one instance: the greeting, a request streamed in, a response streamed out (docs/protocol.md, section 5).

A connection is one call, so there is no pool and nothing to reuse. The response is data of hostile code: its head is bounded and held to
RFC 9112 more strictly than the parser does, and whatever does not fit is a `BrokenPromise`.

Two facts about unix sockets shape this module:

- An instance that closes without having read the whole request is no failure: its response lies whole in our receive queue, but our next
  write fails (EPIPE) and uvloop then closes the descriptor unread. Where a request takes more than one write, a duplicate of the
  descriptor keeps the queue readable, and `connection_lost` reads what is left of it. Where it takes one, that write is all or nothing:
  if it failed, no byte of the request reached anybody, and the call was not taken whatever the queue holds.
- For the same reason a read that ends with ECONNRESET is an end like EOF: nothing that the peer wrote gets lost on a unix socket.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from typing import cast

import httptools

from faas_server.errors import BrokenPromise, InstanceError, NotTaken, ServerError
from faas_server.framing import Fields, Framing, ResponseHead, judged

GREETING = re.compile(rb"MAYFLY/1 ([0-9a-f]{16})\n")
GREETING_BYTES = 26
HEAD_BYTES = 65_536  # all heads of one answer (1xx ones included): four times what common servers accept
HEAD_FIELDS = 256
BUFFER_BYTES = 262_144  # of the body, before reading from the instance pauses; one read of uvloop may exceed it by as much
ONE_WRITE_BYTES = 65_536  # an empty unix socket takes so many at once

_BROKEN_FRAMING = "the answer is not sound HTTP/1.1"


class Instance(asyncio.Protocol):
    """The caller's end of one connection.

    The connection's callbacks fill it, one task reads from it (`head`, then `read` until it is empty) and at most one other writes to it
    (`greeted`, then `write` and `drain`). The first failure is kept and raised to both.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, opening: bytes, *, bodiless: bool, streams: bool) -> None:
        """`opening` is written at once; `bodiless`: the request is a HEAD; `streams`: more of the request will follow by `write`."""
        self.id: str | None = None
        self.whole = False
        self.connected_at: float | None = None  # when it was, by time.perf_counter
        self.greeted_at: float | None = None
        self._loop = loop
        self._opening = opening
        self._bodiless = bodiless
        self._one_write = not streams and len(opening) <= ONE_WRITE_BYTES
        self._transport: asyncio.Transport | None = None
        self._spare: int | None = None  # a duplicate of the descriptor, see above
        self._failure: ServerError | None = None
        self._ended = False
        self._greeting = b""
        self._greeted: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head: ResponseHead | None = None
        self._fields: Fields = []
        self._head_bytes = 0  # fed to the parser before the head was complete
        self._body: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False

    # ---- what the call does with it

    async def greeted(self) -> None:
        """Waits until an instance has the connection; raises NotTaken when none took it."""
        while self.id is None:
            if self._failure is not None:
                raise self._failure
            if self._greeted is None:
                self._greeted = self._loop.create_future()
            await self._greeted

    async def head(self) -> ResponseHead:
        """Waits for the response's head; raises InstanceError when there will be none."""
        while self._head is None:
            if self._failure is not None:
                raise self._failure
            await self._wait()
        return self._head

    def take(self) -> bytes:
        """The part of the body that is here, perhaps none."""
        if not self._body:
            return b""
        part = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return part

    async def read(self) -> bytes:
        """The next part of the body, empty at its end; raises BrokenPromise when the end never came."""
        while True:
            if part := self.take():
                return part
            if self.whole:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._wait()

    def write(self, data: bytes) -> None:
        """Sends more of the request; dropped once the connection has ended, because the response may be whole without it."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Waits until the instance has read enough of what was written, or has ended."""
        while self._writable is not None:
            await self._writable

    @property
    def ended(self) -> bool:
        """The connection is gone: writing has no effect any more."""
        return self._ended

    def fail(self, error: ServerError) -> None:
        """Ends the connection; whoever waits gets `error`, unless the response is whole already."""
        if self._failure is None and not self.whole:
            self._failure = error
        self.close()
        self._wake()

    def close(self) -> None:
        """Ends the connection at once: the instance behind it is killed if it still runs."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._release_spare()

    # ---- what the connection says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.connected_at = time.perf_counter()
        if not self._one_write:
            self._spare = os.dup(transport.get_extra_info("socket").fileno())
        self._transport.write(self._opening)
        self._opening = b""

    def data_received(self, data: bytes) -> None:
        if self.id is None:
            self._greet(data)
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        self._finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is not None and self._spare is not None and not self.whole and self._failure is None:
            self._read_the_rest(self._spare)
        self._finish()
        self._release_spare()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    # ---- what the parser says

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:  # trailers come here too: they are not part of the head and are not passed on
            return
        self._fields.append((name, value))
        if len(self._fields) > HEAD_FIELDS:
            raise BrokenPromise(f"the answer's head has more than {HEAD_FIELDS} fields")

    def on_headers_complete(self) -> None:
        if self._head is not None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            if status == 101:
                raise BrokenPromise("the instance switched to another protocol, which nobody asked for")
            self._fields.clear()
            return
        self._head = judged(status, self._parser.get_http_version(), self._fields, bodiless=self._bodiless)
        if self._head.framing is Framing.NONE:
            self._complete()

    def on_body(self, body: bytes) -> None:
        if not self.whole:
            self._body.append(body)
            self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head is not None:
            self._complete()

    # ---- inside

    def _greet(self, data: bytes) -> None:
        self._greeting += data
        line = self._greeting[:GREETING_BYTES]
        if len(line) < GREETING_BYTES and b"\n" not in line:
            return
        match = GREETING.fullmatch(line)
        if match is None:
            self.fail(BrokenPromise("the instance's greeting is malformed"))
            return
        self.id = match[1].decode()
        self.greeted_at = time.perf_counter()
        rest = self._greeting[GREETING_BYTES:]
        self._greeting = b""
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(None)
        if rest:
            self._feed(rest)

    def _feed(self, data: bytes) -> None:
        if self.whole or self._failure is not None:
            return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self.fail(cause if isinstance(cause, InstanceError) else BrokenPromise(_BROKEN_FRAMING))
            return
        except httptools.HttpParserError:  # HttpParserUpgrade is one
            self.fail(BrokenPromise(_BROKEN_FRAMING))  # ignored when the message was whole: what follows it is nobody's
            return
        if self._head is None:
            if self._head_bytes > HEAD_BYTES:
                self.fail(BrokenPromise(f"the answer's head has more than {HEAD_BYTES} bytes"))
            return
        if self._buffered >= BUFFER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def _complete(self) -> None:
        self.whole = True
        self.close()

    def _finish(self) -> None:
        """The peer will say no more."""
        if self._ended:
            return
        self._ended = True
        self.resume_writing()
        if self.whole or self._failure is not None:
            pass
        elif self._head is not None and self._head.framing is Framing.EOF:
            self.whole = True
        elif self.id is None:
            self._failure = NotTaken("no instance took the call")
        elif self._head is None:
            self._failure = BrokenPromise("the instance closed the connection without an answer")
        else:
            self._failure = BrokenPromise("the instance closed the connection in the middle of its answer")
        self._wake()

    def _read_the_rest(self, descriptor: int) -> None:
        while not self.whole and self._failure is None:
            try:
                data = os.read(descriptor, 65_536)
            except BlockingIOError:
                return  # the failed write was not because the peer had closed
            except InterruptedError:
                continue
            except OSError:
                return  # ECONNRESET: the queue is read to its end
            if not data:
                return
            self.data_received(data)

    def _release_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def _wait(self) -> None:
        self._news = self._loop.create_future()
        await self._news

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        if self._greeted is not None and not self._greeted.done() and self._failure is not None:
            self._greeted.set_result(None)
