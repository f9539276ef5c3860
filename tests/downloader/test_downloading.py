"""Images from a real registry become published revisions, follow their tags and specs, and go with their resources."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from bundles.digests import Digest
from faas_resources import Truth
from tests.downloader.conftest import Node, Start, is_published, reasons, running_downloader
from tests.support.images import digest_of, index_of, tiny_image, write_layout
from tests.support.registry import Registry, running_registry, write_login

pytestmark = pytest.mark.slow


async def test_image_from_a_registry_is_published(node: Node, registry: Registry, start: Start) -> None:
    made = tiny_image({"app": b"one"}, {"etc/name": b"two"})
    await start()
    image = await node.apply(registry.push(made, "a/first", "v1"), env=[{"name": "GREETING", "value": "hi"}], timeout="2s")
    bundle = await node.published(image)
    assert (bundle.rootfs / "app").read_bytes() == b"one"
    assert (bundle.rootfs / "etc/name").read_bytes() == b"two"
    assert (bundle.spec.image, bundle.spec.timeout_ms, bundle.spec.reference) == (made.digest, 2000, image.spec.image)
    process = json.loads((bundle.path / "config.json").read_text())["process"]
    assert process["args"] == ["/app"]
    assert "GREETING=hi" in process["env"]
    status = (await node.until(is_published)).status
    assert (status.digest, status.revision, status.observed_generation) == (made.digest, bundle.spec.revision, 1)
    assert bundle.spec.revision in (status.message or "")


async def test_image_pushed_by_skopeo_is_published(node: Node, registry: Registry, start: Start, tmp_path: Path) -> None:
    made = tiny_image({"app": b"by skopeo"})
    write_layout(made, tmp_path / "layout", "v1")
    target = f"docker://{registry.address}/by-skopeo:v1"
    for form in ("oci", "v2s2"):  # v2s2: Docker's own media types
        command = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--format", form, f"oci:{tmp_path / 'layout'}:v1", target]
        process = await asyncio.create_subprocess_exec(*command)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        if form == "oci":
            await start()
        image = await node.apply(target, memory=f"{64 if form == 'oci' else 128}Mi")
        bundle = await node.published(image)
        assert (bundle.rootfs / "app").read_bytes() == b"by skopeo"


async def test_platform_is_chosen_from_an_index(node: Node, registry: Registry, start: Start) -> None:
    ours, other = tiny_image({"app": b"amd64"}), tiny_image({"app": b"arm64"}, architecture="arm64")
    await start()
    image = await node.apply(registry.push(index_of([("arm64", other), ("amd64", ours)]), "multi"))
    bundle = await node.published(image)
    assert bundle.spec.image == ours.digest
    assert not node.revisions.layout.has(Digest(other.layers[0]))


@pytest.mark.parametrize("indexed", [False, True])
async def test_image_for_another_cpu_is_refused_before_its_layers_move(node: Node, registry: Registry, start: Start, indexed: bool) -> None:
    other = tiny_image({"app": b"another cpu"}, architecture="arm64")
    await start()
    await node.apply(registry.push(index_of([("arm64", other)]) if indexed else other, f"other-cpu-{indexed}".lower()))
    found = await node.failed("WrongPlatform")
    assert "arm64" in (found.status.message or "")
    assert "build the image for linux/amd64" in (found.status.message or "")
    assert node.current() is None
    assert not node.revisions.layout.has(Digest(other.layers[0]))


async def test_tag_that_moves_makes_a_new_revision_and_the_old_one_goes(node: Node, registry: Registry, start: Start) -> None:
    await start()
    first = tiny_image({"app": b"one"})
    image = await node.apply(registry.push(first, "moving"))
    before = await node.published(image)
    second = tiny_image({"app": b"two"})
    registry.push(second, "moving")
    await node.until(lambda found: found.status.digest == second.digest)
    after = node.current()
    assert after is not None
    assert (after.rootfs / "app").read_bytes() == b"two"
    assert after.spec.revision != before.spec.revision
    await node.eventually(lambda: not before.path.exists() and not before.rootfs.exists())
    await node.eventually(lambda: not node.revisions.layout.has(Digest(first.layers[0])))


async def test_revision_that_is_held_stays_until_it_is_let_go(node: Node, registry: Registry, start: Start) -> None:
    await start()
    image = await node.apply(registry.push(tiny_image({"app": b"held"}), "held"))
    before = await node.published(image)
    with before.hold():
        await node.published(await node.apply(registry.push(tiny_image({"app": b"newer"}), "held")))
        await node.until(lambda found: found.status.revision != before.spec.revision)
        await node.delete()
        await node.eventually(lambda: node.current() is None)
        assert before.rootfs.exists()
        assert (before.path / "config.json").exists()
    await node.eventually(lambda: not before.path.exists() and not before.rootfs.exists())


async def test_digest_is_asked_for_once(node: Node, start: Start, tmp_path: Path) -> None:
    made = tiny_image({"app": b"pinned"})
    with running_registry(tmp_path / "registry") as registry:
        registry.push(made, "pinned")
        reference = f"docker://{registry.address}/pinned@{made.digest}"
        await start(poll_interval=0.05)
        bundle = await node.published(await node.apply(reference))
    # The registry is gone, and nobody notices.
    with pytest.raises(AssertionError, match="still not as wanted"):
        await node.until(lambda found: not is_published(found), seconds=1)
    assert node.current() == bundle


async def test_what_somebody_took_from_the_disk_is_published_again(node: Node, registry: Registry, start: Start) -> None:
    made = tiny_image({"app": b"taken"})
    registry.push(made, "taken")
    await start()
    bundle = await node.published(await node.apply(f"docker://{registry.address}/taken@{made.digest}"))
    shutil.rmtree(bundle.path.parent)
    await node.eventually(lambda: node.current() == bundle)
    shutil.rmtree(bundle.rootfs)
    await node.eventually(lambda: bundle.rootfs.is_dir() and node.current() == bundle)
    assert (bundle.rootfs / "app").read_bytes() == b"taken"


async def test_changed_spec_makes_a_new_revision_of_the_same_image(node: Node, registry: Registry, start: Start) -> None:
    await start()
    reference = registry.push(tiny_image({"app": b"same"}), "same")
    before = await node.published(await node.apply(reference))
    after = await node.published(await node.apply(reference, args=["--loud"]))
    assert after.rootfs == before.rootfs
    assert after.spec.revision != before.spec.revision
    assert json.loads((after.path / "config.json").read_text())["process"]["args"] == ["/app", "--loud"]


async def test_private_registry_with_a_login(node: Node, private_registry: Registry, start: Start, tmp_path: Path) -> None:
    reference = private_registry.push(tiny_image({"app": b"private"}), "private")
    config = tmp_path / "config.json"
    config.write_text('{"auths": {}}')
    await start(registry_config=config)
    image = await node.apply(reference)
    found = await node.failed("Unauthorized")
    assert f"the registry {private_registry.address} wants a login" in (found.status.message or "")
    write_login(config, private_registry)  # found at the next try, without a restart
    bundle = await node.published(image)
    assert (bundle.rootfs / "app").read_bytes() == b"private"


async def test_wrong_login_is_named_and_not_shown(node: Node, private_registry: Registry, start: Start, tmp_path: Path) -> None:
    wrong = Registry(private_registry.address, private_registry.storage, ("bob", "battery staple"))
    await start(registry_config=write_login(tmp_path / "config.json", wrong))
    await node.apply(f"docker://{private_registry.address}/private")
    message = (await node.failed("Unauthorized")).status.message or ""
    assert "refused the login" in message
    assert "staple" not in message


@pytest.mark.parametrize("content", [None, "{", "[]", '{"auths": {"HOST": {"auth": "!"}}}', '{"auths": {"HOST": {"username": "x"}}}'])
async def test_unusable_docker_config_is_named(
    node: Node, private_registry: Registry, start: Start, tmp_path: Path, content: str | None
) -> None:
    config = tmp_path / "config.json"
    if content is not None:
        config.write_text(content.replace("HOST", private_registry.address))
    await start(registry_config=config)
    await node.apply(f"docker://{private_registry.address}/private")
    assert str(config) in ((await node.failed("BadRegistryConfig")).status.message or "")


async def test_altered_blob_is_refused_and_the_old_revision_stays(
    node: Node, private_registry: Registry, start: Start, tmp_path: Path
) -> None:
    await start(registry_config=write_login(tmp_path / "config.json", private_registry))
    before = await node.published(await node.apply(private_registry.push(tiny_image({"app": b"good"}), "altered", "v1")))
    made = tiny_image({"app": b"also good, until somebody alters it"})
    reference = private_registry.push(made, "altered", "v2")
    path = private_registry.blob_file(made.layers[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    image = await node.apply(reference)
    found = await node.failed("DigestMismatch")
    assert made.layers[0] in (found.status.message or "")
    assert f"revision {before.spec.revision} ({before.spec.image}) stays in force" in (found.status.message or "")
    assert (found.status.digest, found.status.observed_generation) == (before.spec.image, 2)
    assert node.current() == before
    assert not node.revisions.layout.has(Digest(made.layers[0]))

    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert (await node.published(image)).spec.image == made.digest


async def test_registry_that_is_down_is_named_and_tried_again(node: Node, start: Start, tmp_path: Path) -> None:
    await start()
    with running_registry(tmp_path / "registry") as registry:
        before = await node.published(await node.apply(registry.push(tiny_image({"app": b"up"}), "up")))
    found = await node.failed("RegistryUnavailable")
    assert registry.address in (found.status.message or "")
    assert "Connection refused" in (found.status.message or "")
    assert node.current() == before
    assert found.status.condition("Published").status == Truth.TRUE  # type: ignore[union-attr]


async def test_missing_image_is_named_and_found_once_it_is_pushed(node: Node, registry: Registry, start: Start) -> None:
    await start()
    image = await node.apply(f"docker://{registry.address}/later:v1")
    found = await node.failed("ImageNotFound")
    assert "push it, or correct spec.image" in (found.status.message or "")
    registry.push(tiny_image({"app": b"later"}), "later", "v1")
    await node.published(image)


async def test_wrong_digest_is_named(node: Node, registry: Registry, start: Start) -> None:
    registry.push(tiny_image({"app": b"x"}), "digest")
    await start()
    missing = digest_of(b"something else")
    await node.apply(f"docker://{registry.address}/digest@{missing}")
    assert missing in ((await node.failed("ImageNotFound")).status.message or "")


async def test_config_that_makes_no_process_is_named(node: Node, registry: Registry, start: Start) -> None:
    await start()
    await node.apply(registry.push(tiny_image({"app": b"x"}, config={"User": "nobody-here"}), "user"))
    found = await node.failed("BadConfig")
    assert "nobody-here" in (found.status.message or "")
    pulled = found.status.condition("Pulled")
    assert pulled is not None
    assert pulled.status == Truth.TRUE


async def test_deleted_resource_goes_and_comes_back(node: Node, registry: Registry, start: Start) -> None:
    await start()
    reference = registry.push(tiny_image({"app": b"deleted"}), "deleted")
    bundle = await node.published(await node.apply(reference))
    await node.delete()
    await node.eventually(lambda: node.current() is None and not bundle.rootfs.exists())
    await node.eventually(lambda: not list(node.revisions.layout.blobs()))
    again = await node.published(await node.apply(reference))
    assert again.spec.revision == bundle.spec.revision


async def test_manifest_removed_while_nobody_ran_is_unpublished_at_the_start(node: Node, registry: Registry, start: Start) -> None:

    reference = registry.push(tiny_image({"app": b"orphan"}), "orphan")
    async with running_downloader(node):
        await node.published(await node.apply(reference))
        kept = await node.published(await node.apply(reference, "kept"))
    (node.data / "resources/default/images/hello.yaml").unlink()
    await start()
    await node.eventually(lambda: node.current() is None)
    assert node.current("kept") == kept


async def test_status_and_labels_are_no_reason_to_pull(node: Node, registry: Registry, start: Start) -> None:
    await start(poll_interval=1000)
    image = await node.apply(registry.push(tiny_image({"app": b"calm"}), "calm"))
    bundle = await node.published(image)
    registry.push(tiny_image({"app": b"moved"}), "calm")
    labelled, _ = await node.store.apply(image.with_metadata(labels={"a": "b"}, resource_version=None))
    await node.until(lambda found: found.metadata.labels == labelled.metadata.labels)
    assert node.current() == bundle
    # A changed spec is, and sees where the tag points now.
    after = await node.published(await node.apply(image.spec.image, pool=1))
    assert (after.rootfs / "app").read_bytes() == b"moved"


async def test_newest_spec_wins_over_one_that_is_still_pulled(node: Node, registry: Registry, start: Start) -> None:
    await start(parallel=1)
    references = [registry.push(tiny_image({"app": str(number).encode() * 100}), "race", f"v{number}") for number in range(8)]
    image = None
    for reference in references:
        image = await node.apply(reference)
    assert image is not None
    bundle = await node.published(image)
    assert bundle.spec.reference == references[-1]


async def test_image_of_a_local_layout_follows_it(node: Node, start: Start, tmp_path: Path) -> None:
    write_layout(tiny_image({"app": b"local one"}), tmp_path / "layout", "v1")
    await start()
    bundle = await node.published(await node.apply(f"oci:{tmp_path / 'layout'}:v1"))
    assert (bundle.rootfs / "app").read_bytes() == b"local one"
    second = tiny_image({"app": b"local two"})
    write_layout(second, tmp_path / "layout", "v1")
    await node.until(lambda found: found.status.digest == second.digest)
    shutil.rmtree(tmp_path / "layout")
    found = await node.failed("BadLayout")
    assert "is not an OCI image layout" in (found.status.message or "")
    current = node.current()
    assert current is not None
    assert current.spec.image == second.digest


async def test_altered_blob_of_a_local_layout_is_refused(node: Node, start: Start, tmp_path: Path) -> None:
    made = tiny_image({"app": b"local"})
    write_layout(made, tmp_path / "layout")
    (tmp_path / "layout/blobs/sha256" / made.layers[0].removeprefix("sha256:")).write_bytes(b"something else")
    await start()
    await node.apply(f"oci:{tmp_path / 'layout'}")
    assert made.layers[0] in ((await node.failed("DigestMismatch")).status.message or "")
    assert node.current() is None


async def test_broken_manifest_keeps_what_is_published(node: Node, registry: Registry, start: Start) -> None:
    await start()
    bundle = await node.published(await node.apply(registry.push(tiny_image({"app": b"yaml"}), "yaml")))
    path = node.data / "resources/default/images/hello.yaml"
    path.write_text("kind: Im")
    found = await node.failed("InvalidManifest")
    assert "resources/default/images/hello.yaml" in (found.status.message or "")
    assert node.current() == bundle
    assert reasons(found) == {"InvalidManifest"}
