"""What is read from a manifest, and what is said of one that breaks a rule."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas_resources import RESERVED_NAMESPACES, Image, InvalidResource, dump_manifests, load_manifest, load_manifests

KNOWN = "args, check, command, concurrency, contract, env, image, memory, network, pool, port, runtime, timeout"
GOOD = """\
apiVersion: build.kontain.app/v1
kind: Image
metadata:
  name: hello
spec:
  image: docker://r.example/hello:1
"""


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidResource) as caught:
        load_manifests(text)
    return [str(problem) for problem in caught.value.problems]


def with_spec(line: str) -> str:
    return f"{GOOD}  {line}\n"


def test_defaults_are_those_of_the_documentation() -> None:
    image = load_manifest(GOOD)
    assert isinstance(image, Image)
    spec = image.spec
    assert (image.namespace, image.name) == ("default", "hello")
    assert (spec.contract, spec.port, spec.concurrency, spec.pool) == ("http", None, 64, 4)
    assert (spec.timeout_ms, spec.memory_bytes, spec.env, spec.command, spec.args) == (60_000, 256 << 20, (), (), ())


def test_manifest_is_written_as_its_author_wrote_it() -> None:
    text = with_spec("env:\n  - name: GREETING\n    value: 'yes'\n  memory: 1Gi")
    manifest = load_manifest(text).manifest()
    assert manifest["spec"] == {
        "image": "docker://r.example/hello:1",
        "env": [{"name": "GREETING", "value": "yes"}],
        "memory": "1Gi",
    }
    assert load_manifest(dump_manifests([manifest])).manifest() == manifest


def test_several_documents_are_several_resources() -> None:
    found = load_manifests(f"---\n{GOOD}---\n\n---\n{GOOD.replace('hello', 'other')}")
    assert [resource.name for resource in found] == ["hello", "other"]


def test_error_names_the_document() -> None:
    with pytest.raises(InvalidResource, match=r"^f\.yaml, document 2: metadata\.name: 'Other': must be"):
        load_manifests(f"{GOOD}---\n{GOOD.replace('name: hello', 'name: Other')}", source="f.yaml")


def test_object_exported_from_a_cluster_is_taken() -> None:
    image = load_manifest(
        GOOD.replace(
            "  name: hello\n",
            "  name: hello\n  uid: 1-2\n  resourceVersion: '7'\n  generation: 3\n  creationTimestamp: 2026-01-02T03:04:05Z\n"
            "  managedFields: [{manager: kubectl, fieldsV1: {'f:spec': {}}}]\n  labels:\n",
        )
    )
    assert image.metadata.resource_version == "7"
    assert image.metadata.labels == {}
    assert "managedFields" not in image.manifest()["metadata"]


def test_every_problem_is_named_with_path_value_rule_and_way_out() -> None:
    text = """\
apiVersion: build.kontain.app/v1
kind: Image
metadata: {name: hello, namespace: function, labels: {a: 2}, annotations: {mayfly.example/x: yes}}
spec:
  memroy: 1Gi
  port: 99999
  timeout: 5
  memory: 5MB
  contract: grpc
  pool: "4"
  args: [true]
  command: run
  env: [{name: A, value: 5}, {nam: B}]
