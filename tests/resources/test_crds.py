"""The CRDs: in step with the models, structural, and as strict as OpenAPI can say it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import ReferenceError_
from bundles.references import Reference
from faas_resources import Image, ImageSpec, load_manifest
from faas_resources.crds import DIRECTORY, files, main
from faas_resources.image import IMAGE_PATTERN

GOOD: dict[str, Any] = {
    "apiVersion": Image.API_VERSION,
    "kind": "Image",
    "metadata": {"name": "hello"},
    "spec": {"image": "r.example/hello"},
}
# What a structural schema may say of a value (a subset of Kubernetes' JSONSchemaProps).
ALLOWED = {
    "anyOf", "default", "description", "enum", "format", "items", "maxItems", "maxLength", "maximum", "minLength", "minimum", "pattern",
    "properties", "required", "type", "additionalProperties",
    "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-validations",
}  # fmt: skip


@pytest.fixture(scope="module")
def version() -> Any:
    text = files()["images.build.kontain.app.yaml"]
    (found,) = yaml.safe_load(text)["spec"]["versions"]
    return found


@pytest.fixture(scope="module")
def schema(version: Any) -> Any:
    return version["schema"]["openAPIV3Schema"]


def test_files_are_what_the_models_say() -> None:
    assert main(["--check"]) == 0
    assert {path.name: path.read_text() for path in DIRECTORY.glob("*.yaml")} == files()


def test_kustomization_names_every_crd() -> None:
    made = files()
    assert yaml.safe_load(made.pop("kustomization.yaml"))["resources"] == sorted(made)


def test_drift_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path)]) == 0
    assert main(["--output", str(tmp_path), "--check"]) == 0
    path = tmp_path / "images.build.kontain.app.yaml"
    path.write_text(path.read_text().replace("60s", "61s"))
    (tmp_path / "left-over.yaml").write_text("")
    assert main(["--output", str(tmp_path), "--check"]) == 1
    assert "images.build.kontain.app.yaml, left-over.yaml" in capsys.readouterr().err


def test_status_is_a_subresource_and_columns_show_what_people_look_for(version: Any) -> None:
    assert version["subresources"] == {"status": {}}
    assert {"Ready", "Digest", "Age"} <= {column["name"] for column in version["additionalPrinterColumns"]}


def test_schema_is_structural(schema: Any) -> None:
    def check(node: Any, path: str) -> None:
        assert set(node) <= ALLOWED, path
        if node.get("x-kubernetes-int-or-string"):
            assert "type" not in node
        else:
            assert isinstance(node["type"], str), path
            assert "anyOf" not in node, path
        for name, child in node.get("properties", {}).items():
            check(child, f"{path}.{name}")
        if "items" in node:
            check(node["items"], f"{path}[]")
        if isinstance(node.get("additionalProperties"), dict):
            check(node["additionalProperties"], f"{path}{{}}")

    check(schema, "")
    assert schema["properties"]["metadata"] == {"type": "object"}


def test_every_field_is_described(schema: Any) -> None:
    assert [name for name, field in schema["properties"]["spec"]["properties"].items() if "description" not in field] == []


def test_defaults_are_those_of_the_models(schema: Any) -> None:
    spec = ImageSpec(image="a").model_dump(mode="json", by_alias=True)
    defaults = {name: field["default"] for name, field in schema["properties"]["spec"]["properties"].items() if "default" in field}
    assert defaults == {name: spec[name] for name in defaults}
    assert set(ImageSpec.model_fields) - set(defaults) == {"image", "port", "runtime"}


def test_good_object_passes_both(schema: Any) -> None:
    full = {
        **GOOD["spec"], "contract": "stdin", "port": 80, "command": ["a"], "args": [], "env": [{"name": "A", "value": "b"}],
        "timeout": "1m30s", "memory": 1 << 28, "concurrency": 1, "pool": 0,
    }  # fmt: skip
    for spec in (GOOD["spec"], full):
        document = {**GOOD, "spec": spec}
        jsonschema.validate(document, schema)
        load_manifest(yaml.safe_dump(document))


@pytest.mark.parametrize(
    "spec",
    [
        {"image": "../etc"}, {"image": "a" * 5000}, {"image": "dir:/etc"}, {"image": "oci:/x"}, {"image": "--authfile=/x"}, {"image": ""},
        {"image": "r.example/x@sha256:zz"}, {"image": 5}, {}, {"contract": "grpc"}, {"port": 0}, {"port": 65536}, {"port": "80"},
        {"timeout": "5"}, {"timeout": "-1s"}, {"memory": "5MB"}, {"concurrency": 0}, {"pool": -1}, {"env": [{"value": "x"}]},
        {"env": [{"name": "A=B", "value": "x"}]}, {"args": "x"}, {"args": ["x"] * 257},
    ],
)  # fmt: skip
def test_server_that_only_knows_the_crd_refuses(schema: Any, spec: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**GOOD, "spec": {**GOOD["spec"], **spec} if spec else {}}, schema)


_references = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["", "docker://"]),
    st.sampled_from(["", "r.example/", "localhost:5000/", "[::1]:5000/", "127.0.0.1/", "UPPER/", "a-b.c/"]),
    st.from_regex(r"[a-z0-9._/-]{1,20}", fullmatch=True),
    st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_.-]{1,10}", fullmatch=True)),
    st.sampled_from(["", "@sha256:" + "a" * 64]),
)


@given(_references)
def test_crd_accepts_whatever_the_grammar_accepts(text: str) -> None:
    try:
        Reference.parse(text)
    except ReferenceError_:
        return
    assert re.fullmatch(IMAGE_PATTERN, text)
