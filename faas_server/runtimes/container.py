"""One container: made for one call, in namespaces of the calling thread, gone with it.

A bundle of its own is written for it (config.json adapted, the root file system shared and read-only), the runtime is started in the
foreground, and `end` leaves nothing: the container killed and deleted, the runtime reaped, the directory removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from faas_server.runtimes import isolating
from faas_server.runtimes.flavors import adapted, flavor, hides_unified
from faas_server.runtimes.waiting import readable

_ADMIN_S = 10.0  # that a runtime gets to kill or delete a container
_CONNECT_S = 0.25  # of one attempt over a loopback
_ATTEMPT_PAUSE_S = 0.002  # between attempts to reach a program that does not listen yet: nothing tells when it does


@dataclass(frozen=True, slots=True)
class Runtime:
    """Which runtime, and where it keeps what."""

    name: str
    program: Path
    bundle: Path
    scratch: Path
    cpu_seconds: int | None = None  # of a container's process, then the kernel ends it

    def command(self, *words: str) -> list[str]:
        """A command line of it."""
        return [str(self.program), "--root", str(self.scratch / "state"), *flavor(self.name).options, *words]


@dataclass(frozen=True, slots=True)
class End:
    """How the container's program ended: exit status or signal, and the processor time of all of it in microseconds."""

    status: int | None
    signal: int | None
    cpu_us: int


class Container:
    """Started by `start`, in a thread of its own; `end` always, in the same thread."""

    def __init__(self, runtime: Runtime, identity: str) -> None:
        self._runtime = runtime
        self._identity = identity
        self._directory = runtime.scratch / identity
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._end: End | None = None

    def start(self, *, stdin: int | IO[bytes], mounts: dict[str, Path] | None = None) -> None:
        """Starts the program. `mounts`: files of the host at paths of the container, writable. Raises OSError.

        Preconditions: the calling thread serves this container alone and ends after it.
        """
        kind = flavor(self._runtime.name)
        isolating.own_network()
        isolating.own_mounts()
        if hides_unified(kind):
            isolating.hide(Path("/sys/fs/cgroup/unified"))
        self._directory.mkdir(mode=0o700)
        config = adapted(json.loads((self._runtime.bundle / "config.json").read_bytes()), kind, self._identity)
        if mounts:
            self._mount(config, mounts)
        if (limit := self._runtime.cpu_seconds) is not None:
            config["process"]["rlimits"] = [{"type": "RLIMIT_CPU", "soft": limit, "hard": limit + 1}]
        (self._directory / "config.json").write_text(json.dumps(config))
        self._process = subprocess.Popen(
            self._runtime.command("run", "--bundle", str(self._directory), self._identity),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._pidfd = os.pidfd_open(self._process.pid)

    def _mount(self, config: dict[str, Any], mounts: dict[str, Path]) -> None:
        """Puts files at paths that the image may not have: over the image lies a writable layer that only holds their places."""
        upper, work, root = (self._directory / name for name in ("upper", "work", "root"))
        for directory in (upper, work, root):
            directory.mkdir()
        rootfs = (self._runtime.bundle / config["root"]["path"]).resolve()
        shutil.copystat(rootfs, upper)
        for target in mounts:
            (upper / target.lstrip("/")).touch()
        isolating.overlay(rootfs, upper, work, root)
        config["root"] = {**config["root"], "path": str(root)}
        config["mounts"] = [
            *config.get("mounts", []),
            *({"destination": target, "type": "bind", "source": str(path), "options": ["bind", "rw"]} for target, path in mounts.items()),
        ]

    @property
    def stdout(self) -> IO[bytes]:
        """What the program writes."""
        return cast(IO[bytes], self._running.stdout)

    @property
    def stderr(self) -> IO[bytes]:
        """What the program, or the runtime, says besides."""
        return cast(IO[bytes], self._running.stderr)

    @property
    def pidfd(self) -> int:
        """A descriptor that is readable once the program has ended."""
        return self._pidfd

    @property
    def running(self) -> bool:
        """The program has not ended."""
        return not readable(self._pidfd, 0)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the container was not started")
        return self._process

    def connect(self, port: int, until: float) -> socket.socket | None:
        """A connection to the program, as soon as it listens; None when it ended, or at `until` (monotonic seconds)."""
        while self.running and time.monotonic() < until:
            connection = socket.socket()
            connection.settimeout(_CONNECT_S)
            try:
                connection.connect(("127.0.0.1", port))
            except OSError:
                connection.close()
                time.sleep(_ATTEMPT_PAUSE_S)
                continue
            connection.settimeout(None)
            return connection
        return None

    def wait(self, seconds: float) -> End | None:
        """How the program ended; None if it has not within `seconds`."""
        if self._end is None and readable(self._pidfd, seconds):
            self._end = _reaped(self._running)
        return self._end

    def end(self) -> End:
        """Ends whatever runs and removes what there is of it."""
        if self._process is not None:
            if self.wait(0) is None:
                self._administer("kill", self._identity, "KILL")
            if self.wait(_ADMIN_S) is None:
                os.killpg(self._process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
                self._end = _reaped(self._process)
            os.close(self._pidfd)
            self.stdout.close()
            self.stderr.close()
            self._administer("delete", "--force", self._identity)
        shutil.rmtree(self._directory, ignore_errors=True)
        return self._end or End(None, None, 0)

    def _administer(self, *words: str) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # what it cannot end any more has ended
            subprocess.run(
                self._runtime.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_ADMIN_S,
                check=False,
            )


def _reaped(process: subprocess.Popen[bytes]) -> End:
    """Waits for the runtime, which has waited for the container; its resources include the container's."""
    _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    cpu = int((usage.ru_utime + usage.ru_stime) * 1e6)
    if code < 0:
        return End(None, -code, cpu)
    # Runtimes say a program's signal as a shell does.
    return End(None, code - 128, cpu) if code > 128 and code - 128 < signal.NSIG else End(code, None, cpu)
