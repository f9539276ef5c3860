"""`mayfly up`, from the free address to the last line: what the supervisor runs, and what the person in front of it sees.

Everything is said on stderr: a mark and a sentence for each step, and the planes' own lines with the plane's name before them.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.text import Text

from mayfly import __version__, rendering
from mayfly.errors import AlreadyRunning, MachineError, MayflyError
from mayfly.locating import Up, UpLock
from mayfly.supervising import Plane, Supervisor

SERVER, DOWNLOADER = "server", "downloader"
# A plane that ends this often before the node was ever ready will not start at all: its lines say why.
_VAIN_STARTS = 3
# What the server gets to end its monitors after the last call, before it is killed.
_DRAIN_MARGIN = 10.0
_POLL_SECONDS = 0.05
_POLL_TIMEOUT = 5.0
_LOG_FRAME = frozenset({"event", "level", "timestamp", "logger"})
_LEVEL_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red"}


class Screen:
    """What `mayfly up` shows: steps that are done, one that is under way, and the lines of the planes."""

    def __init__(self) -> None:
        self._console = rendering.console(stderr=True)
        self._status = self._console.status("", spinner="dots")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._status.stop()

    def under_way(self, text: str) -> None:
        """Shown, on a terminal, until the next step is done."""
        if self._console.is_terminal:
            self._status.update(Text(text))
            self._status.start()

    def done(self, text: str) -> None:
        self._status.stop()
        self._console.print(Text.assemble(("✓ ", "green"), rendering.printable(text)))

    def warn(self, plane: str, text: str) -> None:
        self._console.print(Text.assemble(("! ", "bold red"), f"{plane} {rendering.printable(text)}"))

    def log(self, plane: str, line: str) -> None:
        text, style = readable(line)
        self._console.print(Text.assemble((f"{plane:<10} │ ", "dim"), (rendering.printable(text), style)))


def readable(line: str) -> tuple[str, str]:
    """A line of a plane's log for people, and its style. The planes write JSON, so that what guests wrote cannot forge a line."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line, ""
    if not isinstance(entry, dict) or "event" not in entry:
        return line, ""
    level = str(entry.get("level", ""))
    moment = str(entry.get("timestamp", ""))[11:19]
    rest = " ".join(f"{key}={_shown(value)}" for key, value in entry.items() if key not in _LOG_FRAME)
    text = " ".join(part for part in (moment, "" if level == "info" else level, str(entry["event"]), rest) if part)
    return text, _LEVEL_STYLES.get(level, "")


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text)


async def serve_node(data: Path, listen: str, monitor: Path, drain: float) -> None:
    """Serve `data` at `listen` until SIGTERM or SIGINT.

    Preconditions: the machine was found able (`doctor`).
    """
    host, port = parse_listen(listen)
    try:
        lock = UpLock(data)
    except OSError as error:
        raise MachineError(f"{data}: {error.strerror}", hint="Choose a directory of your own with --data.") from error
    try:
        # Asked here, where the answer can be said plainly; whoever takes the address in between makes the server's start fail.
        port = free_port(host, port)
        with Screen() as screen:
            await _Node(data, host, port, monitor, drain, lock, screen).serve()
    finally:
        lock.release()


class _Node:
    def __init__(self, data: Path, host: str, port: int, monitor: Path, drain: float, lock: UpLock, screen: Screen) -> None:
        self._data = data
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self._port = port
        self._url = f"http://{_address(self._host, port)}"
        self._lock = lock
        self._screen = screen
        self._unstartable: str | None = None
        self._announced = False
        shared = ("--data", str(data))
        self._supervisor = Supervisor(
            (
                Plane(
                    SERVER,
                    "faas_server",
                    (*shared, "--listen", _address(host, port), "--monitor", str(monitor)),
                    {"MAYFLY_DRAIN_TIMEOUT": f"{drain:g}"},
                ),
                Plane(DOWNLOADER, "faas_downloader", shared),
            ),
            drain=drain + _DRAIN_MARGIN,
            log=screen.log,
            note=self._note,
        )

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        announcing = asyncio.create_task(self._announce())
        try:
            await self._supervisor.run()
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)
        plane = self._supervisor.refused or self._unstartable
        if plane is not None:
            raise MayflyError(f"the {plane} does not start", hint="Its own lines above say why; `mayfly doctor` looks at the machine.")
        self._screen.done("stopped")

    def _asked_to_stop(self) -> None:
        again = self._supervisor.stopping
        self._screen.under_way("stopping at once …" if again else "calls come to their end; once more to stop at once …")
        self._supervisor.stop()

    def _note(self, plane: str, text: str) -> None:
        self._screen.warn(plane, text)
        if not self._announced and self._supervisor.restarts(plane) >= _VAIN_STARTS:
            self._unstartable = plane
            self._supervisor.stop()

    async def _announce(self) -> None:
        """Say each step as it is reached, and tell the other commands where the server is once it answers."""
        screen = self._screen
        screen.done("this machine can run functions")
        screen.under_way("the server starts …")
        await self._answered("/healthz")
        self._lock.announce(Up(os.getpid(), self._url, __version__))
        self._announced = True
        screen.done(f"the server answers at {self._url}")
        screen.under_way("functions get ready …")
        await self._answered("/readyz")
        screen.done(f"ready; resources are in {self._data / 'resources'}, ctrl-c stops")

    async def _answered(self, path: str) -> None:
        while True:
            if await self._status(path) == 200:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _status(self, path: str) -> int | None:
        """The status that the server answers with, None while it does not."""
        with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
            async with asyncio.timeout(_POLL_TIMEOUT):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                with contextlib.closing(writer):
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: {_address(self._host, self._port)}\r\nConnection: close\r\n\r\n".encode())
                    return int((await reader.readline()).split()[1])
        return None


def parse_listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise MayflyError(f"{text}: not an address to listen at", hint="Write HOST:PORT, as 127.0.0.1:8080.")
    return host, int(port)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def free_port(host: str, port: int) -> int:
    """`port` if it can be listened at; a free one for 0."""
    place = _address(host, port)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise MayflyError(f"{place}: {error.strerror}", hint="Give an address of this machine with --listen HOST:PORT.") from error
    except PermissionError as error:
        raise MayflyError(f"{place}: no permission to listen there", hint="Ports below 1024 are root's: choose another.") from error
    except OSError as error:
        raise AlreadyRunning(f"{place}: {error.strerror}", hint="Choose another with --listen, or stop what has this one.") from error
