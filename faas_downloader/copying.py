"""Images from a layout on this machine (`oci:DIR[:tag]`): copied blob by blob, verified like those of a registry."""

from __future__ import annotations

from pathlib import Path

from bundles.digests import Digest
from bundles.layout import Layout
from bundles.manifests import MAX_CONFIG, MAX_MANIFEST, Descriptor, check_image, parse_config
from bundles.references import Reference
from faas_downloader.errors import DownloadError
from faas_downloader.resolving import Resolved, resolve


class LocalSource:
    """Implements `resolving.Source` for a local layout."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def newest(self) -> Digest | None:
        return self._descriptor(self._open()).digest

    def resolve(self) -> Resolved:
        layout = self._open()

        def read(descriptor: Descriptor) -> bytes:
            return layout.read(descriptor.digest, MAX_MANIFEST)

        descriptor = self._descriptor(layout)
        return resolve(read(descriptor), descriptor.media_type, read)

    def fetch(self, resolved: Resolved, layout: Layout) -> None:
        source = self._open()
        layout.put(resolved.document)
        config, *layers = resolved.manifest.blobs
        layout.copy(source, config.digest, config.size)
        check_image(resolved.manifest, parse_config(layout.read(config.digest, MAX_CONFIG)))
        for blob in layers:
            layout.copy(source, blob.digest, blob.size)

    def cut(self, reason: DownloadError) -> None:
        """Nothing waits here: a copy ends by itself."""

    def close(self) -> None:
        """Nothing is open."""

    def _open(self) -> Layout:
        return Layout(Path(self._reference.path))

    def _descriptor(self, layout: Layout) -> Descriptor:
        return layout.resolve(self._reference.tag)
