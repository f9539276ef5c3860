"""What a node requires of the jail, with the real monitor: it says at /readyz what is missing, and its functions do not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from faas_server.node import examine
from tests.support.compiling import compiled
from tests.support.nodes import Node, wait_for
from tests.support.serving import MONITOR, make_bundle

pytestmark = [pytest.mark.system, pytest.mark.slow]

SPINNING = """
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_in at = {AF_INET, htons(8080), {0}};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1)) return 1;
    accept(listener, 0, 0);
    for (;;) {}
}
"""


def deploy(data: Path) -> None:
    """A function that spins once it is called."""
    root = data / "bundles/unpacked" / f"sha256-{'0' * 64}" / "rootfs"
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    compiled(root / "program", SPINNING, "-static", "-O1")
    revision = "0123456789abcdef"
    bundle = data / "bundles/revisions/default/function" / revision
    make_bundle(bundle, root, ["/program"], name="function", revision=revision, timeout_ms=60_000)
    (bundle.parent / "current").symlink_to(revision)


def test_a_layer_that_is_required_and_missing_is_named_with_its_variable(tmp_path: Path) -> None:
    deploy(tmp_path)
    node = Node(tmp_path, MONITOR, {"require_layers": "seccomp, teleport"})
    try:
        ready = node.call("/readyz")
        assert ready.status == 503
        reason = next(reason for reason in ready.json["reasons"] if "teleport" in reason)
        assert "MAYFLY_REQUIRE_LAYERS" in reason
        assert "seccomp" in reason.partition("there are")[2]
        problem = wait_for(lambda: ((node.status("function") or {}).get("coming") or {}).get("problem"), "the function's problem")
        assert problem["reason"] == "layers"
        assert "teleport" in problem["message"]
    finally:
        node.kill()


def test_layers_that_are_there_are_in_each_receipt_and_processor_time_ends(tmp_path: Path) -> None:
    deploy(tmp_path)
    node = Node(tmp_path, MONITOR, {"require_layers": "openat2,seccomp", "cpu_seconds": 1})
    try:
        node.wait_ready("function")
        assert node.call("/readyz").status == 200
        assert node.call("/default/function/", headers={"X-Call-Id": "spins"}).status == 500
        receipt = node.receipt("spins")["monitor"]
        assert {"openat2", "seccomp"} <= set(receipt["layers"])
        assert receipt["cause"] == "signal"
        assert "MAYFLY_CPU_SECONDS" in receipt["message"]
    finally:
        node.kill()


def test_a_monitor_that_cannot_be_asked_is_a_reason_of_its_own(tmp_path: Path) -> None:
    machine = examine(tmp_path / "none")
    assert machine.problem is not None
    assert "cannot be asked" in machine.problem
    assert machine.lacking(()) == []
    [reason] = machine.lacking(("seccomp",))
    assert "cannot be asked" in reason
    assert "of another version" in (examine(Path("/bin/true")).problem or "")
