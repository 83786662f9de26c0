"""What is printed: the tree, live figures, logs, the support bundle, completion."""

from __future__ import annotations

import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ecompile_crds.hybridmodel import CostStatus
from ecompile_crds.names import COMPONENT_JOB, LABEL_COMPONENT, LABEL_JOB
from ecompile_kubectl import bundle, completion, live, logs, tree
from ecompile_kubectl.cluster import Found, read
from ecompile_kubectl.problem import Problem
from ecompile_kubectl.times import duration
from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.errors import NotFound, Refused
from ecompile_operator.kube.kinds import Kind
from kubernetes.client import Configuration

from ..operator.children import NAMESPACE, job, model, pod
from ..operator.decide.world import START, World

METRICS = """\
# TYPE ecompile_serving_request_seconds histogram
ecompile_serving_request_seconds_bucket{path="compiled",le="+Inf"} 75.0
ecompile_serving_request_seconds_count{path="compiled"} 75.0
ecompile_serving_request_seconds_sum{path="compiled"} 0.1
ecompile_serving_request_seconds_bucket{path="neural",le="+Inf"} 25.0
ecompile_serving_request_seconds_count{path="neural"} 25.0
ecompile_serving_request_seconds_sum{path="neural"} 0.2
# TYPE ecompile_serving_routing_generation gauge
ecompile_serving_routing_generation 7.0
# TYPE ecompile_serving_segment_tripped gauge
ecompile_serving_segment_tripped{segment="0"} 1.0
ecompile_serving_segment_tripped{segment="1"} 0.0
# TYPE ecompile_serving_segment_comparisons_total counter
ecompile_serving_segment_comparisons_total{segment="0"} 40.0
# TYPE ecompile_serving_segment_fallbacks_total counter
ecompile_serving_segment_fallbacks_total{segment="0"} 2.0
"""


class Reading(KubeClient):
    """Lists what it is given; texts by path."""

    def __init__(self, listed: dict[str, list[Manifest]], texts: dict[str, str] | None = None) -> None:
        super().__init__(Configuration())
        self._listed, self._texts = listed, texts or {}

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Manifest], str]:
        if kind.kind == "Service":
            raise Refused("services is forbidden", status=403)
        return self._listed.get(kind.kind, []), "1"

    async def text(self, path: str, *, query: Any = None) -> str:
        if path not in self._texts:
            raise NotFound(f"{path} not found")
        return self._texts[path]


def test_the_tree_shows_module_evidence_pods_and_commands() -> None:
    world = World().to_canary()
    world.command = "approve t-1"
    world.step()
    world.report(comparisons=20)
    world.step()
    figures = {world.pods[0].name: live.parse(METRICS)}
    shown = "\n".join(tree.lines(world.observed(), figures, world.now + timedelta(seconds=5)))
    assert "HybridModel default/digits: " in shown
    assert "evidence sampled(n=1100, <=2.7e-03), speed-up 5x, strategy exact" in shown
    assert "this step: 40 requests, 40 comparisons" in shown
    assert "100 requests (75% by code), generation 7, 40 comparisons, 2 refusals, breaker holds 1" in shown
    assert "last command: approve t-1" in shown


def test_the_tree_shows_what_jobs_have_used() -> None:
    world = World().to_promoted()
    cost = CostStatus(
        runs=3, cpu_seconds=12.5, gpu_seconds=4.0, peak_memory_bytes=310 << 20, joules=100.0, method="m", price=0.5
    )
    world.status = world.status.model_copy(update={"cost": cost})
    shown = "\n".join(tree.lines(world.observed(), {}, world.now))
    assert "Jobs so far: 3 runs, 12.5 s of processors, at most 310 MiB, 4 s of GPUs, 100 J (m), price 0.5" in shown


def test_the_tree_shows_why_a_module_was_rolled_back() -> None:
    world = World().to_rolled_back()
    shown = "\n".join(tree.lines(world.observed(), {}, world.now))
    assert "Drift: Drift seen" in shown and "all pods neural after 1.000 s" in shown


def test_metrics_that_are_missing_count_as_nothing() -> None:
    assert live.parse("").sentence() == "0 requests, generation 0, 0 comparisons, 0 refusals"


async def test_pods_that_do_not_answer_are_left_out() -> None:
    client = Reading({}, {"/api/v1/namespaces/test/pods/a:8080/proxy/metrics": METRICS})
    assert list(await live.read(client, NAMESPACE, ["a", "b"])) == ["a"]


async def test_a_missing_model_names_those_there_are() -> None:
    with pytest.raises(Problem, match=r"no HybridModel named other in namespace test; it holds none"):
        await read(Reading({}), NAMESPACE, "other")


async def test_kinds_that_may_not_be_read_are_said_to_be_missing() -> None:
    found = await read(Reading({"HybridModel": [model()]}), NAMESPACE, "net")
    assert found.unreadable == ["services cannot be read: services is forbidden"]


async def test_logs_come_from_all_jobs_in_order_and_say_what_is_gone() -> None:
    late, early = pod("b", created="2026-01-02T00:00:00Z"), pod("a")
    for made, kind in ((late, "validate"), (early, "profile")):
        made["metadata"]["labels"] |= {LABEL_COMPONENT: COMPONENT_JOB, LABEL_JOB: kind}
    found = Found(model=model(), children={"Pod": [late, early]})
    client = Reading({}, {"/api/v1/namespaces/test/pods/a/log": "one\ntwo"})
    chosen = logs.pods(found, kind=None, serving=False)
    shown = [line async for line in logs.read(client, found, chosen, tail=0)]
    assert shown[:2] == ["[profile a] one", "[profile a] two"]
    assert shown[2].startswith("[validate b] no log: ")
    assert [p["metadata"]["name"] for p in logs.pods(found, kind="validate", serving=False)] == ["b"]


async def test_the_bundle_holds_no_value_that_people_set(tmp_path: Path) -> None:
    secret = [{"name": "PASSWORD", "value": "hush"}, {"name": "ECO_MODEL", "value": "net"}]
    made = job()
    made["spec"]["template"] = {"spec": {"containers": [{"env": secret}]}}
    written = model(jobs={"template": {"env": secret[:1]}})
    written["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "hush"}
    found = Found(model=written, children={"Job": [made], "Pod": [pod("a")]}, unreadable=["services: no"])
    files = await bundle.collect(Reading({}), found, explanation="why\n", status="so\n")
    assert "hush" not in "".join(files.values())
    assert "ECO_MODEL" in files["jobs.yaml"] and "value: net" in files["jobs.yaml"]
    assert "log of pod a cannot be read" in files["missing.txt"]
    target = tmp_path / "bundle.tar.gz"
    bundle.write(target, files, now=START)
    with tarfile.open(target) as archive:
        assert "bundle/explain.txt" in archive.getnames()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ro"], ["rollback"]),
        (["rollback", "d"], ["digits"]),
        (["rollback", "digits", "--t"], ["--token"]),
        (["completion", ""], ["bash", "fish", "kubectl", "zsh"]),
        (["rollback", "digits", ""], []),
    ],
)
def test_completion_offers_what_fits(words: list[str], offered: list[str]) -> None:
    assert completion.candidates(words, lambda: ["digits", "sound"]) == offered


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5s"), (150, "2m30s"), (3000, "50m"), (7260, "2h1m"), (200_000, "2d"), (-3, "0s")]
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text
