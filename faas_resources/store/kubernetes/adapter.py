"""The store port on the API server of a cluster.

Writers meet by resourceVersion: a change is made to what was read, and when somebody was faster it is made again to what there is then.
The planes of a node name it: what they report goes into the node's entry of the status, and what they read of a status is their own (see
`faas_resources.nodes`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Self, TypeVar

from faas_resources.conditions import ImageStatus, StatusPatch, merged
from faas_resources.errors import Conflict, InvalidResource, NotFound, Problem, ResourceError, StoreFailed
from faas_resources.image import Image
from faas_resources.manifests import dump_manifests, load_manifest
from faas_resources.metadata import DEFAULT_NAMESPACE, Resource
from faas_resources.nodes import lost, reported, without
from faas_resources.store.kubernetes.attending import Roll
from faas_resources.store.kubernetes.connecting import MERGE_PATCH, Api, ApiFailed
from faas_resources.store.kubernetes.pacing import Pace
from faas_resources.store.kubernetes.reading import Latest, key_of, path_of, resource_of
from faas_resources.store.kubernetes.watching import Watch, list_raw
from faas_resources.store.port import Applied, Event, Key

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

_RACES = 20  # writers that may be faster, one after the other, before a change is given up
_RACE_PAUSE = 0.05  # seconds, doubled with each
_RACE_PAUSE_MAX = 1.0
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class KubernetesStore:
    """Implements `store.port.Store`. Any number of processes may use one cluster. To be closed, or used as an async context."""

    def __init__(
        self,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        node: str | None = None,
        system: str = "mayfly-system",
        pace: Pace | None = None,
    ) -> None:
        """`node` for its planes; without it statuses are those of the whole cluster. `system`: the namespace of the nodes' leases."""
        self._node = node
        self._system = system
        self._latest = Latest()  # Images, as a watch of this store tells them: what is in the status already is not written, nor asked for
        self._api = Api(pace or Pace(), kubeconfig=kubeconfig, context=context)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._api.close()

    async def default_namespace(self) -> str:
        return await self._api.default_namespace() or DEFAULT_NAMESPACE

    async def list(self, kind: type[R], namespace: str | None = None) -> Sequence[R]:
        found, _ = await self._look(kind, namespace)
        return [found[key] for key in sorted(found)]

    async def problems(self, kind: type[R]) -> dict[Key, str]:
        """The objects that break our rules, and how: those came past the CRD, or under the CRD of another version."""
        _, problems = await self._look(kind, None)
        return problems

    async def get(self, kind: type[R], namespace: str, name: str) -> R:
        return resource_of(kind, await self._raw(kind, namespace, name), self._node)

    async def apply(self, resource: R) -> tuple[R, Applied]:
        kind, manifest = type(resource), resource.manifest()
        load_manifest(dump_manifests([manifest]))  # what is written is what will be read: the same checks
        wanted = resource.metadata.resource_version
        return await self._race(lambda: self._apply(kind, resource, manifest), once=wanted is not None)

    async def delete(self, kind: type[R], namespace: str, name: str) -> None:
        stored = await self._raw(kind, namespace, name)
        # Of this life only: an answer that was lost on its way is asked for again, and by then there may be another.
        preconditions = {"preconditions": {"uid": stored["metadata"]["uid"]}}
        with suppress(NotFound, Conflict):
            await self._send(kind, namespace, name, "DELETE", path_of(kind, namespace, name), body=preconditions)

    async def watch(self, kind: type[R]) -> AsyncIterator[Event[R]]:
        async with aclosing(Watch(self._api, kind, self._node, self._latest if kind is Image else None).events()) as events:
            async for event in events:
                yield event

    async def patch_status(self, kind: type[R], namespace: str, name: str, patch: StatusPatch, *, uid: str | None = None) -> R:
        def changed(status: ImageStatus) -> ImageStatus:
            return merged(status, patch) if self._node is None else reported(status, self._node, patch)

        return await self._write_status(kind, namespace, name, changed, uid)

    async def attend(self) -> None:
        assert self._node is not None, "whoever attends is a node"

        async def say_lost(node: str) -> None:
            await self._change_statuses(
                node, lambda status: status if (patch := lost(status, node)) is None else reported(status, node, patch)
            )

        async def give_up(node: str) -> None:
            await self._change_statuses(node, lambda status: without(status, node))

        await Roll(self._api, self._system, self._node).keep(say_lost, give_up)

    # What the operations are made of

    async def _look(self, kind: type[R], namespace: str | None) -> tuple[dict[Key, R], dict[Key, str]]:
        try:
            items, _ = await list_raw(self._api, kind, namespace)
        except ApiFailed as error:
            raise _meaning(error, kind, namespace or "*", "*") from error
        found: dict[Key, R] = {}
        problems: dict[Key, str] = {}
        for raw in items:
            try:
                found[key_of(raw)] = resource_of(kind, raw, self._node)
            except InvalidResource as error:
                problems[key_of(raw)] = str(error)
        return found, problems

    async def _raw(self, kind: type[R], namespace: str, name: str) -> dict[str, Any]:
        return await self._send(kind, namespace, name, "GET", path_of(kind, namespace, name))

    async def _send(self, kind: type[R], namespace: str, name: str, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await self._api.request(method, path, **more)
        except ApiFailed as error:
            raise _meaning(error, kind, namespace, name) from error
        return answer

    async def _apply(self, kind: type[R], resource: R, manifest: Mapping[str, Any]) -> tuple[R, Applied]:
        namespace, name, wanted = resource.namespace, resource.name, resource.metadata.resource_version
        try:
            stored = await self._raw(kind, namespace, name)
        except NotFound:
            if wanted is not None:
                raise Conflict(
                    f"{kind.KIND} {namespace}/{name}: it was deleted since resourceVersion {wanted} was read; "
                    "leave metadata.resourceVersion out to create it again"
                ) from None
            created = await self._send(kind, namespace, name, "POST", path_of(kind, namespace), body=manifest)
            return resource_of(kind, created, self._node), "created"
        before = stored.get("metadata") or {}
        if wanted is not None and wanted != before.get("resourceVersion"):
            raise Conflict(
                f"{kind.KIND} {namespace}/{name}: it changed since resourceVersion {wanted} was read; "
                "read it again, or leave metadata.resourceVersion out to replace it whatever it is"
            )
        annotations = dict(resource.metadata.annotations)
        if (last := (before.get("annotations") or {}).get(_LAST_APPLIED)) is not None:
            annotations.setdefault(_LAST_APPLIED, last)  # kubectl's own memory, without which it warns of us
        metadata = {**before, "labels": dict(resource.metadata.labels), "annotations": annotations}
        if self._says(kind, stored, resource, annotations):
            return resource_of(kind, stored, self._node), "unchanged"
        body = {**stored, "metadata": metadata, "spec": manifest["spec"]}
        replaced = await self._send(kind, namespace, name, "PUT", path_of(kind, namespace, name), body=body)
        # The API server does not count a write that changed nothing (a default that was written out).
        same = replaced["metadata"]["resourceVersion"] == before.get("resourceVersion")
        return resource_of(kind, replaced, self._node), "unchanged" if same else "configured"

    def _says(self, kind: type[R], stored: Mapping[str, Any], resource: R, annotations: Mapping[str, str]) -> bool:
        """Whether the stored object is what the resource wants. One that breaks our rules is not."""
        try:
            found = resource_of(kind, stored)
        except InvalidResource:
            return False
        marks = (found.metadata.labels, found.metadata.annotations) == (resource.metadata.labels, annotations)
        return marks and getattr(found, "spec", None) == getattr(resource, "spec", None)

    async def _change_statuses(self, node: str, changed: Callable[[ImageStatus], ImageStatus]) -> None:
        """Changes the status of every Image that the node has spoken of."""
        items, _ = await list_raw(self._api, Image)
        for raw in items:
            with suppress(NotFound, InvalidResource):
                status = resource_of(Image, raw).status
                if any(entry.name == node for entry in status.nodes) and changed(status) != status:
                    await self._write_status(Image, *key_of(raw), changed, None)

    async def _write_status(
        self, kind: type[R], namespace: str, name: str, changed: Callable[[ImageStatus], ImageStatus], uid: str | None
    ) -> R:
        known = self._latest.get(namespace, name)
        if known is not None and uid is not None and (known.get("metadata") or {}).get("uid") != uid:
            known = None  # the watch lags behind; or it is ahead, and then it is not found

        async def change() -> R:
            nonlocal known
            stored, known = known or await self._raw(kind, namespace, name), None  # who was not the first asks what there is then
            return await self._with_status(kind, stored, changed, uid)

        return await self._race(change)

    async def _with_status(
        self, kind: type[R], stored: Mapping[str, Any], changed: Callable[[ImageStatus], ImageStatus], uid: str | None
    ) -> R:
        namespace, name = key_of(stored)
        metadata = stored.get("metadata") or {}
        if uid is not None and metadata.get("uid") != uid:
            raise NotFound(kind.KIND, namespace, name)
        resource = resource_of(kind, stored)
        assert isinstance(resource, Image)
        status = changed(resource.status)
        if status == resource.status:
            return resource_of(kind, stored, self._node)
        # A merge patch leaves alone what another version of us says in a status; null takes a field away.
        body = {
            "metadata": {"resourceVersion": metadata.get("resourceVersion"), "uid": metadata.get("uid")},
            "status": status.model_dump(mode="json", by_alias=True),
        }
        path = path_of(kind, namespace, name, status=True)
        written = await self._send(kind, namespace, name, "PATCH", path, body=body, media=MERGE_PATCH)
        self._latest.written(written)
        return resource_of(kind, written, self._node)

    async def _race(self, change: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        """Makes a change until nobody was faster. `once`: whoever asked wants to hear of it instead."""
        for number in range(_RACES):
            try:
                return await change()
            except Conflict:
                if once:
                    raise
            await asyncio.sleep(min(_RACE_PAUSE * 2.0**number, _RACE_PAUSE_MAX) * random.random())
        return await change()


def _meaning(error: ApiFailed, kind: type[Resource], namespace: str, name: str) -> ResourceError:
    """An error of the API server in the words of the store port."""
    known = error.details.get("kind") == kind.PLURAL or error.details.get("name") == name
    match error.code:
        case 404 if known:
            return NotFound(kind.KIND, namespace, name)
        case 404 if error.details:
            return StoreFailed(f"{error}: make the namespace {namespace} first")
        case 404:
            return StoreFailed(f"the cluster does not know {kind.PLURAL}.{kind.API_VERSION.partition('/')[0]}: kubectl apply -k crds/")
        case 409:
            return Conflict(str(error))
        case 400 | 422:
            causes = error.details.get("causes") or []
            problems = [Problem(str(cause.get("field", "")), str(cause.get("message", ""))) for cause in causes if isinstance(cause, dict)]
            return InvalidResource(problems or [Problem("", str(error))], f"{namespace}/{name}")
        case _:
            return error
