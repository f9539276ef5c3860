"""What a run saves: the schema of bench/results/latest.json. All times are milliseconds where the name says so, sizes are bytes or MiB.

A value that is None was not measured; `missing` says why. Ratios are within this run: absolute times drift on shared machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LATEST = Path(__file__).parent / "results" / "latest.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Spread(_Part):
    """What a number of calls took."""

    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class LoadPoint(_Part):
    """A schedule of arrivals at one rate; latency is from the scheduled moment, whatever made a call late."""

    offered: Annotated[float, Field(description="calls a second that the schedule has")]
    achieved: Annotated[float, Field(description="calls a second that were answered, until the last answer")]
    calls: int
    answered: int
    refused: Annotated[int, Field(description="429 and 503, which are answers of the front's admission")]
    failed: Annotated[int, Field(description="any other status, wrong bodies, broken connections, no answer in time")]
    spread: Annotated[Spread | None, Field(description="of the calls that were answered")] = None
    refusals: Annotated[Spread | None, Field(description="of the calls that were refused")] = None


class Ratio(_Part):
    """How many times as much."""

    p50: float | None
    p99: float | None
    cpu: float | None


class Contender(_Part):
    """One way to answer a call, and what was measured of it."""

    name: str
    what: str
    language: str
    front: Annotated[bool, Field(description="whether it stands behind Mayfly's front; else clients call it directly")]
    latency: Annotated[Spread | None, Field(description="closed loop, one call at a time, interleaved with all others")] = None
    cpu_ms: Annotated[
        float | None, Field(description="processor time per call of all processes: front, monitor, instances and their ends")
    ] = None
    instance_mib: Annotated[float | None, Field(description="memory of its own that one instance has while it waits for a call")] = None
    saturation: Annotated[float | None, Field(description="calls a second by as many clients as keep it busy")] = None
    load: list[LoadPoint] = []
    per_core: Annotated[float | None, Field(description="calls a second and core at the p99 bound")] = None
    to_reuse: Ratio | None = None
    to_floor: Ratio | None = None


class Series(_Part):
    """One line of a plot."""

    name: str
    points: list[tuple[float, float]]


class Curve(_Part):
    """How a cost grows."""

    name: str
    title: str
    x: str
    y: str
    log_x: bool = False
    series: list[Series]


class Workload(_Part):
    """A function of SeBS or FunctionBench, or a body of some size, in both ways."""

    name: str
    suite: str
    ours: Spread
    reuse: Spread
    ratio: float


class Monitor(_Part):
    """The VM's part of a call: `mayfly-monitor serve` called directly, without the front."""

    language: str
    critical: Annotated[Spread, Field(description="from connecting to the end of the answer")]
    run: Annotated[Spread, Field(description="from accepting to the end of the instance's call, by the receipt")]
    cpu_ms: Annotated[float, Field(description="of the VM's whole life, by the receipt; median")]
    exits: float
    pages: float
    per_core: Annotated[float | None, Field(description="calls a second and core by as many callers as keep it busy")] = None


class Part(_Part):
    """One row of a table of parts: of the monitor's micro-benchmark, of a call's profile, of a function's way in."""

    name: str
    value: float
    unit: str
    expected: Annotated[float | None, Field(description="the figure of the trials that the design was made by")] = None


class Front(_Part):
    """A front before the same warm process."""

    name: str
    p50_us: Annotated[float, Field(description="one call at a time")]
    calls_per_second: Annotated[float, Field(description="sixteen at a time")]
    cpu_us: Annotated[float, Field(description="processor time of the front per call, one at a time")]
    busy_cpu_us: Annotated[float, Field(description="the same, sixteen at a time")]


class Streaming(_Part):
    """Bodies that do not fit anywhere."""

    first_byte_ms: Annotated[Spread, Field(description="from the guest's writing of a part to the client's having it, through the front")]
    down_mb_s: float
    up_mb_s: float
    mib: int
    server_growth_mib: Annotated[float, Field(description="of the server's resident memory, over all these bodies")]


class Overload(_Part):
    """Ten times the capacity."""

    capacity: float
    offered: float
    seconds: float
    goodput: float
    goodput_share: Annotated[float, Field(description="of the capacity")]
    refusal_p99_ms: float | None
    without_retry_after: Annotated[int, Field(description="refusals that did not say when to come again")]
    failed: int
    recovery_s: Annotated[float, Field(description="after the load's end, until ten calls in a row take less than twice the usual p99")]


class Idle(_Part):
    """Many deployed functions that nobody calls."""

    functions: int
    server_start_s: float
    server_mib: float
    per_function_kib: float
    first_call: Spread | None
    hot_beside_few: Spread
    hot_beside_many: Spread
    hot_ratio: float


class Arrival(_Part):
    """apply → Ready."""

    image_mib: float
    files: int
    ready_s: list[float]
    reference_s: Annotated[list[float], Field(description="skopeo copy and umoci unpack of the same image in the same run")]
    ratio: Annotated[float, Field(description="of the medians")]
    parts: list[Part]


class Machine(_Part):
    """Where and with what."""

    processor: str
    cores: int
    memory_mib: int
    system: str
    virtualized: str | None
    settings: dict[str, str]
    versions: dict[str, str]


class Claim(_Part):
    """A bound that the results are held to."""

    line: int
    what: str
    bound: str
    figure: str
    met: bool | None


class Results(_Part):
    """All of a run."""

    schema_version: Literal[1] = 1
    mode: Literal["full", "quick", "test"]
    commit: str
    changed: Annotated[bool, Field(description="whether the tree differed from the commit")]
    began: str
    seconds: float
    p99_bound_ms: float
    machine: Machine
    contenders: list[Contender] = []
    monitor: list[Monitor] = []
    curves: list[Curve] = []
    workloads: list[Workload] = []
    micro: list[Part] = []
    profile: list[Part] = []
    fronts: list[Front] = []
    streaming: Streaming | None = None
    overload: Overload | None = None
    idle: Idle | None = None
    arrival: Arrival | None = None
    claims: list[Claim] = []
    missing: Annotated[dict[str, str], Field(description="what was not measured, and why")] = {}

    def contender(self, name: str) -> Contender | None:
        """By name."""
        return next((contender for contender in self.contenders if contender.name == name), None)

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(self.model_dump_json(indent=1) + "\n")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Raises ValueError (pydantic's) for what is no result of this schema."""
        return cls.model_validate_json(path.read_bytes())
