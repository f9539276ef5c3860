"""The store port: what a plane may ask of the place where resources live.

Semantics are those of Kubernetes, whichever adapter stands behind:
`uid` names one life of an object (deleted and created again is another); `generation` counts changes of the spec; `resourceVersion` is
opaque and differs after any change, of status too. Writers of a status never overwrite each other: patches merge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Literal, Protocol, TypeVar

from faas_resources.conditions import StatusPatch
from faas_resources.metadata import Resource

R = TypeVar("R", bound=Resource)

Key = tuple[str, str]  # namespace, name
Applied = Literal["created", "configured", "unchanged"]


class EventType(StrEnum):
    """What happened."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    SYNCED = "SYNCED"  # every resource there was when the watch began has been told as ADDED


@dataclass(frozen=True)
class Event(Generic[R]):
    """A change. `resource` is the new state, for DELETED the last one known, for SYNCED None."""

    type: EventType
    resource: R | None = None


class Store(Protocol):
    """A place where resources live. Methods raise ResourceError and its kinds."""

    async def default_namespace(self) -> str:
        """The namespace of whoever names none."""
        ...

    async def list(self, kind: type[R], namespace: str | None = None) -> Sequence[R]:
        """All resources of a kind, of one namespace if given, by namespace and name."""
        ...

    async def problems(self, kind: type[R]) -> dict[Key, str]:
        """What is stored and not in force as it stands, and why. What never was in force appears in no list."""
        ...

    async def get(self, kind: type[R], namespace: str, name: str) -> R:
        """One resource; NotFound if there is none."""
        ...

    async def apply(self, resource: R) -> tuple[R, Applied]:
        """Makes labels, annotations and spec of the stored resource those of `resource`; its status and bookkeeping are left alone.

        If `resource` carries a resourceVersion, and the stored one has another by now, nothing happens and Conflict is raised.
        """
        ...

    async def delete(self, kind: type[R], namespace: str, name: str) -> None:
        """Deletes; NotFound if there is nothing to delete."""
        ...

    def watch(self, kind: type[R]) -> AsyncIterator[Event[R]]:
        """The present state as ADDED events, then SYNCED, then each change. Never ends by itself.

        Changes in quick succession may be told as one.
        """
        ...

    async def patch_status(self, kind: type[R], namespace: str, name: str, patch: StatusPatch, *, uid: str | None = None) -> R:
        """Merges `patch` into the status; NotFound if the resource is gone, or is not the one of that `uid` any more."""
        ...

    async def attend(self) -> None:
        """Says that this node is there, for as long as this runs, and of the others which are not. Never ends by itself."""
        ...
