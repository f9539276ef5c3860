"""The service accounts of k8s/: what the API server says that each may do is what it needs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.k8s.conftest import Rendered
from tests.support.cluster import Cluster

IMAGES = {("images.build.kontain.app", "get list watch"), ("images.build.kontain.app/status", "patch")}
LEASES = {("leases.coordination.k8s.io", "create delete get list update")}
EVERYWHERE = {
    "mayfly-system:mayfly-server": IMAGES,
    "mayfly-system:mayfly-downloader": IMAGES,
    "mayfly-labels:labeller": {("nodes", "patch")},
}
IN_THE_SYSTEM = {**EVERYWHERE, "mayfly-system:mayfly-server": IMAGES | LEASES}


@pytest.fixture(scope="module")
def applied(rendered: Callable[..., Rendered], knowing: Cluster) -> Cluster:
    """The cluster, with the accounts and roles of the small overlay in force."""
    made = rendered("small")
    knowing.apply(*made.of("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"))
    return knowing


def allowed(cluster: Cluster, account: str, namespace: str) -> set[tuple[str, str]]:
    """Resources and verbs that an account has in a namespace, beyond those of any account."""

    def listed(user: str) -> set[tuple[str, str]]:
        text = cluster.kubectl("auth", "can-i", "--list", f"--as=system:serviceaccount:{user}", "-n", namespace, "--no-headers")
        found = set()
        for line in text.splitlines():
            resource, verbs = line[: line.index(" ")], line[line.rindex("[") + 1 : line.rindex("]")]
            found.add((resource or line.split()[0], " ".join(sorted(verbs.split()))))
        return found

    return listed(account) - listed("nowhere:nobody")


@pytest.mark.parametrize("account", EVERYWHERE)
def test_account_may_do_what_it_needs_and_nothing_else(applied: Cluster, account: str) -> None:
    assert allowed(applied, account, "default") == EVERYWHERE[account]
    assert allowed(applied, account, "kube-system") == EVERYWHERE[account]
    assert allowed(applied, account, "mayfly-system") == IN_THE_SYSTEM[account]
