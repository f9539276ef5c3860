"""`python -m bench`: a whole run, in parts that can be chosen; saves the results and makes the page and the plots of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import contenders, images, node, report
from bench.claims import claims
from bench.machine import commit, machine
from bench.quantiles import ratio
from bench.results import LATEST, Results
from bench.stages import arrival, fronts, growth, idle, latency, load, monitor, overload, profile, streaming, workloads
from bench.stages.plan import PLANS, Plan

_PROFILED = "profiled"
RUNTIMES = ("crun", "runc", "runsc")


class Run:
    """One run, part by part; what a part finds is in `results` as soon as it has."""

    def __init__(self, plan: Plan, parts: list[str], names: list[str], target: Path | None = None) -> None:
        """`parts` and `names` of contenders: only these; empty: all that the plan has. `target`: kept there after each part."""
        found, changed = commit()
        self.plan = plan
        self.parts = parts
        self.names = names
        self.target = target
        self.failed = False
        self.began = time.monotonic()
        self.results = Results(
            mode=plan.mode,
            commit=found,
            changed=changed,
            began=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=0,
            p99_bound_ms=load.P99_BOUND_MS,
            machine=machine(),
        )

    def part(self, name: str, work: Callable[[], None]) -> None:
        """One part, if it was asked for, with its time told."""
        if self.parts and name not in self.parts:
            self.results.missing[name] = "it was not asked for"
            return
        began = time.monotonic()
        print(f"{began - self.began:6.0f} s  {name} …", file=sys.stderr, flush=True)
        try:
            work()
        except (SystemExit, Exception) as error:  # noqa: BLE001 - a wrong answer, or what broke: the other parts are measured all the same
            told = str(error) if isinstance(error, SystemExit) else repr(error)
            print(f"         {name} failed: {told}", file=sys.stderr, flush=True)
            self.results.missing[name] = f"failed: {told}"
            self.failed = True
        self.results.seconds = time.monotonic() - self.began
        self.results.claims = claims(self.results)
        if self.target is not None:  # what is measured is kept, whatever becomes of the rest
            self.results.save(self.target)

    def all(self, place: Path) -> Results:
        """Everything, on nodes in `place`."""
        planned = [kind for kind in contenders.KINDS if (kind.name in self.names if self.names else self.plan.is_full or kind.in_quick)]
        kinds, missing = contenders.available(planned)
        self.results.missing.update(missing)
        runtimes = ",".join(name for name in RUNTIMES if any(kind.way == name for kind in kinds))
        with node.running(place, images.floor(), {"MAYFLY_RUNTIMES": runtimes}) as main:
            self.part("contenders", lambda: self._contenders(kinds, main, place))
            self.part("profile", lambda: self._profile(main))
            self.part("overload", lambda: self._overload(main))
            self.part("streaming", lambda: self._streaming(main))
            self.part("fronts", lambda: self._fronts(main))
            self.part("bodies", lambda: self._bodies(main))
            self.part("workloads", lambda: self._workloads(main))
        self.part("monitor", lambda: self._monitor(place))
        self.part("functions", lambda: self._functions(place))
        self.part("arrival", lambda: self._arrival(place))
        self.part("idle", lambda: self._idle(place))
        self.part("images", lambda: self._images(place))
        return self.results

    def _contenders(self, kinds: list[contenders.Kind], main: node.Node, place: Path) -> None:
        with contenders.standing(kinds, main, place) as found:
            self.results.contenders = latency.measure(found, self.plan)
            self.part("load", lambda: load.measure(found, self.results.contenders, self.plan))
        self._compare()

    def _profile(self, main: node.Node) -> None:
        main.apply([node.manifest(images.cpython(), _PROFILED)])
        self.results.profile = profile.measure(main, _PROFILED, self.plan.monitor_calls // 5)

    def _fronts(self, main: node.Node) -> None:
        self.results.fronts = fronts.measure(main, self.plan)

    def _streaming(self, main: node.Node) -> None:
        self.results.streaming = streaming.measure(main, self.plan)

    def _bodies(self, main: node.Node) -> None:
        curve, workloads_found = growth.bodies(main, self.plan)
        self.results.curves += [curve, growth.touched(main, self.plan)]
        self.results.workloads += workloads_found

    def _workloads(self, main: node.Node) -> None:
        self.results.workloads += workloads.measure(main, self.plan)

    def _images(self, place: Path) -> None:
        with node.running(place, images.floor(), name="sizes") as sizes:
            self.results.curves += growth.image_sizes(sizes, self.plan)

    def _overload(self, main: node.Node) -> None:
        main.apply([node.manifest(images.cpython(), _PROFILED)])
        self.results.overload = overload.measure(main, self.plan, _PROFILED)

    def _monitor(self, place: Path) -> None:
        self.results.monitor = monitor.measure(self.plan, place)
        self.results.micro = monitor.micro(self.results.monitor, place)

    def _functions(self, place: Path) -> None:
        with node.running(place, images.floor(), name="many") as many:
            self.results.curves += growth.functions(many, self.plan)

    def _idle(self, place: Path) -> None:
        if self.plan.idle:
            self.results.idle = idle.measure(self.plan, place)

    def _arrival(self, place: Path) -> None:
        if self.plan.arrivals:
            self.results.arrival = arrival.measure(self.plan, place)

    def _compare(self) -> None:
        """Ratios within the run: to the warm process of the same language, and to the empty virtual machine."""
        floor = self.results.contender("floor")
        for contender in self.results.contenders:
            family = {"Node": "node reuse", "Go": "go reuse"}.get(contender.language, "reuse")
            reuse = self.results.contender(family)
            assert contender.latency is not None, "it was measured"
            if reuse is not None and reuse.latency is not None:
                contender.to_reuse = ratio(contender.latency, contender.cpu_ms, reuse.latency, reuse.cpu_ms)
            if floor is not None and floor.latency is not None and contender.front:
                contender.to_floor = ratio(contender.latency, contender.cpu_ms, floor.latency, floor.cpu_ms)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--mode", choices=sorted(PLANS), default="full", help="how much of each part: full is about 15 minutes, quick 2")
    parser.add_argument("--parts", default="", help="only these, separated by commas")
    parser.add_argument("--contenders", default="", help="only these, separated by commas")
    parser.add_argument("--save", type=Path, help="where the results go [bench/results/latest.json of a full run; else nowhere]")
    parser.add_argument("--page", action="store_true", help="make docs/performance.md and its plots of what is saved, without a run")
    options = parser.parse_args()
    if options.page:
        report.publish(Results.load(options.save or LATEST))
        return
    plan = PLANS[options.mode]
    parts, names = ([word for word in text.split(",") if word] for text in (options.parts, options.contenders))
    target = options.save or (LATEST if plan.is_full and not parts and not names else None)
    # Short: sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as name:
        run = Run(plan, parts, names, target)
        results = run.all(Path(name))
    print(report.tables(results))
    if target == LATEST:
        report.publish(results)
    if run.failed:
        raise SystemExit("a part of the run failed; the results say which")


if __name__ == "__main__":
    main()
