"""`mayfly image build`: what it packs runs, is the same each time, and is an image to every other tool."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundles.layout import Layout
from bundles.manifests import MAX_MANIFEST, Manifest, check_image, parse_config, parse_manifest
from mayfly.errors import MayflyError, NotFound
from mayfly.image_building import BuiltImage, Plan, build
from tests.cli.conftest import Mayfly
from tests.support.compiling import compiled

HELLO = "import ssl, sqlite3, ctypes, asyncio, json\nprint(json.dumps({'hello': 'world'}))\n"


def folder(path: Path, **files: str) -> Path:
    """A folder of text files; `__` in a name is a slash, `_py` the suffix."""
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_py", ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return path


def contents(built: BuiltImage) -> tuple[Manifest, Any]:
    """Manifest and configuration, read by the code that reads strangers' images."""
    layout = Layout(Path(built.reference.removeprefix("oci:").rpartition(":")[0]))
    manifest = parse_manifest(layout.read(built.digest, MAX_MANIFEST))
    assert isinstance(manifest, Manifest)
    config = parse_config(layout.read(manifest.config.digest, MAX_MANIFEST))
    check_image(manifest, config)
    return manifest, config.config


def unpacked(built: BuiltImage, target: Path) -> Path:
    """The root file system, as umoci unpacks it."""
    reference = built.reference.removeprefix("oci:")
    rootless = ["--rootless"] if os.geteuid() else []
    subprocess.run(["umoci", "raw", "unpack", *rootless, "--image", reference, str(target)], check=True, capture_output=True)
    return target


