"""Status: what the planes report about a resource, and how reports of several writers become one.

Each writer owns its condition types (the downloader `Pulled` and `Published`, the server `Ready`, the store `Accepted`) and sends a
`StatusPatch`; `merged` puts it into the status as Kubernetes' SetStatusCondition does: conditions merge by type, and `lastTransitionTime`
moves only when a condition's status changes. A patch that changes nothing merges into an equal status, so stores can leave it unwritten.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from faas_resources.model import Model

MESSAGE_MAX = 32768  # what Kubernetes allows a condition's message

Message = Annotated[str, Field(max_length=MESSAGE_MAX)]
Reason = Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
ImageDigest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
RevisionId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", max_length=16)]


class Truth(StrEnum):
    """A condition's status, in Kubernetes' words."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionReport(Model):
    """What a writer says of its condition."""

    type: Annotated[str, Field(pattern=r"^[A-Za-z]([-A-Za-z0-9_./]*[A-Za-z0-9])?$", max_length=316)]
    status: Annotated[Truth, Field(strict=False)]
    reason: Reason
    message: Message = ""
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = 0


class Condition(ConditionReport):
    """A condition as it stands in a status."""

    last_transition_time: Annotated[datetime, Field(strict=False)]


class Progress(Model):
    """How far an Image has come: on one node, or seen over all nodes."""

    observed_generation: Annotated[
        int | None,
        Field(ge=0, description="The generation that digest, revision and message are about.", json_schema_extra={"format": "int64"}),
    ] = None
    digest: Annotated[ImageDigest | None, Field(description="Digest of the image manifest that is published on this platform.")] = None
    revision: Annotated[RevisionId | None, Field(description="The published revision.")] = None
    message: Annotated[Message | None, Field(description="What happened last, for people.")] = None
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            strict=False,
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()

    def condition(self, type_: str) -> Condition | None:
        """The condition of that type."""
        return next((condition for condition in self.conditions if condition.type == type_), None)


class NodeStatus(Progress):
    """What one node says of an Image."""

    name: Annotated[str, Field(min_length=1, max_length=253, description="The node.")]


class ImageStatus(Progress):
    """The state of an Image as the planes last reported it."""

    nodes: Annotated[
        tuple[NodeStatus, ...],
        Field(
            strict=False,
            max_length=1000,
            description="In a cluster what each node says; the rest of the status sums it up.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()


class StatusPatch(Model):
    """A change to a status: fields that were given are set (None clears), conditions merge by type, the rest stays."""

    observed_generation: int | None = None
    digest: ImageDigest | None = None
    revision: RevisionId | None = None
    message: Message | None = None
    conditions: tuple[ConditionReport, ...] = ()


def merged(status: ImageStatus, patch: StatusPatch, now: datetime | None = None) -> ImageStatus:
    """The status with the patch in it; equal to `status` if the patch says nothing new."""
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    conditions = {condition.type: condition for condition in status.conditions}
    for report in patch.conditions:
        before = conditions.get(report.type)
        since = before.last_transition_time if before is not None and before.status == report.status else now
        conditions[report.type] = Condition(**dict(report), last_transition_time=since)
    scalars = {field: getattr(patch, field) for field in patch.model_fields_set if field != "conditions"}
    return status.model_copy(update={**scalars, "conditions": tuple(conditions.values())})
