"""An image from a real registry with a login: pushed by skopeo, pulled as docker://…, and refused when a byte of it is not what it was."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faas_resources import Truth
from tests.support.images import digest_of
from tests.support.load import Load, Target, call
from tests.support.node import Node, until
from tests.support.registry import Registry, running_registry, write_login
from tests.support.system import check_store, condition, configured_node, edit, failed, image_of, layout_of, resource

pytestmark = pytest.mark.slow

LOGIN = ("mayfly", "correct horse")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "registry", login=LOGIN) as running:
        yield running


@pytest.fixture
def node(root: Path, place: Path, monitor: Path, registry: Registry, tmp_path: Path) -> Iterator[Node]:
    """A node with the registry's login, that looks often whether a tag has moved."""
    login = write_login(tmp_path / "docker.json", registry)
    with configured_node(root, place, monitor, registry_config=login, poll_interval=0.5, retry_first=0.2, retry_steady=1) as running:
        yield running


def pushed(registry: Registry, layout: Path, tag: str) -> str:
    """Pushes by skopeo, as people do; the reference."""
    target = f"{registry.address}/team/function:{tag}"
    command = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", ":".join(LOGIN), f"oci:{layout}:latest"]
    subprocess.run([*command, f"docker://{target}"], check=True, capture_output=True, timeout=60)
    return f"docker://{target}"


def version(node: Node) -> str:
    outcome = call(node.url, "/default/fn/version")
    assert outcome.ok, outcome
    return outcome.body.decode()


def test_image_of_a_registry_with_a_login_is_called(node: Node, registry: Registry, program: bytes, tmp_path: Path) -> None:
    edit(node, "fn", pushed(registry, layout_of(tmp_path / "one", program, {"number": b"one"}), "stable"))
    until(lambda: call(node.url, "/default/fn/version").ok, "an answer")
    assert version(node) == "one - 1"
    before = call(node.url, "/default/fn/version").revision
    assert resource(node, "fn").status.digest == digest_of(image_of(program, {"number": b"one"}).manifest)

    # Somebody moves the tag: the function follows.
    pushed(registry, layout_of(tmp_path / "two", program, {"number": b"two"}), "stable")
    until(lambda: version(node) == "two - 1", "the image that the tag names now")
    assert call(node.url, "/default/fn/version").revision != before
    assert LOGIN[1] not in node.said() + node.ok("describe", "image", "fn")


@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
def test_blob_altered_by_one_byte_is_refused(node: Node, registry: Registry, program: bytes, tmp_path: Path, part: str) -> None:
    files = {"one": {"number": b"one"}, "two": {"number": b"two"}}
    good, bad = (image_of(program, content) for content in files.values())
    edit(node, "fn", pushed(registry, layout_of(tmp_path / "one", program, files["one"]), "one"))
    until(lambda: call(node.url, "/default/fn/version").ok, "an answer")
    before = resource(node, "fn").status.revision

    reference = pushed(registry, layout_of(tmp_path / "two", program, files["two"]), "two")
    manifest = json.loads(bad.manifest)
    digest = {"layer": manifest["layers"][-1]["digest"], "config": manifest["config"]["digest"], "manifest": bad.digest}[part]
    blob = registry.blob_file(digest)
    whole = blob.read_bytes()
    # One bit of one letter, so that JSON stays JSON: only the digest can tell.
    place = len(whole) // 2 if part == "layer" else whole.index(b"amd64" if part == "config" else b"layers")
    blob.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with Load(Target(node.url, "/default/fn/version"), pause=0.01) as load:
        edit(node, "fn", reference)
        refused = failed(node, "fn", "Pulled")
        assert digest in refused.message
        assert f"revision {before}" in refused.message
        described = node.ok("describe", "image", "fn")
        assert digest in "".join(described.split())  # however it is wrapped
        assert digest in (resource(node, "fn").status.message or "")
        assert version(node) == "one - 1"
        # The old revision answers as if nothing had happened, and says so.
        assert resource(node, "fn").status.revision == before
        ready = condition(node, "fn", "Ready")
        assert ready is not None
        assert ready.status is Truth.TRUE
    assert load.failures == []
    assert {outcome.revision for outcome in load.outcomes} == {before}
    check_store(node.data / "bundles", {good.digest: {"number": b"one", "app": program}})

    # Nobody has to be told when the registry is mended.
    blob.write_bytes(whole)
    until(lambda: version(node) == "two - 1", "the mended image")
