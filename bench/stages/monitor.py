"""The virtual machine's part of a call: `mayfly-monitor serve` called directly, and what its parts cost."""

from __future__ import annotations

import json
import os
import queue
import re
import statistics
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from bench import images
from bench.machine import BIN
from bench.quantiles import spread
from bench.results import Monitor, Part
from bench.stages.plan import Plan
from tests.support.serving import Serve, make_bundle

_PAUSE_S = 0.01
_CALLERS = 16

# What the trials of the design measured on a machine of this kind (docs/decisions.md), microseconds.
_EXPECTED = {
    "a virtual machine made: slot, vCPU, registers": 500.0,
    "a virtual machine destroyed": 400.0,
    "the floor: process, machine, one exit, gone": 710.0,
    "an exit from ring 3 and back, one system call": 28.0,
    "a first touch of an anonymous page, in the guest": 4.5,
    "a process forked, ended and waited for": 150.0,
    "a vCPU more": 120.0,
    "a thread made and joined, in the guest": None,
    "a clone parked: from one call's end to the next instance": None,
    "critical path of a call in a CPython clone": 228.0,
}

# One program for all costs inside the guest: what it prints is microseconds.
_INSIDE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e6 + t.tv_nsec / 1e3; }
static void *nothing(void *argument) { return argument; }
int main(void) {
    double began = now();
    for (int i = 0; i < 20000; i++) syscall(SYS_getppid);
    printf("syscall %f\n", (now() - began) / 20000);
    char *pages = mmap(0, 4096 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    began = now();
    for (int i = 0; i < 4096; i++) pages[i * 4096] = 1;
    printf("page %f\n", (now() - began) / 4096);
    began = now();
    for (int i = 0; i < 200; i++) { pthread_t thread; pthread_create(&thread, 0, nothing, 0); pthread_join(thread, 0); }
    printf("thread %f\n", (now() - began) / 200);
    return 0;
}
"""


def measure(plan: Plan, place: Path) -> list[Monitor]:
    """CPython, Node and Go, without a front."""
    with ExitStack() as stack:
        serves = {}
        for language, layout, args in (
            ("CPython", images.cpython, ["/usr/bin/python3", "/app/main.py"]),
            ("Node", images.node, ["/app/node", "/app/main.js"]),
            ("Go", images.go, ["/app/main"]),
        ):
            directory = place / f"m-{language}"
            directory.mkdir()
            rootfs = unpacked(layout(), directory / "image")
            bundle = make_bundle(directory / "bundle", rootfs, args, memory_bytes=512 << 20, pool=4)
            serve = stack.enter_context(Serve(bundle, directory, pool=4, instances=32, ready_ms=60_000))
            serve.wait_for("ready")
            serves[language] = serve
        found = []
        for language, serve in serves.items():
            found.append(_direct(language, serve, plan))
        return found


def _direct(language: str, serve: Serve, plan: Plan) -> Monitor:
    times, receipts = [], []
    for number in range(plan.monitor_calls + 5):
        began = time.perf_counter()
        _call(serve, f"d-{number}")
        took = time.perf_counter() - began
        if number >= 5:  # the first ones meet caches that are cold
            times.append(took)
            receipts.append(serve.ended(f"d-{number}"))
        serve.events = serve.events[-50:]
        time.sleep(_PAUSE_S)
    return Monitor(
        language=language,
        critical=spread(times),
        run=spread([receipt["run_us"] / 1e6 for receipt in receipts]),
        cpu_ms=statistics.median(receipt["cpu_us"] for receipt in receipts) / 1000,
        exits=statistics.median(receipt["exits"] for receipt in receipts),
        pages=statistics.median(receipt["pages"] for receipt in receipts),
        per_core=_throughput(serve, plan.saturation_s) / (os.cpu_count() or 1),
    )


def _call(serve: Serve, name: str) -> None:
    answer = serve.call(name, b"Ada")
    if answer.status != 200 or json.loads(answer.body) != {"hello": "Ada"}:
        raise SystemExit(f"a call was answered {answer}")


def _throughput(serve: Serve, seconds: float) -> float:
    """Calls a second by callers without pause."""
    until = time.perf_counter() + seconds
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def caller(number: int) -> None:
        calls = 0
        while time.perf_counter() < until:
            _call(serve, f"t-{number}-{calls}")
            calls += 1
        done.put(calls)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(_CALLERS)]
    began = time.perf_counter()
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    calls = sum(done.get() for _ in callers if not done.empty())
    return calls / (time.perf_counter() - began)


def micro(monitors: list[Monitor], place: Path) -> list[Part]:
    """Costs of the parts, beside those of the trials."""
    values = _lines([str(images.floor()), "micro"])
    source, program = place / "inside.c", place / "inside"
    source.write_text(_INSIDE)
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", str(program), str(source)], check=True)
    inside = _lines([str(BIN / "mayfly-monitor"), "run", str(program)])
    native = _lines([str(program)])
    named = {
        "a virtual machine made: slot, vCPU, registers": values["vm_made"],
        "a virtual machine destroyed": values["vm_destroyed"],
        "the floor: process, machine, one exit, gone": values["floor"],
        "an exit from real mode and back": values["exit_real_mode"],
        "an exit from ring 3 and back, one system call": inside["syscall"],
        "the same system call, natively": native["syscall"],
        "a first touch of an anonymous page, in the guest": inside["page"],
        "the same, natively": native["page"],
        "a thread made and joined, in the guest": inside["thread"],
        "the same thread, natively": native["thread"],
        "a process forked, ended and waited for": values["fork_exit_wait"],
        "a vCPU more": values["vcpu_added"],
    }
    found = [Part(name=name, value=value, unit="µs", expected=_EXPECTED.get(name)) for name, value in named.items()]
    for monitor in monitors:
        name = f"critical path of a call in a {monitor.language} clone"
        found.append(Part(name=name, value=1000 * monitor.critical.p50_ms, unit="µs", expected=_EXPECTED.get(name)))
        expected = 1900.0 if monitor.language == "CPython" else None
        name = f"processor time of a {monitor.language} clone's whole life"
        found.append(Part(name=name, value=1000 * monitor.cpu_ms, unit="µs", expected=expected))
    return found


def _lines(words: list[str]) -> dict[str, float]:
    output = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([0-9.]+)$", output, re.MULTILINE)}


def unpacked(layout: Path, target: Path) -> Path:
    """An image's root file system."""
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:latest", str(target)], check=True, capture_output=True)
    return target / "rootfs"
