"""The only module that speaks to mayfly-monitor: its command line, its control stream, its commands (docs/protocol.md, sections 2 to 4).

The monitor is trusted less than this process: its lines are bounded, checked field by field, and may come in any number and order without
this process growing. What does not fit is dropped and counted; a monitor that goes on sending such lines is killed, and whoever
supervises it starts another.

The monitor reads commands from a pipe whose end of file tells it that this process is gone. It runs in a session of its own, so that a
Ctrl-C at the terminal reaches only this process, which then drains it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import structlog
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from bundles.durable import remove_tree
from faas_server.errors import MonitorFailed

LINE_BYTES = 65_536  # of the control stream, as the protocol says
DIAGNOSTIC_BYTES = 8_192  # of stderr, for the operator's log
BAD_LINES = 100  # then the monitor is taken for broken
SOCKET_PATH_BYTES = 107  # sockaddr_un less its final NUL
_LAST_WORDS_S = 1.0  # for what a dead monitor has left in its pipes
# All that the monitor learns of this process's environment; TMPDIR because it must agree with the operator on where memory files go.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "RUST_BACKTRACE", "RUST_LOG")

_log = structlog.get_logger(__name__)

InstanceId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0)]


class Event(BaseModel):
    """A line of the control stream. Fields that this module does not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    time: float


class Booting(Event):
    """The program was started for the snapshot."""

    pid: int


class Snapshot(BaseModel):
    """The memory and state that instances begin from."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    digest: str
    bytes: Count
    threads: Count
    source: Literal["boot", "file"] = "boot"


class Missing(BaseModel):
    """A layer of the jail that is not in force, with the reason and the way to get it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    reason: str


class Ready(Event):
    """The function can take calls."""

    boot_ms: Annotated[float, Field(ge=0)]
    snapshot: Snapshot | None = None
    reason: str | None = None
    layers: tuple[str, ...] = ()
    missing: Annotated[tuple[Missing, ...], Field(strict=False)] = ()
    isolation: str = "kvm"


class Repeated(BaseModel):
    """What is the same in all calls, with some of it: the guest's own words."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    what: Annotated[str, Field(max_length=100)]
    examples: Annotated[tuple[str, ...], Field(strict=False, max_length=16)]


class Checked(Event):
    """What repeats across calls, as far as example calls show; the reason where they could not."""

    repeats: Annotated[tuple[Repeated, ...], Field(strict=False, max_length=16)] = ()
    reason: str | None = None


class Failed(Event):
    """The function never will be ready."""

    reason: str
    message: str
    output: str = ""


class Parked(Event):
    """An instance waits for a connection."""

    instance: InstanceId
    pid: int


class Accepted(Event):
    """An instance has a connection and its envelope."""

    instance: InstanceId
    call: str


class Log(Event):
    """The program wrote a line."""

    instance: InstanceId | None = None
    call: str | None = None
    stream: Literal["stdout", "stderr", "monitor"]
    line: str
    truncated: bool = False


class Moments(BaseModel):
    """When an instance had its call and when its answer began, by CLOCK_MONOTONIC; how long the guest ran in between. Microseconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    taken_at: Count | None = None
    answered_at: Count | None = None
    guest_us: Count = 0


class Ended(Event):
    """An instance's process is gone; the receipt."""

    # Causes by which an answer that ends with its connection is known to be whole, if the program did not fail.
    WHOLE: ClassVar = frozenset({"closed", "exited"})

    instance: InstanceId
    call: str | None = None
    isolation: str = "kvm"  # what the call ran in
    layers: tuple[str, ...] = ()  # of the jail that were in force
    missing: tuple[str, ...] = ()  # and those that were not
    cause: Literal["closed", "exited", "signal", "deadline", "abandoned", "drained", "output", "internal"]
    code: int | None = None
    message: str | None = None
    parked_us: Count = 0
    run_us: Count = 0
    cpu_us: Count = 0
    guest_us: Count = 0
    moments: Moments = Moments()
    exits: Count = 0
    syscalls: Count = 0
    pages: Count = 0
    bytes_in: Count = 0
    bytes_out: Count = 0
    tail: str = ""

    @property
    def well(self) -> bool:
        """The program ended its answer by itself."""
        return self.cause in self.WHOLE and not self.code

    def receipt(self) -> dict[str, object]:
        """What it says beyond whose end it is."""
        fields = dict(vars(self))
        del fields["time"], fields["instance"], fields["call"], fields["moments"]
        return fields


class Warned(Event):
    """Something that an operator should know."""

    message: str


def fresh_socket(directory: Path) -> Path:
    """A path for a monitor's socket that no other has had: a dying monitor may still remove its own when its successor's is there."""
    return directory / f"m{secrets.token_hex(4)}.sock"


def clear_up(directory: Path, socket: Path | None = None) -> None:
    """Removes what a monitor that is gone has left: its socket, and what it kept beside it under the same stem; without `socket`, of all.

    Preconditions: the directory is this server's, and the monitors in question have ended.
    """
    for path in directory.glob("m????????.*" if socket is None else f"{socket.stem}.*"):
        try:
            remove_tree(path)
        except OSError as error:  # an instance that is just being killed still writes there; the next start removes the rest
            _log.info("monitor: something that it left behind stays for now", path=str(path), error=str(error))


