"""Which store a command works on: this machine's directory, or a cluster that a kubeconfig names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faas_resources.store import Store
from faas_resources.store.choosing import StoreChoice, opened
from mayfly.locating import data_directory


@dataclass(frozen=True)
class Where:
    """What the options say. A context or a kubeconfig means a cluster."""

    data: Path | None
    context: str | None = None
    kubeconfig: str | None = None

    @property
    def in_cluster(self) -> bool:
        """Whether it is a cluster."""
        return self.context is not None or self.kubeconfig is not None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        """The store, until the block ends."""
        kind: Literal["directory", "kubernetes"] = "kubernetes" if self.in_cluster else "directory"
        choice = StoreChoice(store=kind, kubeconfig=self.kubeconfig, context=self.context, node=None)
        async with opened(choice, data_directory(self.data)) as store:
            yield store
