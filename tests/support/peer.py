"""A peer at the other end of an instance's connection: a real unix socket whose every byte and every close a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

GREETING = b"MAYFLY/1 00112233aabbccdd\n"
INSTANCE = "00112233aabbccdd"


class Peer:
    """Listens on a socket; `script` is run with each connection in a thread of its own, and the connection closed after it."""

    def __init__(self, path: Path, script: Callable[[socket.socket], None]) -> None:
        self.path = path
        self._script = script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends when all scripts have."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
            assert not thread.is_alive(), "a peer's script does not end"
        self._listener.close()

    async def closed(self) -> None:
        """`close`, without blocking the loop that the other end runs in."""
        await asyncio.to_thread(self.close)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._run, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the other end has closed, as it may
                self._script(connection)


def receive(connection: socket.socket, end: bytes) -> bytes:
    """What comes, up to `end`."""
    data = b""
    while not data.endswith(end):
        part = connection.recv(1)
        if not part:
            raise ConnectionResetError("the other end has closed")
        data += part
    return data