_EVENTS: dict[str, type[Event]] = {
    "booting": Booting,
    "ready": Ready,
    "checked": Checked,
    "failed": Failed,
    "parked": Parked,
    "accepted": Accepted,
    "log": Log,
    "ended": Ended,
    "warning": Warned,
}


def event_of(line: bytes) -> Event | None:
    """The event that a line tells of, None if it is one of a later version; raises ValueError if the line is none at all."""
    data = from_json(line, allow_inf_nan=False)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - to the caller every malformed line is the same
    kind = _EVENTS.get(str(data.get("event")))
    return None if kind is None else kind.model_validate(data)


class Lines:
    """Cuts a stream into lines of bounded length."""

    __slots__ = ("_limit", "_skipping", "_tail")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that are now complete, without their newline; None stands for one over the limit."""
        *lines, rest = (self._tail + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                yield line if len(line) <= self._limit else None
        if not self._skipping and len(rest) > self._limit:
            yield None
            self._skipping = True
        self._tail = b"" if self._skipping else rest


@dataclass(frozen=True)
class Launch:
    """What the monitor's command line says.

    `program` may be of several words. `snapshot`: where it is kept, and for how many seconds; None: nowhere.
    """

    program: tuple[str, ...]
    bundle: Path
    socket: Path
    pool: int
    instances: int
    ready_timeout_ms: int
    log_bytes: int
    output_bytes: int
    snapshot: tuple[Path, int] | None = None
    cpu_seconds: int | None = None
    require: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """The command line."""
        options: dict[str, object] = {
            "--bundle": self.bundle,
            "--socket": self.socket,
            "--pool": self.pool,
            "--instances": self.instances,
            "--ready-timeout": self.ready_timeout_ms,
            "--log-limit": self.log_bytes,
            "--output-limit": self.output_bytes,
        }
        if self.cpu_seconds is not None:
            options["--cpu-limit"] = self.cpu_seconds
        if self.require:
            options["--require"] = ",".join(self.require)
        if self.snapshot is not None:
            options["--snapshot"], options["--snapshot-age"] = self.snapshot
        return [*self.program, "serve", *(str(word) for option in options.items() for word in option)]


class Monitor(asyncio.SubprocessProtocol):
    """One monitor process. Events reach `on_event` in their order, inside the event loop's callback; it must not block."""

    def __init__(self, on_event: Callable[[Event], None], **context: str) -> None:
        self.pid = 0
        self.bad_lines = 0
        self._on_event = on_event
        self._log = _log.bind(**context)
        self._transport: asyncio.SubprocessTransport | None = None
        self._events = Lines(LINE_BYTES)
        self._diagnostics = Lines(DIAGNOSTIC_BYTES)
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, launch: Launch, on_event: Callable[[Event], None], **context: str) -> Monitor:
        """Starts a monitor; `context` goes into the operator's log with all that it says. Raises MonitorFailed."""
        loop = asyncio.get_running_loop()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            _, protocol = await loop.subprocess_exec(
                lambda: cls(on_event, **context), *launch.argv(), env=environment, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise MonitorFailed(f"{launch.program[0]} cannot be started: {error.strerror or error}") from error
        return protocol

    def drain(self) -> None:
        """Accept no more, exit when the last call has ended."""
        self._command({"command": "drain"})

    def kill(self) -> None:
        """Ends it at once; its instances end with it."""
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()

    async def wait(self) -> int:
        """The exit status (negative: the signal), once all that it said was handed out."""
        return await asyncio.shield(self._ended)

    @property
    def alive(self) -> bool:
        """The process has not ended; what it said last may still be on its way."""
        return self._exit_status is None and not self._ended.done()

    # ---- what the process does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            for line in self._diagnostics.feed(data):
                self._log.info("monitor", says=(line or b"(a very long line)").decode("utf-8", "replace"))
            return
        for line in self._events.feed(data):
            self._event(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and self._exit_status is not None:
            self._end()

    def process_exited(self) -> None:
        # What it said last may still be in the pipe; a process that it left behind may hold that pipe open.
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    # ---- inside

    @property
    def _exit_status(self) -> int | None:
        return None if self._transport is None else self._transport.get_returncode()

    def _end(self) -> None:
        if self._ended.done():
            return
        status = self._exit_status
        self._ended.set_result(-1 if status is None else status)
        if self._transport is not None:
            self._transport.close()

    def _event(self, line: bytes | None) -> None:
        try:
            event = event_of(line) if line is not None else None
            if line is None:
                raise ValueError(f"longer than {LINE_BYTES} bytes")
        except ValueError as error:  # pydantic's ValidationError is one
            self._bad_line(line, error)
            return
        if event is not None:
            self._on_event(event)

    def _bad_line(self, line: bytes | None, error: Exception) -> None:
        self.bad_lines += 1
        if self.bad_lines in (1, BAD_LINES):
            start = "" if line is None else line[:200].decode("utf-8", "replace")
            self._log.warning("control stream: malformed line dropped", line=start, error=str(error), so_far=self.bad_lines)
        if self.bad_lines == BAD_LINES:
            self._log.error("control stream: too many malformed lines, the monitor is killed")
            self.kill()

    def _command(self, command: dict[str, object]) -> None:
        pipe = None if self._transport is None or not self.alive else self._transport.get_pipe_transport(0)
        if pipe is not None:
            cast(asyncio.WriteTransport, pipe).write(json.dumps(command).encode() + b"\n")
