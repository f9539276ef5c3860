"""Builds the real parts of Kubernetes that the tests run against, once, into a cache outside the repository.

`python scripts/kubernetes_parts.py [PART...]` prints the directory that holds them. They are ordinary Go modules from the Go proxy, whose
checksums the Go tools verify. A part is there whole or not at all (it is renamed into place), and two builders never work side by side: the
second waits for the first and finds its work done. Another version, other flags or another Go are another directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

KUBERNETES = "1.34.2"
ETCD = "3.6.5"

_KUBERNETES_MODULE = "k8s.io/kubernetes"
_ETCD_MODULE = "go.etcd.io/etcd/server/v3"
_COMPONENTS = ("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
_PACKAGES = {**{name: f"{_KUBERNETES_MODULE}/cmd/{name}" for name in _COMPONENTS}, "etcd": _ETCD_MODULE}
API_SERVER = ("etcd", "kube-apiserver", "kubectl")  # enough for whatever needs no node

# Without a version `kubectl version` fails, and the API server refuses to start features by their age.
_MAJOR, _MINOR, _ = KUBERNETES.split(".")
_STAMPS = {"gitVersion": f"v{KUBERNETES}", "gitMajor": _MAJOR, "gitMinor": _MINOR, "gitTreeState": "clean"}
_LINKER = " ".join(("-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in _STAMPS.items())))
_FLAGS = ("-trimpath", "-buildvcs=false", "-mod=mod", f"-ldflags={_LINKER}")
_NICENESS = 10  # a build takes every core for minutes; whoever works on the machine goes first


class PartMissing(Exception):
    """A part cannot be had on this machine; says why and what to do."""


def parts(names: Sequence[str] = API_SERVER) -> Path:
    """The directory that holds these parts, after building those that are missing. Raises PartMissing."""
    go = _the_go()
    directory = _cache() / _key(go)
    if not _missing(directory, names):
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / ".lock"):
        for name in _missing(directory, names):
            _build(go, name, directory)
    return directory


def module(name: str, version: str) -> Path:
    """The directory of a Go module's files, after fetching it. Raises PartMissing."""
    with tempfile.TemporaryDirectory() as work:
        found = json.loads(_go(_the_go(), Path(work), "mod", "download", "-json", f"{name}@{version}"))
    return Path(found["Dir"])


def _the_go() -> str:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise PartMissing("Go 1.24 or newer is needed to build kube-apiserver for the tests: install it, then run this again")
    return go


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root and os.path.isabs(root) else Path.home() / ".cache") / "mayfly-tests" / "kubernetes"


def _key(go: str) -> str:
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    digest = hashlib.sha256("\0".join((version, *_FLAGS)).encode()).hexdigest()[:8]
    return f"{KUBERNETES}-etcd-{ETCD}-{digest}"


def _missing(directory: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if not (directory / name).exists()]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(go: str, name: str, directory: Path) -> None:
    print(f"building {name} (minutes, once on this machine)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=directory) as temporary:
        work = Path(temporary)
        (work / "go.mod").write_text(_etcd_module() if name == "etcd" else _kubernetes_module(go, work))
        built = work / name
        _go(go, work, "build", *_FLAGS, "-o", str(built), _PACKAGES[name])
        built.rename(directory / name)


def _etcd_module() -> str:
    return f"module mayfly.test/parts\n\ngo 1.24.0\n\nrequire {_ETCD_MODULE} v{ETCD}\n"


def _kubernetes_module(go: str, work: Path) -> str:
    """A module that requires Kubernetes; its staging modules, which its own go.mod takes from a folder, are named by version."""
    found = json.loads(_go(go, work, "mod", "download", "-json", f"{_KUBERNETES_MODULE}@v{KUBERNETES}"))
    staging = re.findall(r"^\s*(?:replace )?(\S+) => \./staging/", Path(found["GoMod"]).read_text(), re.MULTILINE)
    version = f"v0.{_MINOR}.{KUBERNETES.rpartition('.')[2]}"
    replaced = "".join(f"\t{module} => {module} {version}\n" for module in staging)
    return f"module mayfly.test/parts\n\ngo 1.24.0\n\nrequire {_KUBERNETES_MODULE} v{KUBERNETES}\n\nreplace (\n{replaced})\n"


def _go(go: str, work: Path, *arguments: str) -> str:
    environment: Mapping[str, str] = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-modcacherw", "GOWORK": "off"}
    command = ["nice", "-n", str(_NICENESS), go, *arguments]
    finished = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise PartMissing(f"go {arguments[0]} failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


def main() -> int:
    """Builds the parts that are named, or what an API server takes."""
    names = sys.argv[1:] or API_SERVER
    unknown = [name for name in names if name not in _PACKAGES]
    if unknown:
        print(f"{', '.join(unknown)}: no such part; there are {', '.join(sorted(_PACKAGES))}", file=sys.stderr)
        return 2
    try:
        print(parts(names))
    except PartMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
