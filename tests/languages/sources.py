"""Where the files of a test program come from: package registries by the package's name, a compiler of this machine, or this directory.

Everything that is fetched or built is kept in a cache outside the repository (`XDG_CACHE_HOME`/mayfly-tests). What a registry does not
give is an error of the test: nothing is skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

PROGRAMS = Path(__file__).parent / "programs"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mayfly-tests"

# Downloads and builds, seconds.
PATIENCE = 900


class Source(Protocol):
    """A part of a root: its fields, and the files it reads, say all of what it makes."""

    def put(self, root: Path) -> None:
        """Adds the part to `root`."""

    def reads(self) -> Sequence[Path]:
        """The files of this repository that it is made of."""


def command(
    *arguments: str | Path, directory: Path | None = None, environment: Mapping[str, str] | None = None, stdin: IO[bytes] | None = None
) -> str:
    """Runs a command to its end and returns what it wrote; a failure is told with all of it."""
    finished = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=stdin or subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    output = finished.stdout.decode("utf-8", "replace")
    if finished.returncode != 0:
        told = finished.stderr.decode("utf-8", "replace")
        raise AssertionError(f"{' '.join(map(str, arguments))} ended with status {finished.returncode}:\n{output}{told}")
    return output


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """A directory of the cache, for one test at a time."""
    directory = CACHE / name
    directory.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Debian:
    """Packages of this machine's Debian release with all that they depend on, unpacked as they are; their scripts do not run."""

    packages: tuple[str, ...]

    def reads(self) -> Sequence[Path]:
        return ()

    def put(self, root: Path) -> None:
        with locked("debian") as cache:
            archives = self._fetched(cache)
        # As in every Debian root since release 12.
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)
            if not (root / name).is_symlink():
                (root / name).symlink_to(f"usr/{name}")
        for archive in archives:
            with tempfile.TemporaryFile() as files:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=files, check=True)
                files.seek(0)
                command("tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root, stdin=files)

    def _fetched(self, cache: Path) -> list[Path]:
        """The archives of the packages, by an apt that has its own state: nothing is installed on this machine, and nobody need be root."""
        for name in ("lists/partial", "archives/partial", "none/partial"):
            (cache / name).mkdir(parents=True, exist_ok=True)
        (cache / "status").touch()
        options = {
            "Dir::State": cache,
            "Dir::State::lists": cache / "lists",
            "Dir::State::status": cache / "status",
            "Dir::Cache": cache,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "true",
        }
        apt = ["apt-get", "--quiet", "--yes", *(f"--option={name}={value}" for name, value in options.items())]
        if not (cache / "updated").exists():
            command(*apt, "update")
            (cache / "updated").touch()
        # With an archive directory that holds none, all of them are named: 'address' file size digest.
        listed = command(*apt, f"--option=Dir::Cache::archives={cache / 'none'}", "--print-uris", "install", *self.packages)
        command(*apt, f"--option=Dir::Cache::archives={cache / 'archives'}", "--download-only", "install", *self.packages)
        return [cache / "archives" / line.split()[1] for line in listed.splitlines() if line.startswith("'")]


@dataclass(frozen=True)
class Npm:
    """One file of an npm package: `package` with its version range, `file` inside it, and where it goes."""

    package: str
    file: str
    target: str

    def reads(self) -> Sequence[Path]:
        return ()

    def put(self, root: Path) -> None:
        with locked("npm") as cache, tempfile.TemporaryDirectory(dir=cache) as unpacked:
            name = command("npm", "pack", "--silent", self.package, directory=cache).split()[-1]
            command("tar", "-xzf", cache / name, "-C", unpacked, f"package/{self.file}")
            target = root / self.target.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(unpacked, "package", self.file), target)


@dataclass(frozen=True)
class Pip:
    """Wheels of PyPI for Debian's CPython 3.11."""

    requirements: tuple[str, ...]

    def reads(self) -> Sequence[Path]:
        return ()

    def put(self, root: Path) -> None:
        target = root / "usr/local/lib/python3.11/dist-packages"
        options = ("--quiet", "--no-compile", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp")
        command(sys.executable, "-m", "pip", "install", *options, f"--target={target}", *self.requirements)


@dataclass(frozen=True)
class Files:
    """A directory of `programs`, as /app."""

    directory: str

    def reads(self) -> Sequence[Path]:
        return files_below(PROGRAMS / self.directory)

    def put(self, root: Path) -> None:
        shutil.copytree(PROGRAMS / self.directory, root / "app")


@dataclass(frozen=True)
class Built:
    """What a compiler makes of a directory of `programs`, as /app. `{source}` and `{app}` stand for directories, `{cache}` for one that
    the compiler may keep things in."""

    directory: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def reads(self) -> Sequence[Path]:
        return files_below(PROGRAMS / self.directory)

    def put(self, root: Path) -> None:
        app = root / "app"
        app.mkdir(parents=True, exist_ok=True)
        with locked("built") as cache:
            places = {"source": PROGRAMS / self.directory, "app": app, "cache": cache}
            environment = {name: value.format(**places) for name, value in self.environment}
            arguments = [argument.format(**places) for argument in self.arguments]
            command(*arguments, directory=PROGRAMS / self.directory, environment=environment)
