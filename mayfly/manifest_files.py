"""From `-f` to resources: a file, a directory of files, or `-` for standard input.

A local image may be named relative to the file that names it (`image: oci:image.oci`), so that a folder with a function can be moved and
checked in. The store knows absolute directories only, so the name is completed here, in the text, where line numbers stay true.
"""

import json
import os
import sys
from pathlib import Path

import yaml

from faas_resources import DEFAULT_NAMESPACE, Image, Resource, load_manifests
from mayfly.errors import MayflyError, NotFound

_SUFFIXES = {".yaml", ".yml", ".json"}
_LOCAL = "oci:"


def read_images(names: list[str], namespace: str | None, default: str = DEFAULT_NAMESPACE) -> list[Image]:
    """The images in all of `names`, in order.

    `namespace` holds for those that do not name their own, and must not contradict; without it those are in `default`.
    """
    images: list[Image] = []
    for source, text, base in (found for name in names for found in _texts(name)):
        resources = load_manifests(_complete(text, base), allow_local=True, source=source)
        images += (_placed(resource, namespace, default, source) for resource in resources)
    return images


def _texts(name: str) -> list[tuple[str, str, Path]]:
    """For each file that `name` stands for: what to call it, its text, and the directory it is in."""
    if name == "-":
        return [("standard input", _decoded("standard input", sys.stdin.buffer.read()), Path.cwd())]
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
        if not files:
            raise NotFound(f"{path}: no manifest in this directory", hint="Manifests end in .yaml, .yml or .json.")
        return [_text(file) for file in files]
    return [_text(path)]


def _text(path: Path) -> tuple[str, str, Path]:
    try:
        return str(path), _decoded(str(path), path.read_bytes()), path.absolute().parent
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error


def _decoded(source: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MayflyError(f"{source}: not UTF-8: {error.reason} at byte {error.start}", hint="Save the file as UTF-8.") from error


def _placed(resource: Resource, namespace: str | None, default: str, source: str) -> Image:
    if not isinstance(resource, Image):
        raise MayflyError(f"{source}: kind {resource.kind} cannot be applied", hint="The kinds are: Image.")
    named = "namespace" in resource.metadata.model_fields_set
    if namespace is None:
        return resource if named else resource.with_metadata(namespace=default)
    if namespace == resource.namespace:
        return resource
    if named:
        raise MayflyError(
            f"{source}: {resource.name} is in namespace {resource.namespace}, the command says {namespace}",
            hint="Leave one of the two out, or make them the same.",
        )
    return resource.with_metadata(namespace=namespace)


def _complete(text: str, base: Path) -> str:
    """The text with every relative `oci:` in `spec.image` made absolute; unchanged where it is no YAML, for the loader to refuse."""
    try:
        nodes = [node for document in yaml.compose_all(text, yaml.SafeLoader) if (node := _image_node(document)) is not None]
    except (yaml.YAMLError, RecursionError):
        return text
    for node in reversed(nodes):
        directory = node.value.removeprefix(_LOCAL)
        if directory and not os.path.isabs(directory):
            absolute = json.dumps(_LOCAL + os.path.normpath(base / directory), ensure_ascii=False)
            text = text[: node.start_mark.index] + absolute + text[node.end_mark.index :]
    return text


def _image_node(document: yaml.Node | None) -> yaml.ScalarNode | None:
    node = _value(_value(document, "spec"), "image")
    return node if isinstance(node, yaml.ScalarNode) and node.value.startswith(_LOCAL) else None


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    found = [value for name, value in node.value if isinstance(name, yaml.ScalarNode) and name.value == key]
    return found[0] if len(found) == 1 else None
