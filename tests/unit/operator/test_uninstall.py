"""What the pre-delete hook does, and says."""

from __future__ import annotations

import asyncio

from ecompile_operator.kube.client import Manifest
from ecompile_operator.kube.errors import NotFound
from ecompile_operator.kube.kinds import Kind
from ecompile_operator.uninstall import uninstall

from .children import model
from .fake_api import FakeClient


class Server(FakeClient):
    """Models go when they are deleted, unless they are stuck."""

    def __init__(self, *models: Manifest, stuck: bool = False) -> None:
        super().__init__()
        self.models = {m["metadata"]["name"]: m for m in models}
        self.stuck = stuck

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Manifest], str]:
        self._check(f"list {kind.kind} in {namespace}")
        if namespace == "no-kind":
            raise NotFound("the server could not find the requested resource", status=404)
        return list(self.models.values()), "1"

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        self._check(f"delete {kind.kind} {name}")
        if not self.stuck:
            del self.models[name]


def run(server: Server, *namespaces: str) -> tuple[bool, list[str]]:
    said: list[str] = []
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    done = asyncio.run(uninstall(server, namespaces, say=said.append, clock=lambda: now, sleep=sleep))
    return done, said


def test_every_model_is_deleted_and_the_policy_is_said() -> None:
    orphan = model(version=1, name="kept")
    orphan["spec"] = {**orphan.get("spec", {}), "deletionPolicy": "Orphan"}
    server = Server(model(version=1, name="net"), orphan)
    done, said = run(server)
    assert done and not server.models
    assert any("/net (deletionPolicy Delete: its pods go with it)" in line for line in said)
    assert any("/kept (deletionPolicy Orphan: its pods stay, on the neural path)" in line for line in said)


def test_models_that_do_not_go_are_named_with_what_to_do() -> None:
    done, said = run(Server(model(version=1, name="net"), stuck=True))
    assert not done
    assert "/net" in said[-1] and "--no-hooks" in said[-1] and "Is the operator running?" in said[-1]


def test_only_the_given_namespaces_are_looked_at_and_a_missing_kind_is_no_fault() -> None:
    server = Server()
    assert run(server, "no-kind", "team-a") == (True, ["no HybridModels are left"])
    assert server.calls == ["list HybridModel in no-kind", "list HybridModel in team-a"] * 2
