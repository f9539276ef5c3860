"""The verbs of `mayfly` on a cluster are those of one machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Mayfly
from tests.support.cluster import Cluster

HELLO = """\
apiVersion: build.kontain.app/v1
kind: Image
metadata:
  name: hello
  labels: {team: tools}
spec:
  image: docker://r.example/hello:1
"""


@pytest.fixture
def place(cluster: Cluster) -> str:
    return cluster.namespace()


@pytest.fixture
def config(cluster: Cluster, place: str) -> Path:
    """A kubeconfig whose context `test` names the namespace."""
    return cluster.kubeconfig(namespace=place)


def test_apply_get_describe_and_delete(mayfly: Mayfly, cluster: Cluster, place: str, config: Path, tmp_path: Path) -> None:
    where = ("--context", "test")
    for expected in ("created", "unchanged"):
        finished = mayfly("apply", "-f", "-", *where, stdin=HELLO, KUBECONFIG=str(config))
        assert (finished.returncode, finished.stdout) == (0, f"image.build.kontain.app/hello {expected}\n"), finished.stderr
    assert not (tmp_path / "data" / "resources").exists()
    stored = cluster.objects("get", "image", "hello", "-n", place)
    assert (stored["metadata"]["labels"], stored["spec"]["image"]) == ({"team": "tools"}, "docker://r.example/hello:1")
    changed = mayfly("apply", "-f", "-", *where, stdin=HELLO + "  pool: 2\n", KUBECONFIG=str(config))
    assert changed.stdout.endswith("configured\n")
    listed = mayfly("get", "images", "--kubeconfig", config)
    assert listed.stdout.splitlines()[1].split()[:3] == ["hello", "Unknown", "http"], listed.stderr
    assert json.loads(mayfly("get", "images", "hello", "-o", "json", "--kubeconfig", config).stdout)["spec"]["pool"] == 2
    described = mayfly("describe", "image", "hello", "-n", place, "--kubeconfig", config)
    assert "Generation:   2" in described.stdout, described.stderr
    deleted = mayfly("delete", "image", "hello", "--kubeconfig", config)
    assert deleted.stdout == 'image.build.kontain.app "hello" deleted\n', deleted.stderr
    assert mayfly("get", "images", "hello", "--kubeconfig", config).returncode == 4
    assert "No images found in namespace" in mayfly("get", "images", "--kubeconfig", config).stderr


def test_describe_shows_the_nodes(mayfly: Mayfly, cluster: Cluster, place: str, config: Path) -> None:
    assert mayfly("apply", "-f", "-", "--kubeconfig", config, stdin=HELLO).returncode == 0
    status = {"status": {"nodes": [{"name": "n1", "message": "revision is published", "revision": "0" * 16}]}}
    patch = ("patch", "image", "hello", "-n", place, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    cluster.kubectl(*patch)
    described = mayfly("describe", "image", "hello", "--kubeconfig", config).stdout.splitlines()
    assert described[-1].split() == ["n1", "Unknown", "0" * 16, "revision", "is", "published"]


def test_a_local_image_is_refused_in_a_cluster(mayfly: Mayfly, config: Path) -> None:
    local = yaml.safe_dump({**yaml.safe_load(HELLO), "spec": {"image": "oci:/srv/x"}})
    finished = mayfly("apply", "-f", "-", "--kubeconfig", config, stdin=local)
    assert finished.returncode == 1
    assert "single node only" in finished.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--kubeconfig", "nowhere"), "there is no such file"),
        (("--context", "other"), "other"),
    ],
)
def test_a_cluster_that_is_not_named_right_is_said(mayfly: Mayfly, config: Path, options: tuple[str, ...], says: str) -> None:
    finished = mayfly("get", "images", *options, KUBECONFIG=str(config))
    assert finished.returncode == 1
    assert says in finished.stderr
    assert "Traceback" not in finished.stderr
