"""What is packed of a folder (or of one file), and how it is started.

A folder with `main.py` is a Python program. Any other folder is a native one: the single executable ELF file at its top, or the one that
`--command` names. The files land in /app as they are, but for version control, byte code, virtual environments, image layouts (the
result of an earlier build) and `image.yaml`, the resource that is applied beside the image.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mayfly.errors import MayflyError, NotFound
from mayfly.image_building import elf

APP = "/app"
PYTHON = "/usr/bin/python3"

_SKIPPED_DIRECTORIES = {".git", ".hg", ".svn", ".venv", "venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_SKIPPED_FILES = {"image.yaml", "image.yml", ".gitignore"}


@dataclass(frozen=True)
class Source:
    """The files to pack. `files` and `links` (to their targets) are relative to `root`, sorted."""

    root: Path
    files: tuple[Path, ...]
    links: dict[Path, str]


@dataclass(frozen=True)
class Program:
    """How the image is started, and whether that takes a Python interpreter."""

    entrypoint: tuple[str, ...]
    python: bool


def read(path: Path) -> Source:
    """The files of a folder, or one file alone."""
    if path.is_file():
        return Source(path.parent, (Path(path.name),), {})
    if not path.is_dir():
        raise NotFound(f"{path}: no such folder or program", hint="Name the folder that holds main.py or the built program.")
    files: list[Path] = []
    links: dict[Path, str] = {}
    for folder, directories, names in os.walk(path):
        here = Path(folder)
        directories[:] = sorted(
            name for name in directories if name not in _SKIPPED_DIRECTORIES and not (here / name / "oci-layout").is_file()
        )
        for name in (*directories, *names):
            found = here / name
            if found.is_symlink():
                links[found.relative_to(path)] = _link_target(path, found)
            elif name in names and name not in _SKIPPED_FILES and found.suffix != ".pyc":
                if not stat.S_ISREG(found.stat().st_mode):
                    raise MayflyError(
                        f"{found}: neither a file, a directory nor a link; it cannot be in an image", hint="Move it out of the folder."
                    )
                files.append(found.relative_to(path))
    if not files:
        raise MayflyError(f"{path}: nothing to pack", hint="Put main.py or a built program into the folder.")
    return Source(path, tuple(sorted(files)), dict(sorted(links.items())))


def _link_target(root: Path, link: Path) -> str:
    target = os.readlink(link)
    if os.path.isabs(target) or not link.resolve().is_relative_to(root.resolve()):
        raise MayflyError(
            f"{link}: links to {target}, outside of the folder", hint="Copy what it points to into the folder, or remove the link."
        )
    return target


def program(source: Source, command: tuple[str, ...]) -> Program:
    """What is started: `command` if given, else what the folder says by its content."""
    if command:
        return _commanded(source, command)
    only = source.files[0] if len(source.files) == 1 else None
    if Path("main.py") in source.files:
        return Program((PYTHON, f"{APP}/main.py"), python=True)
    if only is not None and only.suffix == ".py":
        return Program((PYTHON, f"{APP}/{only}"), python=True)
    candidates = [path for path in source.files if len(path.parts) == 1 and _is_program(source.root / path)]
    if len(candidates) == 1:
        return Program((f"{APP}/{candidates[0]}",), python=False)
    if candidates:
        names = ", ".join(str(path) for path in candidates)
        raise MayflyError(f"{source.root}: holds several programs ({names})", hint="Say which one with --command.")
    raise MayflyError(
        f"{source.root}: holds neither main.py nor an executable ELF file",
        hint="Name the Python file main.py, build the program first, or say what to start with --command.",
    )


def _commanded(source: Source, command: tuple[str, ...]) -> Program:
    first, rest = command[0], command[1:]
    if Path(first).name in {"python", "python3"} or Path(first).name.startswith("python3."):
        return Program((PYTHON, *rest), python=True)
    within = Path(first.removeprefix(f"{APP}/"))
    if within not in source.files:
        raise NotFound(f"{first}: no such file in {source.root}", hint="--command names a file of the folder, or python3.")
    if within.suffix == ".py":
        return Program((PYTHON, f"{APP}/{within}", *rest), python=True)
    if not _is_program(source.root / within):
        raise MayflyError(
            f"{source.root / within}: not an executable ELF file",
            hint="Make it executable; a script needs an interpreter, and only Python's can be packed.",
        )
    return Program((f"{APP}/{within}", *rest), python=False)


def _is_program(path: Path) -> bool:
    return os.access(path, os.X_OK) and elf.is_elf(path)
