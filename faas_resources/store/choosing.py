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
    node_timeout: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Seconds of silence after which a node of a cluster is shown as lost. 60: three of its signs may fail."
    )


@asynccontextmanager
async def opened(choice: StoreChoice, data: Path) -> AsyncIterator[Store]:
    """The store that was chosen, until the block ends."""
    if choice.store == "directory":
        yield DirectoryStore(data)
        return
    # Costs a third of a second and 55 MB, which a single node has not to pay.
    from faas_resources.store.kubernetes import KubernetesStore, Pace

    pace = Pace(lost=choice.node_timeout, renew=choice.node_timeout / 4)
    store = KubernetesStore(
        kubeconfig=choice.kubeconfig, context=choice.context, node=choice.node, system=choice.system_namespace, pace=pace
    )
    async with store:
        yield store
