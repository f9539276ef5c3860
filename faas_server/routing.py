"""Which functions there are: the `current` links of the store of revisions, watched.

A notice from the file system, or, lest one is lost, the passing of `RESCAN_S` seconds, only makes this look at all links again; a change
of many links is one look. So the table follows what is on disk whatever happened in between, and nothing is kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog
import watchfiles

from bundles.errors import BundlesError
from bundles.revisions import Bundle, RevisionStore

RESCAN_S = 30.0
_AGAIN_S = 1.0

Key = tuple[str, str]
Table = dict[Key, Bundle]

_log = structlog.get_logger(__name__)


async def tables(store: RevisionStore, *, rescan: float = RESCAN_S) -> AsyncIterator[Table]:
    """The functions that there are now, then again after each change. Never ends by itself."""
    while True:
        try:
            notices = watchfiles.awatch(
                store.revisions, debounce=50, step=25, rust_timeout=int(rescan * 1000), yield_on_timeout=True, ignore_permission_denied=True
            )
            # The kernel is asked for notices before the first look: nothing in between is missed.
            waiting = asyncio.ensure_future(anext(notices))
            try:
                await asyncio.sleep(0)
                yield await asyncio.to_thread(_look, store)
                while True:
                    await waiting
                    waiting = asyncio.ensure_future(anext(notices))
                    yield await asyncio.to_thread(_look, store)
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await notices.aclose()
        except (OSError, BundlesError, RuntimeError, StopAsyncIteration) as error:
            _log.error("the store of revisions cannot be watched, trying again", directory=str(store.revisions), error=str(error))
        await asyncio.sleep(_AGAIN_S)


def _look(store: RevisionStore) -> Table:
    return {(bundle.spec.namespace, bundle.spec.name): bundle for bundle in store.functions()}
