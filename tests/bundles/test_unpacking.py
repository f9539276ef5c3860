"""Sound images become root file systems; unsound ones become errors and nothing else. With the real umoci."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from bundles import (
    BlobMissing,
    Digest,
    Layout,
    LimitExceeded,
    Limits,
    ManifestError,
    PlatformError,
    Umoci,
    UmociMissing,
    UnpackError,
    VerificationError,
    find_umoci,
    unpack,
)
from bundles.manifests import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from tests.bundles.conftest import NOT_ROOT, ROOT
from tests.bundles.images import (
    Entry,
    Layer,
    block_device,
    build,
    character_device,
    config_document,
    directory,
    fifo,
    file,
    hardlink,
    manifest_document,
    symlink,
    tar,
)

CAPABILITY = "\x01\x00\x00\x02\x00\x20" + "\x00" * 14  # cap_net_raw=ep, as VFS_CAP_REVISION_2


def names(rootfs: Path) -> list[str]:
    return sorted(str(path.relative_to(rootfs)) for path in rootfs.rglob("*"))


# Sound images


@pytest.mark.parametrize(("docker", "compress"), [(False, True), (False, False), (True, True), (True, False)])
def test_an_image_of_either_kind_is_unpacked(layout: Layout, place: Path, docker: bool, compress: bool) -> None:
    entries = [
        directory("app", mode=0o750),
        file("app/main", b"program", mode=0o755),
        symlink("link", "app/main"),
        hardlink("hard", "app/main"),
    ]
    image = build(layout, Layer.of(entries, compress=compress, docker=docker), docker=docker)
    rootfs = unpack(layout, image, place / "target")
    assert rootfs == place / "target/rootfs"
    assert names(place / "target") == ["rootfs", "rootfs/app", "rootfs/app/main", "rootfs/hard", "rootfs/link"]
    assert (rootfs / "app/main").read_bytes() == b"program"
    assert stat.S_IMODE((rootfs / "app/main").stat().st_mode) == 0o755
    assert stat.S_IMODE((rootfs / "app").stat().st_mode) == 0o750
    assert os.readlink(rootfs / "link") == "app/main"
    assert (rootfs / "hard").stat().st_ino == (rootfs / "app/main").stat().st_ino
    assert (rootfs / "app/main").stat().st_mtime == 1_000_000_000


def test_layers_are_applied_in_order_with_their_whiteouts(layout: Layout, place: Path) -> None:
    first = [directory("a"), file("a/1"), file("a/2"), directory("b"), file("b/1"), file("c", b"old")]
    second = [file("a/.wh.1"), file("b/.wh..wh..opq"), file("b/2"), file("c", b"new")]
    rootfs = unpack(layout, build(layout, first, second), place / "target")
    assert names(rootfs) == ["a", "a/2", "b", "b/2", "c"]
    assert (rootfs / "c").read_bytes() == b"new"


def test_an_image_without_layers_is_an_empty_directory(layout: Layout, place: Path) -> None:
    assert names(unpack(layout, build(layout), place / "target")) == []


def test_one_layer_may_come_twice(layout: Layout, place: Path) -> None:
    assert names(unpack(layout, build(layout, [file("a")], [file("a")]), place / "target")) == ["a"]


@ROOT
def test_owners_and_attributes_are_kept(layout: Layout, place: Path) -> None:
    image = build(layout, [file("x", uid=1000, gid=1001, pax={"SCHILY.xattr.user.note": "kept"})])
    status = (unpack(layout, image, place / "target") / "x").stat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)
    assert os.getxattr(place / "target/rootfs/x", "user.note") == b"kept"


SPY = """#!{python} -IS
import json, os, resource, sys
try:
    open({outside!r}, "w")
    outside = "written"
except PermissionError:
    outside = "refused"
