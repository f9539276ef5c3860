"""The connection to an instance, against a peer that keeps the protocol, bends it and breaks it."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faas_server.errors import BrokenPromise, InstanceError, NotTaken
from faas_server.framing import Framing, ResponseHead
from faas_server.instances import BUFFER_BYTES, HEAD_BYTES, HEAD_FIELDS, Instance
from tests.support.peer import GREETING, INSTANCE, Peer, receive

OK = b"HTTP/1.1 200 OK\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
OPENING = b"MAYFLY/1 call 1000 -\nGET / HTTP/1.1\r\n\r\n"

Script = Callable[[socket.socket], None]


@asynccontextmanager
async def connected(path: Path, script: Script, *, bodiless: bool = False, streams: bool = False) -> AsyncIterator[Instance]:
    """An instance, connected to a peer that runs `script`."""
    peer = Peer(path / "s", script)
    loop = asyncio.get_running_loop()
    instance = Instance(loop, OPENING, bodiless=bodiless, streams=streams)
    try:
        await loop.create_unix_connection(lambda: instance, str(peer.path))
        yield instance
    finally:
        instance.close()
        await peer.closed()


def full(connection: socket.socket) -> bool:
    """Whether the kernel takes no more of what this end writes."""
    return not select.select([], [connection], [], 0)[1]


async def until(condition: Callable[[], object]) -> None:
    """Waits until it holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 — the instance tells nobody when it pauses
            await asyncio.sleep(0.002)


