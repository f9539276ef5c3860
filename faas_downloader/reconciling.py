"""One resource's whole way, top to bottom: what it wants, what its reference means now, fetch, publish, status, and when to look again.

Level-triggered: nothing here relies on having seen an earlier state. What is remembered of a resource (attempts, what its tag meant last)
only spares requests. A failure is told in the status and leaves what is published as it is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog

from bundles.digests import Digest
from bundles.errors import BlobMissing, BundlesError, RevisionError
from bundles.references import Reference
from bundles.revisions import Bundle
from faas_downloader.errors import DownloadError, Interrupted, Unavailable
from faas_downloader.publishing import Publisher, deployment_of
from faas_downloader.reporting import Failure, Reporter, Stage, reason_of
from faas_downloader.resolving import Source
from faas_downloader.settings import Settings
from faas_downloader.sources import registries_of, source_of
from faas_resources import Image, StoreFailed

T = TypeVar("T")
Key = tuple[str, str]  # namespace, name

_TICK = 0.1  # seconds between looks at work that was told to end

log = structlog.get_logger(__name__)


@dataclass
class _Memory:
    """What is remembered of one resource; all of it may be lost."""

    life: tuple[str | None, int]  # uid and generation that the rest is about
    attempts: int = 0  # failures in a row
    top: Digest | None = None  # what the reference named when `revision` was published
    revision: str | None = None
    image: Digest | None = None  # the image that is wanted, fetched in whole or in part


class Reconciler:
    """Makes what is published what the resources want."""

    def __init__(
        self, publisher: Publisher, reporter: Reporter, settings: Settings, threads: Executor, *, changed: Callable[[], None]
    ) -> None:
        """`changed` is called when there may be something to collect."""
        self._publisher = publisher
        self._reporter = reporter
        self._settings = settings
        self._threads = threads
        self._changed = changed
        self._memories: dict[Key, _Memory] = {}
        self._abandoned = False
        self._registries = registries_of(settings)

    @property
    def wanted(self) -> set[Digest]:
        """Images that are wanted and could perhaps not be published yet: what was fetched of them is worth keeping."""
        return {memory.image for memory in self._memories.values() if memory.image is not None}

    def abandon(self) -> None:
        """Cancelled work is no longer waited for: the process is about to end."""
        self._abandoned = True

    async def reconcile(self, key: Key, image: Image | None) -> float | None:
        """Brings one resource (None: it is gone) to what it wants; returns when to look again. Implements `watching.Handler`."""
        with structlog.contextvars.bound_contextvars(namespace=key[0], name=key[1]):
            try:
                return await (self._remove(key) if image is None else self._bring(key, image))
            except (StoreFailed, BundlesError) as error:
                log.error("trying again", reason=str(error), seconds=self._settings.retry_steady)
            except Exception:  # whatever one resource brings about, the others go on
                log.exception("unexpected error, trying again", seconds=self._settings.retry_steady)
            return self._settings.retry_steady

    async def _remove(self, key: Key) -> None:
        self._memories.pop(key, None)
        await self._in_thread(lambda: self._publisher.revisions.unpublish(*key))
        log.info("unpublished")
        self._changed()

    async def _bring(self, key: Key, image: Image) -> float | None:
        life = (image.metadata.uid, image.generation)
        memory = self._memories.get(key)
        if memory is None or memory.life != life:
            memory = self._memories[key] = _Memory(life)
        current = await self._in_thread(lambda: self._current(key))
        fetched: list[Digest] = []
        try:
            bundle = await self._publish(image, memory, current, fetched)
        except (DownloadError, BundlesError) as error:
            stage = Stage.PUBLISHED if fetched else Stage.PULLED
            memory.attempts += 1
            log.warning("failed", stage=stage.value, reason=reason_of(error), message=str(error), attempt=memory.attempts)
            self._changed()  # what failed may have left something, and a full disk needs the room
            await self._reporter.failed(image, stage, error, current)
            return self._retry(memory.attempts, error)
        memory.attempts = 0
        await self._reporter.published(image, bundle)
        return self._look_again(image.spec.reference())

    async def _publish(self, image: Image, memory: _Memory, current: Bundle | None, fetched: list[Digest]) -> Bundle:
        reference, deployment = image.spec.reference(), deployment_of(image)
        # The reference is part of what makes a revision: with a digest in it, the same revision is the same image, whoever can be asked.
        if current and reference.pinned and self._publisher.is_published(current, current.spec.image, deployment):
            memory.image = current.spec.image
            return current
        source = source_of(reference, self._registries)
        try:
            known = memory.top if current and memory.revision == current.spec.revision else None
            if current and known and await self._from(source, source.newest) == known:
                return current
            resolved = await self._from(source, source.resolve)
            if current and self._publisher.is_published(current, resolved.image, deployment):
                bundle = current
            else:
                began = time.monotonic()
                await self._reporter.pulling(image, resolved)
                try:
                    bundle = await self._from(source, lambda: self._publisher.fetch_and_publish(source, resolved, deployment, fetched))
                finally:
                    memory.image = resolved.image
                seconds = round(time.monotonic() - began, 3)
                log.info("published", revision=bundle.spec.revision, image=bundle.spec.image, reference=str(reference), seconds=seconds)
                self._changed()
            memory.top, memory.revision = resolved.top, bundle.spec.revision
            return bundle
        finally:
            if not self._abandoned:  # else its work goes on in a thread that takes no more
                await self._in_thread(source.close)

    def _current(self, key: Key) -> Bundle | None:
        try:
            return self._publisher.revisions.current(*key)
        except RevisionError as error:
            log.error("published revision is damaged and made again", reason=str(error))
            return None

    async def _from(self, source: Source, work: Callable[[], T]) -> T:
        """Runs blocking work on a source; when this is cancelled, the source is cut, so that the work ends soon."""
        return await self._in_thread(work, lambda: source.cut(Interrupted("the resource changed, or the downloader stops")))

    async def _in_thread(self, work: Callable[[], T], cut: Callable[[], None] = lambda: None) -> T:
        """Runs blocking work. A cancelled caller waits for it all the same: nobody else may work on the resource until it has ended."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cut()
            while not future.done() and not self._abandoned:
                with suppress(asyncio.CancelledError):  # told once is enough
                    await asyncio.wait([future], timeout=_TICK)
            if future.done() and not future.cancelled():
                future.exception()  # seen; what it was no longer matters
            raise

    def _look_again(self, reference: Reference) -> float:
        """A reference with a digest asks nobody: the look is at the disk, whence somebody may have taken what was published."""
        settings = self._settings
        return _jittered(settings.local_poll_interval if reference.kind == "local" else settings.poll_interval)

    def _retry(self, attempts: int, error: Failure) -> float:
        """Quickly a few times if that may help, then steadily: the cause of any failure may be mended outside."""
        settings = self._settings
        passing = isinstance(error, BlobMissing) or (isinstance(error, DownloadError) and error.transient)
        delay = settings.retry_first * 2 ** (attempts - 1) if passing and attempts <= settings.retry_attempts else settings.retry_steady
        asked = error.retry_after if isinstance(error, Unavailable) else None
        return max(_jittered(min(delay, settings.retry_steady)), min(asked or 0, settings.retry_after_max))


def _jittered(seconds: float) -> float:
    """A little earlier or later, so that what failed together does not come back together."""
    return seconds * random.uniform(0.8, 1.2)
