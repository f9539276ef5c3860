"""k8s/ as kubectl renders it, in a cluster that knows every kind in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.kubernetes_parts import module
from tests.support.cluster import Cluster

OVERLAYS = ("small", "production")
ALTERNATIVES = (  # components that no overlay has, each with what it is added to
    ("small", "kvm-host-path"),
    ("small", "bundles-on-disk"),
    ("small", "registry-login"),
    ("production", "ingress"),
)

_GATEWAY = ("sigs.k8s.io/gateway-api", "v1.4.0", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml")
_PROMETHEUS = (
    "github.com/prometheus-operator/prometheus-operator",
    "v0.85.0",
    "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
)
# node-feature-discovery is no module that could be fetched: of its rules only what they are called is checked.
_FEATURES = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "nodefeaturerules.nfd.k8s-sigs.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in of tests"},
    },
    "spec": {
        "group": "nfd.k8s-sigs.io",
        "scope": "Cluster",
        "names": {"kind": "NodeFeatureRule", "plural": "nodefeaturerules"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@dataclass(frozen=True)
class Rendered:
    """Manifests as `kubectl apply -k` would send them."""

    text: str

    @property
    def documents(self) -> Sequence[dict[str, Any]]:
        return [document for document in yaml.safe_load_all(self.text) if document]

    def of(self, *kinds: str) -> Sequence[dict[str, Any]]:
        """The documents of these kinds."""
        return [document for document in self.documents if document["kind"] in kinds]


@pytest.fixture(scope="session")
def knowing(cluster: Cluster) -> Cluster:
    """The cluster, with the kinds of others that our manifests speak of."""
    for name, version, file in (_GATEWAY, _PROMETHEUS):
        cluster.kubectl("apply", "--server-side", "-f", str(module(name, version) / file))
    cluster.apply(_FEATURES)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    return cluster


@pytest.fixture(scope="session")
def rendered(knowing: Cluster, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Rendered]:
    """Renders an overlay, with a component besides if one is named. The namespaces and classes that it needs are in the cluster then."""

    @cache
    def text_of(overlay: str, component: str | None) -> str:
        place = root / "k8s" / "overlays" / overlay
        if component is None:
            return knowing.kubectl("kustomize", str(place))
        own = tmp_path_factory.mktemp("overlay")
        wanted = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [_relative(own, place)],
            "components": [_relative(own, root / "k8s" / "components" / component)],
        }
        (own / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        return knowing.kubectl("kustomize", str(own))

    def render(overlay: str, component: str | None = None) -> Rendered:
        made = Rendered(text_of(overlay, component))
        # As the controller manager would:
        places = [{"name": "default", "namespace": namespace["metadata"]["name"]} for namespace in made.of("Namespace")]
        accounts = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place} for place in places]
        knowing.apply(*made.of("Namespace", "PriorityClass"), *made.of("ServiceAccount"), *accounts)
        return made

    return render


def _relative(start: Path, place: Path) -> str:
    """kustomize takes directories only by a relative path."""
    return "../" * (len(start.resolve().parts) - 1) + str(place.resolve()).lstrip("/")
