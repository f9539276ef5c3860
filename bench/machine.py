"""Where a run was made: processor, kernel, the settings that its figures hang on, versions of all programs that took part."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.results import Machine

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

LOAD = "load of others when it began (1 minute)"
_SETTINGS = {
    "shmem huge pages": "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "huge pages": "/sys/kernel/mm/transparent_hugepage/enabled",
    "huge pages of 64 KiB": "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled",
    "rcu_expedited": "/sys/kernel/rcu_expedited",
    "clock source": "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    "overcommit": "/proc/sys/vm/overcommit_memory",
    "largest pid": "/proc/sys/kernel/pid_max",
}
_PROGRAMS = {
    "crun": ("crun", "--version"),
    "runc": ("runc", "--version"),
    "runsc": ("runsc", "--version"),
    "node": ("node", "--version"),
    "go": ("go", "version"),
    "skopeo": ("skopeo", "--version"),
    "umoci": ("umoci", "--version"),
    "mayfly-monitor": (str(BIN / "mayfly-monitor"), "--version"),
}
_PACKAGES = ("aiohttp", "uvloop", "httptools", "gunicorn", "uvicorn", "numpy", "igraph")


def machine() -> Machine:
    """This one, now."""
    lines = _read("/proc/cpuinfo").splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    nested = "hypervisor" in next((line for line in lines if line.startswith("flags")), "")
    return Machine(
        processor=processor,
        cores=os.cpu_count() or 1,
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        virtualized="the machine is itself a virtual machine: KVM is nested" if nested else None,
        settings={
            **{name: _chosen(_read(path)) for name, path in _SETTINGS.items() if Path(path).exists()},
            LOAD: f"{os.getloadavg()[0]:.1f}",
        },
        versions={"Python": platform.python_version(), **_programs(), **_packages()},
    )


def commit() -> tuple[str, bool]:
    """The commit of this tree, and whether something in it is different (results and what is made of them apart)."""
    try:
        found = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
        made = (":!bench/results", ":!docs/performance.md", ":!docs/performance")
        changed = _said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", ".", *made)
    except (OSError, subprocess.SubprocessError):
        return "unknown", True
    return found, bool(changed)


def _programs() -> dict[str, str]:
    found = {}
    for name, words in _PROGRAMS.items():
        if shutil.which(words[0]):
            try:
                found[name] = _said(*words).splitlines()[0].removeprefix(f"{name} version ").removeprefix(f"{name} ")
            except (OSError, subprocess.SubprocessError, IndexError):
                found[name] = "unknown"
    return found


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _chosen(text: str) -> str:
    """`always [madvise] never` is madvise."""
    return text[text.index("[") + 1 : text.index("]")] if "[" in text and "]" in text else text
