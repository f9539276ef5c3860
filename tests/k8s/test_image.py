"""Mayfly's own image: built without Docker, and everything in it runs as the user of k8s/, on a read-only root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bundles.layout import Layout
from bundles.unpacking import read_manifest, unpack
from tests.support.once import made_once

pytestmark = [pytest.mark.slow, pytest.mark.system]

Run = Callable[..., str]


@pytest.fixture(scope="module")
def layout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's layout, with the tag `here`."""

    def make(place: Path) -> None:
        command = [sys.executable, "scripts/project_image.py", f"{place / 'mayfly.oci'}:here"]
        subprocess.run(command, cwd=root, check=True, timeout=300)

    return made_once(tmp_path_factory, "own-image", make) / "mayfly.oci"


@pytest.fixture(scope="module")
def config(layout: Path) -> Any:
    """How the image is to be run."""
    opened = Layout(layout)
    manifest = read_manifest(opened, opened.resolve("here").digest)
    return json.loads(opened.read(manifest.config.digest, 1 << 20))["config"]


# As a pod would: the image's user and variables, nothing writable.
_INSIDE = """
root=$1 user=$2; shift 2
mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" || exit 99
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" || exit 99
exec chroot --userspec="$user" "$root" "$@"
"""


@pytest.fixture(scope="module")
def run(layout: Path, config: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in the unpacked image; what it prints."""
    opened = Layout(layout)
    place = tmp_path_factory.mktemp("image")
    rootfs = unpack(opened, opened.resolve("here").digest, place / "it")
    for directory in (place, place / "it"):
        directory.chmod(0o755)
    variables = dict(each.split("=", 1) for each in config["Env"])

    def command(*words: str, status: int = 0) -> str:
        isolated = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--propagation",
            "private",
            "bash",
            "-c",
            _INSIDE,
            "bash",
            str(rootfs),
            config["User"],
        ]
        variables_of_outside = {**variables, "PATH": f"{os.environ['PATH']}:{variables['PATH']}"}
        finished = subprocess.run(
            [*isolated, *words], capture_output=True, text=True, timeout=120, check=False, env=variables_of_outside, cwd="/"
        )
        assert finished.returncode == status, finished.stderr
        return finished.stdout

    return command


def test_image_is_what_the_manifests_expect(config: Any, root: Path) -> None:
    spec = yaml.safe_load((root / "k8s/base/node.yaml").read_text())["spec"]["template"]["spec"]
    assert config["User"] == f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    assert config["Entrypoint"] == spec["containers"][0]["command"]


def test_both_planes_begin(run: Run) -> None:
    for plane in ("faas_server", "faas_downloader"):
        assert "--data" in run("/usr/bin/python3", "-m", plane, "--help")


def test_every_module_is_there_with_what_it_needs(run: Run) -> None:
    modules = ("faas_server.app", "faas_downloader.app", "faas_resources.store.kubernetes", "mayfly.cli", "sqlite3", "ssl")
    assert run("/usr/bin/python3", "-c", f"import {', '.join(modules)}; print('all')") == "all\n"
    assert "images.build.kontain.app.yaml" in run(
        "/usr/bin/python3", "-c", "import os; print(os.listdir('/app/lib/faas_resources/crds_yaml'))"
    )


def test_it_knows_its_version(run: Run, root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert run("/usr/bin/python3", "-c", "from importlib.metadata import version; print(version('mayfly'))") == f"{version}\n"


def test_programs_beside_run(run: Run) -> None:
    assert run("/app/bin/umoci", "--version").startswith("umoci version")
    assert run("/app/bin/mayfly-monitor", "--version").startswith("mayfly-monitor")
    said = json.loads(
        run("/app/bin/mayfly-monitor", "doctor", "--json", status=1)
    )  # /dev/kvm is not this user's here, as a plugin makes it
    assert {layer["name"] for layer in said["layers"] if layer["available"]} >= {"seccomp", "openat2"}
    assert "/dev/kvm" in said["kvm"]["error"]
