"""The operator process when things break: the API server away, two operators, bad objects, foreign objects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import build
from devcluster.api import ApiServer

from .operator_world import SYSTEM, Manifest, World, eventually, hybrid_model, operator


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    build.build_all()
    with ApiServer(tmp_path_factory.mktemp("api")) as server:
        found = World(server)
        found.install()
        yield found


def stalled(world: World, namespace: str, name: str) -> Manifest | None:
    status = world.status(namespace, name)
    return status if status.get("phase") == "Stalled" else None


def only_event(world: World, namespace: str, reason: str) -> Manifest:
    """The first Event with that reason, once it exists."""

    def look() -> Manifest | None:
        return next(iter(world.events(namespace, reason)), None)

    return eventually(f"{reason} event", look)


def test_the_operator_goes_on_after_the_api_server_was_away(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        world.apply(hybrid_model(namespace, "before"))
        world.job(namespace, "profile")
        world.server.pause()
        time.sleep(6)  # shorter than the lease: a leader that cannot renew for longer ends, as it must
        world.server.resume()
        world.apply(hybrid_model(namespace, "after"))
        eventually("second Job", lambda: len(world.list("jobs", namespace)) == 2, seconds=60)
        world.kubectl("delete", "hybridmodel", "before", "-n", namespace)
        world.apply(hybrid_model(namespace, "later"))
        eventually("third Job", lambda: len(world.list("jobs", namespace)) == 3, seconds=60)
        assert started.process.poll() is None


def test_a_leader_without_an_api_server_ends_and_its_successor_goes_on(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        world.apply(hybrid_model(namespace, "net"))
        world.job(namespace, "profile")
        world.server.pause()
        assert started.process.wait(timeout=40) == 1
        world.server.resume()
        started.process.returncode = 0  # this end was asked for
    with operator(world, tmp_path):
        world.apply(hybrid_model(namespace, "other"))
        eventually("Job", lambda: len(world.list("jobs", namespace)) == 2)


def test_of_two_operators_one_leads_and_the_other_takes_over(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path, "first") as first:
        eventually("first leads", lambda: first.says("deciding"))
        with operator(world, tmp_path, "second") as second:
            world.apply(hybrid_model(namespace, "net"))
            world.job(namespace, "profile")
            time.sleep(3)
            assert second.says("leader: second") is None
            assert first.terminate() == 0
            eventually("second leads", lambda: second.says("deciding"), seconds=10)
            lease = world.get("lease", SYSTEM, "ecompile-operator")
            assert lease is not None and lease["spec"]["holderIdentity"] == "second"
            world.apply(hybrid_model(namespace, "other"))
            eventually("Job of the second", lambda: len(world.list("jobs", namespace)) == 2)


def test_a_leader_that_died_is_replaced_after_its_lease(world: World, tmp_path: Path) -> None:
    with operator(world, tmp_path, "doomed") as doomed:
        eventually("leads", lambda: doomed.says("deciding"))
        with operator(world, tmp_path, "heir") as heir:
            doomed.kill()
            eventually("heir leads", lambda: heir.says("deciding"), seconds=30)


def test_a_bad_object_is_explained_and_does_not_stop_others(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path):
        refused = hybrid_model(namespace, "refused")
        refused["spec"]["jobs"] = {"template": {"resources": {"limits": {"memory": "lots"}}}}
        world.apply(refused)
        broken = hybrid_model(namespace, "broken", suspend=True)
        world.apply(broken)
        world.patch_status("hybridmodel", namespace, "broken", {"routing": {"generation": 3, "tableJson": "scribble"}})
        world.apply(hybrid_model(namespace, "good"))
        eventually("Job of the good one", lambda: world.list("jobs", namespace, "ecompile.dev/model=good") or None)
        for reason, name, words in (
            ("ApplyFailed", "refused", "quantities must match"),
            ("InternalError", "broken", "tries again"),
        ):
            event = only_event(world, namespace, reason)
            assert event["involvedObject"]["name"] == name
            assert words in event["message"]


def test_a_service_of_someone_else_is_left_alone_until_it_is_gone(world: World, tmp_path: Path) -> None:
    from .test_operator_life import to_serving

    namespace = world.namespace()
    ports = [{"name": "http", "port": 1234}]
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "net", "namespace": namespace}}
    world.apply({**foreign, "spec": {"ports": ports, "selector": {"app": "precious"}}})
    with operator(world, tmp_path):
        to_serving(world, namespace)
        status = eventually("stalled", lambda: stalled(world, namespace, "net"))
        assert "serviceName" in status["message"] and "someone else" in status["message"]
        kept = world.get("service", namespace, "net")
        assert kept is not None and kept["spec"]["selector"] == {"app": "precious"}
        world.kubectl("delete", "service", "net", "-n", namespace)

        def ours() -> bool:
            found = world.get("service", namespace, "net")
            return found is not None and "ownerReferences" in found["metadata"]

        eventually("our Service", ours, seconds=30)


def test_a_deleted_model_is_forgotten_and_a_new_one_of_its_name_starts_afresh(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path) as started:
        world.apply(hybrid_model(namespace, "net"))
        old = world.job(namespace, "profile")
        world.kubectl("delete", "hybridmodel", "net", "-n", namespace)
        world.kubectl("delete", "job", old["metadata"]["name"], "-n", namespace)  # as the garbage collector does
        world.apply(hybrid_model(namespace, "net"))

        def another() -> bool:
            jobs = world.list("jobs", namespace)
            return len(jobs) == 1 and jobs[0]["metadata"]["uid"] != old["metadata"]["uid"]

        eventually("a Job of the new model", another)
        assert started.says(f"{namespace}/net: internal fault") is None


def test_the_signing_key_is_made_once_and_kept(world: World, tmp_path: Path) -> None:
    namespace = world.namespace()
    with operator(world, tmp_path):
        world.apply(hybrid_model(namespace, "net"))
        world.job(namespace, "profile")
    first = world.get("secret", namespace, "ecompile-signing")
    with operator(world, tmp_path):
        world.apply(hybrid_model(namespace, "other"))
        eventually("Job", lambda: len(world.list("jobs", namespace)) == 2)
    assert first is not None
    assert world.get("secret", namespace, "ecompile-signing") == first
    trust = world.get("configmap", namespace, "ecompile-trust")
    assert trust is not None and set(trust["data"]) == {"signing.pub", "ca.crt"}
