"""What the wheel is told to hold is what the tree has."""

from __future__ import annotations

import importlib
import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import pytest

PLANES = ("bundles", "faas_downloader", "faas_resources", "faas_server", "mayfly")
CRDS = "faas_resources.crds_yaml"


@pytest.fixture
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_in_the_wheel(root: Path, project: dict[str, Any]) -> None:
    found = {".".join(path.parent.relative_to(root).parts) for plane in PLANES for path in (root / plane).rglob("*.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == found | {CRDS}


def test_every_plane_says_that_it_is_typed(root: Path) -> None:
    assert [plane for plane in PLANES if not (root / plane / "py.typed").is_file()] == []


def test_the_crds_have_a_package_to_live_in(root: Path, project: dict[str, Any]) -> None:
    directory = root / project["tool"]["setuptools"]["package-dir"][CRDS]
    assert {path.name for path in directory.glob("*.yaml")} == {"images.build.kontain.app.yaml", "kustomization.yaml"}


def test_the_console_script_names_a_function(project: dict[str, Any]) -> None:
    module, _, function = project["project"]["scripts"]["mayfly"].partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert callable(getattr(importlib.import_module(module), function))


def test_the_monitor_is_built_from_its_own_lock_and_flags(root: Path, project: dict[str, Any]) -> None:
    (binary,) = project["tool"]["setuptools-rust"]["bins"]
    assert binary["target"] == "mayfly-monitor"
    assert (root / binary["path"]).is_file()
    assert "--locked" in binary["args"]
    assert (root / binary["args"][binary["args"].index("--config") + 1]).is_file()
