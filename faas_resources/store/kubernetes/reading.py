"""Objects of the API server as resources, and resources as its objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from faas_resources.conditions import ImageStatus
from faas_resources.errors import InvalidResource, Problem
from faas_resources.image import Image
from faas_resources.metadata import Resource
from faas_resources.model import checked
from faas_resources.names import check_name, check_namespace
from faas_resources.nodes import on_node
from faas_resources.store.port import Key

R = TypeVar("R", bound=Resource)

_STATUS_FIELDS = frozenset(field.alias or name for name, field in ImageStatus.model_fields.items())


def key_of(raw: Mapping[str, Any]) -> Key:
    """The namespace and name of an object."""
    metadata = raw.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def version_of(raw: Mapping[str, Any]) -> str:
    """The resourceVersion of an object or a list."""
    return str((raw.get("metadata") or {}).get("resourceVersion") or "")


def resource_of(kind: type[R], raw: Mapping[str, Any], node: str | None = None) -> R:
    """The object as a resource, with the status as that node reported it, else that of all nodes.

    Raises InvalidResource for one that came past the CRD's rules, or under those of another version.
    What another version of us says in a status is left out; what its authors want and we do not know is refused.
    """
    status = {name: value for name, value in (raw.get("status") or {}).items() if name in _STATUS_FIELDS}
    resource = checked(kind, {**raw, "apiVersion": kind.API_VERSION, "kind": kind.KIND, "status": status}, source="/".join(key_of(raw)))
    if node is not None and isinstance(resource, Image):
        return resource.model_copy(update={"status": on_node(resource.status, node)})
    return resource


def path_of(kind: type[R], namespace: str | None = None, name: str | None = None, *, status: bool = False) -> str:
    """The path of all resources of a kind, of those of a namespace, or of one. Raises InvalidResource."""
    parts = ["/apis", kind.API_VERSION]
    try:
        if namespace is not None:
            parts += ["namespaces", check_namespace(namespace)]
        parts.append(kind.PLURAL)
        if name is not None:
            parts.append(check_name(name))
    except ValueError as error:
        raise InvalidResource([Problem("metadata", f"{namespace!r}/{name or ''!r}: {error}")]) from error
    return "/".join(parts) + ("/status" if status else "")


class Latest:
    """The newest that is known of each object: what a watch told, and what the API server answered to a write since."""

    def __init__(self) -> None:
        self._objects: dict[Key, Mapping[str, Any]] = {}

    def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object as it was known last; None if no watch has told of it."""
        return self._objects.get((namespace, name))

    def replace(self, raws: Iterable[Mapping[str, Any]]) -> None:
        """There are these objects, and no others."""
        self._objects = {key_of(raw): raw for raw in raws}

    def told(self, raw: Mapping[str, Any]) -> None:
        """A watch has told of an object."""
        key = key_of(raw)
        if (known := self._objects.get(key)) is None or not _is_older(raw, known):
            self._objects[key] = raw

    def written(self, raw: Mapping[str, Any]) -> None:
        """The API server has answered so; of what no watch has told nothing is kept, as nobody would say when it goes."""
        if key_of(raw) in self._objects:
            self.told(raw)

    def gone(self, raw: Mapping[str, Any]) -> None:
        """A watch has told that an object is gone."""
        self._objects.pop(key_of(raw), None)


def _is_older(raw: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    version, before = version_of(raw), version_of(known)
    return version.isdecimal() and before.isdecimal() and int(version) < int(before)
