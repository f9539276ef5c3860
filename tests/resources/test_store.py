"""The directory store: Kubernetes' semantics on files that people edit."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from faas_resources import ConditionReport, Image, InvalidResource, NotFound, StatusPatch, StoreFailed, Truth
from faas_resources.store.directory import DirectoryStore

Make = Callable[..., Image]
ROOT = Path(__file__).resolve().parents[2]
DIGEST = f"sha256:{'a' * 64}"


def file_of(root: Path, name: str = "hello", namespace: str = "default") -> Path:
    return root / "resources" / namespace / "images" / f"{name}.yaml"


def record_of(root: Path, name: str = "hello", namespace: str = "default") -> Path:
    return root / "status" / namespace / "images" / f"{name}.yaml"


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def ready(truth: Truth = Truth.TRUE, message: str = "") -> StatusPatch:
    return StatusPatch(conditions=(ConditionReport(type="Ready", status=truth, reason="Any", message=message),))


async def test_local_image_is_refused_where_the_store_is_no_single_node(tmp_path: Path, image: Make) -> None:
    local = Image.model_validate({**image().manifest(), "spec": {"image": "oci:/srv/x"}}, context={"allow_local": True})
    assert (await DirectoryStore(tmp_path / "a").apply(local))[1] == "created"
    with pytest.raises(InvalidResource, match="single node only"):
        await DirectoryStore(tmp_path / "b", allow_local=False).apply(local)
    assert not file_of(tmp_path / "b").exists()


async def test_delete_ends_a_life(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    first, _ = await store.apply(image())
    await store.delete(Image, "default", "hello")
    assert not file_of(tmp_path).exists()
    assert not record_of(tmp_path).exists()
    with pytest.raises(NotFound):
        await store.get(Image, "default", "hello")
    with pytest.raises(NotFound):
        await store.delete(Image, "default", "hello")
    again, did = await store.apply(image())
    assert did == "created"
    assert again.metadata.uid != first.metadata.uid
    assert again.generation == 1


async def test_status_and_life_survive_a_restart(tmp_path: Path, image: Make) -> None:
    before = DirectoryStore(tmp_path)
    await before.apply(image())
    reported = await before.patch_status(
        Image,
        "default",
        "hello",
        StatusPatch(observed_generation=1, digest=DIGEST, revision="0" * 16, message="text", conditions=ready().conditions),
    )
    assert await DirectoryStore(tmp_path).get(Image, "default", "hello") == reported
    assert reported.status.digest == DIGEST


async def test_report_that_says_nothing_new_writes_nothing(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    await store.apply(image())
    first = await store.patch_status(Image, "default", "hello", ready())
    inode = record_of(tmp_path).stat().st_ino
    assert await store.patch_status(Image, "default", "hello", ready()) == first
    assert record_of(tmp_path).stat().st_ino == inode


async def test_manifest_of_a_person_is_a_resource(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("# mine\napiVersion: build.kontain.app/v1\nkind: Image\nmetadata: {name: hello}\nspec: {image: r.example/hello}\n")
    (found,) = await store.list(Image)
    assert (found.namespace, found.generation) == ("default", 1)
    same, did = await store.apply(image().model_copy(update={"spec": found.spec}))
    assert did == "unchanged"
    assert path.read_text().startswith("# mine")
    assert same.metadata.uid == found.metadata.uid


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("apiVersion: build.kontain.app/v1\nkind: Im", "'Im' with apiVersion"),
        ("", "holds no object"),
        ("a: [", "is not YAML"),
        (
            "apiVersion: build.kontain.app/v1\nkind: Image\nmetadata: {name: hello}\nspec: {image: a, memroy: 1Gi}",
            "spec.memroy: unknown field",
        ),
        (
            "apiVersion: build.kontain.app/v1\nkind: Image\nmetadata: {name: other}\nspec: {image: a}",
            "must be default/hello as the file's path says",
        ),
    ],
)
async def test_broken_file_is_a_message_and_no_deletion(
    store: DirectoryStore, image: Make, tmp_path: Path, broken: str, expected: str
) -> None:
    good, _ = await store.apply(image())
    file_of(tmp_path).write_text(broken)
    found = await store.get(Image, "default", "hello")
    assert (found.spec, found.generation, found.metadata.uid) == (good.spec, good.generation, good.metadata.uid)
    assert found.status.message is not None
    assert found.status.message.startswith("resources/default/images/hello.yaml: ")
    assert expected in found.status.message
    assert "the last good version stays in force" in found.status.message
    accepted = found.status.condition("Accepted")
    assert accepted is not None
    assert accepted.status == Truth.FALSE
    # A restart, and a report of another writer, change nothing of that.
    await store.patch_status(Image, "default", "hello", StatusPatch(message="from the downloader"))
    assert (await DirectoryStore(tmp_path).get(Image, "default", "hello")).status.message == found.status.message

    mended, did = await store.apply(image())
    assert did == "configured"
    assert mended.status.message == "from the downloader"
    assert mended.status.condition("Accepted") is None
    assert mended.generation == 1


async def test_file_that_never_was_good_is_a_problem(store: DirectoryStore, tmp_path: Path) -> None:
    file_of(tmp_path).parent.mkdir(parents=True)
    file_of(tmp_path).write_text("kind: [")
    assert await store.list(Image) == []
    assert "is not YAML" in (await store.problems(Image))["default", "hello"]
    with pytest.raises(InvalidResource, match="is not YAML"):
        await store.get(Image, "default", "hello")
    await store.delete(Image, "default", "hello")
    assert await store.problems(Image) == {}


async def test_what_is_no_manifest_is_passed_over(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    await store.apply(image())
    folder = file_of(tmp_path).parent
    for name in ("hello.yml", ".hello.yaml.swp", "hello.yaml~", "4913", "Bad.yaml"):
        (folder / name).write_text("x")
    (tmp_path / "resources" / "Bad").mkdir()
    (tmp_path / "resources" / "function" / "images").mkdir(parents=True)
    (tmp_path / "resources" / "function" / "images" / "x.yaml").write_text("x")
    (tmp_path / "resources" / "file").write_text("x")
    assert [each.name for each in await store.list(Image)] == ["hello"]
    assert await store.problems(Image) == {}


async def test_pipe_in_the_place_of_a_manifest_blocks_nobody(store: DirectoryStore, tmp_path: Path) -> None:
    file_of(tmp_path).parent.mkdir(parents=True)
    os.mkfifo(file_of(tmp_path))
    assert "is not a regular file" in (await store.problems(Image))["default", "hello"]


@pytest.mark.parametrize(("namespace", "name"), [("..", "x"), ("a", "../x"), ("a", ""), ("function", "x")])
async def test_names_never_leave_the_directory(store: DirectoryStore, namespace: str, name: str) -> None:
    with pytest.raises(InvalidResource):
        await store.get(Image, namespace, name)
    with pytest.raises(InvalidResource):
        await store.delete(Image, namespace, name)


async def test_damaged_record_begins_a_new_life(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    first, _ = await store.apply(image())
    record_of(tmp_path).write_text("uid: [")
    again = await store.get(Image, "default", "hello")
    assert again.spec == first.spec
    assert again.metadata.uid != first.metadata.uid


async def test_directory_that_cannot_be_written_is_a_failure_of_the_store(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    (tmp_path / "resources" / "default").write_text("in the way")
    with pytest.raises(StoreFailed, match="writing Image default/hello"):
        await store.apply(image())


async def test_nothing_but_manifests_and_records_is_left(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    await store.apply(image())
    await store.patch_status(Image, "default", "hello", ready())
    assert files_below(tmp_path) == ["resources/default/images/hello.yaml", "status/default/images/hello.yaml"]
    assert yaml.safe_load(file_of(tmp_path).read_text()) == image().manifest()


_PATCHER = """
import asyncio, sys
from faas_resources import ConditionReport, Image, StatusPatch, Truth
from faas_resources.store.directory import DirectoryStore

async def main(root, type_, times):
    store = DirectoryStore(root)
    for number in range(times):
        report = ConditionReport(type=type_, status=Truth.TRUE, reason="Any", message=str(number))
        await store.patch_status(Image, "default", "hello", StatusPatch(conditions=(report,)))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_processes_that_report_at_once_lose_nothing(store: DirectoryStore, image: Make, tmp_path: Path) -> None:
    first, _ = await store.apply(image())
    times = 30
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _PATCHER, str(tmp_path), type_, str(times), cwd=ROOT)
        for type_ in ("Pulled", "Published", "Ready")
    ]
    assert [await asyncio.wait_for(process.wait(), 60) for process in processes] == [0, 0, 0]
    found = await store.get(Image, "default", "hello")
    assert {condition.type: condition.message for condition in found.status.conditions} == dict.fromkeys(
        ("Pulled", "Published", "Ready"), str(times - 1)
    )
    assert int(found.metadata.resource_version or 0) == int(first.metadata.resource_version or 0) + 3 * times
