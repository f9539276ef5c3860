"""What a status says of the download: conditions `Pulled` and `Published`, and a message that names what failed and what to do."""

from __future__ import annotations

from enum import StrEnum

import structlog

from bundles import errors as bundles_errors
from bundles.errors import BundlesError
from bundles.revisions import Bundle
from faas_downloader.errors import DownloadError
from faas_downloader.resolving import Resolved
from faas_resources import ConditionReport, Image, NotFound, StatusPatch, Truth
from faas_resources.conditions import MESSAGE_MAX
from faas_resources.store import Store

log = structlog.get_logger(__name__)

Failure = DownloadError | BundlesError


class Stage(StrEnum):
    """The conditions of this plane, in the order in which they become true."""

    PULLED = "Pulled"
    PUBLISHED = "Published"


# The first that fits: subclasses stand before their roots.
_REASONS: tuple[tuple[type[BundlesError], str, str], ...] = (
    (bundles_errors.VerificationError, "DigestMismatch", "the image was altered on its way or in the registry; push it again"),
    (bundles_errors.PlatformError, "WrongPlatform", "build the image for linux/amd64 and push it again"),
    (bundles_errors.ManifestError, "BadImage", "build the image with another tool or other options and push it again"),
    (bundles_errors.ConfigError, "BadConfig", ""),
    (bundles_errors.BlobMissing, "BlobMissing", "it is fetched again"),
    (bundles_errors.LayoutError, "BadLayout", ""),
    (bundles_errors.LimitExceeded, "LimitExceeded", ""),
    (bundles_errors.UmociMissing, "UmociMissing", ""),
    (bundles_errors.UnpackError, "UnpackFailed", ""),
    (bundles_errors.StorageFull, "DiskFull", ""),
    (bundles_errors.ReferenceError_, "BadReference", ""),
)


def reason_of(error: Failure) -> str:
    """The condition's reason."""
    if isinstance(error, DownloadError):
        return error.reason
    return next((reason for kind, reason, _ in _REASONS if isinstance(error, kind)), "StorageFailed")


def _advice(error: Failure) -> str:
    return next((f"; {advice}" for kind, _, advice in _REASONS if isinstance(error, kind) and advice), "")


class Reporter:
    """Writes statuses. Raises StoreFailed when the store cannot be written; a resource that is gone needs no status."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def pulling(self, image: Image, resolved: Resolved) -> None:
        """Work has begun that takes a while."""
        text = f"pulling {image.spec.image} ({resolved.image})"
        await self._patch(image, StatusPatch(message=text, conditions=(_condition(image, Stage.PULLED, Truth.UNKNOWN, "Pulling", text),)))

    async def published(self, image: Image, bundle: Bundle) -> None:
        """The resource's spec is what answers calls from now on."""
        text = f"revision {bundle.spec.revision} is published from {image.spec.image}"
        await self._patch(
            image,
            StatusPatch(
                observed_generation=image.generation,
                digest=str(bundle.spec.image),
                revision=bundle.spec.revision,
                message=text,
                conditions=(
                    _condition(image, Stage.PULLED, Truth.TRUE, "Verified", f"every byte of {bundle.spec.image} is verified"),
                    _condition(image, Stage.PUBLISHED, Truth.TRUE, "Published", text),
                ),
            ),
        )

    async def failed(self, image: Image, stage: Stage, error: Failure, current: Bundle | None) -> None:
        """The spec did not become a revision; `current` still is."""
        kept = f"revision {current.spec.revision} ({current.spec.image}) stays in force" if current else "nothing is published yet"
        text = f"{image.spec.image}: {error}{_advice(error)}; {kept}"[:MESSAGE_MAX]
        reports = [_condition(image, stage, Truth.FALSE, reason_of(error), text)]
        if stage is Stage.PUBLISHED:
            reports.insert(0, _condition(image, Stage.PULLED, Truth.TRUE, "Verified", "every byte is verified"))
        await self._patch(
            image,
            StatusPatch(
                observed_generation=image.generation,
                digest=str(current.spec.image) if current else None,
                revision=current.spec.revision if current else None,
                message=text,
                conditions=tuple(reports),
            ),
        )

    async def _patch(self, image: Image, patch: StatusPatch) -> None:
        try:
            await self._store.patch_status(Image, image.namespace, image.name, patch, uid=image.metadata.uid)
        except NotFound:
            log.debug("resource is gone, no status", namespace=image.namespace, name=image.name)


def _condition(image: Image, stage: Stage, status: Truth, reason: str, message: str) -> ConditionReport:
    return ConditionReport(type=stage.value, status=status, reason=reason, message=message, observed_generation=image.generation)