paths = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
links = {{int(path[14:]): os.readlink(path) for path in paths if os.path.exists(path)}}
report = {{
    "environment": dict(os.environ), "directory": os.getcwd(), "arguments": sys.argv[1:], "outside": outside, "input": sys.stdin.read(),
    "descriptors": [number for number, link in links.items() if link != __file__], "core": resource.getrlimit(resource.RLIMIT_CORE),
    "privileges": [line for line in open("/proc/self/status") if line.startswith("NoNewPrivs")],
}}
os.write({descriptor}, json.dumps(report).encode())
sys.exit(1)
"""


def test_umoci_sees_and_changes_nothing_of_this_process(layout: Layout, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in umoci's place reports, through the descriptor that it inherits, what it has."""
    monkeypatch.setenv("SECRET", "planted")
    read, write = os.pipe()
    stray, other = os.pipe()
    os.set_inheritable(stray, True)
    spy = place / "spy"
    spy.write_text(SPY.format(python=sys.executable, outside=str(place / "outside"), descriptor=write))
    spy.chmod(0o755)
    try:
        with pytest.raises(UnpackError, match="nothing \\(exit status 1\\)"):
            unpack(layout, build(layout), place / "target", umoci=Umoci(str(spy), "0.4.7"), inherit=(write,))
        report = json.loads(os.read(read, 65536))
    finally:
        for descriptor in (read, write, stray, other):
            os.close(descriptor)
    work = str(place / "target/work")
    assert report.pop("environment") == {"HOME": work, "TMPDIR": work, "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    assert report == {
        "directory": work,
        "arguments": [
            "raw",
            "unpack",
            *([] if os.geteuid() == 0 else ["--rootless"]),
            "--image",
            "view:image",
            str(place / "target/rootfs"),
        ],
        "outside": "refused",  # by landlock, even to root
        "input": "",
        "descriptors": [0, 1, 2, write],
        "core": [0, 0],
        "privileges": ["NoNewPrivs:\t1\n"],
    }
    assert not (place / "outside").exists()


# Made fit to keep


@ROOT
def test_special_files_setuid_and_capabilities_do_not_reach_the_host(layout: Layout, place: Path) -> None:
    entries = [
        file("setuid", mode=0o4755),
        file("setgid", mode=0o2755),
        file("both", mode=0o6711, uid=1000),
        file("capable", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY}),
        directory("shared", mode=0o2775),
        directory("sticky", mode=0o1777),
        directory("dev"),
        character_device("dev/kvm", 10, 232),
        character_device("dev/null", 1, 3),
        block_device("dev/vda", 254, 0),
        fifo("dev/pipe"),
        hardlink("dev/vda2", "dev/vda"),
    ]
    rootfs = unpack(layout, build(layout, entries), place / "target")
    assert names(rootfs) == ["both", "capable", "dev", "setgid", "setuid", "shared", "sticky"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in rootfs.iterdir()}
    assert modes == {"setuid": 0o755, "setgid": 0o755, "both": 0o711, "capable": 0o755, "shared": 0o2775, "sticky": 0o1777, "dev": 0o755}
    assert "security.capability" not in os.listxattr(rootfs / "capable")
    assert (rootfs / "both").stat().st_uid == 1000


@NOT_ROOT
def test_an_ordinary_user_gets_all_that_he_can_have(layout: Layout, place: Path) -> None:
    """Everything is his and readable to him; what only root can make is left out or an empty file."""
    entries = [
        directory("closed", mode=0o000),
        file("closed/file", b"x", mode=0o000, uid=0),
        directory("others", mode=0o055, uid=4000, gid=4000),
        file("others/setuid", b"x", mode=0o4111, uid=4000),
        file("capable", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY}),
        character_device("null", 1, 3),
        fifo("pipe"),
    ]
    rootfs = unpack(layout, build(layout, entries), place / "target")
    assert names(rootfs) == ["capable", "closed", "closed/file", "null", "others", "others/setuid"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in rootfs.rglob("*")}
    assert modes["closed"] == 0o700
    assert modes["file"] == 0o400
    assert modes["others"] == 0o755
    assert modes["setuid"] == 0o511
    assert (rootfs / "closed/file").read_bytes() == b"x"
    assert (rootfs / "null").is_file()
    assert "security.capability" not in os.listxattr(rootfs / "capable")
    assert {path.lstat().st_uid for path in rootfs.rglob("*")} == {os.geteuid()}


