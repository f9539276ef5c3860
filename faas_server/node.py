"""What this machine offers: KVM, and the monitor's program. Also asked by `mayfly doctor` and by the readiness check."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

KVM = Path("/dev/kvm")
_KVM_GET_API_VERSION = 0xAE00
_DOCTOR_S = 20.0
_KVM_API_VERSION = 12  # the only one since Linux 2.6.22


def kvm_problem(device: Path = KVM) -> str | None:
    """Why virtual machines cannot be made here and what to do about it, None if they can."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"{device} is missing: load the kernel module (modprobe kvm_intel or kvm_amd), or switch on virtualization for this machine"
    except PermissionError:
        return f"{device} may not be opened: add the user to the group that owns it (often: usermod -aG kvm USER), then log in again"
    except OSError as error:
        hint = ": the processor's virtualization is switched off" if error.errno == errno.ENODEV else ""
        return f"{device} cannot be opened: {error.strerror}{hint}"
    try:
        version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION)
    except OSError as error:
        return f"{device} is not KVM: {error.strerror}"
    finally:
        os.close(descriptor)
    return None if version == _KVM_API_VERSION else f"{device} speaks version {version} of its API, {_KVM_API_VERSION} is needed"


def lacking_layers(program: Path, required: tuple[str, ...]) -> list[str]:
    """Which of these layers of the jail the monitor finds missing here, each with the reason. Blocking: it is asked."""
    if not required:
        return []
    try:
        asked = subprocess.run([program, "doctor", "--json"], capture_output=True, timeout=_DOCTOR_S, check=False, stdin=subprocess.DEVNULL)
        layers = {str(layer["name"]): layer for layer in json.loads(asked.stdout)["layers"]}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        return [f"layers of the jail are required (MAYFLY_REQUIRE_LAYERS), and {program} cannot say which there are: {error}"]
    found = []
    for name in required:
        if name not in layers:
            found.append(f"MAYFLY_REQUIRE_LAYERS names {name}, which is no layer; there are {', '.join(layers)}")
        elif not layers[name].get("available"):
            found.append(f"the layer {name} is required (MAYFLY_REQUIRE_LAYERS) and missing: {layers[name].get('detail')}")
    return found


def monitor_program(program: Path) -> Path | None:
    """The monitor's program as an absolute path, None if there is none that can be run."""
    found = shutil.which(program)
    return Path(found).absolute() if found else None
