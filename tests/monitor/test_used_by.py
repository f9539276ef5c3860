"""`mayfly-monitor syscalls --used-by`: what a bundle's program asks for, and what of it is missing."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.roots import make_root
from tests.support.serving import MONITOR, Serve, make_bundle

pytestmark = pytest.mark.system

# Newer C libraries ask for it before main, and do without.
LIBRARY = "rseq"


@pytest.fixture(scope="module")
def root(program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_root(tmp_path_factory.mktemp("root") / "root")
    shutil.copy(program("wishes"), root / "wishes")
    return root


def used_by(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [MONITOR, "syscalls", "--used-by", bundle, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def counts(found: dict[str, Any]) -> dict[str | int | None, tuple[int, int, str, bool]]:
    """By name, or by number where there is no name: count, denied, level, missing."""
    return {call["name"] or call["number"]: (call["count"], call["denied"], call["level"], call["missing"]) for call in found["calls"]}


def missing(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("missing: ")]
    return [name for name in line.removeprefix("missing: ").split(", ") if name != LIBRARY]


@pytest.mark.parametrize("contract", ["http", "stdin"])
def test_what_is_used_is_counted_until_the_end_of_one_call_children_too(root: Path, tmp_path: Path, contract: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", root, ["/wishes", contract], contract=contract)
    done = used_by(bundle, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ready"], found["failure"]) == (True, None)
    calls = counts(found)
    table = json.loads(subprocess.run([MONITOR, "syscalls", "--json"], capture_output=True, check=True).stdout)
    level = {row["name"]: row["level"] for row in table}["io_uring_setup"]
    assert level in {"refused", "absent"}
    # Before the snapshot, in a child process, and in the call: the rehearsal's call is not counted.
    assert calls["io_uring_setup"] == (1, 1, level, True)
    assert calls[400] == (2, 2, "absent", True)
    assert calls[None] == (1, 1, "absent", True)
    assert {name for name, call in calls.items() if call[3]} - {LIBRARY} == {"io_uring_setup", 400, None}
    if contract == "http":
        assert (found["call"]["cause"], found["call"]["code"]) == ("closed", None)
        assert calls["bind"][:2] == calls["listen"][:2] == (1, 0)
    else:
        assert (found["call"]["cause"], found["call"]["code"]) == ("exited", 0)
        assert calls["exit_group"][0] == 2


def test_a_program_without_a_snapshot_is_counted_once(root: Path, tmp_path: Path) -> None:
    """It ends without reading its input, so the call starts it anew: the boot does not count twice."""
    bundle = make_bundle(tmp_path / "bundle", root, ["/wishes", "brief"], contract="stdin")
    found = json.loads(used_by(bundle, "--json").stdout)
    assert (found["ready"], found["call"]["cause"]) == (True, "exited")
    calls = counts(found)
    assert (calls["io_uring_setup"][0], calls[400][0], calls["exit_group"][0]) == (1, 2, 2)


def test_the_table_is_for_people(root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", root, ["/wishes", "stdin"], contract="stdin")
    done = used_by(bundle)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["name", "area", "level", "count", "denied"]
    assert lines[1].split() == ["number", "400", "absent", "2", "2"]
    assert missing(done.stdout) == ["number 400", "io_uring_setup", "number 512 or above"]
    assert lines[-1] == "the call ended: exited 0"


def test_a_program_that_never_gets_ready_is_shown_as_far_as_it_came(root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", root, ["/wishes", "stuck"])
    done = used_by(bundle, "--json", "--ready-timeout", "2000")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["ready"], found["call"], found["failure"]["reason"]) == (False, None, "timeout")
    assert "waiting for" in found["failure"]["output"]
    assert counts(found)["io_uring_setup"][0] == 1
    assert counts(found)[400][0] == 2

    done = used_by(bundle, "--ready-timeout", "2000")
    assert done.returncode == 1
    assert missing(done.stdout) == ["number 400", "io_uring_setup"]
    assert "did not wait for a connection on port 8080 in time" in done.stderr
    assert "waiting for \\u{1b}[1mgodot" in done.stderr
    assert "\033" not in done.stderr


def test_the_network_is_off(root: Path, tmp_path: Path) -> None:
    """With a network an address that is not allowed is EACCES; without one nothing can be reached at all."""
    allow: list[dict[str, object]] = [{"host": None, "cidr": "198.51.100.0/24", "ports": [], "protocol": "any"}]
    bundle = make_bundle(tmp_path / "bundle", root, ["/wishes", "outward"], network=allow)
    with Serve(bundle, tmp_path) as serve:
        assert f"connect: {errno.EACCES}\n" in serve.wait_for("failed")["output"]
    found = json.loads(used_by(bundle, "--json").stdout)
    assert (found["ready"], found["failure"]["reason"]) == (False, "exited")
    assert f"connect: {errno.ENETUNREACH}\n" in found["failure"]["output"]


def test_wrong_input_is_named(tmp_path: Path) -> None:
    done = used_by(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "function.json" in done.stderr
    done = subprocess.run([MONITOR, "syscalls", "--device", "/dev/kvm"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--used-by" in done.stderr
