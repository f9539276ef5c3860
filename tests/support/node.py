"""A whole node: `mayfly up` as a process, on a data directory and a port of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

PATIENCE = 60.0


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What `condition` says once it says something; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
    return found


def processes(mark: str) -> dict[int, str]:
    """The living processes whose command line has `mark` in it: of this node, when that is its data directory."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if mark in command and state != "Z":
                found[int(entry.name)] = command
    return found


def parent(pid: int) -> int:
    """The process that started it, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Node:
    """Started by `start`, ended by `stop` or `kill`; may be started again on the same directory."""

    def __init__(self, root: Path, place: Path, monitor: Path) -> None:
        self.data = place / "d"
        self.log = place / "node.log"
        self.prefix: tuple[str, ...] = ()  # what every command line begins with: who runs it, and in what surroundings
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        self.environment = {
            **kept,
            "PYTHONPATH": str(root),
            "MAYFLY_DATA": str(self.data),
            "MAYFLY_MONITOR": str(monitor),
            "NO_COLOR": "1",
        }

    def start(self, *arguments: str) -> None:
        """Returns when the server answers."""
        self.begin(*arguments)
        until(lambda: self._up_file().exists() or self._process is None or self._process.poll() is not None, "mayfly up")
        assert self._up_file().exists(), self.said()

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts without waiting."""
        command = [*self.prefix, sys.executable, "-m", "mayfly", "up", "--listen", "127.0.0.1:0", *arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self.environment, cwd=self._place, stdout=log, stderr=log)
        return self._process

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return str(json.loads(self._up_file().read_text())["url"])

    def plane(self, module: str) -> int:
        """The process id of a plane."""
        named = [pid for pid, command in processes(str(self.data)).items() if f"mayfly.child {self.pid} {module}" in command]
        # A child that a plane is just starting has its command line, but not its parent.
        found = [pid for pid in named if parent(pid) == self.pid]
        assert len(found) <= 1, found
        return found[0] if found else 0

    def monitors(self) -> list[int]:
        """The monitors and instances of this node."""
        return [pid for pid, command in processes(str(self.data)).items() if "mayfly-monitor" in command.split(" ")[0]]

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit status, when it has ended."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def mayfly(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, sys.executable, "-m", "mayfly", *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=self.environment, cwd=self._place, timeout=PATIENCE, check=False
        )

    def ok(self, *arguments: str | Path, stdin: str = "") -> str:
        """The output of a command that must succeed."""
        finished = self.mayfly(*arguments, stdin=stdin)
        assert finished.returncode == 0, f"{arguments}: {finished.stderr}\n{self.said()}"
        return finished.stdout

    def deploy(self, layout: Path, name: str, **spec: Any) -> None:
        """Applies a layout of this machine, and waits until it can be called."""
        self.ok("apply", "-f", "-", "--wait", "--timeout", "50s", stdin=manifest(layout, name, **spec))

    def call(self, name: str, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """The whole answer of a call, whatever its status."""
        finished = self.mayfly("call", name, "--output", "json", *arguments, stdin=stdin)
        assert finished.returncode in {0, 7}, f"{finished.stderr}\n{self.said()}"
        return dict(json.loads(finished.stdout))

    def _up_file(self) -> Path:
        return self.data / "run" / "up.json"


def manifest(layout: Path, name: str, **spec: Any) -> str:
    """An Image that names a layout of this machine."""
    return yaml.safe_dump(
        {
            "apiVersion": "build.kontain.app/v1",
            "kind": "Image",
            "metadata": {"name": name},
            "spec": {"image": f"oci:{layout}", **spec},
        }
    )


@contextmanager
def running_node(root: Path, place: Path, monitor: Path) -> Iterator[Node]:
    """A node that runs while the block does, and leaves no process behind."""
    node = Node(root, place, monitor)
    try:
        node.start()
        yield node
        assert node.stop() == 0, node.said()
    finally:
        node.kill()
        until(lambda: not processes(str(node.data)), "the end of the node's processes")