def run(root: Path, *command: str) -> str:
    """Runs a program of an unpacked image with the image's own loader, libraries and files: nothing of this machine helps."""
    # /proc as in every instance: the loader asks it where the program lies.
    mounts = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    script = 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"'
    finished = subprocess.run(
        [*mounts, "sh", "-c", script, str(root), *command], capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin"}, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """A Python image, built once for the tests that look at it."""
    place = tmp_path_factory.mktemp("hello")
    return build(Plan(folder(place / "source", main_py=HELLO, lib__helper_py="VALUE = 1\n"), place / "image.oci"))


@pytest.fixture(scope="module")
def hello_root(hello: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(hello, tmp_path_factory.mktemp("hello") / "rootfs")


@pytest.mark.slow
def test_a_python_program_runs_from_its_image_alone(hello: BuiltImage, hello_root: Path) -> None:
    assert json.loads(run(hello_root, *hello.entrypoint)) == {"hello": "world"}


@pytest.mark.slow
def test_byte_code_is_there_and_used(hello_root: Path) -> None:
    assert run(hello_root, "/usr/bin/python3", "-c", "import json, os; print(os.path.exists(json.__cached__))") == "True\n"
    # An unchecked hash: flag bits 0b01 (hash-based) without 0b10 (check the source).
    (compiled_file,) = (hello_root / "app" / "__pycache__").glob("main.*.pyc")
    assert compiled_file.read_bytes()[4:8] == b"\x01\0\0\0"


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["tkinter", "idlelib", "ensurepip", "lib2to3", "test", "unittest/test", "site-packages"])
def test_what_functions_do_not_need_is_left_out(hello_root: Path, left_out: str) -> None:
    (library,) = (hello_root / "usr" / "lib").glob("python3.*")
    assert (library / "os.py").is_file()
    assert not (library / left_out).exists()


@pytest.mark.slow
def test_every_module_that_is_packed_loads(hello_root: Path) -> None:
    program = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("ignore")
platform = {"msilib", "winreg", "winsound", "_winapi", "nt", "antigravity", "this", "__phello__", "__hello__"}
failed = []
for module in pkgutil.iter_modules():
    if module.name not in platform:
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed.append((module.name, str(error)))
import json
print(json.dumps(failed))
"""
    failed = run(hello_root, "/usr/bin/python3", "-c", program)
    # What asks for a part that was left out on purpose cannot load.
    assert {name for name, error in json.loads(failed) if "tkinter" not in error and "lib2to3" not in error} == set()


@pytest.mark.slow
def test_the_image_says_how_it_is_run(hello: BuiltImage) -> None:
    _, config = contents(hello)
    assert config.entrypoint == ("/usr/bin/python3", "/app/main.py")
    assert (config.cmd, config.working_dir, config.user) == ((), "/app", "65534:65534")
    assert set(config.exposed_ports) == {"8080/tcp"}
    assert "PYTHONUNBUFFERED=1" in config.env


@pytest.mark.slow
def test_the_same_folder_gives_the_same_digest(hello: BuiltImage, tmp_path: Path) -> None:
    again = folder(tmp_path / "elsewhere", lib__helper_py="VALUE = 1\n", main_py=HELLO)
    for path in again.rglob("*"):
        os.utime(path, (1, 1))
    (again / "image.yaml").write_text("kind: Image\n")
    (again / "__pycache__").mkdir()
    (again / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"stale")
    assert build(Plan(again, again / "image.oci")).digest == hello.digest
    # The result of a build does not get into the next one.
    assert build(Plan(again, again / "image.oci")).digest == hello.digest


@pytest.mark.slow
def test_another_program_shares_the_interpreter(hello: BuiltImage, tmp_path: Path) -> None:
    other = build(Plan(folder(tmp_path, main_py="print('other')\n"), tmp_path / "image.oci"))
    assert other.digest != hello.digest
    assert other.layers[0] == hello.layers[0]
    assert other.layers[1] != hello.layers[1]


def test_a_tag_that_moves_takes_its_old_blobs_away_and_no_others(tmp_path: Path) -> None:
    source, layout = tmp_path / "source", tmp_path / "image.oci"
    source.mkdir()
    program = compiled(source / "program", "int main(void) { return 0; }", "-static")
    first = build(Plan(source, layout, tag="one"))
    kept = build(Plan(source, layout, tag="kept", args=("x",)))
    compiled(program, "int main(void) { return 1; }", "-static")
    second = build(Plan(source, layout, tag="one"))
    blobs = set(Layout(layout).blobs())
    assert first.digest not in blobs
    for image in (kept, second):
        manifest, _ = contents(image)
        assert {image.digest, *(blob.digest for blob in manifest.blobs)} <= blobs


def test_a_static_program_is_packed_alone(tmp_path: Path) -> None:
    compiled(tmp_path / "source" / "program", '#include <stdio.h>\nint main(void) { puts("static"); }', "-static")
    built = build(Plan(tmp_path / "source", tmp_path / "image.oci", port=9000, env={"A": "b"}, args=("one", "two"), user="7"))
    root = unpacked(built, tmp_path / "rootfs")
    assert run(root, "/app/program") == "static\n"
    assert not (root / "lib64").exists()
    _, config = contents(built)
    assert (config.entrypoint, config.cmd, config.user) == (("/app/program",), ("one", "two"), "7")
    assert set(config.exposed_ports) == {"9000/tcp"}
    assert "A=b" in config.env


def test_a_dynamic_program_comes_with_its_libraries(tmp_path: Path) -> None:
    source = tmp_path / "source"
    compiled(source / "lib" / "libmine.so", 'const char *mine(void) { return "mine"; }', "-shared", "-fPIC")
    compiled(
        source / "program",
        '#include <stdio.h>\n#include <math.h>\nconst char *mine(void); int main(int n) { printf("%s %g\\n", mine(), cos(n - 1)); }',
        f"-L{source / 'lib'}",
        "-lmine",
        "-lm",
        "-Wl,-rpath,$ORIGIN/lib",
    )
    built = build(Plan(source, tmp_path / "image.oci"))
    root = unpacked(built, tmp_path / "rootfs")
    assert run(root, "/app/program") == "mine 1\n"
    # The folder's own library is where it was, and nowhere else.
    assert [path.relative_to(root) for path in root.rglob("libmine.so")] == [Path("app/lib/libmine.so")]


def test_a_musl_program_comes_with_its_loader(tmp_path: Path) -> None:
    compiled(tmp_path / "source" / "program", '#include <stdio.h>\nint main(void) { puts("musl"); }', compiler="musl-gcc")
    root = unpacked(build(Plan(tmp_path / "source", tmp_path / "image.oci")), tmp_path / "rootfs")
    assert run(root, "/app/program") == "musl\n"


def test_one_file_is_enough(tmp_path: Path) -> None:
    program = compiled(tmp_path / "alone", '#include <stdio.h>\nint main(void) { puts("alone"); }', "-static")
    (tmp_path / "not-packed.txt").write_text("x")
    built = build(Plan(program, tmp_path / "image.oci"))
    root = unpacked(built, tmp_path / "rootfs")
    assert built.entrypoint == ("/app/alone",)
    assert [path.name for path in (root / "app").iterdir()] == ["alone"]


def test_the_command_chooses_among_programs(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", tool_py="print('tool')\n")
    for name in ("one", "two"):
        compiled(source / name, "int main(void) { return 0; }", "-static")
    assert build(Plan(source, tmp_path / "image.oci", command=("two", "-v"))).entrypoint == ("/app/two", "-v")
    with pytest.raises(MayflyError, match=r"several programs \(one, two\)"):
        build(Plan(source, tmp_path / "image.oci"))


def test_links_within_the_folder_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    compiled(source / "real" / "program", "int main(void) { return 0; }", "-static")
    compiled(source / "program", "int main(void) { return 0; }", "-static")
    (source / "link").symlink_to("real/program")
    root = unpacked(build(Plan(source, tmp_path / "image.oci")), tmp_path / "rootfs")
    assert os.readlink(root / "app" / "link") == "real/program"


def _nothing(_: Path) -> None: ...


def _absolute_link(path: Path) -> None:
    (path / "link").symlink_to("/etc/passwd")


def _escaping_link(path: Path) -> None:
    (path / "link").symlink_to("../../outside")


def _pipe(path: Path) -> None:
    os.mkfifo(path / "pipe")


def _text(path: Path) -> None:
    (path / "readme.txt").write_text("no program")


def _broken(path: Path) -> None:
    (path / "main.py").write_text("def (:\n")


@pytest.mark.parametrize(
    ("prepare", "command", "says"),
    [
        (_nothing, (), "nothing to pack"),
        (_text, (), r"neither main\.py nor an executable ELF file"),
        (_text, ("missing",), "missing: no such file in"),
        (_text, ("readme.txt",), "not an executable ELF file"),
        (_absolute_link, (), "links to /etc/passwd, outside of the folder"),
        (_escaping_link, (), "outside of the folder"),
        (_pipe, (), "neither a file, a directory nor a link"),
        (_broken, (), r"main\.py: does not compile"),
    ],
)
def test_what_cannot_be_packed_is_named(tmp_path: Path, prepare: Any, command: tuple[str, ...], says: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    prepare(source)
    with pytest.raises(MayflyError, match=says) as refusal:
        build(Plan(source, tmp_path / "image.oci", command=command))
    assert refusal.value.hint


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gone: no such folder or program"):
        build(Plan(tmp_path / "gone", tmp_path / "image.oci"))


def test_a_refused_build_leaves_the_tag_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    program = compiled(source / "program", "int main(void) { return 0; }", "-static")
    built = build(Plan(source, tmp_path / "image.oci"))
    program.unlink()
    (source / "text").write_text("x")
    with pytest.raises(MayflyError, match="neither"):
        build(Plan(source, tmp_path / "image.oci"))
    assert Layout(tmp_path / "image.oci").resolve("latest").digest == built.digest


def test_the_command_line_builds_beside_the_source(mayfly: Mayfly, tmp_path: Path) -> None:
    compiled(tmp_path / "fn" / "program", "int main(void) { return 0; }", "-static")
    finished = mayfly("image", "build", "fn", "--output", "json")
    assert finished.returncode == 0, finished.stderr
    built = json.loads(finished.stdout)
    assert built["reference"] == f"oci:{tmp_path / 'fn' / 'image.oci'}:latest"
    assert Layout(tmp_path / "fn" / "image.oci").resolve("latest").digest == built["digest"]


def test_the_command_line_takes_layout_and_tag_together(mayfly: Mayfly, tmp_path: Path) -> None:
    compiled(tmp_path / "fn" / "program", "int main(void) { return 0; }", "-static")
    finished = mayfly("image", "build", "fn", "-o", "out/mine.oci:v2", "-e", "A=b=c")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"oci:{tmp_path / 'out' / 'mine.oci'}:v2@sha256:")
    assert set(Layout(tmp_path / "out" / "mine.oci").refs()) == {"v2"}


@pytest.mark.parametrize(
    ("arguments", "status"), [(["fn", "-e", "novalue"], 2), (["fn", "--tag", "-x"], 1), (["gone"], 4), (["fn", "--port", "70000"], 2)]
)
def test_wrong_usage_has_its_exit_status(mayfly: Mayfly, tmp_path: Path, arguments: list[str], status: int) -> None:
    compiled(tmp_path / "fn" / "program", "int main(void) { return 0; }", "-static")
    finished = mayfly("image", "build", *arguments)
    assert finished.returncode == status, finished.stderr
    assert "Traceback" not in finished.stderr
