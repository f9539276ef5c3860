"""What is in k8s/, against a real API server: taken as it is, held by the level of Pod Security that its namespace names, and complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from faas_downloader import Settings as DownloaderSettings
from faas_server.settings import Settings as ServerSettings
from tests.k8s.conftest import ALTERNATIVES, OVERLAYS, Rendered
from tests.support.cluster import Cluster, KubectlFailed

Render = Callable[..., Rendered]

LEVELS = {"mayfly-system": "restricted", "mayfly-devices": "privileged", "mayfly-labels": "privileged"}
ON_A_VOLUME_OF_THE_NODE = {"kvm-host-path", "bundles-on-disk"}


def containers(daemon_set: Mapping[str, Any]) -> list[dict[str, Any]]:
    spec = daemon_set["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def node_of(made: Rendered) -> dict[str, Any]:
    return next(document for document in made.of("DaemonSet") if document["metadata"]["name"] == "mayfly")


@pytest.mark.parametrize(("overlay", "component"), [*((overlay, None) for overlay in OVERLAYS), *ALTERNATIVES])
def test_server_takes_every_manifest(rendered: Render, knowing: Cluster, overlay: str, component: str | None) -> None:
    made = rendered(overlay, component)
    arguments = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors", "-f", "-")
    said = knowing.kubectl(*arguments, given=made.text)
    assert said.count("serverside-applied (server dry run)") == len(made.documents)


@pytest.mark.parametrize(("overlay", "component"), [*((overlay, None) for overlay in OVERLAYS), *ALTERNATIVES])
def test_pods_are_admitted_at_the_level_that_their_namespace_names(
    rendered: Render, knowing: Cluster, overlay: str, component: str | None
) -> None:
    made = rendered(overlay, component)
    levels = {each["metadata"]["name"]: each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for each in made.of("Namespace")}
    expected = {**LEVELS, "mayfly-system": "privileged" if component in ON_A_VOLUME_OF_THE_NODE else "restricted"}
    assert levels == {name: expected[name] for name in levels}
    if component == "kvm-host-path":
        knowing.apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "kvm"}, "handler": "kvm"})
    for daemon_set in made.of("DaemonSet"):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "one", "namespace": daemon_set["metadata"]["namespace"], **daemon_set["spec"]["template"]["metadata"]},
            "spec": daemon_set["spec"]["template"]["spec"],
        }
        knowing.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_node_has_nothing_that_it_does_not_need(rendered: Render, overlay: str) -> None:
    daemon_set = node_of(rendered(overlay))
    spec = daemon_set["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any("hostPath" in volume for volume in spec["volumes"])
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    for container in containers(daemon_set):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
    assert [container["name"] for container in containers(daemon_set) if "squat.ai/kvm" in container["resources"]["limits"]] == ["server"]


def test_level_refuses_what_it_is_to_refuse(rendered: Render, knowing: Cluster) -> None:
    """The check of the levels can fail: the same pod with privileges is turned away."""
    spec = json.loads(json.dumps(node_of(rendered("small"))["spec"]["template"]["spec"]))
    spec["containers"][0]["securityContext"] = {"privileged": True}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "mayfly-system"}, "spec": spec}
    with pytest.raises(KubectlFailed, match='violates PodSecurity "restricted'):
        knowing.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_plane_has_an_identity_of_its_own(rendered: Render, overlay: str) -> None:
    spec = node_of(rendered(overlay))["spec"]["template"]["spec"]
    identities = {
        container["name"]: mount["name"]
        for container in spec["containers"]
        for mount in container["volumeMounts"]
        if mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    }
    assert identities == {"server": "server-identity", "downloader": "downloader-identity"}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    kinds = {name: {key for source in volumes[name]["projected"]["sources"] for key in source} for name in identities.values()}
    assert kinds == {"downloader-identity": {"secret"}, "server-identity": {"serviceAccountToken", "configMap", "downwardAPI"}}
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("mayfly-server", False)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting(rendered: Render, overlay: str) -> None:
    known = {f"MAYFLY_{name.upper()}" for settings in (ServerSettings, DownloaderSettings) for name in settings.model_fields}
    for container in node_of(rendered(overlay))["spec"]["template"]["spec"]["containers"]:
        names = [variable["name"] for variable in container["env"]]
        assert set(names) <= known
        assert len(names) == len(set(names))


def test_a_pod_outlives_what_it_waits_for_when_it_ends(rendered: Render) -> None:
    spec = node_of(rendered("small"))["spec"]["template"]["spec"]
    server = spec["containers"][0]
    drain = next(int(variable["value"]) for variable in server["env"] if variable["name"] == "MAYFLY_DRAIN_TIMEOUT")
    assert server["lifecycle"]["preStop"]["sleep"]["seconds"] + drain + 10 <= spec["terminationGracePeriodSeconds"]


def test_labeller_is_ten_lines_of_python(rendered: Render) -> None:
    labeller = next(document for document in rendered("small").of("DaemonSet") if document["metadata"]["name"] == "labeller")
    program = containers(labeller)[0]["command"][2]
    compile(program, "labeller", "exec")
    assert len(program.strip().splitlines()) <= 10


def test_every_component_is_told_of_and_tried(root: Path) -> None:
    components = {path.name for path in (root / "k8s" / "components").iterdir() if path.is_dir()}
    text = (root / "k8s" / "components" / "README.md").read_text()
    assert {name for name in components if f"`{name}`" in text} == components
    used = {component for _, component in ALTERNATIVES}
    for overlay in OVERLAYS:
        document = yaml.safe_load((root / "k8s" / "overlays" / overlay / "kustomization.yaml").read_text())
        used |= {Path(each).name for each in document["components"]}
    assert used == components
