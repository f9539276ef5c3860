"""Images made entry by entry, as a stranger could make them: names, links, owners and modes go into the archive exactly as given."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bundles import Digest, Layout
from bundles.manifests import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST


@dataclass(frozen=True)
class Entry:
    """One entry of a layer."""

    name: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    device: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)

    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name)
        info.type, info.linkname, info.mode, info.uid, info.gid = self.kind, self.link, self.mode, self.uid, self.gid
        info.devmajor, info.devminor = self.device
        info.size, info.mtime = len(self.data), 1_000_000_000
        info.pax_headers = dict(self.pax)
        return info


def file(name: str, data: bytes = b"", mode: int = 0o644, **more: Any) -> Entry:
    return Entry(name, data=data, mode=mode, **more)


def directory(name: str, mode: int = 0o755, **more: Any) -> Entry:
    return Entry(name, tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, link: str) -> Entry:
    return Entry(name, tarfile.SYMTYPE, link=link, mode=0o777)


def hardlink(name: str, link: str) -> Entry:
    return Entry(name, tarfile.LNKTYPE, link=link)


def character_device(name: str, major: int, minor: int) -> Entry:
    return Entry(name, tarfile.CHRTYPE, device=(major, minor), mode=0o666)


def block_device(name: str, major: int, minor: int) -> Entry:
    return Entry(name, tarfile.BLKTYPE, device=(major, minor), mode=0o666)


def fifo(name: str) -> Entry:
    return Entry(name, tarfile.FIFOTYPE)


def tar(entries: Iterable[Entry]) -> bytes:
    """An uncompressed layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            archive.addfile(entry.info(), io.BytesIO(entry.data))
    return buffer.getvalue()


@dataclass(frozen=True)
class Layer:
    """The bytes of a layer's blob, and what they claim to be."""

    blob: bytes
    diff_id: str
    media_type: str

    @classmethod
    def of(cls, entries: Sequence[Entry] | bytes, *, compress: bool = True, docker: bool = False) -> Layer:
        raw = entries if isinstance(entries, bytes) else tar(entries)
        plain, suffix = (DOCKER_LAYER, ".gzip") if docker else (OCI_LAYER, "+gzip")
        kind = plain + suffix if compress else plain
        return cls(gzip.compress(raw, 1, mtime=0) if compress else raw, Digest.of(raw), kind)


def config_document(layers: Sequence[Layer], **process: Any) -> dict[str, Any]:
    """An image configuration; `process` are the fields of its `config`."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/hello"], **process},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }


def build(
    layout: Layout, *layers: Sequence[Entry] | Layer, docker: bool = False, config: dict[str, Any] | None = None, **process: Any
) -> Digest:
    """Puts an image into a layout and returns the digest of its manifest. `process` are fields of the configuration's `config`."""
    made = [layer if isinstance(layer, Layer) else Layer.of(layer, docker=docker) for layer in layers]
    config_digest = layout.put(json.dumps(config or config_document(made, **process)).encode())
    return layout.put(json.dumps(manifest_document(layout, config_digest, made, docker=docker)).encode())


def manifest_document(layout: Layout, config: Digest, layers: Sequence[Layer], *, docker: bool = False) -> dict[str, Any]:
    """A manifest, whose blobs are put into the layout."""
    return {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG if docker else OCI_CONFIG, "digest": config, "size": layout.blob_path(config).stat().st_size},
        "layers": [{"mediaType": layer.media_type, "digest": layout.put(layer.blob), "size": len(layer.blob)} for layer in layers],
    }
