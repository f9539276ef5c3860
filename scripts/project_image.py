"""Mayfly's own image, as an OCI layout, without Docker and without network: `python scripts/project_image.py OUT[:TAG]`.

The builder of `mayfly image build` packs a folder that this makes: the packages of this tree, the libraries that they need as they are
installed here, the monitor, and umoci. The same tree on the same machine gives the same digest. The Containerfile makes the like of it from
the wheel, where there is Docker or another builder.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from mayfly.doctor import find_monitor
from mayfly.errors import MayflyError
from mayfly.image_building import BuiltImage, Plan, build

ROOT = Path(__file__).resolve().parent.parent
USER = "10001:10001"
_LIBRARIES, _PROGRAMS = "lib", "bin"
_ENVIRONMENT = {
    "PATH": f"/app/{_PROGRAMS}:/usr/bin:/bin",
    "PYTHONPATH": f"/app/{_LIBRARIES}",
    "PYTHONDONTWRITEBYTECODE": "1",  # the root file system is read-only, and byte code is in the image
    "HOME": "/tmp",  # its user is none that /etc/passwd knows
    "MAYFLY_DATA": "/data",
}
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def build_project(output: Path, tag: str) -> BuiltImage:
    """Writes the image into the layout. Raises MayflyError where a part is missing."""
    with tempfile.TemporaryDirectory(prefix="mayfly-image-") as name:
        folder = Path(name)
        _add_packages(folder / _LIBRARIES)
        _add_name(folder / _LIBRARIES)
        for distribution in _needed():
            _add_distribution(distribution, folder / _LIBRARIES)
        _add_programs(folder / _PROGRAMS)
        return build(
            Plan(folder, output, tag=tag, command=("python3", "-m", "faas_server"), env=_ENVIRONMENT, user=USER),
            lambda step: print(f"{step} …", file=sys.stderr),
        )


def _add_packages(target: Path) -> None:
    """The packages of this tree, as the wheel has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in project["packages"]:
        source = ROOT / project["package-dir"].get(package, package.replace(".", "/"))
        folder = target / package.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.iterdir()):
            if path.suffix in {".py", ".yaml"} or path.name == "py.typed":
                shutil.copyfile(path, folder / path.name)


def _add_name(target: Path) -> None:
    """What tells an installed Mayfly its version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = target / f"{project['name']}-{project['version']}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")


def _needed() -> Iterator[metadata.Distribution]:
    """What is installed of what Mayfly requires, and of what that requires, without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, seen = list(project["dependencies"]), set[str]()
    while waiting:
        requirement = waiting.pop(0)
        matched = _NAME.match(requirement)
        if matched is None or "extra ==" in requirement:
            continue
        name = re.sub(r"[-_.]+", "-", matched[0]).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if ";" in requirement:  # of other systems or versions
                continue
            raise MayflyError(f"{name}: is not installed here", hint="Run `make build` first.") from None
        waiting += found.requires or []
        yield found


def _add_distribution(distribution: metadata.Distribution, target: Path) -> None:
    for file in distribution.files or ():
        source = Path(str(distribution.locate_file(file)))
        if ".." in file.parts or "__pycache__" in file.parts or file.suffix == ".pyc" or not source.is_file():
            continue  # scripts, and what this installation compiled
        if file.name in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}:
            continue  # they speak of this installation
        place = target / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)


def _add_programs(target: Path) -> None:
    target.mkdir()
    umoci = shutil.which("umoci")
    if umoci is None:
        raise MayflyError("umoci is not installed", hint="Run `make build`, or install the package umoci.")
    monitor = find_monitor()
    if monitor is None:
        raise MayflyError("the monitor is not built", hint="Run `make build`.")
    for name, source in (("umoci", Path(umoci)), ("mayfly-monitor", monitor)):
        shutil.copyfile(source, target / name)
        (target / name).chmod(0o755)


def main() -> int:
    """Builds into the layout that is named."""
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} OUT[:TAG]", file=sys.stderr)
        return 2
    output, _, tag = sys.argv[1].partition(":")
    try:
        built = build_project(Path(output), tag or "latest")
    except MayflyError as error:
        print(f"{error}\n{error.hint or ''}", file=sys.stderr)
        return 1
    for warning in built.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{built.reference}@{built.digest}  {sum(layer.size for layer in built.layers) >> 20} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
