"""The CRDs on a real API server: accepted as they are, as strict as the models, and shown as people expect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from faas_resources import ConditionReport, Image, InvalidResource, StatusPatch, Truth, load_manifest
from faas_resources.store.kubernetes import KubernetesStore
from tests.support.cluster import Cluster, KubectlFailed

Make = Callable[..., Image]

REFUSED: list[dict[str, Any]] = [
    {"image": "../etc"}, {"image": "a/../b"}, {"image": "a" * 300 + " "}, {"image": "a" * 5000}, {"image": "dir:/etc"}, {"image": "oci:/x"},
    {"image": "--authfile=/x"}, {"image": ""}, {"image": "r.example/x@sha256:zz"}, {"image": 5}, {"image": "https://r.example/x"},
    {"contract": "grpc"}, {"port": 0}, {"port": 65536}, {"port": "80"},
    {"timeout": "5"}, {"timeout": "-1s"}, {"timeout": "0s"}, {"timeout": "25h"}, {"timeout": "100us"},
    {"memory": "5MB"}, {"memory": "1Ki"}, {"memory": "2Ti"}, {"memory": 1}, {"concurrency": 0}, {"pool": -1}, {"pool": 257},
    {"env": [{"value": "x"}]}, {"env": [{"name": "A=B", "value": "x"}]}, {"env": [{"name": "A"}, {"name": "A"}]},
    {"env": [{"name": f"A{number}"} for number in range(513)]}, {"args": "x"}, {"args": ["x"] * 257}, {"runtime": "/bin/sh"},
    {"network": {"allow": [{}]}}, {"network": {"allow": [{"host": "a.example", "cidr": "10.0.0.0/8"}]}},
    {"network": {"allow": [{"host": "10.0.0.1"}]}}, {"network": {"allow": [{"host": "-a"}]}},
    {"network": {"allow": [{"cidr": "10.0.0.1/8"}]}},
    {"network": {"allow": [{"cidr": "ten"}]}}, {"network": {"allow": [{"host": "a", "ports": [0]}]}},
    {"network": {"allow": [{"host": "a", "ports": ["9-8"]}]}}, {"network": {"allow": [{"host": "a", "ports": ["x"]}]}},
    {"network": {"allow": [{"host": "a", "ports": [65536]}]}}, {"network": {"allow": [{"host": "a", "protocol": "icmp"}]}},
]  # fmt: skip
ACCEPTED: list[dict[str, Any]] = [
    {}, {"image": "docker://r.example:5000/a/b_c:v1"}, {"image": f"r.example/x:1@sha256:{'a' * 64}"}, {"image": "[::1]:5000/x"},
    {"contract": "stdin", "port": 80, "command": ["a"], "args": [], "env": [{"name": "A", "value": "b"}], "timeout": "1m30s"},
    {"memory": 1 << 28, "concurrency": 1, "pool": 0, "check": False, "runtime": "crun"}, {"memory": "1Mi"}, {"memory": "1Ti"},
    {"timeout": "24h"}, {"timeout": "1ms"},
    {"network": {"allow": [{"host": "*.example.com", "ports": [443, "8000-8010"]}, {"cidr": "10.0.0.0/8"}, {"cidr": "2001:db8::/32"}]}},
    {"network": {"allow": [{"cidr": "10.0.0.1", "protocol": "any"}]}},
]  # fmt: skip


def document(number: int, spec: dict[str, Any], place: str) -> dict[str, Any]:
    return {
        "apiVersion": Image.API_VERSION,
        "kind": "Image",
        "metadata": {"name": f"case-{number}", "namespace": place},
        "spec": {"image": "docker://r.example/hello", **spec},
    }


def dry_run(cluster: Cluster, documents: list[dict[str, Any]]) -> tuple[str, str]:
    """What kubectl prints of creating them all, and what it says of those that are refused."""
    text = yaml.safe_dump_all(documents)
    try:
        return cluster.kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", given=text), ""
    except KubectlFailed as error:
        return "", str(error)


def test_server_takes_the_crd_as_structural_and_established(cluster: Cluster) -> None:
    found = cluster.objects("get", "crd", "images.build.kontain.app")
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions.get("Established") == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert found["status"]["acceptedNames"]["shortNames"] == ["img"]


def test_server_refuses_what_the_models_refuse(cluster: Cluster, place: str) -> None:
    for spec in REFUSED:
        with pytest.raises(InvalidResource):
            load_manifest(yaml.safe_dump(document(0, spec, place)))
    _, said = dry_run(cluster, [document(number, spec, place) for number, spec in enumerate(REFUSED)])
    refused = {int(number) for number in re.findall(r'"case-(\d+)" is invalid', said)}
    assert [spec for number, spec in enumerate(REFUSED) if number not in refused] == []


def test_row_27_names_and_images_that_are_none_are_refused_with_the_rule(cluster: Cluster, place: str) -> None:
    documents = [document(0, {"image": image}, place) for image in ("../etc", "r.example/a/../b", "no good", "r.example/" + "a" * 5000)]
    for number, name in enumerate(("..", "a" * 300, "a" * 64, "a.b", "Upper")):
        documents.append({**document(number, {}, place), "metadata": {"name": name, "namespace": place}})
    for each in documents:
        with pytest.raises(KubectlFailed) as refusal:
            cluster.kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", given=yaml.safe_dump(each))
        assert "Invalid value" in str(refusal.value) or "Too long" in str(refusal.value)
        assert "spec.image" in str(refusal.value) or "metadata.name" in str(refusal.value)


def test_server_accepts_what_the_models_accept(cluster: Cluster, place: str) -> None:
    for spec in ACCEPTED:
        load_manifest(yaml.safe_dump(document(0, spec, place)))
    created, said = dry_run(cluster, [document(number, spec, place) for number, spec in enumerate(ACCEPTED)])
    assert said == ""
    assert created.count("created (server dry run)") == len(ACCEPTED)


def test_unknown_field_is_refused_by_kubectl_and_never_stored(cluster: Cluster, place: str) -> None:
    wrong = document(0, {"memroy": "1Gi"}, place)
    with pytest.raises(KubectlFailed, match="memroy"):
        cluster.kubectl("create", "-f", "-", given=yaml.safe_dump(wrong))
    cluster.kubectl("create", "--validate=false", "-f", "-", given=yaml.safe_dump(wrong))
    assert "memroy" not in cluster.objects("get", "image", "case-0", "-n", place)["spec"]


def test_image_of_kontain_is_stored_with_our_defaults(cluster: Cluster, place: str) -> None:
    cluster.kubectl("create", "-f", "-", given=yaml.safe_dump(document(0, {}, place)))
    stored = cluster.objects("get", "images.build.kontain.app", "case-0", "-n", place)
    bare = load_manifest(json.dumps(document(0, {}, place)))
    assert isinstance(bare, Image)
    assert load_manifest(json.dumps(stored)).model_dump(include={"spec"}) == bare.model_dump(include={"spec"})
    assert stored["spec"]["timeout"] == "60s"


async def test_kubectl_shows_ready_digest_and_message(cluster: Cluster, place: str, on_cluster: KubernetesStore, image: Make) -> None:
    await on_cluster.apply(image(namespace=place))
    digest = f"sha256:{'c' * 64}"
    report = ConditionReport(type="Ready", status=Truth.TRUE, reason="Serving", observed_generation=1)
    await on_cluster.patch_status(Image, place, "hello", StatusPatch(digest=digest, message="serves", conditions=(report,)))
    for name in ("images", "img", "mayfly"):
        header, line = cluster.kubectl("get", name, "-n", place).strip().splitlines()
        assert header.split() == ["NAME", "READY", "DIGEST", "AGE", "MESSAGE"]
        assert line.split()[:3] == ["hello", "True", digest]
        assert line.endswith("serves")
    assert cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "-n", place, "img/hello")


async def test_status_is_no_business_of_who_writes_the_spec(cluster: Cluster, place: str, on_cluster: KubernetesStore, image: Make) -> None:
    await on_cluster.apply(image(namespace=place))
    await on_cluster.patch_status(Image, place, "hello", StatusPatch(message="said by us"))
    stored = cluster.objects("get", "image", "hello", "-n", place)
    stored["status"]["message"] = "said by somebody"
    cluster.kubectl("replace", "-f", "-", given=json.dumps(stored))
    assert (await on_cluster.get(Image, place, "hello")).status.message == "said by us"
