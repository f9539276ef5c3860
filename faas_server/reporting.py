"""Status of functions, reported to the store: the conditions `Ready` and `RepeatsAcrossCalls`, which this server owns.

Only a function's latest report matters, one write at a time is on its way, and a store that cannot be written is tried again until it can.
A function that has no resource (its bundle was published by hand, or the resource is being deleted) has nobody to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from faas_resources.conditions import MESSAGE_MAX, ConditionReport, StatusPatch, Truth
from faas_resources.errors import InvalidResource, NotFound, ResourceError
from faas_resources.image import Image
from faas_resources.store.port import Event, EventType, Store

CONDITION = "Ready"
REPEATS = "RepeatsAcrossCalls"
_AGAIN_S = (0.5, 1.0, 2.0, 3.0)

Key = tuple[str, str]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one condition says."""

    status: Truth
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """How a function is. `revision` is the one that the report is about, which is not always the one that serves; `repeats` is what the
    check of that revision has found, None as long as it has found nothing out."""

    status: Truth
    reason: str
    message: str
    revision: str
    repeats: Finding | None = None


class Reporter:
    """Keeps the conditions in the store as the latest reports say. `run` is its task.

    It also watches the store: a resource may come after its bundle, may be made anew, and moves to another generation when a change of
    its spec leaves the revision the same; each time the report has to be written again.
    """

    def __init__(self, store: Store, told: Callable[[Event[Image]], None] = lambda _: None) -> None:
        """`told` hears all that the watch tells."""
        self._store = store
        self._told = told
        self._reports: dict[Key, Report] = {}
        self._due: set[Key] = set()
        self._news = asyncio.Event()

    def report(self, key: Key, report: Report) -> None:
        """The function is like this from now on."""
        self._reports[key] = report
        self._look_at(key)

    def forget(self, key: Key) -> None:
        """The function is gone."""
        self._reports.pop(key, None)

    async def run(self) -> None:
        """Never ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._write_on())

    def _look_at(self, key: Key) -> None:
        self._due.add(key)
        self._news.set()

    async def _watch(self) -> None:
        async for event in self._store.watch(Image):
            self._told(event)
            image = event.resource
            if image is None or event.type is EventType.DELETED:
                continue
            key = (image.namespace, image.name)
            report = self._reports.get(key)
            if report is not None and _patch(image, report) is not None:
                self._look_at(key)

    async def _write_on(self) -> None:
        failures = 0
        while True:
            await self._news.wait()
            self._news.clear()
            while self._due:
                key = self._due.pop()
                try:
                    await self._write(key)
                except (NotFound, InvalidResource) as error:
                    _log.debug("no resource to report to", function="/".join(key), error=str(error))
                except ResourceError as error:
                    pause = _AGAIN_S[min(failures, len(_AGAIN_S) - 1)]
                    failures += 1
                    self._due.add(key)
                    _log.warning("status cannot be written, trying again", function="/".join(key), error=str(error), seconds=pause)
                    await asyncio.sleep(pause)
                    continue
                failures = 0

    async def _write(self, key: Key) -> None:
        if key not in self._reports:
            return
        image = await self._store.get(Image, *key)
        report = self._reports.get(key)
        patch = None if report is None else _patch(image, report)
        if patch is not None:
            await self._store.patch_status(Image, *key, patch, uid=image.metadata.uid)


def _patch(image: Image, report: Report) -> StatusPatch | None:
    """What the status lacks of the report."""
    # The bundle does not say of which generation it is; the downloader, who made it, does.
    generation = image.status.observed_generation if image.status.revision == report.revision else None
    said = {CONDITION: Finding(report.status, report.reason, report.message)}
    if report.repeats is not None:
        said[REPEATS] = report.repeats
    elif (known := image.status.condition(REPEATS)) is not None and report.revision not in known.message:
        said[REPEATS] = Finding(Truth.UNKNOWN, "NotChecked", f"revision {report.revision} has not been checked")
    lacking = []
    for kind, finding in said.items():
        condition = ConditionReport(
            type=kind,
            status=finding.status,
            reason=finding.reason,
            message=finding.message[:MESSAGE_MAX],
            observed_generation=generation or 0,
        )
        before = image.status.condition(kind)
        if before is None or condition != ConditionReport(**before.model_dump(include=set(ConditionReport.model_fields))):
            lacking.append(condition)
    return StatusPatch(conditions=tuple(lacking)) if lacking else None
