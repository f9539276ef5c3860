"""Which store a plane works on: the settings that say so, and the store that follows from them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from faas_resources.store.directory import DirectoryStore
from faas_resources.store.port import Store


class StoreChoice(BaseModel):
    """Settings that planes have in common."""

    store: Literal["directory", "kubernetes"] = Field(
        "directory", description="Where resources live: in the data directory, or in the Kubernetes cluster that this is a node of."
    )
    kubeconfig: str | None = Field(
        None, description="File by which the cluster is reached. None: KUBECONFIG, else the pod's own service account."
    )
    context: str | None = Field(None, description="Context of the kubeconfig. None: its current one.")
    node: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default_factory=socket.gethostname,
        description="Name under which this node reports in a cluster; both planes of a node have the same. Default: the host's name.",
    )
    system_namespace: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        "mayfly-system",
        description="Namespace of a cluster in which each node says by a lease that it is there: the one that Mayfly runs in.",
    )


@asynccontextmanager
async def opened(choice: StoreChoice, data: Path) -> AsyncIterator[Store]:
    """The store that was chosen, until the block ends."""
    if choice.store == "directory":
        yield DirectoryStore(data)
        return
    from faas_resources.store.kubernetes import KubernetesStore  # costs a third of a second and 55 MB, which a single node has not to pay

    async with KubernetesStore(kubeconfig=choice.kubeconfig, context=choice.context, node=choice.node) as store:
        yield store
