"""What this machine has of what functions need, and what to do about each miss.

A check never changes the machine. `missing` means that functions cannot run, `advice` that they run with less protection or speed. KVM is
asked directly, so that the answer does not depend on our own binary; the layers of the jail are reported by the monitor, which
is the one that puts them on.
"""

import fcntl
import grp
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mayfly.errors import MachineError

KVM = Path("/dev/kvm")
MONITOR_VARIABLE = "MAYFLY_MONITOR"
_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API_VERSION = 12
# An unpacked interpreter image takes some 70 MB beside its blobs.
_NEEDED_LAYERS = {"openat2", "seccomp"}  # the monitor starts nothing without them
_DISK_NEEDED = 512 << 20
_DISK_ADVISED = 4 << 30
_PROBE_SECONDS = 20
_IN_A_CONTAINER = "In a container, pass the device in (`--device /dev/kvm`)."

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
    checks = [check_processor(), check_kvm(), check_monitor(monitor), check_umoci(), check_disk(data)]
    if monitor is not None:
        checks += ask_monitor(monitor)
    return checks


def require(check: Check) -> None:
    """Raises MachineError unless the check found what functions cannot do without."""
    if check.state == "missing":
        raise MachineError(f"{check.name}: {check.detail}", hint=check.remedy)


def check_processor() -> Check:
    machine = platform.machine()
    if machine == "x86_64" and sys.platform == "linux":
        return Check("processor", "ok", "x86-64 Linux")
    return Check("processor", "missing", f"{machine} {sys.platform}", "Functions run on x86-64 Linux: use such a machine.")


def check_kvm(device: Path = KVM) -> Check:
    """Whether this process can make a virtual machine, by making one."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Check("kvm", "missing", f"{device} does not exist", _without_device())
    except PermissionError:
        return Check("kvm", "missing", f"no permission to open {device}", _without_permission(device))
    except OSError as error:
        return Check("kvm", "missing", f"{device} cannot be opened: {error.strerror}", _without_device())
    try:
        version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION)
        if version != _KVM_API_VERSION:
            return Check("kvm", "missing", f"KVM's interface has version {version}, {_KVM_API_VERSION} is needed", "Use a newer kernel.")
        os.close(fcntl.ioctl(descriptor, _KVM_CREATE_VM, 0))
    except OSError as error:
        remedy = "Another hypervisor may hold the processor: stop it." if error.errno == 16 else _without_device()
        return Check("kvm", "missing", f"{device} makes no virtual machine: {error.strerror}", remedy)
    finally:
        os.close(descriptor)
    return Check("kvm", "ok", f"{device}, interface version {version}, a virtual machine can be made")


def _without_device() -> str:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    for flag, module in (("vmx", "kvm_intel"), ("svm", "kvm_amd")):
        if flag in flags:
            return f"The processor can do it: `sudo modprobe {module}`. {_IN_A_CONTAINER}"
    return (
        "This processor offers no virtualization. On your own machine switch on VT-x or AMD-V in its firmware; in a cloud choose a type "
        f"with nested virtualization, or bare metal. {_IN_A_CONTAINER}"
    )


def _without_permission(device: Path) -> str:
    information = device.stat()
    group = _group_name(information.st_gid)
    if information.st_mode & stat.S_IWGRP and information.st_gid != 0:
        return f"Join its group with `sudo usermod --append --groups {group} $USER`, then log in again."
    return f"Let a group use it with `sudo chgrp kvm {device} && sudo chmod 660 {device}` and join that group, or run as root."


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


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


def ask_monitor(monitor: Path) -> list[Check]:
    """What only the monitor can tell: the layers of the jail, and settings of this kernel that would make it quicker."""
    finished = _run([str(monitor), "doctor", "--json"])
    try:
        report = json.loads(finished.stdout)
        layers = [_layer(layer["name"], bool(layer["available"]), str(layer["detail"])) for layer in report["layers"]]
        hints = [Check(f"tuning: {hint['name']}", "advice", str(hint["value"]), str(hint["advice"])) for hint in report.get("hints", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        remedy = "Build the monitor of the same version as this program."
        return [Check("jail", "advice", f"{monitor} cannot say: {_last_line(finished)}", remedy)]
    return layers + hints


def _layer(name: str, available: bool, detail: str) -> Check:
    if available:
        return Check(f"jail: {name}", "ok", detail)
    if name in _NEEDED_LAYERS:
        return Check(f"jail: {name}", "missing", detail, "No instance starts without this layer: use a newer kernel (Linux 5.6 or later).")
    return Check(f"jail: {name}", "advice", detail, "Instances run without this layer; a newer kernel, or root, has it.")


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
