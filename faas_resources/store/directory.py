"""The store of a single node: a directory of YAML files that people may edit, and whose changes are seen at once.

`watch` is level-triggered: a notice from the file system (or, lest one is lost, the passing of `RESYNC` seconds) only makes it look at
everything again and tell what differs from what it told before. So a rename is a deletion and an addition, a burst of writes is one change,
and a notice too many is none. A file that vanishes is a deletion when it has stayed away for `VANISHED` seconds: some editors take a file
away before they put the new one there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import structlog
import watchfiles

from faas_resources.conditions import StatusPatch
from faas_resources.errors import InvalidResource, NotFound, Problem, ResourceError
from faas_resources.metadata import DEFAULT_NAMESPACE, Resource
from faas_resources.store.comparing import differences
from faas_resources.store.port import Applied, Event, EventType, Key
from faas_resources.store.tree import SETTLE, Tree, View

R = TypeVar("R", bound=Resource)

RESYNC = 10.0
VANISHED = 0.25
_AGAIN = 1.0  # seconds before a store that failed is looked at again
_PATIENCE = 10  # looks that a caller of get or list waits for a file that is being written

log = structlog.get_logger(__name__)


class DirectoryStore:
    """Implements `store.port.Store` on a data directory. Any number of processes may use one directory."""

    def __init__(self, data_dir: Path, *, allow_local: bool = True) -> None:
        """`allow_local`: `spec.image` may be a directory of this machine, which a directory store is on by nature."""
        self._tree = Tree(Path(data_dir), allow_local=allow_local)

    async def default_namespace(self) -> str:
        return DEFAULT_NAMESPACE

    async def list(self, kind: type[R], namespace: str | None = None) -> Sequence[R]:
        keys = sorted(key for key in await asyncio.to_thread(self._tree.keys, kind) if namespace in (None, key[0]))
        return [view.resource for key in keys if (view := await self._settled(kind, key)).resource is not None]

    async def get(self, kind: type[R], namespace: str, name: str) -> R:
        view = await self._settled(kind, (namespace, name))
        if view.resource is None:
            if view.problem is not None:
                raise InvalidResource([Problem("", view.problem)])
            raise NotFound(kind.KIND, namespace, name)
        return view.resource

    async def problems(self, kind: type[R]) -> dict[Key, str]:
        """The manifests that are not in force as they stand, and why. Those that never were appear in no list."""
        found = {key: (await self._settled(kind, key)).problem for key in sorted(await asyncio.to_thread(self._tree.keys, kind))}
        return {key: problem for key, problem in found.items() if problem is not None}

    async def apply(self, resource: R) -> tuple[R, Applied]:
        return await asyncio.to_thread(self._tree.apply, resource)

    async def delete(self, kind: type[R], namespace: str, name: str) -> None:
        await asyncio.to_thread(self._tree.delete, kind, (namespace, name))

    async def attend(self) -> None:
        """There is one node, and nobody else to see it."""
        await asyncio.Event().wait()

    async def patch_status(self, kind: type[R], namespace: str, name: str, patch: StatusPatch, *, uid: str | None = None) -> R:
        return await asyncio.to_thread(self._tree.patch_status, kind, (namespace, name), patch, uid)

    async def watch(self, kind: type[R]) -> AsyncIterator[Event[R]]:
        told: dict[Key, R] = {}
        missing: dict[Key, float] = {}
        synced = False
        async with self._notices() as noticed:
            while True:
                noticed.clear()
                try:
                    now, settled = await self._scan(kind, told, missing)
                except ResourceError as error:
                    # A full disk or a lost mount passes; whoever watches relies on this going on.
                    log.error("store cannot be watched, trying again", reason=str(error), seconds=_AGAIN)
                    await asyncio.sleep(_AGAIN)
                    continue
                for event in differences(told, now):
                    yield event
                told = now
                if not synced:
                    synced = True
                    yield Event(EventType.SYNCED)
                # Not wait_for, which can lose a cancellation that comes together with the notice.
                with suppress(TimeoutError):
                    async with asyncio.timeout(RESYNC if settled else SETTLE / 2):
                        await noticed.wait()

    async def _settled(self, kind: type[R], key: Key) -> View[R]:
        """What there is, once a file that is just being written is quiet; as it stands if it never is."""
        for _ in range(_PATIENCE):
            view = await asyncio.to_thread(self._tree.look, kind, key)
            if view.settled:
                return view
            await asyncio.sleep(SETTLE)
        return await asyncio.to_thread(lambda: self._tree.look(kind, key, believe=True))

    async def _scan(self, kind: type[R], told: dict[Key, R], missing: dict[Key, float]) -> tuple[dict[Key, R], bool]:
        """What there is now, and whether that is settled. `missing` remembers since when a manifest is away."""
        views, recorded = await asyncio.to_thread(self._views, kind)
        now = {key: view.resource for key, view in views.items() if view.resource is not None}
        settled = all(view.settled for view in views.values())
        for key in (recorded | told.keys()) - views.keys():
            since = missing.setdefault(key, time.monotonic())
            if key not in recorded:
                del missing[key]  # deleted in due form, or forgotten by another watcher
            elif time.monotonic() - since < VANISHED or not await asyncio.to_thread(self._tree.forget, kind, key):
                settled = False
                if key in told:
                    now[key] = told[key]
            else:
                del missing[key]
        for key in views.keys() & missing.keys():
            del missing[key]
        return now, settled

    def _views(self, kind: type[R]) -> tuple[dict[Key, View[R]], set[Key]]:
        recorded = self._tree.recorded(kind)
        views = {key: self._tree.look(kind, key) for key in self._tree.keys(kind)}
        return {key: view for key, view in views.items() if view != View()}, recorded

    @asynccontextmanager
    async def _notices(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever something under the data directory changed since the block began."""
        noticed = asyncio.Event()
        task = asyncio.create_task(self._notice(noticed))
        # The task's first step, up to where it waits, asks the kernel for notices: nothing that happens after the first look is missed.
        await asyncio.sleep(0)
        try:
            yield noticed
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _notice(self, noticed: asyncio.Event) -> None:
        while True:
            try:
                roots = self._tree.roots()
                async for changes in watchfiles.awatch(
                    *roots, watch_filter=_visible, debounce=50, step=10, rust_timeout=1000, yield_on_timeout=True
                ):
                    if changes:
                        noticed.set()
                    if self._tree.roots() != roots:
                        break  # somebody took a directory away; it is made anew and watched
            except (OSError, RuntimeError, ResourceError) as error:
                log.warning("changes are noticed late", reason=str(error), seconds=RESYNC)
                await asyncio.sleep(RESYNC)
            noticed.set()


def _visible(_: watchfiles.Change, path: str) -> bool:
    """Hidden files are editors', or on their way to their name."""
    return not os.path.basename(path).startswith(".")
