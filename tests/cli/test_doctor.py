"""`mayfly doctor` and the checks of `mayfly up`, on machines that lack something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faas_server.node import Machine, examine
from mayfly import doctor
from tests.cli.conftest import Mayfly
from tests.support.serving import MONITOR


def found(device: Path, *, nobody: bool = False) -> Machine:
    """What the monitor says of a device; to a process without privileges, if asked for."""
    user = {"user": 65534, "group": 65534, "extra_groups": []} if nobody else {}
    command = [MONITOR, "doctor", "--json", "--device", device]
    return Machine.model_validate_json(subprocess.run(command, capture_output=True, check=False, **user).stdout)  # type: ignore[call-overload]


@pytest.mark.system
def test_a_device_that_is_not_there_is_named_with_a_way_out(tmp_path: Path) -> None:
    check = doctor.check_kvm(found(tmp_path / "kvm"))
    assert check.state == "missing"
    assert check.detail.startswith(f"{tmp_path / 'kvm'}: No such file")
    assert any(way in check.remedy for way in ("modprobe", "firmware", "nested virtualization", "--device"))


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize(("mode", "group", "way_out"), [(0o660, 33, "usermod -aG www-data"), (0o600, 0, "chgrp kvm")])
def test_a_device_without_permission_is_named_with_a_way_out(mode: int, group: int, way_out: str) -> None:
    device = Path(f"/dev/mayfly-test-{os.getpid()}-{mode:o}")
    device.touch()
    try:
        device.chmod(mode)
        os.chown(device, 0, group)
        check = doctor.check_kvm(found(device, nobody=True))
    finally:
        device.unlink()
    assert check.state == "missing"
    assert check.detail.startswith(f"{device}: Permission denied")
    assert way_out in check.remedy


@pytest.mark.system
def test_a_device_that_is_something_else_is_refused() -> None:
    check = doctor.check_kvm(found(Path("/dev/null")))
    assert (check.state, check.detail) == ("missing", "/dev/null: not a KVM device")


@pytest.fixture
def without_kvm(mayfly: Mayfly, environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line on a machine whose /dev/kvm is a device of another kind, if it is one at all."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        if not Path("/dev/kvm").exists():
            return mayfly(*arguments)
        private = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
        script = 'mount --bind /dev/null /dev/kvm && exec "$0" -m mayfly "$@"'
        return subprocess.run(
            [*private, "sh", "-c", script, sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    return run


def test_up_without_kvm_says_so_before_anything_else(without_kvm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    finished = without_kvm("up", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert finished.returncode == 3
    first, second = finished.stderr.splitlines()
    assert first.startswith("error: kvm: /dev/kvm: ")
    assert second.startswith("hint:  ")
    assert not (tmp_path / "data").exists()


def test_doctor_without_kvm_says_so_and_goes_on(without_kvm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    finished = without_kvm("doctor", "--output", "json")
    assert finished.returncode == 1
    report = json.loads(finished.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert (report["able"], checks["kvm"]["state"]) == (False, "missing")
    assert checks["kvm"]["remedy"]
    assert checks["umoci"]["state"] == "ok"
    table = without_kvm("doctor").stdout
    assert ["kvm", "missing"] in [line.split()[:2] for line in table.splitlines()]
    assert table.endswith("Functions cannot run on this machine yet.\n")


def test_what_is_missing_on_the_path_is_named(mayfly: Mayfly, tmp_path: Path) -> None:
    report = json.loads(mayfly("doctor", "-o", "json", PATH="/nonexistent", MAYFLY_MONITOR=str(tmp_path / "gone")).stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert (checks["umoci"]["state"], checks["monitor"]["state"]) == ("missing", "missing")
    assert "apt-get install umoci" in checks["umoci"]["remedy"]
    assert "MAYFLY_MONITOR" in checks["monitor"]["remedy"]


def test_a_program_that_is_no_monitor_is_refused(tmp_path: Path) -> None:
    check = doctor.check_monitor(Path("/bin/false"))
    assert (check.state, "does not run" in check.detail) == ("missing", True)
    machine = examine(Path("/bin/true"))
    assert doctor.check_kvm(machine).state == "missing"
    assert "another version" in doctor.check_kvm(machine).detail
    assert doctor.check_jail(machine) + doctor.check_speed(machine) == []


def test_what_is_missing_of_the_jail_and_what_costs_speed_is_said_with_the_way_out() -> None:
    machine = Machine.model_validate(
        {
            "layers": [
                {"name": "mounts", "available": False, "detail": "allow user namespaces"},
                {"name": "seccomp", "available": False, "detail": "Function not implemented"},
                {"name": "landlock", "available": True, "detail": "ABI 7"},
            ],
            "clock": {"detail": "kvm-clock", "advice": "echo tsc"},
            "hints": [{"name": "rcu_expedited", "value": "0", "advice": "echo 1"}],
        }
    )
    checks = {check.name: check for check in doctor.check_jail(machine) + doctor.check_speed(machine)}
    assert {name: check.state for name, check in checks.items()} == {
        "jail: mounts": "advice",
        "jail: seccomp": "missing",
        "jail: landlock": "ok",
        "clock": "advice",
        "tuning: rcu_expedited": "advice",
    }
    assert checks["jail: mounts"].detail == "allow user namespaces"
    assert (checks["clock"].remedy, checks["tuning: rcu_expedited"].remedy) == ("echo tsc", "echo 1")


def test_a_directory_that_cannot_be_written_is_named() -> None:
    check = doctor.check_disk(Path("/proc/mayfly"))
    assert check.state == "missing"
    assert "--data" in check.remedy


def test_every_miss_has_a_way_out_and_every_other_none(tmp_path: Path) -> None:
    for check in doctor.examine(tmp_path, None):
        assert bool(check.remedy) == (check.state != "ok"), check
