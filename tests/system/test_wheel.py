"""The wheel is the whole product: installed without the tree, it has the commands and the monitor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.once import made_once

# Building takes a minute or two where nothing was built before.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the wheel installs, and nothing else."""
    return made_once(tmp_path_factory, "wheel", lambda place: _install(root, place)) / "installed"


def _install(root: Path, place: Path) -> None:
    """Builds the wheel into `place` and installs it below."""
    shutil.rmtree(root / "build" / "lib", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    environment = {**os.environ, "PATH": f"{Path.home() / '.cargo' / 'bin'}:{os.environ['PATH']}"}
    for command in (
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(root)],
        [*pip, "install", "--no-deps", "--no-index", "--target", str(place / "installed"), "--find-links", str(place), "mayfly"],
    ):
        finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr


def test_it_has_the_packages_their_types_and_the_crds(installed: Path) -> None:
    for name in ("bundles", "faas_downloader", "faas_resources", "faas_server", "mayfly"):
        assert (installed / name / "py.typed").is_file()
    assert (installed / "faas_resources" / "crds_yaml" / "images.build.kontain.app.yaml").is_file()
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"bin", "bundles", "faas_downloader", "faas_resources", "faas_server", "mayfly"}


def test_its_monitor_runs_programs(installed: Path) -> None:
    monitor = installed / "bin" / "mayfly-monitor"
    finished = subprocess.run([monitor, "run", "--", "/bin/busybox", "echo", "hi"], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (0, "hi\n"), finished.stderr


def test_its_commands_run_from_it(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "MAYFLY_MONITOR": str(installed / "bin" / "mayfly-monitor")}
    script = "import mayfly, json; from mayfly.cli import main; assert mayfly.__file__.startswith(__import__('sys').argv.pop(1)); main()"
    finished = subprocess.run(
        [sys.executable, "-c", script, str(installed), "version", "-o", "json"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["mayfly"] == "0.1.0"


def test_nothing_of_the_tests_or_the_build_is_in_it(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if name.startswith(("tests/", "scripts/", "examples/", "monitor/", "build/"))] == []
