"""What runs, from image and specification together; and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bundles import ConfigError, Deployment, Digest, FunctionSpec, ImageConfig, parse_config, runtime_config
from bundles.runtime_config import DEFAULT_PATH, MAX_STRING, function_spec

IMAGE = Digest("sha256:" + "a" * 64)


def image(**process: Any) -> ImageConfig:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/cmd"], **process},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    return parse_config(json.dumps(document).encode())


def deployment(**fields: Any) -> Deployment:
    return Deployment(**{"namespace": "default", "name": "hello", "reference": "host.example/hello", **fields})


def process(config: ImageConfig, wanted: Deployment, rootfs: Path) -> dict[str, Any]:
    found = runtime_config(config, wanted, rootfs)["process"]
    assert isinstance(found, dict)
    return found


# Command and arguments: the table of Kubernetes


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "command", "args", "expected"),
    [
        (["/ep"], ["a"], [], [], ["/ep", "a"]),
        (["/ep"], ["a"], ["/c"], [], ["/c"]),
        (["/ep"], ["a"], [], ["x", "y"], ["/ep", "x", "y"]),
        (["/ep"], ["a"], ["/c", "1"], ["x"], ["/c", "1", "x"]),
        ([], ["a", "b"], [], [], ["a", "b"]),
        (["/ep"], [], [], [], ["/ep"]),
        ([], [], ["/c"], [], ["/c"]),
        ([], [], [], ["/x"], ["/x"]),
        (["/ep"], ["$(PORT)", ""], [], [], ["/ep", "$(PORT)", ""]),
    ],
)
def test_command_and_arguments(
    tmp_path: Path, entrypoint: list[str], cmd: list[str], command: list[str], args: list[str], expected: list[str]
) -> None:
    config = image(Entrypoint=entrypoint, Cmd=cmd)
    assert process(config, deployment(command=command, args=args), tmp_path)["args"] == expected


@pytest.mark.parametrize(
    ("config", "wanted", "reason"),
    [
        ({"Cmd": None}, {}, "neither Entrypoint nor Cmd; give spec.command"),
        ({"Cmd": [""]}, {}, "first word of the command is empty"),
        ({}, {"command": ["/x", "a\0b"]}, "word 1 has a NUL"),
        ({}, {"args": ["x" * MAX_STRING]}, f"at most {MAX_STRING}"),
        ({}, {"args": ["x" * 100_000] * 11}, "at most 1048576 are passed"),
        ({}, {"args": ["\ud800"]}, "surrogate"),
        ({}, {"env": {"A": "\ud800"}}, "surrogate"),
        ({}, {"env": {"": "x"}}, "'' is not a name: letters, digits and"),
        ({}, {"env": {"1A": "x"}}, "'1A' is not a name"),
        ({}, {"env": {"A=B": "x"}}, "'A=B' is not a name"),
        ({}, {"env": {"A B": "x"}}, "'A B' is not a name"),
        ({}, {"env": {"A\n": "x"}}, r"'A\n' is not a name"),
        ({}, {"env": {"Ä": "x"}}, "'Ä' is not a name"),
        ({}, {"env": {"A": "x\0"}}, "value of A has a NUL"),
        ({}, {"env": {"A": "x" * MAX_STRING}}, "the variable"),
        ({}, {"env": {"PORT": "9000"}}, "set spec.port and leave PORT out"),
        ({"Env": ["A"]}, {}, "must be NAME=value"),
        ({"Env": ["=x"]}, {}, "must be NAME=value"),
        ({"Env": ["A=\0"]}, {}, "must be NAME=value"),
        ({"WorkingDir": "/a\0b"}, {}, "not a path"),
        ({"WorkingDir": "/" + "a" * 5000}, {}, "not a path"),
        ({"User": "app"}, {}, "no user 'app'"),
    ],
)
def test_refused(tmp_path: Path, config: dict[str, Any], wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        runtime_config(image(**config), deployment(**wanted), tmp_path)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500


# Environment


def test_the_environment_is_the_images_then_the_specifications_then_ours(tmp_path: Path) -> None:
    config = image(Env=["PATH=/opt/bin", "A=image", "B=image", "EMPTY=", "EQUALS=a=b", "odd name=kept", "A=last"])
    found = process(config, deployment(env={"B": "spec", "C": "spec", "a.b-c": "x"}), tmp_path)["env"]
    assert found == [
        "PATH=/opt/bin",
        "A=last",
        "B=spec",
        "EMPTY=",
        "EQUALS=a=b",
        "odd name=kept",
        "C=spec",
        "a.b-c=x",
        "PORT=8080",
        "HOME=/root",
    ]


def test_path_and_home_are_there_when_nobody_gives_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:1000:1000::/home/app:/bin/sh\n")
    assert process(image(User="app"), deployment(), tmp_path)["env"] == ["PORT=8080", f"PATH={DEFAULT_PATH}", "HOME=/home/app"]


@pytest.mark.parametrize(
    ("config", "port", "expected"),
    [
        ({}, None, 8080),
        ({}, 9000, 9000),
        ({"ExposedPorts": {"3000/tcp": {}}}, None, 3000),
        ({"ExposedPorts": {"3000": {}, "53/udp": {}}}, None, 3000),
        ({"ExposedPorts": {"3000/tcp": {}, "4000/tcp": {}}}, None, 8080),
        ({"ExposedPorts": {"3000-3005/tcp": {}, "0/tcp": {}, "70000": {}}}, None, 8080),
        ({"ExposedPorts": {"3000/tcp": {}}, "Env": ["PORT=5000"]}, None, 5000),
        ({"Env": ["PORT=x"]}, None, 8080),
        ({"ExposedPorts": {"3000/tcp": {}}, "Env": ["PORT=5000"]}, 9000, 9000),
    ],
)
def test_the_port(tmp_path: Path, config: dict[str, Any], port: int | None, expected: int) -> None:
    wanted = deployment(port=port)
    assert f"PORT={expected}" in process(image(**config), wanted, tmp_path)["env"]
    assert function_spec(wanted, IMAGE, "0" * 16, image(**config)).port == expected


def test_the_port_may_be_given_twice_if_it_is_the_same(tmp_path: Path) -> None:
    assert "PORT=9000" in process(image(), deployment(port=9000, env={"PORT": "9000"}), tmp_path)["env"]


# Directory and user


@pytest.mark.parametrize(("directory", "expected"), [("", "/"), ("/app", "/app"), ("app", "/app"), ("/a/../b", "/a/../b")])
def test_the_working_directory(tmp_path: Path, directory: str, expected: str) -> None:
    assert process(image(WorkingDir=directory), deployment(), tmp_path)["cwd"] == expected


def test_the_user_has_numbers(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:1000:1001::/:\n")
    (tmp_path / "etc/group").write_text("staff:x:50:app\n")
    assert process(image(User="app"), deployment(), tmp_path)["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [50]}
    assert process(image(), deployment(), tmp_path)["user"] == {"uid": 0, "gid": 0}


# The whole file


def test_the_configuration_gives_nothing_away(tmp_path: Path) -> None:
    found = runtime_config(image(), deployment(memory_bytes=1 << 28), tmp_path)
    assert found["ociVersion"] == "1.0.2"
    assert found["root"] == {"path": str(tmp_path), "readonly": True}
    assert found["process"]["terminal"] is False
    assert found["process"]["noNewPrivileges"] is True
    assert set(map(tuple, found["process"]["capabilities"].values())) == {()}
    assert set(found["process"]["capabilities"]) == {"bounding", "effective", "inheritable", "permitted", "ambient"}
    assert {namespace["type"] for namespace in found["linux"]["namespaces"]} == {"pid", "ipc", "uts", "mount", "network"}
    assert all("path" not in namespace for namespace in found["linux"]["namespaces"])
    assert not any("bind" in option for mount in found["mounts"] for option in mount["options"])
    assert found["linux"]["resources"]["memory"]["limit"] == 1 << 28
    assert json.loads(json.dumps(found)) == found


def test_function_json_has_every_field_of_the_protocol() -> None:
    spec = function_spec(deployment(contract="stdin"), IMAGE, "0123456789abcdef", image())
    assert json.loads(spec.model_dump_json()) == {
        "version": 1,
        "namespace": "default",
        "name": "hello",
        "revision": "0123456789abcdef",
        "image": IMAGE,
        "reference": "host.example/hello",
        "contract": "stdin",
        "port": 8080,
        "timeout_ms": 60000,
        "memory_bytes": 268435456,
        "concurrency": 64,
        "pool": 4,
        "check": True,
        "network": [],
        "runtime": None,
    }
    assert FunctionSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"namespace": "Default"},
        {"namespace": "../x"},
        {"name": "a\n"},
        {"name": "a" * 64},
        {"name": "-a"},
        {"revision": "0"},
        {"image": "sha256:x"},
        {"contract": "ftp"},
        {"port": 0},
        {"port": 65536},
        {"port": "80"},
        {"timeout_ms": 0},
        {"concurrency": 0},
        {"pool": -1},
        {"more": 1},
    ],
)
def test_another_function_json_is_refused(change: dict[str, Any]) -> None:
    document = function_spec(deployment(), IMAGE, "0123456789abcdef", image()).model_dump()
    with pytest.raises(ValidationError):
        FunctionSpec.model_validate_json(json.dumps({**document, **change}))
    del document["pool"]
    with pytest.raises(ValidationError):
        FunctionSpec.model_validate_json(json.dumps(document))
