"""What every resource carries: identity, labels, and the bookkeeping that belongs to the store.

The bookkeeping fields are those of Kubernetes, and an object exported from a cluster can be applied here as it is: what only a cluster uses
(`managedFields`, `ownerReferences`, …) is accepted and left out of what is kept.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field

from faas_resources.model import Model
from faas_resources.names import Name, Namespace

DEFAULT_NAMESPACE = "default"

_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ANNOTATIONS_MAX = 256 * 1024


def _check_key(text: str) -> str:
    if not _QUALIFIED.fullmatch(text):
        raise ValueError("must be [prefix/]name: letters, digits, '-', '_', '.', at most 63 after the prefix")
    return text


def _check_label_value(text: str) -> str:
    if not _LABEL_VALUE.fullmatch(text):
        raise ValueError("must be at most 63 letters, digits, '-', '_', '.'; use an annotation for other text")
    return text


def _check_annotations(annotations: dict[str, str]) -> dict[str, str]:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATIONS_MAX:
        raise ValueError(f"have {size} bytes together; at most {_ANNOTATIONS_MAX} are allowed")
    return annotations


Key = Annotated[str, AfterValidator(_check_key)]
Labels = dict[Key, Annotated[str, AfterValidator(_check_label_value)]]
Annotations = Annotated[dict[Key, str], AfterValidator(_check_annotations)]
Foreign = Annotated[Any, Field(exclude=True, repr=False)]


class Metadata(Model):
    """`metadata` of a resource."""

    name: Name
    namespace: Namespace = DEFAULT_NAMESPACE
    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)

    # Set by the store alone; a store ignores what a manifest says of them, but for resourceVersion (see Store.apply).
    uid: str | None = None
    generation: Annotated[int | None, Field(ge=0)] = None
    resource_version: str | None = None
    creation_timestamp: Annotated[datetime | None, Field(strict=False)] = None
    deletion_timestamp: Annotated[datetime | None, Field(strict=False)] = None
    finalizers: Annotated[tuple[str, ...], Field(strict=False)] = ()

    # Of a cluster; taken and left out.
    deletion_grace_period_seconds: Foreign = None
    generate_name: Foreign = None
    managed_fields: Foreign = None
    owner_references: Foreign = None
    self_link: Foreign = None


class Resource(Model):
    """An API object. Subclasses fix `api_version` and `kind`, and add `spec` and `status`."""

    API_VERSION: ClassVar[str]
    KIND: ClassVar[str]
    PLURAL: ClassVar[str]

    api_version: str
    kind: str
    metadata: Metadata

    @property
    def namespace(self) -> str:
        """The namespace it lives in."""
        return self.metadata.namespace

    @property
    def name(self) -> str:
        """Its name in the namespace."""
        return self.metadata.name

    @property
    def generation(self) -> int:
        """Counts the changes of the spec; 0 before a store has seen it."""
        return self.metadata.generation or 0

    def manifest(self) -> dict[str, Any]:
        """What the author says: identity, labels, annotations, spec; without the store's bookkeeping and the status."""
        spec = self.model_dump(mode="json", by_alias=True, exclude_unset=True, include={"spec"})
        metadata = self.metadata.model_dump(mode="json", by_alias=True, include={"name", "namespace"})
        marks = self.metadata.model_dump(mode="json", by_alias=True, include={"labels", "annotations"}, exclude_defaults=True)
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": {**metadata, **marks}, **spec}

    def with_metadata(self, **fields: object) -> Self:
        """A copy with other metadata fields."""
        return self.model_copy(update={"metadata": self.metadata.model_copy(update=fields)})
