"""From what a reference names, a manifest or an index of several, to the one image for this platform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bundles.digests import Digest
from bundles.errors import VerificationError
from bundles.layout import Layout
from bundles.manifests import Descriptor, Index, Manifest, parse_manifest
from faas_downloader.errors import DownloadError


@dataclass(frozen=True)
class Resolved:
    """What a reference means now."""

    top: Digest  # of the document that the reference names: it changes when the tag moves
    image: Digest  # of the manifest for this platform: it names the image
    document: bytes  # that manifest, as it was sent
    manifest: Manifest


class Source(Protocol):
    """Where images come from. Blocking; one source serves one look and one fetch, and is then closed."""

    def newest(self) -> Digest | None:
        """What `Resolved.top` would be, asked as cheaply as can be; None if that takes a `resolve`."""
        ...

    def resolve(self) -> Resolved:
        """What the reference means now."""
        ...

    def fetch(self, resolved: Resolved, layout: Layout) -> None:
        """Brings the image into the layout, every byte verified. Precondition: nobody collects (`RevisionStore.working`)."""
        ...

    def cut(self, reason: DownloadError) -> None:
        """Makes what another thread does here end soon, with that error."""
        ...

    def close(self) -> None:
        """Ends all connections."""
        ...


def resolve(data: bytes, media_type: str | None, read: Callable[[Descriptor], bytes]) -> Resolved:
    """The image for this platform in a document; `read` fetches a manifest that an index names."""
    top = Digest.of(data)
    found = parse_manifest(data, media_type)
    if isinstance(found, Manifest):
        return Resolved(top, top, data, found)
    chosen = found.choose()
    document = read(chosen)
    check_bytes(document, chosen.digest, chosen.size)
    manifest = parse_manifest(document, chosen.media_type)
    # `choose` takes only entries that are announced as manifests, and parse_manifest holds the document to it.
    assert not isinstance(manifest, Index)
    return Resolved(top, chosen.digest, document, manifest)


def check_bytes(data: bytes, digest: Digest, size: int | None = None) -> None:
    """Raises VerificationError unless `data` is what was promised."""
    if size is not None and len(data) != size:
        raise VerificationError(f"{digest}: {len(data)} bytes were sent, {size} were announced")
    actual = Digest.of(data)
    if actual != digest:
        raise VerificationError(f"{digest}: the bytes that were sent have digest {actual}")
