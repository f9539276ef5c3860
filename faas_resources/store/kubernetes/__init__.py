"""The store of a cluster: the Kubernetes API server. Its client is imported when a store is made, for it costs a third of a second."""

from faas_resources.store.kubernetes.adapter import KubernetesStore
from faas_resources.store.kubernetes.pacing import Pace

__all__ = ["KubernetesStore", "Pace"]
