"""apply, get, describe, delete, on a data directory that nothing serves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Mayfly

HELLO = """\
apiVersion: build.kontain.app/v1
kind: Image
metadata:
  name: hello
  labels: {team: tools}
spec:
  image: docker://r.example/hello:1
"""


def applied(mayfly: Mayfly, *texts: str) -> None:
    finished = mayfly("apply", "-f", "-", stdin="---\n".join(texts))
    assert finished.returncode == 0, finished.stderr


def test_apply_says_what_it_did_and_keeps_the_manifest(mayfly: Mayfly, tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text(HELLO)
    for expected in ("created", "unchanged"):
        finished = mayfly("apply", "-f", "hello.yaml")
        assert (finished.returncode, finished.stdout) == (0, f"image.build.kontain.app/hello {expected}\n"), finished.stderr
    (tmp_path / "hello.yaml").write_text(HELLO + "  pool: 2\n")
    assert mayfly("apply", "-f", "hello.yaml").stdout.endswith("configured\n")
    kept = yaml.safe_load((tmp_path / "data" / "resources" / "default" / "images" / "hello.yaml").read_text())
    assert kept["spec"] == {"image": "docker://r.example/hello:1", "pool": 2}


def test_apply_takes_directories_documents_and_standard_input(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(HELLO.replace("hello", "one") + "---\n" + HELLO.replace("hello", "two"))
    (folder / "b.json").write_text(json.dumps(yaml.safe_load(HELLO.replace("hello", "three"))))
    (folder / "notes.txt").write_text("not a manifest")
    finished = mayfly("apply", "-f", "manifests", "-f", "-", "--output", "name", stdin=HELLO)
    assert finished.stdout.split() == [f"image.build.kontain.app/{name}" for name in ("one", "two", "three", "hello")], finished.stderr


def test_a_layout_may_be_named_relative_to_its_manifest(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "functions" / "hello"
    folder.mkdir(parents=True)
    (folder / "image.yaml").write_text(
        "# é stands before\n" + HELLO.replace("docker://r.example/hello:1", "oci:image.oci:v1   # built here")
    )
    assert mayfly("apply", "-f", "functions/hello/image.yaml").returncode == 0
    kept = json.loads(mayfly("get", "images", "hello", "-o", "json").stdout)
    assert kept["spec"]["image"] == f"oci:{folder / 'image.oci'}:v1"
    # Through standard input it is relative to where the command runs.
    applied(mayfly, HELLO.replace("docker://r.example/hello:1", "'oci:x/../y'"))
    assert json.loads(mayfly("get", "images", "hello", "-o", "json").stdout)["spec"]["image"] == f"oci:{tmp_path / 'y'}"


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("", "holds no object"),
        ("a: [", "is not YAML: line 1"),
        ("[" * 5000, "is nested too deeply"),
        (HELLO.replace("kind: Image", "kind: Imago"), "'Imago'"),
        (HELLO.replace("spec:", "spec:\n  imge: x"), "spec.imge: unknown field; did you mean image?"),
        (HELLO.replace("docker://r.example/hello:1", "dir:/etc"), "spec.image"),
        (HELLO.replace("docker://r.example/hello:1", '"docker://r.example/hello@sha256:12"'), "spec.image"),
        (HELLO.replace("name: hello", "name: Hello"), "metadata.name"),
        (HELLO.replace("name: hello", "name: hello\n  namespace: function"), "reserved"),
        (HELLO + "  memory: 12Q\n", "spec.memory"),
        (HELLO + "  timeout: soon\n", "spec.timeout"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_field(mayfly: Mayfly, tmp_path: Path, manifest: str, says: str) -> None:
    (tmp_path / "wrong.yaml").write_text(manifest)
    finished = mayfly("apply", "-f", "wrong.yaml")
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: wrong.yaml")
    assert says in finished.stderr
    assert not (tmp_path / "data" / "resources" / "default").exists()


def test_a_file_that_is_no_text_or_may_not_be_read_is_named(mayfly: Mayfly, tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"\xe9")
    finished = mayfly("apply", "-f", "latin.yaml")
    assert (finished.returncode, finished.stderr.startswith("error: latin.yaml: not UTF-8")) == (1, True)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    finished = mayfly("apply", "-f", "loop.yaml")
    assert (finished.returncode, finished.stderr) == (1, "error: loop.yaml: Too many levels of symbolic links\n")


def test_one_wrong_manifest_among_many_leaves_all_unapplied(mayfly: Mayfly) -> None:
    finished = mayfly("apply", "-f", "-", stdin=HELLO + "---\n" + HELLO.replace("Image", "Imago"))
    assert finished.returncode == 1
    assert "standard input, document 2" in finished.stderr
    assert mayfly("get", "images").stderr == "No images found in namespace default.\n"


def test_files_that_are_not_there_have_exit_status_4(mayfly: Mayfly, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert mayfly("apply", "-f", "gone.yaml").returncode == 4
    finished = mayfly("apply", "-f", "empty")
    assert (finished.returncode, "no manifest in this directory" in finished.stderr) == (4, True)


def test_the_namespace_option_holds_where_a_manifest_names_none(mayfly: Mayfly) -> None:
    assert mayfly("apply", "-n", "team", "-f", "-", stdin=HELLO).returncode == 0
    assert mayfly("get", "images", "-n", "team", "-o", "name").stdout == "image.build.kontain.app/hello\n"
    clash = mayfly("apply", "-n", "other", "-f", "-", stdin=HELLO.replace("name: hello", "name: hello\n  namespace: team"))
    assert clash.returncode == 1
    assert "hello is in namespace team, the command says other" in clash.stderr
    reserved = mayfly("apply", "-n", "system", "-f", "-", stdin=HELLO)
    assert reserved.returncode == 1
    assert "reserved" in reserved.stderr


def test_get_prints_a_table_that_scripts_can_cut(mayfly: Mayfly) -> None:
    applied(mayfly, HELLO, HELLO.replace("hello", "other").replace("name: other", "name: other\n  namespace: team"))
    lines = mayfly("get", "images").stdout.splitlines()
    assert lines[0].split() == ["NAME", "READY", "CONTRACT", "REVISION", "AGE", "MESSAGE"]
    assert lines[1].split()[:3] == ["hello", "Unknown", "http"]
    assert "is `mayfly up` running?" in lines[1]
    everywhere = mayfly("get", "images", "-A", "-o", "wide").stdout.splitlines()
    assert everywhere[0].split()[:2] == ["NAMESPACE", "NAME"]
    assert [line.split()[:2] for line in everywhere[1:]] == [["default", "hello"], ["team", "other"]]
    assert everywhere[2].split()[-1] == "docker://r.example/other:1"


def test_get_prints_json_and_yaml_as_kubectl_does(mayfly: Mayfly) -> None:
    applied(mayfly, HELLO, HELLO.replace("hello", "other"))
    listed = json.loads(mayfly("get", "images", "-o", "json").stdout)
    assert (listed["kind"], [item["metadata"]["name"] for item in listed["items"]]) == ("List", ["hello", "other"])
    one = yaml.safe_load(mayfly("get", "image", "hello", "-o", "yaml").stdout)
    assert (one["kind"], one["metadata"]["generation"], one["metadata"]["labels"]) == ("Image", 1, {"team": "tools"})


def test_what_get_prints_can_be_applied_again(mayfly: Mayfly) -> None:
    applied(mayfly, HELLO)
    printed = mayfly("get", "image", "hello", "-o", "yaml").stdout
    finished = mayfly("apply", "-f", "-", stdin=printed)
    assert finished.stdout == "image.build.kontain.app/hello unchanged\n", finished.stderr


def test_a_manifest_that_was_broken_by_hand_is_pointed_out(mayfly: Mayfly, tmp_path: Path) -> None:
    applied(mayfly, HELLO)
    (tmp_path / "data" / "resources" / "default" / "images" / "hello.yaml").write_text("spec: [")
    finished = mayfly("get", "images")
    assert "warning: default/hello: the manifest is not in force as it stands" in finished.stderr
    assert "hello" in finished.stdout


@pytest.mark.parametrize("command", [("get", "images", "gone"), ("describe", "image", "gone"), ("delete", "image", "gone")])
def test_what_is_not_there_has_exit_status_4(mayfly: Mayfly, command: tuple[str, ...]) -> None:
    finished = mayfly(*command)
    assert (finished.returncode, finished.stdout) == (4, "")
    assert finished.stderr == "error: Image default/gone: not found\n"


def test_describe_shows_specification_status_and_conditions(mayfly: Mayfly) -> None:
    applied(mayfly, HELLO + "  env: [{name: A, value: 'b c'}]\n")
    text = mayfly("describe", "image", "hello").stdout
    for part in (
        "Name:         hello",
        "team=tools",
        "Image:        docker://r.example/hello:1",
        "A=b c",
        "Memory:       256Mi",
        "Conditions:",
    ):
        assert part in text, text


def test_a_manifest_cannot_drive_the_terminal(mayfly: Mayfly) -> None:
    applied(mayfly, HELLO.replace("labels: {team: tools}", 'annotations: {note: "\\e]0;owned\\a"}'))
    text = mayfly("describe", "image", "hello").stdout
    assert "\x1b" not in text
    assert r"\x1b]0;owned\x07" in text


def test_delete_by_name_and_by_manifest(mayfly: Mayfly, tmp_path: Path) -> None:
    applied(mayfly, HELLO, HELLO.replace("hello", "other"))
    assert mayfly("delete", "image", "hello").stdout == 'image.build.kontain.app "hello" deleted\n'
    (tmp_path / "other.yaml").write_text(HELLO.replace("hello", "other"))
    assert mayfly("delete", "-f", "other.yaml").stdout == 'image.build.kontain.app "other" deleted\n'
    assert mayfly("get", "images", "-o", "name").stdout == ""
    assert mayfly("delete", "image/hello", "--ignore-not-found").returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("apply",),
        ("apply", "-f", "-", "--timeout", "soon"),
        ("get", "images", "x", "-A"),
        ("get", "pods"),
        ("get", "images", "-o", "xml"),
        ("delete",),
        ("delete", "image"),
        ("delete", "pod", "x"),
        ("delete", "image", "x", "-f", "y"),
        ("call",),
        ("frobnicate",),
        ("completion", "tcsh"),
    ],
)
def test_wrong_usage_has_exit_status_2(mayfly: Mayfly, command: tuple[str, ...]) -> None:
    finished = mayfly(*command)
    assert finished.returncode == 2, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr


def test_waiting_without_a_node_ends_in_time_and_says_why(mayfly: Mayfly) -> None:
    finished = mayfly("apply", "-f", "-", "--wait", "--timeout", "500ms", stdin=HELLO)
    assert finished.returncode == 6
    assert "not ready after 0.5 s: default/hello: not seen by the downloader yet" in finished.stderr


def test_help_lists_the_exit_statuses(mayfly: Mayfly) -> None:
    finished = mayfly("--help")
    assert finished.returncode == 0
    assert "3 this machine cannot run functions" in " ".join(finished.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(mayfly: Mayfly, shell: str) -> None:
    finished = mayfly("completion", shell)
    assert finished.returncode == 0
    assert "_MAYFLY_COMPLETE" in finished.stdout


def test_completion_knows_the_names_of_functions(mayfly: Mayfly) -> None:
    applied(mayfly, HELLO, HELLO.replace("hello", "help"), HELLO.replace("hello", "other"))
    asked = {"_MAYFLY_COMPLETE": "complete_bash", "COMP_WORDS": "mayfly call he", "COMP_CWORD": "2"}
    assert mayfly(**asked).stdout.split() == ["hello", "help"]


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(mayfly: Mayfly, environment: dict[str, str]) -> None:
    applied(mayfly, *(HELLO.replace("hello", f"hello-{number}") for number in range(20)))
    command = [sys.executable, "-m", "mayfly", "get", "images", "-o", "json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode != 0


def test_the_module_is_the_program(environment: dict[str, str], tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "mayfly", "get", "image", "gone"], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert (finished.returncode, finished.stderr) == (4, "error: Image default/gone: not found\n")
