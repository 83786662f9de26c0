"""One development cluster for all end-to-end tests, with the operator installed and the example network trained."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import development
from demo.cluster import Cluster
from devcluster import node

REASON = "the development cluster needs Linux and root"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if sys.platform != "linux" or os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Up, installed, trained; down afterwards."""
    found = development.start()
    try:
        found.install(development.VALUES)
        development.train_example(found)
        yield found
    finally:
        if not os.environ.get("ECO_KEEP_CLUSTER"):
            node.down()


@pytest.fixture(scope="session")
def artifacts(cluster: Cluster) -> Path:
    """The artifact volume of namespace default, on this machine."""
    return development.artifacts_directory(cluster)
