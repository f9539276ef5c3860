"""Functions that the store wants, whether this node has them by now or not.

A node serves every function. One that it does not have yet is being fetched: a call waits for it within its own deadline, and is told to
try again after that; it is never told that there is none. A node that has just started takes no calls until it has what was wanted then, so
that it can take another's place without a call that waits; what cannot be fetched, or not in time, keeps it back no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from faas_resources.conditions import Truth
from faas_resources.image import Image
from faas_resources.store.port import Event, EventType
from faas_server.errors import Refusal, busy
from faas_server.fleet import Function
from faas_server.supervising import State

Key = tuple[str, str]
Functions = Mapping[Key, Function]

_FETCHING = ("Pulled", "Published")  # the downloader's conditions
_RETRY_S = 5
_SHOWN = 3


class Wanted:
    """What the store wants of this node."""

    def __init__(self, patience: float, waiting: int) -> None:
        """`patience` seconds from now on a node may take to fetch what it starts with; `waiting` calls may wait for functions to come."""
        self._images: dict[Key, Image] = {}
        self._first: set[Key] | None = None  # of what was wanted at the start, what has not been here yet
        self._ends = asyncio.get_running_loop().time() + patience
        self._waiting = 0
        self._waiting_max = waiting
        self._changed: asyncio.Future[None] | None = None

    def told(self, event: Event[Image]) -> None:
        """What the watch of the store tells."""
        image = event.resource
        if image is None:
            if event.type is EventType.SYNCED and self._first is None:
                self._first = set(self._images)
        elif event.type is EventType.DELETED or image.metadata.deletion_timestamp is not None:
            self._images.pop((image.namespace, image.name), None)
        else:
            self._images[image.namespace, image.name] = image
        self.wake()

    def wake(self) -> None:
        """There are other functions here than before: whoever waits looks again."""
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def lacking(self, functions: Functions) -> str | None:
        """Why this node, just started, does not take calls yet; None if it does."""
        if self._first is None:
            # While the store does not answer, what is published here already serves.
            return None if functions else "the store has not said yet which functions there are"
        if self._first:
            self._first = {key for key in self._first if not self._settled(key, functions)}
        if not self._first or asyncio.get_running_loop().time() > self._ends:
            self._first = set()
            return None
        names = ", ".join("/".join(key) for key in sorted(self._first)[:_SHOWN])
        return f"{len(self._first)} functions are still fetched or booted: {names}{', …' if len(self._first) > _SHOWN else ''}"

    async def function(self, functions: Functions, key: Key, asked: float | None) -> Function:
        """The function, as soon as it is here, if it is wanted. Raises Refusal: 404 if it is not, 503 if it does not come in time.

        `asked`: seconds that the caller gives, if less than the function's own.
        """
        image = self._images.get(key)
        if key not in functions and image is None:
            raise Refusal(404, "there is no such function; a call's path is /<namespace>/<function>")
        own = image.spec.timeout_ms / 1000 if image is not None else 0
        try:
            async with asyncio.timeout(own if asked is None else min(own, asked)):
                while (function := functions.get(key)) is None:
                    await self._chance(key)
                return function
        except TimeoutError:
            raise busy(503, "the function is still fetched", _RETRY_S) from None

    async def _chance(self, key: Key) -> None:
        """Waits until something is different. Raises Refusal when nothing is to be waited for."""
        image = self._images.get(key)
        if image is None:
            raise Refusal(404, f"there is no function {'/'.join(key)}")
        if _failed(image):
            raise busy(503, "the function could not be fetched; its status says why", _RETRY_S)
        if self._waiting >= self._waiting_max:
            raise busy(503, "too many calls wait for functions that are still fetched", _RETRY_S)
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        self._waiting += 1
        try:
            await asyncio.shield(self._changed)
        finally:
            self._waiting -= 1

    def _settled(self, key: Key, functions: Functions) -> bool:
        """Whether a function is ready, failed, or not wanted any more."""
        function, image = functions.get(key), self._images.get(key)
        if function is None:
            return image is None or _failed(image)
        return function.answers or function.target().state is State.FAILED


def _failed(image: Image) -> bool:
    """Whether this node has said that it cannot fetch what is wanted now."""
    found = (image.status.condition(type_) for type_ in _FETCHING)
    return any(each is not None and each.status is Truth.FALSE and each.observed_generation >= image.generation for each in found)
