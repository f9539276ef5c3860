"""System calls mean in the virtual machine what they mean natively: the same program, in both, prints the same.

The programs (`programs/*.c`) show every call with its result and the name of its error. A read-only image is compared with the
same directory under chroot, with a read-only mount and a tmpfs.
"""

from __future__ import annotations

import difflib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.cases import few_descriptors
from tests.support.compiling import STATIC
from tests.support.serving import Serve, make_bundle

pytestmark = pytest.mark.system

DYNAMIC = ("-O1", "-pthread")


def output(command: Sequence[str | Path], directory: Path) -> tuple[int, list[str]]:
    """Status and lines of a program that runs in `directory`, a name that is the same for all."""
    directory.mkdir(parents=True)
    finished = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=directory,
        timeout=60,
        check=False,
        preexec_fn=few_descriptors,
    )
    return finished.returncode, finished.stdout.decode("utf-8", "replace").splitlines()


def differences(native: Sequence[str], inside: Sequence[str]) -> str:
    """The lines in which two outputs differ."""
    return "\n".join(difflib.unified_diff(native, inside, "native", "inside", n=0, lineterm=""))


@pytest.mark.parametrize("flags", [STATIC, DYNAMIC], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", ["descriptors", "paths", "polling", "memory_edges", "clocks", "timers"])
def test_calls_mean_what_they_mean_natively(
    monitor: Path, program: Callable[..., Path], tmp_path: Path, name: str, flags: tuple[str, ...]
) -> None:
    path = program(name, *flags)
    native = output([path], tmp_path / "native" / "here")
    assert native[0] != 99, f"the program could not make what it needs: {native[1][-1:]}"
    status, lines = output([monitor, "run", "--", path], tmp_path / "inside" / "here")
    assert differences(native[1], lines) == ""
    assert status == native[0]


@pytest.mark.parametrize("name", ["descriptors", "paths", "polling", "memory_edges", "clocks", "timers"])
def test_calls_mean_the_same_in_the_jail(program: Callable[..., Path], tmp_path: Path, name: str) -> None:
    path = program(name, *STATIC)
    _, native = output([path], tmp_path / "native")
    root = tmp_path / "image"
    for directory in ("proc", "sys", "dev", "tmp", "etc"):
        (root / directory).mkdir(parents=True)
    (root / "etc" / "passwd").touch()
    (root / "program").write_bytes(path.read_bytes())
    (root / "program").chmod(0o755)
    bundle = make_bundle(tmp_path / "bundle", root, ["/program"], cwd="/tmp")
    lines = written(bundle, tmp_path)
    # A jailed process signals nobody, itself by a descriptor included.
    kept = [[line for line in one if "pidfd_send_signal" not in line] for one in (native, lines)]
    assert differences(*kept) == ""


def written(bundle: Path, directory: Path) -> list[str]:
    """What a function's program writes that ends before it is ready."""
    with Serve(bundle, directory, "--log-limit", "1000000") as serve:
        failed = serve.wait_for("failed")
        assert failed["reason"] == "exited", failed
        return [event["line"] for event in serve.events if event["event"] == "log" and event["stream"] == "stdout"]


@pytest.fixture
def image(program: Callable[..., Path], tmp_path: Path) -> Path:
    """A root with files, links into its other mounts, and the program that looks at them."""
    root = tmp_path / "image"
    for name in ("proc", "sys", "dev", "tmp", "etc", "var", "run", "usr/lib", "empty"):
        (root / name).mkdir(parents=True)
    (root / "readonly").write_bytes(program("readonly").read_bytes())
    (root / "readonly").chmod(0o755)
    (root / "etc" / "file").write_text("content")
    (root / "usr" / "lib" / "file").write_text("library")
    (root / "tmp" / "shadowed").write_text("the image's own /tmp is not seen")
    for link, target in {
        "var/tmp": "../tmp",
        "var/run": "/run",
        "lib": "usr/lib",
        "etc/temporary": "/tmp/made",
        "etc/loop": "loop",
    }.items():
        (root / link).symlink_to(target)
    os.mkfifo(root / "etc" / "fifo")
    return root


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory, to see that nothing changed."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
        for path in sorted(root.rglob("*"))
    }


def inside(image: Path, tmp_path: Path, mode: str) -> list[str]:
    """What the image's program writes."""
    return written(make_bundle(tmp_path / "bundle", image, ["/readonly", mode]), tmp_path)


def test_a_read_only_image_behaves_as_a_read_only_mount(image: Path, tmp_path: Path) -> None:
    before = tree(image)
    script = f"""
        mount --bind {image} {image} && mount -o remount,bind,ro {image} && mount -t tmpfs -o mode=1777 tmpfs {image}/tmp &&
        mount -t proc proc {image}/proc && exec chroot {image} /readonly compare
    """
    command = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c", script]
    native = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert native.returncode == 0, native.stderr.decode()
    assert differences(native.stdout.decode().splitlines(), inside(image, tmp_path, "compare")) == ""
    assert tree(image) == before


def test_what_is_not_the_functions_is_not_there(image: Path, tmp_path: Path) -> None:
    lines = inside(image, tmp_path, "explore")
    assert lines, "nothing was shown"
    leaks = [line for line in lines if line.startswith("LEAK")]
    assert not leaks
    shown = dict(line.split(": ", 1) for line in lines)
    assert shown["memory"] == str(256 << 20)
    assert shown["mounts"].split() == ["/", "/dev", "/dev/shm", "/etc/hosts", "/proc", "/sys", "/sys/fs/cgroup", "/tmp"]
    assert int(shown["processors"]) >= 1


@pytest.mark.parametrize("seed", range(6))
def test_no_call_harms_the_monitor(program: Callable[..., Path], image: Path, tmp_path: Path, seed: int) -> None:
    (image / "random").write_bytes(program("random_calls", *STATIC).read_bytes())
    (image / "random").chmod(0o755)
    bundle = make_bundle(tmp_path / "bundle", image, ["/random", str(seed), "2000"], cwd="/tmp")
    before = tree(image)
    with Serve(bundle, tmp_path, "--log-limit", "1000000", ready_ms=60_000) as serve:
        failed = serve.wait_for("failed")
        assert (failed["reason"], failed["message"]) == ("exited", "the program exited with status 0 before it was ready")
        said = [serve.errors(), *(event["line"] for event in serve.events if event["event"] == "log")]
        assert not [line for line in said if "panicked" in line or "fault of the monitor" in line]
    assert tree(image) == before