def answering(*parts: bytes) -> Script:
    """Greets, reads the opening, sends each part."""

    def script(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        receive(connection, b"\r\n\r\n")
        for part in parts:
            connection.sendall(part)

    return script


def saying(data: bytes) -> Script:
    """Sends this at once, reads the opening, closes."""

    def script(connection: socket.socket) -> None:
        connection.sendall(data)
        receive(connection, b"\r\n\r\n")

    return script


async def whole(instance: Instance) -> tuple[ResponseHead, bytes]:
    """Head and body."""
    head = await instance.head()
    body = b""
    while part := await instance.read():
        body += part
    return head, body


async def test_an_answer_arrives_with_the_instance_that_gave_it(tmp_path: Path) -> None:
    async with connected(tmp_path, answering(OK + b"X-A: b\r\nContent-Length: 5\r\n\r\nhello")) as instance:
        head, body = await whole(instance)
        assert (instance.id, head.status, head.fields[0], body) == (INSTANCE, 200, (b"X-A", b"b"), b"hello")


async def test_greeting_head_and_body_may_come_byte_by_byte(tmp_path: Path) -> None:
    data = GREETING + OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"

    def script(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(0.0005)
        receive(connection, b"\r\n\r\n")

    async with connected(tmp_path, script) as instance:
        assert (await whole(instance))[1] == b"hello"


async def test_greeting_and_answer_may_come_in_one_piece(tmp_path: Path) -> None:
    async with connected(tmp_path, saying(GREETING + OK + b"Content-Length: 2\r\n\r\nhi")) as instance:
        await instance.greeted()
        assert (await whole(instance))[1] == b"hi"


@pytest.mark.parametrize(
    "greeting",
    [
        b"MAYFLY/2 00112233aabbccdd\n",
        b"MAYFLY/1 00112233aabbccd\n",
        b"MAYFLY/1 00112233AABBCCDD\n",
        b"MAYFLY/1 00112233aabbccdd\r\n",
        b"\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"x" * 100_000,
    ],
)
async def test_a_malformed_greeting_breaks_the_promise(tmp_path: Path, greeting: bytes) -> None:
    async with connected(tmp_path, saying(greeting)) as instance:
        with pytest.raises(BrokenPromise, match="greeting"):
            await instance.head()


@pytest.mark.parametrize("start", [b"", b"MAYFLY/1 0011"])
async def test_without_a_whole_greeting_the_call_was_not_taken(tmp_path: Path, start: bytes) -> None:
    async with connected(tmp_path, saying(start)) as instance:
        with pytest.raises(NotTaken):
            await instance.head()
        with pytest.raises(NotTaken):
            await instance.greeted()


async def test_a_peer_that_closed_before_the_only_write_has_not_taken_the_call(tmp_path: Path) -> None:
    """The write fails, so nobody has a byte of the request, greeting or not."""

    class Late(Instance):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            closed.wait(5)
            super().connection_made(transport)

    def script(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        connection.close()
        closed.set()

    closed = threading.Event()
    peer = Peer(tmp_path / "s", script)
    loop = asyncio.get_running_loop()
    instance = Late(loop, OPENING, bodiless=False, streams=False)
    await loop.create_unix_connection(lambda: instance, str(peer.path))
    with pytest.raises(NotTaken):
        await instance.head()
    await peer.closed()


async def test_a_large_opening_of_which_a_part_was_read_is_taken(tmp_path: Path) -> None:
    """The rest of it cannot be written, but the program has seen a part: the answer counts, and nobody else may get the call."""

    def script(connection: socket.socket) -> None:
        answering(OK + b"Content-Length: 2\r\n\r\nhi")(connection)

    peer = Peer(tmp_path / "s", script)
    loop = asyncio.get_running_loop()
    instance = Instance(loop, OPENING + b"z" * (1 << 20), bodiless=False, streams=False)
    await loop.create_unix_connection(lambda: instance, str(peer.path))
    assert (await whole(instance))[1] == b"hi"
    await peer.closed()


async def test_an_end_after_the_greeting_breaks_the_promise(tmp_path: Path) -> None:
    async with connected(tmp_path, answering()) as instance:
        with pytest.raises(BrokenPromise, match="without an answer"):
            await instance.head()
        assert instance.id == INSTANCE


@pytest.mark.parametrize(
    ("answer", "status", "framing", "body"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", 200, Framing.LENGTH, b""),
        (OK + b"\r\nto the end", 200, Framing.EOF, b"to the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, Framing.EOF, b"to the end"),
        (OK + b"Connection: keep-alive\r\n\r\nto the end", 200, Framing.EOF, b"to the end"),
        (OK + b"transfer-encoding: CHUNKED\r\n\r\n2;ext=1\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n", 200, Framing.CHUNKED, b"hiyou"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204, Framing.NONE, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, Framing.NONE, b""),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, Framing.NONE, b""),
        (b"HTTP/1.1 599 Odd\r\nContent-Length: 1\r\n\r\nx", 599, Framing.LENGTH, b"x"),
        (
            CONTINUE + EARLY + OK + b"Content-Length: 2\r\n\r\nhi",
            200,
            Framing.LENGTH,
            b"hi",
        ),
        (OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"Content-Length: 5\r\n\r\nagain", 200, Framing.LENGTH, b"hi"),
        (OK + b"Content-Length: 2\r\n\r\nhi\0\0garbage", 200, Framing.LENGTH, b"hi"),
        (OK + b"X: \xff\xfe\r\nContent-Length: 0\r\n\r\n", 200, Framing.LENGTH, b""),
    ],
)
async def test_sound_answers(tmp_path: Path, answer: bytes, status: int, framing: Framing, body: bytes) -> None:
    async with connected(tmp_path, answering(answer)) as instance:
        head, got = await whole(instance)
        assert (head.status, head.framing, got) == (status, framing, body)
        assert instance.whole


async def test_an_answer_to_head_ends_with_its_head(tmp_path: Path) -> None:
    async with connected(tmp_path, answering(OK + b"Content-Length: 5\r\n\r\nhello"), bodiless=True) as instance:
        head, body = await whole(instance)
        assert (head.framing, head.length, body) == (Framing.NONE, 5, b"")


async def test_fields_of_interim_answers_and_trailers_are_not_the_heads(tmp_path: Path) -> None:
    chunks = b"2\r\nhi\r\n0\r\nX-Trailer: 1\r\nSet-Cookie: a=b\r\n\r\n"
    async with connected(tmp_path, answering(EARLY + OK + b"Transfer-Encoding: chunked\r\n\r\n", chunks)) as instance:
        head, body = await whole(instance)
        assert body == b"hi"
        assert [name for name, _ in head.fields] == [b"Transfer-Encoding"]


BROKEN = {
    "length and chunked": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "the same length twice": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "lengths in a list": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "signed length": OK + b"Content-Length: +2\r\n\r\nhi",
    "negative length": OK + b"Content-Length: -2\r\n\r\nhi",
    "endless length": OK + b"Content-Length: 99999999999999999999\r\n\r\nhi",
    "no length": OK + b"Content-Length:\r\n\r\nhi",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked, identity": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "no coding": OK + b"Transfer-Encoding:\r\n\r\nhi",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 Low\r\n\r\n",
    "status 099": b"HTTP/1.1 099 Low\r\n\r\n",
    "status 600": b"HTTP/1.1 600 High\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 High\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "not HTTP": b"hello\r\n\r\n",
    "a bare LF ends the status line": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "a bare LF ends a field": OK + b"X: a\nContent-Length: 0\r\n\r\n",
    "a bare CR in a value": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a folded value": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": OK + b"X : a\r\nContent-Length: 0\r\n\r\n",
    "no name": OK + b": a\r\nContent-Length: 0\r\n\r\n",
    "no colon": OK + b"X\r\nContent-Length: 0\r\n\r\n",
    "a name outside ASCII": OK + b"X\xff: a\r\nContent-Length: 0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw",
    "an upgrade without a word": b"HTTP/1.1 101 Switching\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "a head that ends early": OK + b"Content-Length: 5\r\n",
    "an endless field": OK + b"X: " + b"a" * (HEAD_BYTES * 4),
    "endless fields": OK + b"X: a\r\n" * 100_000,
    "too many fields": OK + b"X: a\r\n" * (HEAD_FIELDS + 1) + b"Content-Length: 0\r\n\r\n",
    "endless interim answers": CONTINUE * 100_000,
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_answers_whose_end_or_meaning_is_in_doubt_are_refused(tmp_path: Path, answer: bytes) -> None:
    async with connected(tmp_path, answering(answer)) as instance:
        with pytest.raises(BrokenPromise):
            await instance.head()


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 10\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n5\n",
    ],
)
async def test_an_answer_that_stops_is_not_taken_for_whole(tmp_path: Path, answer: bytes) -> None:
    async with connected(tmp_path, answering(answer)) as instance:
        await instance.head()
        with pytest.raises(BrokenPromise):
            await whole(instance)
        assert not instance.whole


@pytest.mark.parametrize("size", [5, 150_000])
async def test_an_answer_is_whole_though_the_request_was_never_read(tmp_path: Path, size: int) -> None:
    """The instance closes with unread bytes: our writes fail, the answer lies in the queue."""
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        connection.sendall(GREETING)
        connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        connection.close()
        loop.call_soon_threadsafe(answered.set)

    descriptors = set[int]()
    for _ in range(20):
        answered.clear()
        async with connected(tmp_path, script, streams=True) as instance:
            await answered.wait()
            for _ in range(10):  # in one step of the loop, so that it cannot read in between
                instance.write(b"y" * 50_000)
            _, body = await whole(instance)
            assert body == b"x" * size
        (tmp_path / "s").unlink()
        descriptors.add(len(os.listdir("/proc/self/fd")))
    assert max(descriptors) - min(descriptors) <= 2, "descriptors leak"


async def test_a_failed_write_without_an_answer_breaks_the_promise(tmp_path: Path) -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        connection.close()
        loop.call_soon_threadsafe(closed.set)

    async with connected(tmp_path, script, streams=True) as instance:
        await closed.wait()
        instance.write(b"y" * 50_000)
        with pytest.raises(BrokenPromise, match="without an answer"):
            await instance.head()


async def test_reading_pauses_until_the_body_is_taken(tmp_path: Path) -> None:
    size, sent = 64 << 20, 0
    ends: list[socket.socket] = []

    def script(connection: socket.socket) -> None:
        nonlocal sent
        ends.append(connection)
        connection.sendall(GREETING + OK + b"Content-Length: %d\r\n\r\n" % size)
        part = b"x" * 65536
        while sent < size:
            connection.sendall(part)
            sent += len(part)

    async with connected(tmp_path, script) as instance:
        await instance.head()
        await until(lambda: instance._paused and full(ends[0]))
        assert 0 < sent < BUFFER_BYTES * 8
        got = 0
        while part := await instance.read():
            got += len(part)
        assert got == size


def stuck(instance: Instance) -> bool:
    """Whether writing waits for the peer, who reads nothing."""
    return instance._transport is not None and instance._writable is not None and full(instance._transport.get_extra_info("socket"))


async def test_writing_waits_until_the_instance_reads(tmp_path: Path) -> None:
    total, seen = 16 << 20, 0
    go = threading.Event()

    def script(connection: socket.socket) -> None:
        nonlocal seen
        answering()(connection)
        go.wait(10)
        while seen < total:
            seen += len(connection.recv(1 << 20))
        connection.sendall(OK + b"Content-Length: 0\r\n\r\n")

    async with connected(tmp_path, script, streams=True) as instance:
        written = 0

        async def upload() -> None:
            nonlocal written
            while written < total:
                instance.write(b"z" * 65536)
                written += 65536
                await instance.drain()

        task = asyncio.create_task(upload())
        await until(lambda: stuck(instance))
        assert written < 4 << 20
        go.set()
        await task
        assert (await whole(instance))[0].status == 200
        assert seen == total


async def test_a_writer_that_waits_is_freed_when_the_instance_ends(tmp_path: Path) -> None:
    go = threading.Event()

    def script(connection: socket.socket) -> None:
        answering()(connection)
        go.wait(10)

    async with connected(tmp_path, script, streams=True) as instance:

        async def upload() -> None:
            while not instance.ended:
                instance.write(b"z" * 65536)
                await instance.drain()

        task = asyncio.create_task(upload())
        await until(lambda: stuck(instance))
        go.set()
        await asyncio.wait_for(task, 5)
        with pytest.raises(BrokenPromise):
            await instance.head()


async def test_closing_ends_the_connection_at_once(tmp_path: Path) -> None:
    ends: list[bytes] = []

    def script(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        receive(connection, b"\r\n\r\n")
        ends.append(connection.recv(1))

    async with connected(tmp_path, script) as instance:
        await instance.greeted()
        instance.close()
    assert ends == [b""]


async def test_the_connection_is_closed_as_soon_as_the_answer_is_whole(tmp_path: Path) -> None:
    """Also when nobody has taken the body yet: the instance is not needed any more."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[bytes] = loop.create_future()

    def script(connection: socket.socket) -> None:
        answering(OK + b"Content-Length: 2\r\n\r\nhi")(connection)
        loop.call_soon_threadsafe(end.set_result, connection.recv(1))

    async with connected(tmp_path, script) as instance:
        await instance.head()
        assert await asyncio.wait_for(end, 5) == b""
        assert await instance.read() == b"hi"


async def test_a_failure_of_ours_reaches_whoever_waits(tmp_path: Path) -> None:
    def script(connection: socket.socket) -> None:
        answering()(connection)
        connection.recv(1)

    async with connected(tmp_path, script) as instance:
        await instance.greeted()
        asyncio.get_running_loop().call_soon(instance.fail, InstanceError("enough"))
        with pytest.raises(InstanceError, match="enough"):
            await instance.head()
