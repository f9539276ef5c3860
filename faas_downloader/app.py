"""The downloader put together: it watches Image resources and keeps the bundles on this node's disk what they want.

    store.watch ──► Queues (one worker per resource) ──► Reconciler ──► RevisionStore
                                                             └────────► status

One downloader owns a data directory at a time. It can be killed at any moment: what is published is whole, and the next start takes up what
the resources want.
"""

from __future__ import annotations

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress

import structlog

from bundles.errors import StorageError, StoreBusy, UmociMissing
from bundles.revisions import RevisionStore
from bundles.unpacking import find_umoci
from faas_downloader.publishing import Publisher
from faas_downloader.reconciling import Key, Reconciler
from faas_downloader.reporting import Reporter
from faas_downloader.settings import Settings
from faas_downloader.watching import Queues
from faas_resources import Image
from faas_resources.store import EventType, Store
from faas_resources.store.choosing import opened

log = structlog.get_logger(__name__)

_BUSY_AGAIN = 1.0  # seconds until a collection that met work is tried again


class Downloader:
    """Watches a store and serves a revision store, until it is cancelled."""

    def __init__(self, store: Store, revisions: RevisionStore, settings: Settings) -> None:
        self._store = store
        self._revisions = revisions
        self._settings = settings
        self._collect_soon = asyncio.Event()
        self._threads = ThreadPoolExecutor(settings.parallel + 1, thread_name_prefix="downloader")
        self._reconciler = Reconciler(
            Publisher(revisions, settings), Reporter(store), settings, self._threads, changed=self._collect_soon.set
        )
        self._queues: Queues[Key, Image | None] = Queues(
            self._reconciler.reconcile, parallel=settings.parallel, idle=settings.worker_timeout
        )

    async def run(self) -> None:
        """Never returns. Precondition: the revision store is owned."""
        collecting = asyncio.create_task(self._collect())
        try:
            await self._watch()
        finally:
            collecting.cancel()
            ended = await self._queues.close(self._settings.stop_timeout)
            with suppress(asyncio.CancelledError):
                await collecting
            if not ended:
                log.warning("stopped in the middle of work, which begins again at the next start")
                self._reconciler.abandon()
            self._threads.shutdown(wait=ended, cancel_futures=True)

    async def _watch(self) -> None:
        # Whatever is published and not told by the time of SYNCED was deleted while nobody watched.
        orphans: set[Key] = {
            (bundle.spec.namespace, bundle.spec.name) for bundle in await asyncio.to_thread(lambda: list(self._revisions.functions()))
        }
        seen: dict[Key, tuple[str | None, int]] = {}
        async for event in self._store.watch(Image):
            image = event.resource
            if event.type is EventType.SYNCED or image is None:
                log.info("watching", images=len(seen), orphans=len(orphans))
                for key in orphans:
                    self._queues.put(key, None)
                self._collect_soon.set()
                continue
            key = (image.namespace, image.name)
            orphans.discard(key)
            if event.type is EventType.DELETED or image.metadata.deletion_timestamp is not None:
                seen.pop(key, None)
                self._queues.put(key, None)
            elif seen.get(key) != (life := (image.metadata.uid, image.generation)):
                seen[key] = life
                self._queues.put(key, image)
            # Anything else is a status, ours among them, or a label: nothing to do.

    async def _collect(self) -> None:
        """Collects after changes, and regularly: a revision that a server still drains can go only later."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.collect_interval):
                    await self._collect_soon.wait()
            self._collect_soon.clear()
            wanted = self._reconciler.wanted
            try:
                collected = await asyncio.to_thread(self._revisions.collect, wanted)
            except StoreBusy:
                self._collect_soon.set()
                await asyncio.sleep(_BUSY_AGAIN)
            except StorageError as error:
                log.error("collecting failed", reason=str(error))
                await asyncio.sleep(_BUSY_AGAIN)
            else:
                if any((collected.revisions, collected.images, collected.blobs, collected.leftovers)):
                    log.info(
                        "collected",
                        revisions=collected.revisions,
                        images=collected.images,
                        blobs=collected.blobs,
                        leftovers=collected.leftovers,
                    )


async def run(settings: Settings) -> None:
    """Runs a downloader on a data directory until SIGTERM or SIGINT. Raises StoreBusy if another one has the directory."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    revisions = RevisionStore(settings.data / "bundles")
    with suppress(asyncio.CancelledError):
        async with AsyncExitStack() as stack:
            await _own(revisions, settings, stack)
            try:
                umoci = await asyncio.to_thread(find_umoci)
                log.info("starting", data=str(settings.data), store=settings.store, umoci=umoci.version)
            except UmociMissing as error:
                log.error("nothing can be unpacked until this is mended", reason=str(error))
            store = await stack.enter_async_context(opened(settings, settings.data))
            await Downloader(store, revisions, settings).run()
    log.info("stopped")


async def _own(revisions: RevisionStore, settings: Settings, stack: AsyncExitStack) -> None:
    """Makes this the only downloader of the directory; one that is just going is waited for."""
    ends = time.monotonic() + settings.owner_timeout
    told = False
    while True:
        try:
            stack.enter_context(revisions.owned())
        except StoreBusy:
            if time.monotonic() > ends:
                raise
            if not told:
                log.info("waiting for another process to let go of the bundle store", seconds=settings.owner_timeout)
                told = True
            await asyncio.sleep(0.1)
        else:
            return
