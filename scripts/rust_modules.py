"""Prints the monitor's modules: their lines, and every unsafe block with the invariant that it names.

`unsafe` code stands only in modules that say `#![allow(unsafe_code)]` (the compiler refuses it elsewhere), and each block has a comment
`SAFETY:` (clippy refuses one without). This shows both, for whoever reviews them: `python scripts/rust_modules.py [--blocks]`.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "monitor/src"
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


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", action="store_true", help="each unsafe block, too")
    blocks = parser.parse_args().blocks
    modules = [module(path) for path in sorted(SOURCES.rglob("*.rs"))]
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
