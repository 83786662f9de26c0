"""A real API server with our CRDs. Built from Go modules where it is not in the cache yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.cluster import Cluster
from devcluster import build, paths
from devcluster.api import ApiServer

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the API server."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.component)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """etcd and kube-apiserver, with the CRDs applied."""
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as found:
        client = Cluster(kubectl=str(paths.BIN / "kubectl"), kubeconfig=found.kubeconfig)
        for name in ("hybridmodels", "compiledmodules"):
            client.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / f"{name}.ecompile.dev.yaml"))
        client.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield found


@pytest.fixture(scope="session")
def cluster(server: ApiServer) -> Cluster:
    """kubectl against it."""
    return Cluster(kubectl=str(paths.BIN / "kubectl"), helm=str(paths.BIN / "helm"), kubeconfig=server.kubeconfig)
