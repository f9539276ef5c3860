"""From a resource to what `bundles` is asked to publish, and from the settings to what that may cost."""

from __future__ import annotations

from bundles.digests import Digest
from bundles.revisions import Bundle, RevisionStore, revision_id
from bundles.runtime_config import Deployment, NetworkRule
from bundles.unpacking import Limits
from faas_downloader.resolving import Resolved, Source
from faas_downloader.settings import Settings
from faas_resources import Image


def deployment_of(image: Image) -> Deployment:
    """What the resource asks for, in plain units."""
    spec = image.spec
    return Deployment(
        namespace=image.namespace,
        name=image.name,
        reference=spec.image,
        contract=spec.contract,
        timeout_ms=spec.timeout_ms,
        memory_bytes=spec.memory_bytes,
        concurrency=spec.concurrency,
        pool=spec.pool,
        check=spec.check,
        runtime=spec.runtime,
        network=tuple(
            NetworkRule(host=rule.host, cidr=rule.cidr, ports=rule.port_ranges, protocol=rule.protocol) for rule in spec.network.allow
        ),
        port=spec.port,
        command=spec.command,
        args=spec.args,
        env={variable.name: variable.value for variable in spec.env},
    )


class Publisher:
    """Publishes on one revision store. Blocking."""

    def __init__(self, revisions: RevisionStore, settings: Settings) -> None:
        self.revisions = revisions
        self._limits = Limits(bytes=settings.unpack_bytes, files=settings.unpack_files, seconds=settings.unpack_timeout)

    def is_published(self, current: Bundle | None, image: Digest, deployment: Deployment) -> bool:
        """Whether this deployment of this image is what answers calls already."""
        return current is not None and current.spec.revision == revision_id(image, deployment)

    def fetch_and_publish(self, source: Source, resolved: Resolved, deployment: Deployment, fetched: list[Digest]) -> Bundle:
        """The whole of it. The image's digest is put into `fetched` between the two halves: who catches an error knows which failed.

        Nothing is collected meanwhile; `current` moves last.
        """
        with self.revisions.working():
            source.fetch(resolved, self.revisions.layout)
            fetched.append(resolved.image)
            return self.revisions.publish(deployment, resolved.image, limits=self._limits)
