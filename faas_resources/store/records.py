"""What the directory store knows of a resource besides what its author wrote: one record beside each manifest.

A record gives the object its life (`uid`), counts its changes (`generation`, `resourceVersion`) and holds its status. It also keeps the
last manifest that was good, so that a half-written or broken file is a message in the status and never a deletion.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field

from faas_resources.conditions import Condition, ImageStatus, StatusPatch, Truth, merged
from faas_resources.image import ALLOW_LOCAL
from faas_resources.metadata import Resource
from faas_resources.model import Model, checked

R = TypeVar("R", bound=Resource)

ACCEPTED = "Accepted"


class Record(Model):
    """The store's own knowledge of one resource. Immutable: every change is a new record with the next resourceVersion."""

    uid: str
    generation: Annotated[int, Field(ge=0)]
    resource_version: Annotated[int, Field(ge=1)]
    creation_timestamp: Annotated[datetime, Field(strict=False)]
    manifest: dict[str, Any] | None = None  # the last good one; None if there never was
    problem: str | None = None  # why the file as it is now is not the manifest above
    problem_since: Annotated[datetime | None, Field(strict=False)] = None
    status: ImageStatus = ImageStatus()

    @classmethod
    def new(cls) -> Self:
        """A life that begins; `observing` tells it what the file says."""
        return cls(uid=str(uuid.uuid4()), generation=0, resource_version=1, creation_timestamp=_now())

    def says(self, found: Resource | str) -> bool:
        """Whether the record is in step with a manifest file: a resource, or why it is none."""
        if isinstance(found, str):
            return self.problem == found
        return self.problem is None and self.manifest == found.manifest()

    def observing(self, found: Resource | str) -> Record:
        """The record after a look at the manifest file."""
        if self.says(found):
            return self
        if isinstance(found, str):
            return self._next(problem=found, problem_since=self.problem_since or _now())
        before = self.resource(type(found))
        # Compared as models: a default that is written out is no change.
        changed = before is None or getattr(before, "spec", None) != getattr(found, "spec", None)
        return self._next(manifest=found.manifest(), problem=None, problem_since=None, generation=self.generation + changed)

    def reporting(self, patch: StatusPatch) -> Record:
        """The record after a report."""
        status = merged(self.status, patch)
        return self if status == self.status else self._next(status=status)

    def resource(self, kind: type[R]) -> R | None:
        """The resource in force; its status tells of a manifest file that is not."""
        if self.manifest is None:
            return None
        # It was checked for this store when it was taken: what is kept stays in force.
        resource = checked(kind, self.manifest, context={ALLOW_LOCAL: True})
        return resource.with_metadata(
            uid=self.uid,
            generation=self.generation,
            resource_version=str(self.resource_version),
            creation_timestamp=self.creation_timestamp,
        ).model_copy(update={"status": self._visible_status()})

    def _visible_status(self) -> ImageStatus:
        if self.problem is None:
            return self.status
        message = f"{self.problem} (the last good version stays in force)"
        refused = Condition(
            type=ACCEPTED,
            status=Truth.FALSE,
            reason="InvalidManifest",
            message=message,
            observed_generation=self.generation,
            last_transition_time=self.problem_since or _now(),
        )
        return self.status.model_copy(update={"message": message, "conditions": (*self.status.conditions, refused)})

    def _next(self, **fields: object) -> Record:
        return self.model_copy(update={"resource_version": self.resource_version + 1, **fields})


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
