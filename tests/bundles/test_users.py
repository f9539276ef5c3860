"""Who a process of an image is, from account files that the image wrote itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import ConfigError
from bundles.users import MAX_ACCOUNTS, MAX_GROUPS, User, find_user
from tests.bundles.conftest import ROOT

PASSWD = """root:x:0:0:root:/root:/bin/sh
broken line
app:x:1000:1001:App:/home/app:/bin/sh
nohome:x:1002:1002:::/bin/sh
numbers:x:1003:x::/:/bin/sh
big:x:99999999999:1::/:/bin/sh
123:x:1004:1004::/:/bin/sh
"""
GROUP = """root:x:0:
staff:x:50:app,other
app:x:1001:app
audio:x:29:someone,app
bad:x:x:app
short:x
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("root", User(0, 0, (), "/root")),
        ("0", User(0, 0, (), "/root")),
        ("app", User(1000, 1001, (50, 29), "/home/app")),
        ("1000", User(1000, 1001, (50, 29), "/home/app")),
        ("app:staff", User(1000, 50, (), "/home/app")),
        ("app:0", User(1000, 0, (), "/home/app")),
        ("1000:29", User(1000, 29, (), "/home/app")),
        ("4000", User(4000, 0, (), "/")),
        ("4000:4001", User(4000, 4001, (), "/")),
        ("4000:staff", User(4000, 50, (), "/")),
        ("nohome", User(1002, 1002, (), "/")),
        ("123", User(123, 0, (), "/")),
        ("0:0", User(0, 0, (), "/root")),
    ],
)
def test_users(rootfs: Path, text: str, user: User) -> None:
    assert find_user(rootfs, text) == user


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nobody", "no user 'nobody'; use a number"),
        ("numbers", "no user 'numbers'"),
        ("big", "no user 'big'"),
        ("broken line", "no user"),
        ("app:nogroup", "no group 'nogroup'; use a number"),
        ("app:bad", "no group 'bad'"),
        ("app:", "no group after the colon"),
        (":staff:x", "no group"),
        ("-1", "no user '-1'"),
        ("4294967295", "no user '4294967295'"),
        ("2147483648:0", "no user"),
        ("0:4294967296", "no group"),
        ("٣", "no user"),
        ("app\n", "no user"),
        ("../../root", "no user"),
        ("x" * 100_000, "no user"),
    ],
)
def test_refused_users(rootfs: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_user(rootfs, text)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_an_image_without_accounts_has_numbers_only(tmp_path: Path) -> None:
    assert find_user(tmp_path, "") == User(0, 0, (), "/root")
    assert find_user(tmp_path, "7:8") == User(7, 8, (), "/")
    with pytest.raises(ConfigError, match="use a number"):
        find_user(tmp_path, "app")


# Account files that are not what they seem


def test_a_link_to_the_hosts_accounts_leads_nowhere(rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("intruder:x:0:0::/:/bin/sh\n")
    for target in (
        str(tmp_path / "passwd"),
        "../../../passwd",
        "/../../passwd",
        "../../passwd",
        "/proc/self/root" + str(tmp_path / "passwd"),
    ):
        (rootfs / "etc/passwd").unlink()
        (rootfs / "etc/passwd").symlink_to(target)
        with pytest.raises(ConfigError, match="no user 'intruder'"):
            find_user(rootfs, "intruder")


def test_a_directory_link_to_the_hosts_etc_leads_nowhere(rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "host-etc").mkdir()
    (tmp_path / "host-etc/passwd").write_text("intruder:x:0:0::/:/bin/sh\n")
    for target in (str(tmp_path / "host-etc"), "../host-etc"):
        (rootfs / "etc").rename(tmp_path / f"aside-{len(target)}")
        (rootfs / "etc").symlink_to(target)
        with pytest.raises(ConfigError, match="no user 'intruder'"):
            find_user(rootfs, "intruder")
        (rootfs / "etc").unlink()
        (tmp_path / f"aside-{len(target)}").rename(rootfs / "etc")


def test_a_link_inside_the_image_is_followed(rootfs: Path) -> None:
    (rootfs / "nix").mkdir()
    (rootfs / "etc/passwd").rename(rootfs / "nix/accounts")
    (rootfs / "etc/passwd").symlink_to("/nix/accounts")
    assert find_user(rootfs, "app").uid == 1000


def test_a_loop_of_links_is_an_error(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to("passwd")
    with pytest.raises(ConfigError, match="cannot be read: Too many levels"):
        find_user(rootfs, "app")


def test_a_pipe_is_not_waited_for(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    with pytest.raises(ConfigError, match="no user 'app'"):
        find_user(rootfs, "app")


def test_a_directory_is_no_account_file(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").mkdir()
    with pytest.raises(ConfigError, match="no user 'app'"):
        find_user(rootfs, "app")


@ROOT
def test_a_device_is_not_opened(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mknod(rootfs / "etc/passwd", 0o020666, os.makedev(1, 5))  # /dev/zero has no end
    with pytest.raises(ConfigError, match="no user 'app'"):
        find_user(rootfs, "app")


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_an_account_file_of_a_gigabyte_is_refused(rootfs: Path, name: str) -> None:
    """CVE-2026-47262."""
    os.truncate(rootfs / "etc" / name, 1 << 30)
    began = time.thread_time()
    with pytest.raises(ConfigError, match=f"/etc/{name} has more than {MAX_ACCOUNTS} bytes"):
        find_user(rootfs, "app")
    assert time.thread_time() - began < 1


def test_a_user_in_too_many_groups_is_refused(rootfs: Path) -> None:
    (rootfs / "etc/group").write_text("".join(f"g{number}:x:{number + 2000}:app\n" for number in range(MAX_GROUPS + 1)))
    with pytest.raises(ConfigError, match=f"more than {MAX_GROUPS} groups"):
        find_user(rootfs, "app")


@given(content=st.binary(), text=st.text())
def test_any_content_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, text: str) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_bytes(b"\n".join((content, PASSWD.encode(), content)))
    (root / "etc/group").write_bytes(content)
    try:
        user = find_user(root, text)
    except ConfigError:
        return
    assert 0 <= user.uid < 1 << 31
    assert 0 <= user.gid < 1 << 31
    assert user.home.startswith("/")