def test_the_target_belongs_to_its_owner_alone(layout: Layout, place: Path) -> None:
    unpack(layout, build(layout, [directory("/", mode=0o777)]), place / "target")
    assert stat.S_IMODE((place / "target").stat().st_mode) == 0o700


# What cannot be unpacked


def refused(layout: Layout, image: Digest, place: Path, error: type[Exception], reason: str, **options: object) -> None:
    with pytest.raises(error) as caught:
        unpack(layout, image, place / "target", **options)  # type: ignore[arg-type]
    assert reason in str(caught.value)
    assert not (place / "target").exists()


def test_a_missing_layer_is_named(layout: Layout, place: Path) -> None:
    layer = Layer.of([file("a")])
    image = build(layout, layer)
    layout.remove(Digest.of(layer.blob))
    refused(layout, image, place, BlobMissing, f"layer {Digest.of(layer.blob)} is not in the layout")


def test_a_layer_altered_on_disk_is_refused(layout: Layout, place: Path) -> None:
    layer = Layer.of([file("a", b"one")], compress=False)
    image = build(layout, layer)
    layout.blob_path(Digest.of(layer.blob)).write_bytes(layer.blob.replace(b"one", b"two"))
    refused(layout, image, place, UnpackError, "umoci refused the image")


def test_an_altered_manifest_or_configuration_is_refused(layout: Layout, place: Path) -> None:
    image = build(layout, [file("a")])
    path = layout.blob_path(image)
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion":  2'))
    refused(layout, image, place, VerificationError, "altered on disk")


def test_a_layer_that_unpacks_to_other_bytes_than_promised_is_refused(layout: Layout, place: Path) -> None:
    layer = Layer.of([file("a")])
    image = build(layout, Layer(layer.blob, Digest.of(b"other"), layer.media_type))
    refused(layout, image, place, UnpackError, "diffid mismatch")


@pytest.mark.parametrize("blob", [b"", b"not gzip", b"\x1f\x8b\x08\x00"])
def test_a_layer_that_is_not_what_it_says_is_refused(layout: Layout, place: Path, blob: bytes) -> None:
    refused(layout, build(layout, Layer(blob, Digest.of(b""), OCI_LAYER + "+gzip")), place, UnpackError, "umoci refused the image")


def test_a_truncated_archive_is_refused(layout: Layout, place: Path) -> None:
    raw = tar([file("a", b"x" * 10_000)])[:5_000]
    refused(layout, build(layout, Layer.of(raw)), place, UnpackError, "umoci refused the image")


def test_an_index_is_not_an_image(layout: Layout, place: Path) -> None:
    index = layout.put(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode())
    refused(layout, index, place, ManifestError, "is an index; choose one of its manifests")


def test_an_image_for_another_cpu_is_refused(layout: Layout, place: Path) -> None:
    config = {**config_document([]), "architecture": "riscv64"}
    refused(layout, build(layout, config=config), place, PlatformError, "linux/riscv64")


def test_a_zstd_layer_asks_for_a_newer_umoci(layout: Layout, place: Path) -> None:
    image = build(layout, Layer(b"(\xb5/\xfd", Digest.of(b""), OCI_LAYER + "+zstd"))
    refused(layout, image, place, UmociMissing, "which umoci 0.4.7+ds-3 does not read", umoci=Umoci(find_umoci().path, "0.4.7+ds-3"))
    refused(layout, image, place, UnpackError, "", umoci=Umoci(find_umoci().path, "0.6.0"))


@pytest.mark.parametrize(
    ("version", "reads"), [("0.4.7+ds-3+b7", False), ("0.5.1", False), ("0.6.0", True), ("0.10.0", True), ("1.0", True), ("", False)]
)
def test_which_umoci_reads_zstd(version: str, reads: bool) -> None:
    assert Umoci("/usr/bin/umoci", version).reads_zstd is reads


