"""How long a run takes, by its mode: the same parts with fewer calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["full", "quick", "test"]


@dataclass(frozen=True)
class Plan:
    """How much of each part."""

    mode: Mode
    rounds: int  # of closed-loop calls, one at a time
    cpu_calls: int  # in each round, of a contender that is fast
    cpu_rounds: int
    saturation_s: float
    load_s: float  # at each rate
    loads: tuple[float, ...]  # shares of the saturation
    monitor_calls: int
    workload_calls: int
    workloads: tuple[str, ...]  # empty: all
    bodies_kib: tuple[int, ...]
    touched_mib: tuple[int, ...]
    images_mib: tuple[int, ...]
    functions: tuple[int, ...]  # with ten parked instances each, at the end
    idle: int
    idle_real: int  # of them, whose snapshots are there to be called from
    stream_mib: int
    overload_s: float
    arrivals: int

    @property
    def is_full(self) -> bool:
        """Whether results may be kept as the project's."""
        return self.mode == "full"


PLANS: dict[str, Plan] = {
    "full": Plan(
        mode="full",
        rounds=400,
        cpu_calls=100,
        cpu_rounds=3,
        saturation_s=2.0,
        load_s=2.5,
        loads=(0.1, 0.4, 0.7, 0.85, 1.0),
        monitor_calls=400,
        workload_calls=40,
        workloads=(),
        bodies_kib=(1, 16, 64, 256, 1024, 4096),
        touched_mib=(0, 1, 4, 16, 64),
        images_mib=(1, 16, 128, 512),
        functions=(1, 10, 25, 50, 100),
        idle=10_000,
        idle_real=60,
        stream_mib=100,
        overload_s=60.0,
        arrivals=3,
    ),
    "quick": Plan(
        mode="quick",
        rounds=40,
        cpu_calls=30,
        cpu_rounds=1,
        saturation_s=1.0,
        load_s=1.5,
        loads=(0.3, 0.7),
        monitor_calls=60,
        workload_calls=6,
        workloads=("dynamic_html", "graph_bfs"),
        bodies_kib=(1, 1024),
        touched_mib=(0, 16),
        images_mib=(),
        functions=(1, 3),
        idle=0,
        idle_real=0,
        stream_mib=100,
        overload_s=3.0,
        arrivals=1,
    ),
    "test": Plan(
        mode="test",
        rounds=4,
        cpu_calls=5,
        cpu_rounds=1,
        saturation_s=0.3,
        load_s=0.5,
        loads=(0.5,),
        monitor_calls=5,
        workload_calls=2,
        workloads=(),
        bodies_kib=(1,),
        touched_mib=(1,),
        images_mib=(),
        functions=(),
        idle=0,
        idle_real=0,
        stream_mib=4,
        overload_s=0.5,
        arrivals=0,
    ),
}
