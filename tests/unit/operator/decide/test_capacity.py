"""A rollback asks for the Pods that the neural path needs, in the same decision and without waiting for them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from ecompile_crds.compiledmodule import SERVING_STAGES, Stage
from ecompile_crds.hybridmodel import Serving
from ecompile_crds.routing import RouteMode
from ecompile_operator.decide.capacity import NeuralLoad, cores, neural_load
from ecompile_operator.decide.observed import AlertKind, Counters, PodReport
from hypothesis import given
from hypothesis import strategies as st

from .walk import clone, stage_of, walk
from .world import World, make_spec

NEURAL_SECONDS = 5e-5
"""What the world's pods report as the neural path's median."""


def rolled_back(requests_per_second: float, **serving: object) -> World:
    """A promoted model of two pods that rolls back under the given load of each."""
    world = World(spec=make_spec(serving={"replicas": 2, **serving})).to_promoted()
    world.report(alert=AlertKind.DRIFT, requests_per_second=requests_per_second)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK
    return world


def least(world: World) -> int:
    assert world.last is not None and world.last.serving is not None
    return world.last.serving.least_replicas


def test_what_two_pods_cannot_carry_is_asked_for_with_the_rollback() -> None:
    world = rolled_back(20_000)
    table = world.table()
    assert table is not None and all(route.mode is RouteMode.NEURAL for route in table.segments)
    assert least(world) == world.status.neural_replicas == math.ceil(2 * 20_000 * NEURAL_SECONDS / 0.7) == 3
    assert [e.message for e in world.events if e.reason == "NeuralScaled"] == [
        "the neural path needs 3 Pods for 40000 requests/s of 0.05 ms each: 3 from now on"
    ]


def test_a_load_that_the_usual_pods_carry_changes_nothing() -> None:
    world = rolled_back(10_000)
    assert least(world) == world.status.neural_replicas == 0
    assert not [e for e in world.events if e.reason == "NeuralScaled"]


@pytest.mark.parametrize(
    ("serving", "most", "field"),
    [
        ({}, 4, "rollbackMaxReplicas"),
        ({"rollbackMaxReplicas": 7}, 7, "rollbackMaxReplicas"),
        (
            {"autoscaling": {"minReplicas": 2, "maxReplicas": 9}, "resources": {"requests": {"cpu": "1"}}},
            9,
            "autoscaling.maxReplicas",
        ),
    ],
)
def test_there_is_a_bound_and_it_is_named_where_it_is_too_low(
    serving: dict[str, object], most: int, field: str
) -> None:
    world = rolled_back(1e6, **serving)
    assert least(world) == most
    warned = [e for e in world.events if e.reason == "NeuralScaled"]
    assert len(warned) == 1 and warned[0].type == "Warning"
    assert f"{field} allows {most}, and Pods refuse what is too much" in warned[0].message


def test_pods_stay_until_the_module_is_promoted_again() -> None:
    world = rolled_back(20_000)
    world.report(comparisons=0)
    world.step()
    assert world.stage() is Stage.ROLLED_BACK and least(world) == 3
    world.step(seconds=100)
    world.settle()
    world.finish_job()
    world.settle()
    assert world.stage() is Stage.VALIDATED and least(world) == 3
    world.pods_ready()
    world.settle()
    assert world.stage() is Stage.SHADOW and least(world) == 3
    for _ in range(2):
        world.report()
        world.step()
    assert world.stage() is Stage.PROMOTED and least(world) == world.status.neural_replicas == 0


def test_what_was_not_measured_concludes_nothing() -> None:
    world = World(spec=make_spec(serving={"replicas": 2})).to_promoted()
    world.report(comparisons=10, alert=AlertKind.BREAKER, requests_per_second=1e6)
    world.step()
    assert world.stage() is Stage.ROLLING_BACK and least(world) == 0


def test_from_every_serving_state_the_rollback_is_not_delayed_by_the_scaling() -> None:
    for world in walk().worlds.values():
        if stage_of(world) not in SERVING_STAGES or not world.pods:
            continue
        twin = clone(world)
        twin.report(alert=AlertKind.BREAKER, requests_per_second=1e6)
        twin.step(seconds=0.01)
        assert stage_of(twin) is Stage.ROLLING_BACK
        table = twin.table()
        assert table is not None and all(route.mode is RouteMode.NEURAL for route in table.segments)
        assert least(twin) == 4
        twin.report(comparisons=0)
        twin.step(seconds=0.01)
        assert stage_of(twin) in (Stage.ROLLED_BACK, Stage.HELD), "it waits for no new Pod"


@given(rps=st.floats(1e-3, 1e9), seconds=st.floats(1e-9, 1e2), processors=st.floats(0.01, 256))
def test_the_pods_asked_for_are_enough_and_one_less_is_not(rps: float, seconds: float, processors: float) -> None:
    found = NeuralLoad(requests_per_second=rps, seconds_per_request=seconds).replicas(processors)
    used = rps * seconds
    assert used <= found * processors * 0.7 * (1 + 1e-9)
    assert found <= 1 or used > (found - 1) * processors * 0.7 * (1 - 1e-9)


def report(pod: str, requests_per_second: float, *neural: float) -> PodReport:
    counters = tuple(
        Counters(segment=i, latency_samples=100, neural_p50_seconds=seconds) for i, seconds in enumerate(neural)
    )
    return PodReport(
        pod=pod,
        life="life",
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
        generation=1,
        counters=counters,
        requests_per_second=requests_per_second,
    )


def test_load_adds_pods_and_segments_and_takes_the_slowest_pod() -> None:
    found = neural_load([report("a", 10, 1e-3, 2e-3), report("b", 20, 3e-3, 1e-3)], [0, 1])
    assert found is not None
    assert found.requests_per_second == 30 and found.seconds_per_request == pytest.approx(5e-3)
    assert neural_load([report("a", 10, 1e-3)], [0, 1]) is None
    assert neural_load([], [0]) is None
    assert neural_load([report("a", math.inf, 1e-3)], [0]) is None


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, 1.0),
        ({"requests": {"cpu": "500m"}}, 0.5),
        ({"requests": {"cpu": 2}}, 2.0),
        ({"requests": {"memory": "1Gi"}, "limits": {"cpu": "1.5"}}, 1.5),
        ({"requests": {"cpu": "lots"}}, 1.0),
        ({"requests": {"cpu": "0"}}, 1.0),
    ],
)
def test_processors_of_a_pod(resources: dict[str, object], expected: float) -> None:
    assert cores(Serving.model_validate({"resources": resources})) == expected
