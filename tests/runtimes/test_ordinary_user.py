"""An OCI runtime asked for where nobody is root: it is said, by the name of what is missing, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from bundles.manifests import ImageConfig
from bundles.runtime_config import Deployment, runtime_config
from tests.support.roots import make_root
from tests.support.serving import Serve, make_bundle
from tests.support.user import AS_USER

pytestmark = [pytest.mark.system, pytest.mark.slow]

IMAGE = ImageConfig.model_validate({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}})


def test_without_root_a_runtime_fails_with_what_it_may_not_do(tmp_path: Path) -> None:
    program = shutil.which("crun")
    assert program, "crun is missing: `make test` installs it"
    root = make_root(tmp_path / "root")
    shutil.copy("/bin/busybox", root / "busybox")
    words = ("/busybox", "true")
    bundle = make_bundle(tmp_path / "bundle", root, words, runtime="crun")
    deployment = Deployment(namespace="default", name="test", reference="oci:test", command=words, port=8080)
    (bundle / "config.json").write_text(json.dumps(runtime_config(IMAGE, deployment, root)))
    command = (*(() if os.geteuid() else AS_USER), sys.executable, "-m", "faas_server.runtimes", "--runtime", "crun", "--program", program)
    with Serve(bundle, tmp_path, "--log-limit", "65536", "--output-limit", "1048576", program=command) as serve:
        failed = serve.wait_for("failed")
        assert "namespace cannot be made: Operation not permitted" in failed["message"]
        assert serve.process.wait(20) != 0
    assert not list(tmp_path.glob("*.scratch"))
