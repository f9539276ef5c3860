"""Images that other tools made, and that other tools read: nobody's format but the OCI's and Docker's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bundles import Deployment, Digest, Layout, Manifest, Reference, RevisionStore, parse_manifest, read_image, unpack
from bundles.manifests import DOCKER_MANIFEST, MAX_MANIFEST

pytestmark = [pytest.mark.slow]


def run(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def made(place: Path) -> Reference:
    """A local image that umoci made."""
    (place / "tree").mkdir()
    (place / "tree/main").write_text("program")
    (place / "tree/main").chmod(0o755)
    path = place / "made"
    run("umoci", "init", "--layout", path)
    run("umoci", "new", "--image", f"{path}:v1")
    run("umoci", "insert", "--rootless", "--image", f"{path}:v1", place / "tree", "/app")
    settings = ["--config.cmd", "/app/main", "--config.env", "A=b", "--config.workingdir", "/app", "--config.user", "1000:1001"]
    run(
        "umoci",
        "config",
        "--image",
        f"{path}:v1",
        "--architecture",
        "amd64",
        "--os",
        "linux",
        "--config.exposedports",
        "3000/tcp",
        *settings,
    )
    return Reference.parse(f"oci:{path}:v1", allow_local=True)


def test_an_image_of_umoci_is_published_from_its_layout(store: RevisionStore, made: Reference) -> None:
    source = Layout(Path(made.path))
    image = source.resolve(made.tag)
    with store.working():
        store.layout.copy(source, image.digest, image.size)
        for blob in read_image(source, image.digest)[0].blobs:
            store.layout.copy(source, blob.digest, blob.size)
        bundle = store.publish(Deployment(namespace="default", name="hello", reference=str(made)), image.digest)
    assert (bundle.rootfs / "app/main").read_text() == "program"
    process = json.loads((bundle.path / "config.json").read_text())["process"]
    assert (process["args"], process["cwd"]) == (["/app/main"], "/app")
    assert (process["user"]["uid"], process["user"]["gid"]) == (1000, 1001)
    assert {"A=b", "PORT=3000"} <= set(process["env"])
    assert bundle.spec.port == 3000


def test_an_image_that_skopeo_made_dockers_is_unpacked(layout: Layout, place: Path, made: Reference) -> None:
    run("skopeo", "copy", "--insecure-policy", "--format", "v2s2", f"oci:{made.path}:{made.tag}", f"dir:{place / 'docker'}")
    data = (place / "docker/manifest.json").read_bytes()
    manifest = parse_manifest(data, DOCKER_MANIFEST)
    assert isinstance(manifest, Manifest)
    for blob in manifest.blobs:
        with layout.writer(blob.digest, blob.size) as writer:
            writer.write((place / "docker" / blob.digest.hex).read_bytes())
    rootfs = unpack(layout, layout.put(data), place / "target")
    assert (rootfs / "app/main").read_text() == "program"


def test_skopeo_reads_what_is_linked(layout: Layout, place: Path, made: Reference) -> None:
    source = Layout(Path(made.path))
    image = source.resolve("v1")
    data = source.read(image.digest, MAX_MANIFEST)
    assert layout.put(data) == Digest.of(data) == image.digest
    for blob in read_image(source, image.digest)[0].blobs:
        layout.copy(source, blob.digest, blob.size)
    layout.link("default/hello", image)
    run("skopeo", "copy", "--insecure-policy", f"oci:{layout.path}:default/hello", f"dir:{place / 'copy'}")
    assert (place / "copy/manifest.json").read_bytes() == data
