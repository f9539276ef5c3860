"""Who a process of an image is: the image's `User`, looked up in the image's own account files.

The files belong to the image and are hostile until read: they are found inside the image only, bounded in size (CVE-2026-47262 is a
gigabyte of /etc/group), and lines that are not accounts are passed over, as libc does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundles import rooted
from bundles.errors import ConfigError

MAX_ACCOUNTS = 1 << 20  # bytes of /etc/passwd or /etc/group
MAX_GROUPS = 256  # supplementary groups of one user
MAX_ID = (1 << 31) - 1  # the OCI runtime specification's ids are 32 bits; beyond 31, tools disagree on the sign


@dataclass(frozen=True, slots=True)
class User:
    """Numbers for a process, and where it is at home."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def find_user(rootfs: Path, text: str) -> User:
    """The user that `text` (`name`, `uid`, `name:group`, `uid:gid` and mixtures; empty is root) means in `rootfs`, or ConfigError.

    A user without a group gets the group of the account, and the supplementary groups that list it, as in Docker; a number without an
    account gets group 0.
    """
    wanted, colon, group = text.partition(":")
    if colon and not group:
        raise ConfigError(f"the image's User {text[:100]!r} has no group after the colon")
    name, uid, gid, home = _account(rootfs, wanted or "0", text)
    if group:
        return User(uid, _group(rootfs, group, text), (), home)
    return User(uid, gid, tuple(_memberships(rootfs, name, gid)) if name else (), home)


def _account(rootfs: Path, wanted: str, text: str) -> tuple[str, int, int, str]:
    """Name, uid, gid and home."""
    number = _id(wanted)
    for fields in _lines(rootfs, "/etc/passwd", 7):
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is not None and gid is not None and (uid == number if number is not None else fields[0] == wanted):
            return fields[0], uid, gid, fields[5] if fields[5].startswith("/") else "/"
    if number is None:
        raise ConfigError(
            f"the image's User {text[:100]!r}: its /etc/passwd has no user {wanted[:100]!r}; use a number, or add the user to the image"
        )
    return "", number, 0, "/root" if number == 0 else "/"


def _group(rootfs: Path, wanted: str, text: str) -> int:
    number = _id(wanted)
    if number is not None:
        return number
    for fields in _lines(rootfs, "/etc/group", 4):
        gid = _id(fields[2])
        if fields[0] == wanted and gid is not None:
            return gid
    raise ConfigError(
        f"the image's User {text[:100]!r}: its /etc/group has no group {wanted[:100]!r}; use a number, or add the group to the image"
    )


def _memberships(rootfs: Path, name: str, primary: int) -> Iterator[int]:
    seen = {primary}
    for fields in _lines(rootfs, "/etc/group", 4):
        gid = _id(fields[2])
        if gid is not None and gid not in seen and name in fields[3].split(","):
            seen.add(gid)
            if len(seen) > MAX_GROUPS:
                raise ConfigError(f"the image's /etc/group puts {name[:100]!r} into more than {MAX_GROUPS} groups")
            yield gid


def _lines(rootfs: Path, path: str, count: int) -> Iterator[list[str]]:
    """The fields of each line that has as many as it should."""
    try:
        text = rooted.read_text(rootfs, path, MAX_ACCOUNTS)
    except ValueError as error:
        raise ConfigError(f"the image's {error}; no user is looked up there") from error
    except OSError as error:
        raise ConfigError(f"the image's {path} cannot be read: {error.strerror}") from error
    for line in (text or "").split("\n"):
        fields = line.split(":")
        if len(fields) == count and "\0" not in line:
            yield fields


def _id(text: str) -> int | None:
    """A user or group number, None where `text` is not one."""
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) and int(text) <= MAX_ID else None
