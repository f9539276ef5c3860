"""Waiting for functions to get ready, with what is known on the way.

A function is ready when its specification as it is now is published (by the downloader) and serves (by the server). For an image layout of
this machine, its present content must be what serves: the specification does not change when the layout is built anew.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import typer

from bundles.digests import Digest
from bundles.errors import LayoutError
from bundles.layout import Layout
from bundles.manifests import OCI_MANIFEST
from faas_resources import Condition, Image, Truth
from faas_resources.quantities import milliseconds
from faas_resources.store import EventType, Store
from mayfly import rendering
from mayfly.errors import MayflyError, NotFound, NotReady

# Reasons under which a function is still on its way, or will be tried again soon; with any other, False is a failure.
_ON_THE_WAY = frozenset({"Booting", "Restarting", "Updating"})
_TRIED_AGAIN = frozenset({"RegistryUnavailable", "RegistryTooSlow", "BlobMissing", "Interrupted"})


def parse_duration(text: str) -> float:
    """Seconds; for an option's value."""
    try:
        return milliseconds(text) / 1000
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}") from error


def current_condition(image: Image, type_: str) -> Condition | None:
    """A condition, if it speaks of what is wanted now.

    The downloader's conditions carry the generation they are about. The server knows revisions, and names in its message the one that it
    speaks of: a generation would not tell the old content of a tag from the new one.
    """
    condition = image.status.condition(type_)
    if condition is None:
        return None
    if type_ == "Ready":
        # Until the downloader has published what is wanted now, `status.revision` is the one before, and so is what is said of it.
        published = current_condition(image, "Published") is not None
        about = published and image.status.revision is not None and f"revision {image.status.revision}" in condition.message
    else:
        about = condition.observed_generation >= image.generation
    return condition if about else None


def is_ready(image: Image) -> bool:
    """Whether the specification as it is now answers calls."""
    conditions = (current_condition(image, "Published"), current_condition(image, "Ready"))
    return all(found is not None and found.status is Truth.TRUE and found.reason not in _ON_THE_WAY for found in conditions)


def progress(image: Image) -> str:
    """The last that is known of a function, for people."""
    if is_ready(image):
        return f"ready, revision {image.status.revision}"
    conditions = [current_condition(image, type_) for type_ in ("Pulled", "Published", "Ready")]
    unmet = [found.message for found in conditions if found is not None and found.status is not Truth.TRUE and found.message]
    return (unmet or [image.status.message or "not seen by the downloader yet; is `mayfly up` running?"])[0]


@dataclass
class Awaited:
    """A resource that was just applied. `unchanged`: what its status says may be about an earlier try."""

    image: Image
    unchanged: bool

    def __post_init__(self) -> None:
        self.place = (self.image.namespace, self.image.name)
        self._stale = self.image.metadata.resource_version if self.unchanged else None
        self._digest = _local_digest(self.image)

    def ready(self) -> bool:
        """Whether it can be called; raises MayflyError when it will not get there as it is."""
        if self._digest is not None and self.image.status.digest not in (None, self._digest):
            return False
        if self.image.metadata.resource_version != self._stale:
            for condition in (current_condition(self.image, type_) for type_ in ("Pulled", "Published", "Ready")):
                if condition is not None and condition.status is Truth.FALSE and condition.reason not in _ON_THE_WAY | _TRIED_AGAIN:
                    raise MayflyError(
                        f"{'/'.join(self.place)} does not get ready: {condition.message or condition.reason}",
                        hint=f"`mayfly describe image {self.image.name}` and `mayfly logs {self.image.name}` may say more.",
                    )
        return is_ready(self.image)


def _local_digest(image: Image) -> Digest | None:
    """What a layout of this machine holds now, if it can be told."""
    reference = image.spec.reference()
    if reference.kind != "local":
        return None
    try:
        found = Layout(Path(reference.path)).resolve(reference.tag)
    except LayoutError:
        return None  # the downloader says what is wrong with it
    return found.digest if found.media_type == OCI_MANIFEST else None


async def wait_until_ready(store: Store, applied: list[Awaited], seconds: float) -> list[Image]:
    """The images as they are when all of them can be called; raises as soon as one cannot get there."""
    awaited = {item.place: item for item in applied}
    waiting = set(awaited)
    with rendering.console(stderr=True).status("waiting …") as status:
        try:
            async with asyncio.timeout(seconds):
                async for event in store.watch(Image):
                    image = event.resource
                    if image is None or (place := (image.namespace, image.name)) not in awaited:
                        continue
                    if event.type is EventType.DELETED:
                        raise NotFound(f"{'/'.join(place)} was deleted while it was waited for")
                    awaited[place].image = image
                    if awaited[place].ready():
                        waiting.discard(place)
                    if not waiting:
                        break
                    status.update("\n".join(_line(awaited[place]) for place in sorted(waiting)))
        except TimeoutError as error:
            lines = "; ".join(_line(awaited[place]) for place in sorted(waiting))
            raise NotReady(f"not ready after {seconds:g} s: {lines}", hint="`mayfly describe image NAME` says more.") from error
    return [item.image for item in applied]


def _line(item: Awaited) -> str:
    return rendering.printable(f"{'/'.join(item.place)}: {progress(item.image)}")
