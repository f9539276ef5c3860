"""Records of what happened (receipts, log lines) on disk, bounded, in one SQLite file.

Writers never wait: a record goes into memory and a thread writes what has gathered a few times a second. Readers see what writers have
handed in. The bounds are bytes: per function and kind, so that a chatty function pushes out only its own records, and over all, so that
functions that come and go do not fill the disk; what goes is the oldest.

These are records for people, not state: after a crash the last fraction of a second may be missing, a file that cannot be read is set
aside, and a disk that is full costs records but no call.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog
from pydantic_core import from_json, to_json

T = TypeVar("T")
Record = dict[str, Any]

_FLUSH_S = 0.25
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}  # the file itself, or a schema of another version
_PENDING = 20_000  # records in memory; more come in only if the disk is stuck, and are dropped
_SLACK = 0.9  # what is trimmed is trimmed to this share of its bound, so that it is not trimmed each time
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, function TEXT NOT NULL, key TEXT, bytes INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_function ON records (kind, function, id, bytes);
CREATE INDEX IF NOT EXISTS by_key ON records (kind, key, id) WHERE key IS NOT NULL;
"""

# All rows in one step: sqlite3 lets go of the interpreter's lock around each step, and to take it back costs the event loop's thread more
# than the row does.
_INSERT = """
INSERT INTO records (kind, function, key, bytes, body)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
    json_extract(value, '$[4]') FROM json_each(?)
"""

_log = structlog.get_logger(__name__)


class _Pending(NamedTuple):
    kind: str
    function: str
    key: str | None
    record: Record


class Records:
    """The file. `open` first, `close` last."""

    def __init__(self, path: Path, *, bytes_per_function: int, bytes_total: int) -> None:
        self._path = path
        self._per_function = bytes_per_function
        self._total = bytes_total
        self._pending: deque[_Pending] = deque()  # filled in the event loop, emptied in the thread
        self._dropped = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # The thread is the only user of what follows.
        self._thread = ThreadPoolExecutor(1, "records")
        self._database: sqlite3.Connection | None = None
        self._sizes: dict[tuple[str, str], int] = {}

    async def open(self) -> None:
        """Opens or makes the file, and begins to write."""
        await self._in_thread(self._connect)
        self._task = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """Writes what has gathered and closes the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._in_thread(self._disconnect)
        self._thread.shutdown()

    def add(self, kind: str, function: str, record: Record, *, key: str | None = None) -> None:
        """Hands in a record; `key` is what `by_key` finds it by."""
        if len(self._pending) >= _PENDING:
            self._dropped += 1
            return
        self._pending.append(_Pending(kind, function, key, record))
        self._news.set()

    async def by_key(self, kind: str, key: str) -> Record | None:
        """The newest record of that key."""
        query = "SELECT body FROM records WHERE kind = ? AND key = ? ORDER BY id DESC LIMIT 1"
        found = await self._in_thread(lambda: self._select(query, kind, key))
        return found[0] if found else None

    async def last(self, kind: str, function: str, limit: int) -> list[Record]:
        """The newest records of a function, oldest first."""
        query = "SELECT body FROM records WHERE kind = ? AND function = ? ORDER BY id DESC LIMIT ?"
        found = await self._in_thread(lambda: self._select(query, kind, function, limit))
        return found[::-1]

    # ---- in the event loop

    async def _in_thread(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    async def _write_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(_FLUSH_S)  # the only purpose: to write many at a time
            await self._in_thread(self._flush)

    # ---- in the thread

    def _connect(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = self._opened(self._path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in _DAMAGED:
                # A full or failing disk: what the file holds is not to blame, and calls do not wait for it.
                _log.warning("records: the file cannot be opened; until the next start they are kept in memory", error=str(error))
                self._database = self._opened(":memory:")
                return
            aside = self._path.with_name(f"{self._path.name}.unreadable")
            _log.warning("records: the file cannot be read and is set aside", file=str(self._path), aside=str(aside), error=str(error))
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            self._database = self._opened(self._path)

    def _opened(self, place: Path | str) -> sqlite3.Connection:
        database = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
            sizes = database.execute("SELECT kind, function, SUM(bytes) FROM records GROUP BY kind, function")
            self._sizes = {(kind, function): size for kind, function, size in sizes}
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def _disconnect(self) -> None:
        if self._database is not None:
            self._flush()
            self._database.close()
            self._database = None

    def _select(self, query: str, *values: str | int) -> list[Record]:
        self._flush()
        if self._database is None:
            return []
        try:
            return [from_json(body) for (body,) in self._database.execute(query, values)]
        except sqlite3.Error as error:
            _log.error("records: cannot be read", file=str(self._path), error=str(error))
            return []

    def _flush(self) -> None:
        pending = [self._pending.popleft() for _ in range(len(self._pending))]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("records: more than can be written, some are lost", lost=dropped)
        if not pending or self._database is None:
            return
        rows = []
        for item in pending:
            body = to_json(item.record).decode()
            rows.append((item.kind, item.function, item.key, len(body), body))
        try:
            self._database.execute("BEGIN")
            try:
                self._database.execute(_INSERT, (to_json(rows).decode(),))
                grown = self._sizes.copy()
                for kind, function, _, size, _ in rows:
                    grown[kind, function] = grown.get((kind, function), 0) + size
                self._trim(self._database, grown, {(kind, function) for kind, function, *_ in rows})
                self._database.execute("COMMIT")
                self._sizes = grown
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            _log.error("records: cannot be written, some are lost", file=str(self._path), lost=len(rows), error=str(error))

    def _trim(self, database: sqlite3.Connection, sizes: dict[tuple[str, str], int], touched: set[tuple[str, str]]) -> None:
        for kind, function in touched:
            if sizes[kind, function] > self._per_function:
                where = "kind = ? AND function = ?"
                sizes[kind, function] -= _delete_oldest(database, where, (kind, function), int(self._per_function * _SLACK))
        if sum(sizes.values()) > self._total:
            _delete_oldest(database, "TRUE", (), int(self._total * _SLACK))
            sizes.clear()
            query = "SELECT kind, function, SUM(bytes) FROM records GROUP BY kind, function"
            sizes.update({(kind, function): size for kind, function, size in database.execute(query)})


def _delete_oldest(database: sqlite3.Connection, where: str, values: tuple[str, ...], keep: int) -> int:
    """Deletes all but the newest `keep` bytes of some records; says how many bytes went."""
    newer = f"SELECT id, SUM(bytes) OVER (ORDER BY id DESC) AS newer FROM records WHERE {where}"
    row = database.execute(f"SELECT MAX(id) FROM ({newer}) WHERE newer > ?", (*values, keep)).fetchone()
    if row[0] is None:
        return 0
    condition = f"{where} AND id <= ?"
    gone = database.execute(f"SELECT SUM(bytes) FROM records WHERE {condition}", (*values, row[0])).fetchone()[0]
    database.execute(f"DELETE FROM records WHERE {condition}", (*values, row[0]))
    return int(gone)
