"""What is particular to each OCI runtime: its options, and what of a bundle's config.json it cannot take on this machine.

All speak the command line that runc made common: `--root`, `run --bundle --pid-file`, `kill`, `delete --force`.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_PROBE_S = 10.0
_UNIFIED = Path("/sys/fs/cgroup/unified")  # cgroup v2 beside v1 controllers: a hybrid layout


@dataclass(frozen=True, slots=True)
class Flavor:
    """One runtime's ways."""

    options: tuple[str, ...] = ()  # before the subcommand
    limits_memory: bool = True  # by a cgroup that it makes
    refuses_hybrid: bool = False  # the hybrid cgroup layout ends it, so it must not see the v2 part


_FLAVORS = {
    "runc": Flavor(),
    "crun": Flavor(refuses_hybrid=True),
    "krun": Flavor(refuses_hybrid=True),  # crun with libkrun
    # Its own network stack would have a loopback that nobody outside reaches; the namespace around it is as empty.
    "runsc": Flavor(options=("--network=host", "--platform=ptrace", "--ignore-cgroups"), limits_memory=False),
}


def flavor(name: str) -> Flavor:
    """The ways of a runtime, by the name that the operator gave; one that is not known is taken for the common kind."""
    return _FLAVORS.get(name, Flavor())


def version(program: Path) -> str:
    """What the runtime says of itself, in a line; raises OSError or subprocess.SubprocessError where it cannot be asked."""
    asked = subprocess.run([program, "--version"], capture_output=True, timeout=_PROBE_S, check=True, stdin=subprocess.DEVNULL)
    lines = asked.stdout.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:100] if lines else program.name


def hides_unified(kind: Flavor) -> bool:
    """Whether the v2 part of a hybrid cgroup layout must be hidden from it."""
    return kind.refuses_hybrid and _UNIFIED.is_dir()


def adapted(config: dict[str, Any], kind: Flavor, identity: str) -> dict[str, Any]:
    """A bundle's config.json as this runtime gets it for one container: the network namespace is the one it is started in."""
    linux = dict(config.get("linux", {}))
    linux["namespaces"] = [space for space in linux.get("namespaces", []) if space.get("type") != "network"]
    linux["cgroupsPath"] = f"/mayfly/{identity}"
    if not kind.limits_memory:
        linux.pop("resources", None)
        linux.pop("cgroupsPath", None)
    return {**config, "linux": linux}
