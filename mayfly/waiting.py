"""Waiting for functions to get ready, with what is known on the way."""

import asyncio
from collections.abc import Sequence

import typer

from faas_resources import Condition, Image, Truth
from faas_resources.quantities import milliseconds
from faas_resources.store.directory import DirectoryStore
from faas_resources.store.port import EventType
from mayfly import rendering
from mayfly.errors import MayflyError, NotFound, NotReady

# Reasons of `Ready` under which the function is still on its way; with any other, False says that it will not get ready as it is.
_ON_THE_WAY = frozenset({"Booting", "Restarting", "Updating"})


def parse_duration(text: str) -> float:
    """Seconds; for an option's value."""
    try:
        return milliseconds(text) / 1000
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}") from error


def ready_condition(image: Image) -> Condition | None:
    """The condition `Ready`, if it speaks of the spec as it is now."""
    ready = image.status.condition("Ready")
    return ready if ready is not None and ready.observed_generation >= image.generation else None


def progress(image: Image) -> str:
    """The last that is known of a function, for people."""
    ready = ready_condition(image)
    if ready is not None and ready.status is Truth.TRUE:
        return f"ready, revision {image.status.revision}"
    if ready is not None and ready.message:
        return ready.message
    return image.status.message or "not seen by the downloader yet; is `mayfly up` running?"


async def wait_until_ready(store: DirectoryStore, images: Sequence[Image], seconds: float) -> list[Image]:
    """The images as they are when all of them can be called; raises as soon as one cannot get there."""
    latest = {(image.namespace, image.name): image for image in images}
    waiting = set(latest)
    with rendering.console(stderr=True).status("waiting …") as status:
        try:
            async with asyncio.timeout(seconds):
                async for event in store.watch(Image):
                    image = event.resource
                    if image is None or (place := (image.namespace, image.name)) not in latest:
                        continue
                    if event.type is EventType.DELETED:
                        raise NotFound(f"{'/'.join(place)} was deleted while it was waited for")
                    latest[place] = image
                    if _is_ready(image, place):
                        waiting.discard(place)
                    if not waiting:
                        break
                    status.update("\n".join(f"{'/'.join(key)}: {rendering.printable(progress(latest[key]))}" for key in sorted(waiting)))
        except TimeoutError as error:
            lines = "; ".join(f"{'/'.join(key)}: {progress(latest[key])}" for key in sorted(waiting))
            raise NotReady(f"not ready after {seconds:g} s: {lines}", hint="`mayfly describe image NAME` says more.") from error
    return list(latest.values())


def _is_ready(image: Image, place: tuple[str, str]) -> bool:
    ready = ready_condition(image)
    # "Updating" is True because the revision before still answers: it is the new one that is waited for.
    if ready is None or ready.status is Truth.UNKNOWN or ready.reason in _ON_THE_WAY:
        return False
    if ready.status is Truth.FALSE:
        reason = ready.message or ready.reason
        raise MayflyError(f"{'/'.join(place)} does not get ready: {reason}", hint=f"`mayfly logs {place[1]}` may say more.")
    return True
