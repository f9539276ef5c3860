"""What this machine has of what functions need, and what to do about each miss.

A check never changes the machine. `missing` means that functions cannot run, `advice` that they run with less protection or speed. What
KVM and the kernel offer is found by the monitor, which is the one that uses it (`faas_server.node`).
"""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faas_server import node
from faas_server.node import Layer, Machine
from mayfly.errors import MachineError

MONITOR_VARIABLE = "MAYFLY_MONITOR"
# An unpacked interpreter image takes some 70 MB beside its blobs.
_NEEDED_LAYERS = {"openat2", "seccomp"}  # the monitor starts nothing without them
_DISK_NEEDED = 512 << 20
_DISK_ADVISED = 4 << 30
_PROBE_SECONDS = 20

State = Literal["ok", "advice", "missing"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `remedy` says what to do, and is empty when `state` is ok."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(data: Path, monitor: Path | None) -> list[Check]:
    """All checks, the most fundamental first."""
    machine = Machine(unknown="only the monitor can tell") if monitor is None else node.examine(monitor)
    checks = [check_processor(), check_kvm(machine), check_monitor(monitor), check_umoci(), check_disk(data)]
    return [*checks, *check_jail(machine), *check_speed(machine)]


def require(check: Check) -> None:
    """Raises MachineError unless the check found what functions cannot do without."""
    if check.state == "missing":
        raise MachineError(f"{check.name}: {check.detail}", hint=check.remedy)


def check_processor() -> Check:
    machine = platform.machine()
    if machine == "x86_64" and sys.platform == "linux":
        return Check("processor", "ok", "x86-64 Linux")
    return Check("processor", "missing", f"{machine} {sys.platform}", "Functions run on x86-64 Linux: use such a machine.")


def check_kvm(machine: Machine) -> Check:
    """Whether virtual machines can be made, as the monitor has found by making one."""
    if machine.problem is None:
        nested = ", in a virtual machine (nested: slower)" if machine.kvm.nested else ""
        return Check("kvm", "ok", f"virtual machines can be made{nested}")
    remedy = machine.kvm.advice or "See dmesg for what the kernel says about KVM; the monitor must be of this program's version."
    return Check("kvm", "missing", machine.unknown or machine.kvm.error or "", remedy)


def find_monitor(option: Path | None = None) -> Path | None:
    """The monitor: as asked for (option or MAYFLY_MONITOR), else beside this program, else on the PATH."""
    if option is not None:
        return option if os.access(option, os.X_OK) and option.is_file() else None
    beside = Path(sys.executable).parent / "mayfly-monitor"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("mayfly-monitor")
    return Path(found) if found else None


def check_monitor(monitor: Path | None) -> Check:
    remedy = f"Install the wheel, or run `make build` in the source tree; {MONITOR_VARIABLE} names one elsewhere."
    if monitor is None:
        return Check("monitor", "missing", "no mayfly-monitor beside this program or on the PATH", remedy)
    version = _run([str(monitor), "--version"])
    if version.returncode != 0:
        return Check("monitor", "missing", f"{monitor} does not run: {_last_line(version)}", remedy)
    return Check("monitor", "ok", f"{version.stdout.strip()} at {monitor}")


def check_jail(machine: Machine) -> list[Check]:
    """The layers of the jail."""
    return [_layer(layer) for layer in machine.layers]


def _layer(layer: Layer) -> Check:
    name = f"jail: {layer.name}"
    if layer.available:
        return Check(name, "ok", layer.detail)
    if layer.name in _NEEDED_LAYERS:
        return Check(name, "missing", layer.detail, "No instance starts without this layer: use a newer kernel (Linux 5.6 or later).")
    return Check(name, "advice", layer.detail, "Instances run without this layer, and receipts say so. To get it: see above.")


def check_speed(machine: Machine) -> list[Check]:
    """What makes functions slower here than they need be."""
    hints = [Check(f"tuning: {hint.name}", "advice", hint.value, hint.advice) for hint in machine.hints]
    if machine.clock is None:
        return hints
    clock = machine.clock
    return [Check("clock", "advice" if clock.advice else "ok", clock.detail, clock.advice or ""), *hints]


def check_umoci() -> Check:
    program = shutil.which("umoci")
    remedy = "Install it: `sudo apt-get install umoci` on Debian and Ubuntu, or from its releases."
    if program is None:
        return Check("umoci", "missing", "not on the PATH; images are unpacked with it", remedy)
    finished = _run([program, "--version"])
    if finished.returncode != 0:
        return Check("umoci", "missing", f"{program} does not run: {_last_line(finished)}", remedy)
    return Check("umoci", "ok", f"{finished.stdout.strip()} at {program}")


def check_disk(data: Path) -> Check:
    place = data
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("disk", "missing", f"no permission to write in {place}", "Choose a directory of your own with --data.")
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check("disk", "missing", f"{place}: {error.strerror}", "Choose another directory with --data.")
    detail = f"{free / (1 << 30):.1f} GiB free for {data}"
    if free < _DISK_NEEDED:
        return Check("disk", "missing", detail, "Free some space (512 MiB at the least), or choose another place with --data.")
    if free < _DISK_ADVISED:
        return Check("disk", "advice", detail, "Images need their size twice, packed and unpacked: 4 GiB give room for several.")
    return Check("disk", "ok", detail)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _last_line(finished: subprocess.CompletedProcess[str]) -> str:
    lines = (finished.stderr or finished.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit status {finished.returncode}"
