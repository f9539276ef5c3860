"""Reading and writing manifests: YAML with one or more documents, each an API object.

YAML is read as data only (no tags that make Python objects), duplicate keys are refused, dates stay strings as Kubernetes has them, and
a text is bounded before it is expanded: aliases may not make it larger than `NODES_MAX` values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from faas_resources.errors import InvalidResource, Problem
from faas_resources.image import ALLOW_LOCAL, Image
from faas_resources.metadata import Resource
from faas_resources.model import checked

KINDS: Mapping[tuple[str, str], type[Resource]] = {(kind.API_VERSION, kind.KIND): kind for kind in (Image,)}

TEXT_MAX = 2 * 1024 * 1024
NODES_MAX = 100_000


def load_manifests(text: str, *, allow_local: bool = False, source: str = "") -> list[Resource]:
    """The resources in `text`, in order; raises InvalidResource that names the document, the field, the value and the rule.

    `allow_local`: this is a single node, where `spec.image` may be a directory (`oci:DIR`). Errors start with `source`, a file name.
    """
    documents = [document for document in _documents(text, source) if document[1] is not None]
    if not documents:
        raise InvalidResource([Problem("", "holds no object; write apiVersion, kind, metadata and spec")], source)
    return [
        _resource(data, allow_local, source if len(documents) == 1 else f"{source or 'manifest'}, document {number}")
        for number, data in documents
    ]


def load_manifest(text: str, *, allow_local: bool = False, source: str = "") -> Resource:
    """The one resource in `text`."""
    resources = load_manifests(text, allow_local=allow_local, source=source)
    if len(resources) > 1:
        raise InvalidResource([Problem("", f"holds {len(resources)} objects; only one is allowed here")], source)
    return resources[0]


def load_data(text: str, source: str = "") -> object:
    """The one document in `text` as plain data, under the same rules; None if there is none."""
    documents = list(_documents(text, source))
    if len(documents) > 1:
        raise InvalidResource([Problem("", "holds several documents; only one is allowed here")], source)
    return documents[0][1] if documents else None


def dump_manifests(documents: Iterable[Mapping[str, Any]]) -> str:
    """YAML for people: keys in the order given, block style, one document after the other."""
    return yaml.safe_dump_all(documents, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)


def _resource(data: object, allow_local: bool, source: str) -> Resource:
    if not isinstance(data, dict):
        raise InvalidResource([Problem("", f"must be a mapping with apiVersion, kind, metadata and spec, is a {_kind_of(data)}")], source)
    version, kind = data.get("apiVersion"), data.get("kind")
    known = ", ".join(f"{kind} ({version})" for version, kind in KINDS)
    missing = [Problem(field, f"is missing; known kinds: {known}") for field in ("apiVersion", "kind") if field not in data]
    if missing:
        raise InvalidResource(missing, source)
    model = KINDS.get((version, kind)) if isinstance(version, str) and isinstance(kind, str) else None
    if model is None:
        raise InvalidResource([Problem("kind", f"{kind!r} with apiVersion {version!r} is unknown; known kinds: {known}")], source)
    return checked(model, data, source=source, context={ALLOW_LOCAL: allow_local})


def _kind_of(data: object) -> str:
    return {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}.get(type(data), type(data).__name__)


class _Loader(yaml.SafeLoader):
    """SafeLoader less timestamps: a date is a string until a field says otherwise."""

    yaml_implicit_resolvers = {  # noqa: RUF012 — PyYAML's own attribute, read per class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _documents(text: str, source: str) -> Iterator[tuple[int, object]]:
    """Each document's number (from 1) and data."""
    if len(text) > TEXT_MAX:
        raise InvalidResource([Problem("", f"has {len(text)} characters; at most {TEXT_MAX} are read")], source)
    try:
        loader = _Loader(text)
        number = 0
        while loader.check_node():
            number += 1
            node = loader.get_node()
            if node is None:  # only for a reader that saw no node; check_node did
                break
            _check_size(node)
            _check_keys(node)
            yield number, _without_nulls(loader.construct_document(node))
    except yaml.YAMLError as error:
        raise InvalidResource([Problem("", f"is not YAML: {_position(error)}")], source) from error
    except RecursionError as error:
        raise InvalidResource([Problem("", "is nested too deeply, or an alias holds itself")], source) from error
    except (ValueError, OverflowError) as error:  # a number or another scalar that YAML's own rules cannot read
        raise InvalidResource([Problem("", f"holds a value that cannot be read: {error}")], source) from error


def _without_nulls(data: object) -> object:
    """`data` less the keys without a value: `labels:` with nothing behind it is no labels, as Kubernetes has it."""
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    return [_without_nulls(value) for value in data] if isinstance(data, list) else data


def _position(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else str(problem)


def _check_size(root: yaml.Node) -> None:
    """Refuses a document that aliases would blow up; counts each node as often as it would appear."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum(size(child) for child in _children(node))
        return sizes[id(node)]

    if size(root) > NODES_MAX:
        raise yaml.YAMLError(f"holds more than {NODES_MAX} values with its aliases in place")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(root: yaml.Node) -> None:
    """Refuses a mapping that names a key twice: one of the two would be lost."""
    todo, seen = [root], set[int]()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set[tuple[str, str]]()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key.start_mark)
                if (key.tag, key.value) in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands here twice; keep one", key.start_mark)
                keys.add((key.tag, key.value))
        todo.extend(_children(node))
