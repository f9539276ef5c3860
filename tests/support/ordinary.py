"""An ordinary user in group kvm, whoever runs the tests: `user.command` is what a command line of that user begins with.

As root, a user that this machine does not have gets what it needs in a mount namespace of its own: passwd and group files that name it, a
/dev/kvm for the group, and the way to the interpreter where that lies in a directory of root's. Nothing of the machine is changed. As an
ordinary user, that user is meant, with what it may do.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.node import Node

NAME = "mayfly-test"
_FIRST_ID = 54320
_NO_CAPABILITIES = ("--inh-caps=-all", "--ambient-caps=-all")

# In a namespace of root's, its number of user namespaces is another one than the machine's.
_REFUSED = f'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv {" ".join(_NO_CAPABILITIES)} "$@"'


@dataclass(frozen=True)
class Ordinary:
    """The user."""

    uid: int
    gid: int
    kvm: int
    command: tuple[str, ...]

    def own(self, *paths: Path) -> None:
        """Gives files, with all that lies in them, to the user."""
        if os.geteuid() == 0:
            for path in paths:
                for file in (path, *path.rglob("*")):
                    os.chown(file, self.uid, self.gid, follow_symlinks=False)

    def without_namespaces(self) -> tuple[str, ...]:
        """The same on a machine that allows no user namespace: the sysctl, set for a user namespace in which all of it happens."""
        return (*self.command, "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", _REFUSED, "sh")


@contextmanager
def ordinary_user(*needed: Path) -> Iterator[Ordinary]:
    """The user, who can reach `needed` and the interpreter."""
    if os.geteuid() != 0:
        yield Ordinary(os.getuid(), os.getgid(), _group("kvm", os.getgid()), ())
        return
    uid = _free({entry.pw_uid for entry in pwd.getpwall()} | {entry.gr_gid for entry in grp.getgrall()})
    kvm = _group("kvm", uid + 1)
    with TemporaryDirectory(prefix="mayfly-ordinary-") as name:
        directory = Path(name)
        script = directory / "enter"
        interpreter = (Path(sys.prefix), Path(sys.base_prefix))
        script.write_text(_entering(directory, uid, kvm, _hidden([*needed, *interpreter])))
        (directory / "passwd").write_text(Path("/etc/passwd").read_text() + f"{NAME}:x:{uid}:{uid}::/nonexistent:/bin/sh\n")
        groups = [line for line in Path("/etc/group").read_text().splitlines(keepends=True) if not line.startswith("kvm:")]
        (directory / "group").write_text("".join(groups) + f"{NAME}:x:{uid}:\nkvm:x:{kvm}:{NAME}\n")
        yield Ordinary(uid, uid, kvm, ("unshare", "--mount", "--propagation", "private", "sh", str(script)))


def _entering(directory: Path, uid: int, kvm: int, hidden: Iterable[Path]) -> str:
    """The script of the mount namespace, which becomes the user."""
    stage = directory / "stage"
    stage.mkdir()
    hidden = [*hidden]
    lines = [
        "set -eu",
        f"mount -t tmpfs -o mode=755 tmpfs {stage}",
        f"mknod {stage}/kvm c 10 232; chown 0:{kvm} {stage}/kvm; chmod 660 {stage}/kvm",
        f"mount --bind {stage}/kvm /dev/kvm",
        *(f"mount --bind {directory}/{file} /etc/{file}" for file in ("passwd", "group")),
    ]
    # What lies in a directory of root's alone appears under its own path in an empty one; held by number meanwhile.
    for number, path in enumerate(hidden):
        lines += [f"mkdir {stage}/{number}", f"mount --bind {shlex.quote(str(path))} {stage}/{number}"]
    tops = sorted({top for path in hidden if (top := _closed(path)) is not None})
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(top))}" for top in tops]
    for number, path in enumerate(hidden):
        lines += [f"mkdir -p {shlex.quote(str(path))}", f"mount --move {stage}/{number} {shlex.quote(str(path))}"]
    become = ("setpriv", "--reuid", NAME, "--regid", NAME, "--init-groups", *_NO_CAPABILITIES)
    return "\n".join([*lines, f'exec {" ".join(become)} "$@"', ""])


def _hidden(paths: Iterable[Path]) -> list[Path]:
    """Those that lie below a directory that others may not enter; none that another contains."""
    found: list[Path] = []
    for path in sorted({path.resolve() for path in paths}):
        if _closed(path) is not None and not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _closed(path: Path) -> Path | None:
    """The uppermost directory on the way that others may not enter."""
    return next((above for above in reversed([path, *path.parents]) if not above.stat().st_mode & 0o001), None)


def _group(name: str, otherwise: int) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return otherwise


def _free(taken: set[int]) -> int:
    return next(number for number in range(_FIRST_ID, 60000) if not {number, number + 1} & taken)


class OrdinaryNode(Node):
    """A node of that user, with a home of its own; `command` as of `Ordinary`."""

    def __init__(self, root: Path, place: Path, monitor: Path, user: Ordinary, command: tuple[str, ...]) -> None:
        super().__init__(root, place, monitor)
        self.prefix = command
        home = place / "home"
        home.mkdir()
        # The data directory is the one that such a user gets without asking.
        self.data = home / ".local/share/mayfly"
        for name in ("MAYFLY_DATA", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "LOGNAME", "SUDO_USER"):
            self.environment.pop(name, None)
        self.environment |= {"HOME": str(home), "USER": NAME, "PYTHONDONTWRITEBYTECODE": "1"}
        self.log.touch()
        place.chmod(0o755)
        user.own(place)
