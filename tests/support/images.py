"""Small OCI images, made here byte by byte, and how to get them into a registry by plain HTTP."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def described(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


@dataclass
class TinyImage:
    """An image: its manifest or index, and the blobs that it needs."""

    manifest: bytes
    media_type: str = OCI_MANIFEST
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)  # of an index

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in json.loads(self.manifest)["layers"]]


def layer_of(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A compressed layer and the digest of its plain bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    data = plain.getvalue()
    return gzip.compress(data, mtime=0), digest_of(data)


def tiny_image(
    *layers: Mapping[str, bytes], architecture: str = "amd64", os: str = "linux", config: Mapping[str, Any] | None = None
) -> TinyImage:
    """An image with these layers, each a mapping of file names to contents."""
    made = [layer_of(files) for files in layers or ({"app": b"#!/bin/true\n"},)]
    document = json.dumps(
        {
            "architecture": architecture,
            "os": os,
            "config": {"Entrypoint": ["/app"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(document, OCI_CONFIG),
            "layers": [described(data, OCI_LAYER) for data, _ in made],
        }
    ).encode()
    return TinyImage(manifest, blobs={digest_of(data): data for data in (document, *(data for data, _ in made))})


def index_of(images: Sequence[tuple[str, TinyImage]]) -> TinyImage:
    """An index of images by architecture."""
    entries = [
        described(image.manifest, OCI_MANIFEST, platform={"os": "linux", "architecture": architecture}) for architecture, image in images
    ]
    document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    return TinyImage(
        document,
        OCI_INDEX,
        blobs={digest: data for _, image in images for digest, data in image.blobs.items()},
        manifests={image.digest: image.manifest for _, image in images},
    )


def write_layout(image: TinyImage, directory: Path, tag: str = "latest") -> None:
    """The image as an OCI layout on disk."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for data in (image.manifest, *image.blobs.values(), *image.manifests.values()):
        (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    entry = described(image.manifest, image.media_type, annotations={"org.opencontainers.image.ref.name": tag})
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def push(image: TinyImage, registry: str, repository: str, tag: str, login: tuple[str, str] | None = None) -> None:
    """Pushes to a registry at `host:port` by plain HTTP."""

    def request(method: str, url: str, data: bytes | None = None, media_type: str = "application/octet-stream") -> Any:
        asked = urllib.request.Request(url, data, method=method, headers={"Content-Type": media_type})
        if login:
            asked.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
        with urllib.request.urlopen(asked, timeout=10) as response:
            return response.headers

    base = f"http://{registry}/v2/{repository}"
    for digest, data in image.blobs.items():
        location = request("POST", f"{base}/blobs/uploads/", b"")["Location"]
        request("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", data)
    for digest, data in image.manifests.items():
        request("PUT", f"{base}/manifests/{digest}", data, OCI_MANIFEST)
    request("PUT", f"{base}/manifests/{tag}", image.manifest, image.media_type)
