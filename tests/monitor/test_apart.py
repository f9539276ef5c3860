"""Pages that a clone keeps apart from the image: whatever the program does to them means what it means elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.monitor.test_rehearsal import root_of
from tests.support.serving import MONITOR, Serve, make_bundle

pytestmark = pytest.mark.system

DEEDS = ["plain", "pieces", "protects", "unmaps", "moves", "discards", "forks", "wakes"]


def anonymous(pid: int, beginning: str) -> int:
    """KiB of private memory in the mapping of a process that begins there."""
    within = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            within = line.startswith(beginning)
        elif within and line.startswith("Anonymous:"):
            return int(line.split()[1])
    return 0


def test_each_deed_is_right_natively_and_in_a_program_that_is_run(program: Callable[..., Path]) -> None:
    built = str(program("apart"))
    for command in ([built], [str(MONITOR), "run", "--", built]):
        assert subprocess.run([*command, *DEEDS], capture_output=True, text=True, check=False, timeout=60).stdout == "ok\n"


def test_each_deed_is_right_in_a_clone_that_keeps_the_pages_apart(program: Callable[..., Path], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", root_of(tmp_path, program("apart")), ["/main"])
    with Serve(bundle, tmp_path, pool=1) as serve:
        ready = serve.wait_for("ready")
        # Those that are written, every second one, and no others of the 64.
        assert ready["snapshot"]["warm_pages"] >= 64
        parked = serve.wait_for("parked")
        assert 32 * 4 <= anonymous(parked["pid"], "280000000000-") < 64 * 4
        answers = {deed: serve.call(deed, path=f"/{deed}").body for deed in DEEDS for _ in range(2)}
        assert answers == dict.fromkeys(DEEDS, b"ok"), serve.errors()


def test_code_of_2_mib_begins_on_such_a_boundary(program: Callable[..., Path]) -> None:
    library = program("large_code", "-fPIC", "-shared", "-DLIBRARY")
    command = [str(MONITOR), "run", "--", str(program("large_code", "-fPIE", "-pie")), str(library)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert [int(start, 16) % (2 << 20) for start in shown] == [0, 0], shown
