"""The same tests, run by a user without any privilege."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles.conftest import ROOT
from tests.support.user import AS_USER

HERE = Path(__file__).parent


@ROOT
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", ["test_unpacking", "test_hostile_images", "test_revisions"])
def test_an_ordinary_user_sees_the_same(tmp_path: Path, module: str) -> None:
    if subprocess.run([*AS_USER, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs user namespaces, which this kernel or container refuses")
    command = [
        *AS_USER,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tmp_path / "base"),
    ]
    result = subprocess.run(
        [*command, f"{HERE}/{module}.py"], cwd=HERE.parents[1], capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
