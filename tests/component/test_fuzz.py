"""Generated manifests against a real API server and the real operator: refusals name their field, and nothing that is
accepted makes the operator fail. `ECO_FUZZ=10000` makes it as many."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from ecompile_operator.kube.client import KubeClient
from ecompile_operator.kube.errors import Refused
from ecompile_operator.kube.kinds import HYBRIDMODEL
from kubernetes import config as kube_config
from kubernetes.client import Configuration

from devcluster import build
from devcluster.api import ApiServer
from tests.manifests import Generated, generate, names_field, spec_schema

from .operator_world import World, eventually, operator

COUNT = int(os.environ.get("ECO_FUZZ", "300"))
SEED = int(os.environ.get("ECO_FUZZ_SEED", "1"))
WIDTH = 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


async def create_all(world: World, wanted: list[Generated]) -> tuple[list[str], list[tuple[Generated, str]]]:
    """Names of those accepted, and those refused with the API server's sentence."""
    configuration = Configuration()
    kube_config.load_kube_config(config_file=str(world.server.kubeconfig), client_configuration=configuration)
    accepted: list[str] = []
    refused: list[tuple[Generated, str]] = []
    pending = iter(wanted)
    async with KubeClient(configuration) as client:

        async def work() -> None:
            for each in pending:
                path = HYBRIDMODEL.path(each.manifest["metadata"]["namespace"])
                try:
                    await client.request("POST", path, query={"fieldValidation": "Strict"}, body=each.manifest)
                    accepted.append(each.manifest["metadata"]["name"])
                except Refused as error:
                    refused.append((each, str(error)))

        await asyncio.gather(*(work() for _ in range(WIDTH)))
    return accepted, refused


def test_no_manifest_crashes_the_operator_and_each_refusal_names_its_field(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    random, schema = Random(SEED), spec_schema()
    wanted = [generate(random, f"fuzz-{number}", namespace, schema) for number in range(COUNT)]
    with operator(world, tmp_path) as started:
        eventually("leading", lambda: started.says("deciding"), seconds=60)
        accepted, refused = asyncio.run(create_all(world, wanted))
        assert len(accepted) > COUNT / 10 and len(refused) > COUNT / 10, "both kinds are there"
        unnamed = [(each.field, sentence) for each, sentence in refused if not names_field(sentence, each.field)]
        assert not unnamed, f"{len(unnamed)} refusals do not name the field, such as {unnamed[:3]}"

        def all_answered() -> bool:
            models = world.list("hybridmodels", namespace)
            return len(models) == len(accepted) and all(m.get("status", {}).get("conditions") for m in models)

        eventually("an answer for every model", all_answered, seconds=60 + COUNT / 5)
        faults = [line["message"] for line in started.lines() if "internal fault" in line["message"]]
        assert faults == []
        assert started.process.poll() is None