"""
    assert problems(text) == [
        "metadata.namespace: 'function': is reserved for calls of the OpenFaaS front (/function/NAME); choose another namespace",
        'metadata.labels.a: 2: must be a string; quote it: "2"',
        "metadata.annotations['mayfly.example/x']: True: must be a string; quote it: \"true\"",
        "spec.image: is missing and has no default",
        "spec.contract: 'grpc': must be 'http', 'stdin' or 'kontain'",
        "spec.port: 99999: must be at most 65535",
        "spec.command: 'run': must be a list",
        'spec.args[0]: True: must be a string; quote it: "true"',
        'spec.env[0].value: 5: must be a string; quote it: "5"',
        "spec.env[1].name: is missing and has no default",
        "spec.env[1].nam: unknown field; did you mean name? known: name, value",
        "spec.timeout: 5: must be a duration such as 500ms, 30s or 2m; write 5s for seconds",
        "spec.memory: '5MB': must be a quantity such as 128Mi, 1Gi or a number of bytes; write 5Mi",
        "spec.pool: '4': must be a whole number; remove the quotes",
        f"spec.memroy: unknown field; did you mean memory? known: {KNOWN}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds no object"),
        ("# nothing\n---\n", "holds no object"),
        ("- 1", "must be a mapping with apiVersion, kind, metadata and spec, is a list"),
        ("spec: {}", "apiVersion: is missing; known kinds: Image (build.kontain.app/v1)"),
        ("apiVersion: v1\nkind: Pod", "kind: 'Pod' with apiVersion 'v1' is unknown; known kinds: Image (build.kontain.app/v1)"),
        ("a: 1\nb: 2\na: 3", "is not YAML: line 3, column 1: key 'a' stands here twice; keep one"),
        ("a: [", "is not YAML: line 1, column 5"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML: line 1, column 4: could not determine a constructor"),
        ("a: &a [*a]", "is nested too deeply, or an alias holds itself"),
        ("[" * 5000, "is nested too deeply"),
        ("{[a]: b}", "is not YAML: line 1, column 2: a key must be a plain word"),
        ("x: 2\n" * 600_000, "has 3000000 characters; at most 2097152 are read"),
        (f"{GOOD}  image: docker://r.example/other:1", "key 'image' stands here twice"),
        ("a\0b: c", "is not YAML"),
        (f"a: 0x{'f' * 10}\nb: {'9' * 6000}", "holds a value that cannot be read"),
    ],
)
def test_text_that_is_no_manifest_is_refused(text: str, expected: str) -> None:
    assert expected in "; ".join(problems(text))


def test_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert problems("\n".join(lines)) == ["is not YAML: holds more than 100000 values with its aliases in place"]


def test_alias_within_bounds_is_taken() -> None:
    image = load_manifest(with_spec("args: &words [a, b]\n  command: *words"))
    assert isinstance(image, Image)
    assert image.spec.command == image.spec.args == ("a", "b")


@pytest.mark.parametrize("namespace", sorted(RESERVED_NAMESPACES))
def test_words_of_the_fronts_are_no_namespaces(namespace: str) -> None:
    assert "is reserved for" in problems(GOOD.replace("name: hello", f"name: hello\n  namespace: {namespace}"))[0]


@pytest.mark.parametrize("name", ["_mayfly", "A", "a_b", "-a", "a-", "a.b", "..", "a/b", "a" * 64, "é", "a\\n"])
def test_names_are_dns_labels(name: str) -> None:
    text = GOOD.replace("name: hello", f'name: "{name}"')
    assert problems(text)[0].startswith("metadata.name: ")


@pytest.mark.parametrize(
    "image",
    ["dir:/etc", "--authfile=/x", "docker://../x:1", "docker://r.example/Hello", "docker://r.example/x@sha256:12", "a b", "", "oci:/x"],
)
def test_bad_references_are_refused(image: str) -> None:
    assert problems(GOOD.replace("docker://r.example/hello:1", f'"{image}"'))[0].startswith("spec.image: ")


def test_local_image_needs_a_single_node() -> None:
    text = GOOD.replace("docker://r.example/hello:1", "oci:/srv/hello:v1")
    assert "single node only" in problems(text)[0]
    image = load_manifest(text, allow_local=True)
    assert isinstance(image, Image)
    assert image.spec.reference().path == "/srv/hello"


def test_variable_given_twice_is_refused() -> None:
    found = problems(with_spec("env: [{name: A, value: '1'}, {name: A, value: '2'}]"))
    assert len(found) == 1
    assert found[0].startswith("spec.env: ")
    assert found[0].endswith("holds 'A' twice; keep one of them")


def test_long_values_are_cut_in_messages() -> None:
    (found,) = problems(with_spec(f"contract: {'x' * 10_000}"))
    assert len(found) < 300


@given(st.text(alphabet=string.printable, max_size=200))
def test_any_text_is_a_resource_or_an_error_of_ours(text: str) -> None:
    with suppress(InvalidResource):
        load_manifests(text)


def test_network_rules_are_read_as_they_are_written() -> None:
    name = "{host: '*.example.com', ports: [443, '8000-8010']}"
    text = with_spec(f"network: {{allow: [{name}, {{cidr: 10.1.0.0/16, protocol: any}}]}}")
    image = load_manifest(text)
    assert isinstance(image, Image)
    first, second = image.spec.network.allow
    assert (first.host, first.cidr, first.port_ranges, first.protocol) == ("*.example.com", None, ((443, 443), (8000, 8010)), "tcp")
    assert (second.host, second.cidr, second.port_ranges, second.protocol) == (None, "10.1.0.0/16", (), "any")


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{}", "needs host or cidr, and not both"),
        ("{host: a.b, cidr: 10.0.0.1}", "needs host or cidr, and not both"),
        ("{host: 10.0.0.1}", "must be a name; write an address as cidr"),
        ("{host: '*'}", "spec.network.allow[0].host"),
        ("{host: 'a*.b'}", "spec.network.allow[0].host"),
        ("{host: UPPER.example}", "spec.network.allow[0].host"),
        ("{cidr: 10.0.0.1/8}", "must be an address or a network such as 10.1.0.0/16"),
        ("{cidr: everything}", "must be an address or a network such as 10.1.0.0/16"),
        ("{host: a.b, ports: [0]}", "must be a port such as 443 or a range such as 8000-8010"),
        ("{host: a.b, ports: ['90-80']}", "must be a port such as 443 or a range such as 8000-8010"),
        ("{host: a.b, protocol: icmp}", "spec.network.allow[0].protocol"),
    ],
)
def test_a_wrong_network_rule_names_its_rule(rule: str, problem: str) -> None:
    found = problems(with_spec(f"network: {{allow: [{rule}]}}"))
    assert any(problem in text for text in found), found
