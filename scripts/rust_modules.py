"""Prints the monitor's modules: their lines, and every unsafe block with the invariant that it names.

`unsafe` code stands only in the modules that are named here (`--check`) and say `#![allow(unsafe_code)]` (the compiler refuses it
elsewhere), and each block has a comment `SAFETY:` (clippy refuses one without). This shows both, for whoever reviews them:
`python scripts/rust_modules.py [--blocks]`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "monitor/src"
# Where `unsafe` may stand (docs/monitor.md says why): nowhere else, and a module that no longer needs it leaves the list.
UNSAFE = frozenset(
    [
        "clock/page.rs",
        "clock/timers.rs",
        "doctor.rs",
        "fs/descriptors.rs",
        "fs/host.rs",
        "fuzzing/calls.rs",
        "fuzzing/hostile.rs",
        "host.rs",
        "jail/enclosure/init.rs",
        "jail/enclosure/mod.rs",
        "jail/enclosure/namespaces.rs",
        "jail/enclosure/privileges.rs",
        "jail/enclosure/tree.rs",
        "jail/mod.rs",
        "jail/seccomp.rs",
        "ledger.rs",
        "memory/access.rs",
        "memory/host_side.rs",
        "memory/host_stack.rs",
        "network/host.rs",
        "serve/child.rs",
        "serve/ends.rs",
        "serve/hostile.rs",
        "serve/instance.rs",
        "serve/keeping.rs",
        "serve/network.rs",
        "serve/parent.rs",
        "serve/pool.rs",
        "signals/host.rs",
        "snapshot/descriptors.rs",
        "snapshot/image.rs",
        "snapshot/rebuilding.rs",
        "sys/calls.rs",
        "sys/messages.rs",
        "sys/mod.rs",
        "sys/passing.rs",
        "sys/processes.rs",
        "vm/kvm.rs",
        "vm/low.rs",
        "vm/page_tables.rs",
        "vm/vcpu.rs",
    ]
)
_UNSAFE = re.compile(r"\bunsafe\s+(\{|fn\b|impl\b|extern\b)")
_SAFETY = re.compile(r"//\s*SAFETY:\s*(.*)")
_LOOKS_BACK = 12  # lines over a block in which its comment may stand


@dataclass(frozen=True, slots=True)
class Block:
    """One use of `unsafe`."""

    line: int
    kind: str
    invariant: str


@dataclass(frozen=True, slots=True)
class Module:
    """One source file."""

    name: str
    lines: int
    tests: int
    blocks: tuple[Block, ...]


def module(path: Path) -> Module:
    """Reads a source file; what follows `mod tests` counts as tests, and so does a file of tests."""
    text = path.read_text().splitlines()
    name = str(path.relative_to(SOURCES))
    cut = next((at for at, line in enumerate(text[:-1]) if line.strip() == "#[cfg(test)]" and re.search(r"mod \w+ \{", text[at + 1])), None)
    code = 0 if "tests" in path.parts or path.stem in ("tests", "testing") else len(text) if cut is None else cut
    blocks = tuple(
        Block(at + 1, found[1].rstrip("{").strip() or "block", _invariant(text, at))
        for at, line in enumerate(text[:code])
        if (found := _UNSAFE.search(line.split("//")[0]))
    )
    return Module(name, code, len(text) - code, blocks)


def _invariant(text: list[str], at: int) -> str:
    for start in range(at, max(-1, at - _LOOKS_BACK), -1):
        if found := _SAFETY.search(text[start]):
            words = [found[1]]
            for line in text[start + 1 : at]:
                if not line.strip().startswith("//"):
                    break
                words.append(line.strip().lstrip("/").strip())
            return " ".join(words)
    return "see its `# Safety`"


def misplaced(modules: Sequence[Module]) -> str | None:
    """What is wrong with the places of unsafe code; None if nothing is."""
    used = {one.name for one in modules if one.blocks}
    new, gone = sorted(used - UNSAFE), sorted(UNSAFE - used)
    said = [f"unsafe code in {name}: use a function of monitor/src/sys, or name the module in {Path(__file__).name}" for name in new]
    said += [f"no unsafe code in {name}: take it off the list in {Path(__file__).name}" for name in gone]
    return "\n".join(said) or None


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", action="store_true", help="each unsafe block, too")
    parser.add_argument("--check", action="store_true", help="only whether unsafe code stands where it may")
    arguments = parser.parse_args()
    blocks = arguments.blocks
    modules = [module(path) for path in sorted(SOURCES.rglob("*.rs"))]
    if arguments.check:
        sys.exit(misplaced(modules))
    print("| Module | Lines | Tests | unsafe |\n|---|---|---|---|")
    for one in modules:
        print(f"| {one.name} | {one.lines} | {one.tests} | {len(one.blocks) or ''} |")
    unsafe = sum(len(one.blocks) for one in modules)
    print(f"| **all** | {sum(one.lines for one in modules)} | {sum(one.tests for one in modules)} | {unsafe} |")
    for one in modules if blocks else ():
        if one.blocks:
            print(f"\n{one.name}")
            for block in one.blocks:
                print(f"  {block.line:5} {block.kind:6} {block.invariant}")


if __name__ == "__main__":
    main()
