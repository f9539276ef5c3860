"""Where this node's data directory is, and where its server answers.

The data directory: `--data`, else MAYFLY_DATA, else the user's data directory. The server: `--server`, else MAYFLY_SERVER, else what
`mayfly up` left in `run/up.json` of the data directory. That file is written whole when the server answers and removed at the end; after
a kill -9 it stays, so it counts only while the lock beside it is held.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from mayfly.errors import AlreadyRunning, MayflyError, NoServer

DATA_VARIABLE = "MAYFLY_DATA"
SERVER_VARIABLE = "MAYFLY_SERVER"
DEFAULT_LISTEN = "127.0.0.1:8080"


@dataclass(frozen=True)
class Up:
    """The content of run/up.json."""

    pid: int
    url: str
    version: str


def data_directory(option: Path | None) -> Path:
    """`option` has `--data` or MAYFLY_DATA."""
    return (option if option is not None else platformdirs.user_data_path("mayfly")).expanduser().absolute()


def server_url(option: str | None, data: Path) -> str:
    """`option` has `--server` or MAYFLY_SERVER."""
    if option is not None:
        if not option.startswith("http://"):
            raise MayflyError(f"{option}: not the address of a server", hint="Write http://HOST:PORT.")
        return option.rstrip("/")
    up = running_up(data)
    if up is None:
        raise NoServer(
            f"no `mayfly up` serves {data}",
            hint=f"Start one with `mayfly up --data {data}`, or name its data directory with --data, or its address with --server.",
        )
    return up.url


def running_up(data: Path) -> Up | None:
    """The `mayfly up` that serves `data` now and is ready, if any."""
    try:
        text = _up_file(data).read_text()
        with _lock_file(data).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Up(**json.loads(text))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise MayflyError(f"{_up_file(data)}: damaged ({error})", hint="Restart `mayfly up`; it writes the file anew.") from error
    return None


class UpLock:
    """The right to serve a data directory, held by one `mayfly up` at a time and given back by the kernel however it ends."""

    def __init__(self, data: Path) -> None:
        self._data = data
        _lock_file(data).parent.mkdir(parents=True, exist_ok=True)
        # Not inherited by the children: a child that outlives a killed supervisor for a moment must not keep the lock.
        self._descriptor = os.open(_lock_file(data), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise AlreadyRunning(
                f"another `mayfly up` serves {data}", hint="Stop it first, or choose another directory with --data."
            ) from error
        _up_file(data).unlink(missing_ok=True)

    def announce(self, up: Up) -> None:
        """Tell the other commands where the server answers."""
        temporary = _up_file(self._data).with_suffix(".new")
        temporary.write_text(json.dumps(asdict(up)) + "\n")
        temporary.replace(_up_file(self._data))

    def release(self) -> None:
        _up_file(self._data).unlink(missing_ok=True)
        os.close(self._descriptor)


def _up_file(data: Path) -> Path:
    return data / "run" / "up.json"


def _lock_file(data: Path) -> Path:
    return data / "run" / "up.lock"