def test_the_umoci_of_this_machine_is_found_or_asked_for(place: Path) -> None:
    assert find_umoci().path.startswith("/")
    assert find_umoci().version[0].isdigit()
    with pytest.raises(UmociMissing, match="install the package umoci"):
        find_umoci(str(place / "umoci"))
    (place / "umoci").write_text("#!/bin/sh\nexit 1\n")
    (place / "umoci").chmod(0o755)
    with pytest.raises(UmociMissing, match="does not run"):
        find_umoci(str(place / "umoci"))


def test_a_target_that_is_there_is_left_alone(layout: Layout, place: Path) -> None:
    (place / "target").mkdir()
    (place / "target/mine").write_text("")
    image = build(layout)
    with pytest.raises(Exception, match="File exists"):
        unpack(layout, image, place / "target")
    assert (place / "target/mine").exists()


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ("kill -KILL $$", UnpackError, "umoci was killed by signal 9"),
        (
            "echo 'fatal error: runtime: out of memory'; echo; echo 'goroutine 1 [running]:'; exit 2",
            LimitExceeded,
            "more than 512 MiB of memory",
        ),
        ("exit 3", UnpackError, "nothing (exit status 3)"),
        ("yes x | head -c 10000000; echo last words >&2; exit 1", UnpackError, "refused the image: 'last words'"),
        ("mkdir ../rootfs; exec >&- 2>&-; exit 1", UnpackError, "nothing (exit status 1)"),
        ("exit 0", UnpackError, "left no root directory"),
        ("ln -s / ../rootfs", UnpackError, "left no root directory"),
    ],
)
def test_whatever_becomes_of_umoci_is_told(layout: Layout, place: Path, script: str, error: type[Exception], reason: str) -> None:
    program = place / "umoci"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    refused(layout, build(layout), place, error, reason, umoci=Umoci(str(program), "0.4.7"))


# Limits


def test_time_is_limited(layout: Layout, place: Path) -> None:
    image = build(layout, [file("zeros", bytes(200 << 20))])
    began = time.monotonic()
    refused(layout, image, place, LimitExceeded, "longer than 0.05 s", limits=Limits(seconds=0.05))
    assert time.monotonic() - began < 10


def test_an_image_just_within_its_limits_is_unpacked(layout: Layout, place: Path) -> None:
    entries: list[Entry] = [file("a", bytes(1000)), file("b", bytes(1000)), directory("c")]
    image = build(layout, entries)
    # umoci itself writes a few lines to its log, and the kernel counts them too
    rootfs = unpack(layout, image, place / "target", limits=Limits(bytes=100_000, files=3, seconds=60))
    assert names(rootfs) == ["a", "b", "c"]


def test_many_names_of_one_file_count_once(layout: Layout, place: Path) -> None:
    image = build(layout, [file("a", bytes(60_000)), *(hardlink(f"link-{number}", "a") for number in range(9))])
    unpack(layout, image, place / "target", limits=Limits(bytes=100_000))


def test_exact_totals_count_afterwards(layout: Layout, place: Path) -> None:
    image = build(layout, [file("a", bytes(60_000)), file("b", bytes(60_000))])
    refused(layout, image, place, LimitExceeded, "more than 100000 bytes", limits=Limits(bytes=100_000))
    refused(layout, image, place, LimitExceeded, "more than 1 files", limits=Limits(files=1))


def test_unknown_manifest_fields_never_reach_umoci(layout: Layout, place: Path) -> None:
    """Go would take `Layers` for `layers`; umoci is given a manifest without it."""
    good, evil = Layer.of([file("good")]), Layer.of([file("evil")])
    document = manifest_document(layout, layout.put(json.dumps(config_document([good])).encode()), [good])
    document["Layers"] = manifest_document(layout, layout.put(b"{}"), [evil])["layers"]
    assert document["mediaType"] == OCI_MANIFEST
    assert names(unpack(layout, layout.put(json.dumps(document).encode()), place / "target")) == ["good"]
