"""What this machine offers, as the monitor finds it: the one place that asks `mayfly-monitor doctor`, for `mayfly doctor`, `mayfly up`,
the readiness check and the node's status.

Whether virtual machines can be made, and which layers the jail has, is tried by the program that will do it; nothing is tried again here.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_DOCTOR_S = 20.0
# How long an answer holds: a problem may be solved at any moment, what works rarely ceases to.
_BAD_FOR_S = 2.0
_GOOD_FOR_S = 60.0


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Kvm(_Found):
    """Whether virtual machines can be made: not if there is an `error`."""

    error: str | None = None
    advice: str | None = None
    nested: bool = False


class Layer(_Found):
    """A layer of the jail: what it holds, or why it is missing and how it can be had."""

    name: str
    available: bool
    detail: str


class Clock(_Found):
    """What the time is told from; `advice` where that makes guests slower."""

    detail: str
    advice: str | None = None


class Hint(_Found):
    """A setting of the kernel that costs speed."""

    name: str
    value: str
    advice: str


class Machine(_Found):
    """The monitor's report. `unknown`: why there is none; everything else is empty then."""

    kvm: Kvm = Kvm()
    layers: tuple[Layer, ...] = Field(default=(), strict=False)
    clock: Clock | None = None
    hints: tuple[Hint, ...] = Field(default=(), strict=False)
    unknown: str | None = None

    @property
    def problem(self) -> str | None:
        """Why no function can run here and what to do about it, for people; None if functions can."""
        if self.unknown is not None:
            return self.unknown
        return ": ".join(part for part in (self.kvm.error, self.kvm.advice) if part) or None

    def missing(self) -> list[Layer]:
        """The layers of the jail that are not to be had."""
        return [layer for layer in self.layers if not layer.available]

    def lacking(self, required: tuple[str, ...]) -> list[str]:
        """Which of these layers are missing, each with the reason."""
        if required and self.unknown is not None:
            return [f"layers of the jail are required (MAYFLY_REQUIRE_LAYERS), and it is not known which there are: {self.unknown}"]
        layers = {layer.name: layer for layer in self.layers}
        found = []
        for name in required:
            if name not in layers:
                found.append(f"MAYFLY_REQUIRE_LAYERS names {name}, which is no layer; there are {', '.join(layers)}")
            elif not layers[name].available:
                found.append(f"the layer {name} is required (MAYFLY_REQUIRE_LAYERS) and missing: {layers[name].detail}")
        return found


def examine(program: Path) -> Machine:
    """Asks the monitor. Blocking, some ten milliseconds: it makes a virtual machine, and namespaces."""
    try:
        asked = subprocess.run([program, "doctor", "--json"], capture_output=True, timeout=_DOCTOR_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        return Machine(unknown=f"{program} cannot be asked about this machine: {error}")
    try:
        return Machine.model_validate_json(asked.stdout)
    except ValidationError:
        said = asked.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {asked.returncode}"]
        return Machine(unknown=f"{program} says nothing about this machine, as one of another version would: {said[-1]}")


class Machines:
    """The machine as it was found lately; it is looked at again when that was too long ago."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._lock = asyncio.Lock()
        self._found = Machine(unknown="this machine has not been looked at yet")
        self._until = 0.0

    async def now(self) -> Machine:
        async with self._lock:
            if time.monotonic() >= self._until:
                self._found = await asyncio.to_thread(examine, self._program)
                self._until = time.monotonic() + (_GOOD_FOR_S if self._found.problem is None else _BAD_FOR_S)
            return self._found


def monitor_program(program: Path) -> Path | None:
    """The monitor's program as an absolute path, None if there is none that can be run."""
    found = shutil.which(program)
    return Path(found).absolute() if found else None
