"""Manifests, indexes and configurations: what is read, what is dropped, what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import Digest, Index, Manifest, ManifestError, Platform, PlatformError, parse_config, parse_manifest
from bundles.manifests import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    MAX_CONFIG,
    MAX_LAYERS,
    MAX_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    canonical_image,
    check_image,
)

A, B, C = (Digest("sha256:" + letter * 64) for letter in "abc")


def manifest(**changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": A, "size": 10},
        "layers": [{"mediaType": OCI_LAYER + "+gzip", "digest": B, "size": 20}],
    }
    return {key: value for key, value in {**document, **changes}.items() if value is not ...}


def entry(architecture: str = "amd64", digest: Digest = A, os: str = "linux", **changes: Any) -> dict[str, Any]:
    platform = {"os": os, "architecture": architecture, **changes.pop("platform", {})}
    return {"mediaType": OCI_MANIFEST, "digest": digest, "size": 10, "platform": platform, **changes}


def index(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **changes}


def config(**changes: Any) -> dict[str, Any]:
    return {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [C]}, **changes}


def parsed(document: dict[str, Any]) -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode())


# What is read


def test_a_manifest_names_its_blobs_each_once() -> None:
    layer = {"mediaType": OCI_LAYER, "digest": B, "size": 20}
    found = parsed(manifest(layers=[layer, layer]))
    assert isinstance(found, Manifest)
    assert len(found.layers) == 2
    assert [blob.digest for blob in found.blobs] == [A, B]


def test_a_docker_image_becomes_an_oci_image() -> None:
    layers = [{"mediaType": DOCKER_LAYER + ".gzip", "digest": B, "size": 20}, {"mediaType": DOCKER_LAYER, "digest": C, "size": 30}]
    found = parsed(manifest(mediaType=DOCKER_MANIFEST, config={"mediaType": DOCKER_CONFIG, "digest": A, "size": 10}, layers=layers))
    assert isinstance(found, Manifest)
    image = canonical_image(found, parse_config(json.dumps(config(rootfs={"type": "layers", "diff_ids": [A, B]})).encode()))
    document = json.loads(image.manifest)
    assert document["mediaType"] == OCI_MANIFEST
    assert document["config"] == {"mediaType": OCI_CONFIG, "digest": Digest.of(image.config), "size": len(image.config)}
    assert [layer["mediaType"] for layer in document["layers"]] == [OCI_LAYER + "+gzip", OCI_LAYER]
    assert json.loads(image.config)["rootfs"]["diff_ids"] == [A, B]


def test_what_is_not_understood_reaches_nobody() -> None:
    """Labels, annotations, embedded data and URLs are dropped, and so are keys that only Go would take for known ones."""
    secret = "169.254.169.254"
    layer = {"mediaType": OCI_LAYER, "digest": B, "size": 20, "urls": [f"http://{secret}/x"], "data": secret, "annotations": {"x": secret}}
    found = parsed(manifest(layers=[layer], Layers=[{"mediaType": OCI_LAYER, "digest": C, "size": 1}], annotations={"run": secret}))
    assert isinstance(found, Manifest)
    assert [each.digest for each in found.layers] == [B]
    settings = parse_config(json.dumps(config(config={"Labels": {"io.example.run": secret}, "OnBuild": [secret]}, RootFS=secret)).encode())
    image = canonical_image(found, settings)
    for text in (found.model_dump_json(), settings.model_dump_json(), image.manifest.decode(), image.config.decode()):
        assert secret not in text
    assert "Layers" not in json.loads(image.manifest)


def test_null_is_empty_as_go_writes_it() -> None:
    process = {"Env": None, "Cmd": None, "Entrypoint": None, "WorkingDir": None, "User": None, "ExposedPorts": None}
    assert parse_config(json.dumps(config(config=process)).encode()) == parse_config(json.dumps(config(config=None)).encode())
    assert parsed(manifest(layers=None)) == parsed(manifest(layers=[]))


def test_the_announced_type_counts_where_the_document_has_none() -> None:
    assert isinstance(parse_manifest(json.dumps(manifest(mediaType=...)).encode(), OCI_MANIFEST), Manifest)
    assert isinstance(parse_manifest(json.dumps(manifest(mediaType=...)).encode()), Manifest)
    assert isinstance(parse_manifest(json.dumps(index(entry())).encode(), OCI_INDEX), Index)


# Which platform


def test_the_platform_is_chosen_from_an_index() -> None:
    attestation = entry("unknown", C, "unknown")
    found = parsed(index(entry("arm64", C), attestation, entry("amd64", B), entry("amd64", C, "windows")))
    assert isinstance(found, Index)
    assert found.choose().digest == B
    assert found.choose(Platform(os="linux", architecture="arm64")).digest == C


def test_the_most_modest_variant_is_chosen() -> None:
    found = parsed(index(entry(digest=C, platform={"variant": "v3"}), entry(digest=B, platform={"variant": "v1"})))
    assert isinstance(found, Index)
    assert found.choose().digest == B


def test_a_lone_entry_without_a_platform_is_taken() -> None:
    found = parsed(index({"mediaType": DOCKER_MANIFEST, "digest": B, "size": 1}, mediaType=DOCKER_INDEX))
    assert isinstance(found, Index)
    assert found.choose().digest == B


def test_another_platform_is_named() -> None:
    found = parsed(index(entry("arm64"), entry("s390x")))
    assert isinstance(found, Index)
    with pytest.raises(PlatformError, match="nothing for linux/amd64; it has 'linux/arm64, linux/s390x'"):
        found.choose()


def test_an_index_of_indexes_is_not_followed() -> None:
    found = parsed(index(entry(mediaType=OCI_INDEX)))
    assert isinstance(found, Index)
    with pytest.raises(PlatformError):
        found.choose()


def test_an_image_for_another_cpu_is_refused() -> None:
    found, settings = parsed(manifest()), parse_config(json.dumps(config(architecture="arm64", variant="v8")).encode())
    assert isinstance(found, Manifest)
    with pytest.raises(PlatformError, match="'linux/arm64/v8'; this node runs linux/amd64"):
        check_image(found, settings)


def test_halves_of_two_images_are_refused() -> None:
    found, settings = parsed(manifest(layers=[])), parse_config(json.dumps(config()).encode())
    assert isinstance(found, Manifest)
    with pytest.raises(ManifestError, match="0 layers and the configuration 1 diff_ids"):
        check_image(found, settings)


# What is refused


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (manifest(manifests=[entry()]), "both layers and manifests"),
        (manifest(mediaType=OCI_INDEX), "has the fields of an image manifest"),
        (index(entry(), mediaType=OCI_MANIFEST), "has the fields of an image index"),
        (manifest(mediaType="text/html"), "announced as 'text/html'"),
        (manifest(mediaType=7), "mediaType must be a string"),
        (manifest(schemaVersion=1), "Docker's schema 1"),
        (manifest(schemaVersion=3), "must be 2, not 3"),
        (manifest(schemaVersion=True), "must be 2, not True"),
        (manifest(schemaVersion="2"), "must be 2, not '2'"),
        (manifest(schemaVersion=...), "must be 2, not None"),
        (manifest(config=...), "'config': Field required"),
        (manifest(config=None), "'config'"),
        (manifest(layers=...), "'layers': Field required"),
        (manifest(layers={}), "'layers'"),
        (manifest(layers=[7]), "'layers.0'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": "sha256:../../x", "size": 1}]), "'layers.0.digest'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B[7:], "size": 1}]), "'layers.0.digest'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B.upper(), "size": 1}]), "'layers.0.digest'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B, "size": -1}]), "'layers.0.size'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B, "size": 1 << 63}]), "'layers.0.size'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B, "size": 1.5}]), "'layers.0.size'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B, "size": True}]), "'layers.0.size'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B, "size": "1"}]), "'layers.0.size'"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": B, "size": 1}] * (MAX_LAYERS + 1)), "'layers'"),
        (
            manifest(layers=[{"mediaType": DOCKER_LAYER.replace("diff", "foreign.diff") + ".gzip", "digest": B, "size": 1}]),
            "not in the registry",
        ),
        (
            manifest(layers=[{"mediaType": OCI_LAYER.replace("layer", "layer.nondistributable"), "digest": B, "size": 1}]),
            "not in the registry",
        ),
        (manifest(layers=[{"mediaType": "application/x-foo", "digest": B, "size": 1}]), "layers are tar archives"),
        (
            manifest(config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": A, "size": 1}),
            "not an image that can be run",
        ),
        (manifest(config={"mediaType": OCI_CONFIG, "digest": A, "size": MAX_CONFIG + 1}), f"at most {MAX_CONFIG}"),
        (index(*[entry()] * 2000), "'manifests'"),
        (index(entry(digest="nocolon")), "'manifests.0.digest'"),  # type: ignore[arg-type]
    ],
)
def test_refused_manifests(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parsed(document)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_an_empty_index_has_nothing_to_choose() -> None:
    found = parsed(index())
    assert isinstance(found, Index)
    with pytest.raises(PlatformError, match="no platform at all"):
        found.choose()


def test_what_the_registry_announced_must_be_what_came() -> None:
    with pytest.raises(ManifestError, match="calls itself"):
        parse_manifest(json.dumps(manifest()).encode(), DOCKER_MANIFEST)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"schemaVersion":2,"schemaVersion":2}', "'schemaVersion' appears twice"),
        (b'{"schemaVersion":2,"config":{"size":1,"size":2}}', "'size' appears twice"),
        (b'{"schemaVersion":2,"x":{"a\\u0062":1,"ab":2}}', "'ab' appears twice"),
        (b'{"schemaVersion":NaN}', "NaN is not JSON"),
        (b'{"schemaVersion":-Infinity}', "Infinity is not JSON"),
        (b'{"schemaVersion":' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "nested too deeply"),
        (b'{"x":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"schemaVersion":2}trailing', "not JSON"),
    ],
)
def test_refused_json(data: bytes, reason: str) -> None:
    for read in (parse_manifest, parse_config):
        with pytest.raises(ManifestError) as caught:
            read(data)
        assert reason in str(caught.value)


def test_a_huge_manifest_is_refused_before_it_is_read() -> None:
    began = time.thread_time()
    with pytest.raises(ManifestError, match=f"at most {MAX_MANIFEST} are read"):
        parse_manifest(b"[" * 100_000_000)
    assert time.thread_time() - began < 1


def test_an_index_as_large_as_allowed_is_read_in_bounded_time() -> None:
    """An index names at most 1,024 manifests and none is followed, so a small document cannot demand much."""
    began = time.thread_time()
    found = parsed(index(*[entry("arm64")] * 1024))
    assert isinstance(found, Index)
    with pytest.raises(PlatformError):
        found.choose()
    assert time.thread_time() - began < 2


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (config(rootfs={"type": "layers", "diff_ids": ["sha256:x"]}), "'rootfs.diff_ids.0'"),
        (config(rootfs={"type": "other", "diff_ids": []}), "must be 'layers'"),
        (config(rootfs=None), "'rootfs'"),
        (config(architecture=None), "'architecture'"),
        (config(config={"Env": "A=b"}), "'config.Env'"),
        (config(config={"Env": [1]}), "'config.Env.0'"),
        (config(config={"Cmd": "sh -c x"}), "'config.Cmd'"),
        (config(config={"User": 0}), "'config.User'"),
        (config(config=[]), "'config'"),
    ],
)
def test_refused_configurations(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_config(json.dumps(document).encode())
    assert reason in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([A, OCI_LAYER, OCI_CONFIG, OCI_MANIFEST]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["digest", "size", "mediaType", "platform"]), inner),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["config", "layers", "manifests", "mediaType", "rootfs", "os", "architecture"]), JSON))
def test_any_json_is_read_or_refused(document: dict[str, Any]) -> None:
    data = json.dumps({"schemaVersion": 2, **document}).encode()
    for read in (parse_manifest, parse_config):
        try:
            read(data)
        except ManifestError:
            continue


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (parse_manifest, parse_config):
        with pytest.raises(ManifestError):
            read(data)
