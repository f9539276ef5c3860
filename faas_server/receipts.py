"""Receipts: what each call cost and how it ended, as this server saw it and as the monitor saw it, merged and findable by the call's id.

The two views come on their own ways and in either order: the server's when the answer is through, the monitor's (`ended`) when the
instance's process is gone. They meet by the instance's id, which is unique, while call ids are the callers' and may repeat. A view whose
other half does not come in time is kept alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from faas_server.monitor import Ended
from faas_server.records import Record, Records

KIND = "receipt"
_PATIENCE_S = 5.0  # that the server's view waits for the monitor's: an instance's process ends within milliseconds
_SOON_S = 1.0  # that a reader waits for it
_HALVES = 4096  # views of calls that still run, or whose server view never comes


@dataclass(slots=True)
class _Halves:
    """The two views of one call, until both are there."""

    function: str
    server: Record | None = None  # with `began_at`, the beginning by CLOCK_MONOTONIC in microseconds
    ended: Ended | None = None
    since: float = field(default_factory=time.monotonic)
    waiting: asyncio.Event | None = None  # of whoever waits for the monitor's view


class Receipts:
    """Merges, keeps and finds receipts."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._halves: dict[str, _Halves] = {}

    def answered(self, function: str, instance: str | None, view: Record) -> None:
        """The server's view of a call that is over; `instance` is None if none ever greeted."""
        if instance is None:
            self._keep(function, view, None)
            return
        halves = self._half(function, instance)
        halves.server = view
        halves.since = time.monotonic()
        self._merge(instance, halves)

    def ended(self, function: str, event: Ended) -> None:
        """The monitor's view of a call."""
        if event.call is None:
            return
        halves = self._half(function, event.instance)
        halves.ended = event
        if halves.waiting is not None:
            halves.waiting.set()
        self._merge(event.instance, halves)

    async def ending(self, function: str, instance: str, patience: float) -> Ended | None:
        """The monitor's view of a call that this server has not finished yet; None if it does not come within `patience` seconds."""
        halves = self._half(function, instance)
        await _within(patience, halves)
        return halves.ended

    async def find(self, call: str) -> Record | None:
        """The newest receipt of a call id; of a call that has just ended, once the monitor has said its part."""
        for halves in reversed(self._halves.values()):
            if halves.server is not None and halves.server["call"] == call:
                await _within(_SOON_S, halves)
                return _merged(halves.server, halves.ended)
        return await self._records.by_key(KIND, call)

    async def last(self, function: str, limit: int) -> list[Record]:
        """The newest receipts of a function, oldest first."""
        kept = await self._records.last(KIND, function, limit)
        # Calls whose monitor has not said its part yet are shown without it, and go on waiting for it.
        halves = [half for half in self._halves.values() if half.function == function]
        waiting = [_merged(half.server, half.ended) for half in halves if half.server is not None]
        return (kept + waiting)[-limit:] if limit else []

    def expire(self, patience: float = _PATIENCE_S) -> None:
        """Keeps alone the server's views whose other half has not come. Called now and then."""
        limit = time.monotonic() - patience
        for instance, halves in list(self._halves.items()):
            if halves.server is not None and halves.since <= limit:
                del self._halves[instance]
                self._keep(halves.function, halves.server, halves.ended)

    # ---- inside

    def _half(self, function: str, instance: str) -> _Halves:
        halves = self._halves.get(instance)
        if halves is None:
            if len(self._halves) >= _HALVES:
                oldest = next(iter(self._halves))
                gone = self._halves.pop(oldest)
                if gone.server is not None:
                    self._keep(gone.function, gone.server, gone.ended)
            halves = self._halves[instance] = _Halves(function)
        return halves

    def _merge(self, instance: str, halves: _Halves) -> None:
        if halves.server is not None and halves.ended is not None:
            del self._halves[instance]
            self._keep(halves.function, halves.server, halves.ended)

    def _keep(self, function: str, server: Record, ended: Ended | None) -> None:
        self._records.add(KIND, function, _merged(server, ended), key=server["call"])


async def _within(seconds: float, halves: _Halves) -> None:
    """Waits for the monitor's view, but not for longer."""
    if halves.ended is None:
        if halves.waiting is None:
            halves.waiting = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(halves.waiting.wait(), seconds)


def _merged(server: Record, ended: Ended | None) -> dict[str, Any]:
    """One receipt; `monitor` is null where the monitor said nothing.

    From the call's beginning: `taken_us` to the instance's having the connection, `written_us` to its answer's first byte, `gone_us` to its
    end; `guest_us` of it the guest ran until that byte.
    """
    began = server.get("began_at")
    server = {name: value for name, value in server.items() if name != "began_at"}
    if ended is None:
        return {**server, "monitor": None}
    moments = ended.moments
    timed = {"taken_us": _since(began, moments.taken_at), "written_us": _since(began, moments.answered_at), "guest_us": moments.guest_us}
    if "time" in server:
        timed["gone_us"] = max(0, int((ended.time - server["time"]) * 1e6))
    return {**server, **timed, "monitor": ended.receipt()}


def _since(began: int | None, moment: int | None) -> int | None:
    """Microseconds from a call's beginning to a moment of its instance: both processes have one clock."""
    return None if began is None or moment is None else max(0, moment - began)
