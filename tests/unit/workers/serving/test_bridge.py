"""The bridge, by its in-process form: who answers, what is counted, when it trips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import DataError, ModelError
from ecompile_crds.hybridmodel import Fairness
from ecompile_crds.routing import RouteMode, SegmentRoute
from ecompile_workers.serving.breaker import AlertKind
from ecompile_workers.serving.bridge import Served
from ecompile_workers.serving.local import LocalPod

from .world import KEY, Rows, World, make_world, oracle, rows, table


@pytest.fixture(params=[1, 2], ids=["one-segment", "two-segments"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return make_world(tmp_path, segments=request.param)


@pytest.fixture
def pod(world: World) -> Iterator[LocalPod]:
    made = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    yield made
    made.close()


def routes(world: World, mode: RouteMode, *, weight: float = 0.0, compare: float = 0.0) -> tuple[SegmentRoute, ...]:
    return tuple(world.route(mode, segment=index, weight=weight, compare=compare) for index in range(world.segments))


def break_module(pod: LocalPod, run: Callable[[Rows, Rows], int]) -> None:
    """Put a module with another `run` into the first segment of the state in force."""
    state = pod.bridge.state
    first = state.segments[0]
    assert first.module is not None
    module = replace(first.module, name="broken", digest="", run=run)
    pod.bridge._state = replace(state, segments=(replace(first, module=module), *state.segments[1:]))


def test_without_a_table_the_network_answers(pod: LocalPod) -> None:
    """The neural path can always take all the traffic."""
    outcome = pod.infer(rows(3))
    assert outcome.path == "neural"
    np.testing.assert_allclose(outcome.y, oracle(rows(3)), atol=1e-5)


@pytest.mark.parametrize("count", [1, 7, 200])
def test_compiled_route_is_answered_by_the_module(world: World, pod: LocalPod, count: int) -> None:
    """Also for more rows than one call of the module takes."""
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    outcome = pod.infer(rows(count))
    assert outcome.served == (Served.COMPILED,) * world.segments
    np.testing.assert_allclose(outcome.y, oracle(rows(count)), atol=1e-5)
    assert [(c.requests, c.compiled) for c in pod.counters()] == [(1, 1)] * world.segments


def test_request_can_ask_for_the_network(world: World, pod: LocalPod) -> None:
    """The appeal: the original network, whatever the route."""
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    outcome = pod.infer(rows(1), neural_only=True)
    assert set(outcome.served) == {Served.REQUESTED}


def test_shadow_answers_neural_and_compares(world: World, pod: LocalPod) -> None:
    """Every request of a shadow route with probability 1 is compared; none is answered by the module."""
    pod.adopt(table(1, *routes(world, RouteMode.SHADOW, compare=1.0)))
    for row in rows(50):
        assert pod.infer(row[None]).path == "neural"
    pod.finish_comparisons()
    for counters in pod.counters():
        assert (counters.requests, counters.compiled, counters.comparisons) == (50, 0, 50)
        assert counters.guard_checked == 50
        assert counters.delta_max < 1e-5
        assert counters.latency_samples == 50 and counters.neural_p50_seconds > 0


def test_canary_share_follows_the_weight(world: World, pod: LocalPod) -> None:
    """A share of requests is drawn for the module; the draws are seeded."""
    pod.adopt(table(1, *routes(world, RouteMode.CANARY, weight=0.3)))
    for row in rows(1000):
        pod.infer(row[None])
    for counters in pod.counters():
        assert 250 <= counters.compiled <= 350


def test_input_outside_the_guard_is_answered_by_the_network(world: World, pod: LocalPod) -> None:
    """Counted as a fallback, and right."""
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    far = rows(1, scale=20.0)
    outcome = pod.infer(far)
    assert outcome.served[0] is Served.OUTSIDE_GUARD
    np.testing.assert_allclose(outcome.y, oracle(far), atol=1e-5)
    assert pod.counters()[0].fallbacks == 1
    assert pod.alerts() == ()


def test_input_that_is_not_finite_is_no_fault_of_the_module(world: World, pod: LocalPod) -> None:
    """Every guard refuses infinity and NaN."""
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    bad = rows(1)
    bad[0, 0] = np.inf
    assert pod.infer(bad).served[0] is Served.OUTSIDE_GUARD
    assert pod.alerts() == ()


def test_persistent_fallbacks_trip_the_segment(world: World, pod: LocalPod) -> None:
    """The alert carries rate and limit; the next request does not ask the module."""
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    for row in rows(50, scale=20.0):
        pod.infer(row[None])
    (alert,) = pod.alerts()
    assert (alert.kind, alert.segment, alert.generation, alert.limit) == (AlertKind.FALLBACK, 0, 1, 0.05)
    assert pod.infer(rows(1)).served[0] is Served.TRIPPED


def test_wrong_module_trips_by_drift(world: World, pod: LocalPod) -> None:
    """Signed and loaded, but computed from other weights: found within ten comparisons."""
    wrong = world.route(RouteMode.COMPILED, compare=1.0, bundle=world.bundle(scale=1.05))
    pod.adopt(table(1, wrong))
    for row in rows(10):
        pod.infer(row[None])
        pod.finish_comparisons()
    (alert,) = pod.alerts()
    assert alert.kind is AlertKind.DRIFT
    assert alert.value > alert.limit
    assert pod.infer(rows(1)).path == "neural"


def test_exception_trips_before_the_next_request(world: World, pod: LocalPod) -> None:
    """The request itself is answered by the network."""

    def run(x: Rows, y: Rows) -> int:
        raise OSError("boom")

    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    break_module(pod, run)
    outcome = pod.infer(rows(1))
    assert outcome.served[0] is Served.FAULT
    np.testing.assert_allclose(outcome.y, oracle(rows(1)), atol=1e-5)
    assert [a.kind for a in pod.alerts()] == [AlertKind.BREAKER]
    assert pod.infer(rows(1)).served[0] is Served.TRIPPED


def test_output_that_is_not_finite_trips_before_the_next_request(world: World, pod: LocalPod) -> None:
    """Nobody is ever answered NaN by a module."""

    def run(x: Rows, y: Rows) -> int:
        y.fill(np.nan)
        return 0

    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    break_module(pod, run)
    outcome = pod.infer(rows(1))
    np.testing.assert_allclose(outcome.y, oracle(rows(1)), atol=1e-5)
    assert pod.alerts()[0].kind is AlertKind.BREAKER
    assert pod.infer(rows(1)).served[0] is Served.TRIPPED


def test_not_finite_in_shadow_trips(world: World, pod: LocalPod) -> None:
    """Found off the request path."""

    def run(x: Rows, y: Rows) -> int:
        y.fill(np.inf)
        return 0

    pod.adopt(table(1, *routes(world, RouteMode.SHADOW, compare=1.0)))
    break_module(pod, run)
    pod.infer(rows(1))
    pod.finish_comparisons()
    assert pod.alerts()[0].kind is AlertKind.BREAKER


def test_only_a_newer_generation_brings_a_tripped_segment_back(world: World, pod: LocalPod) -> None:
    """The same table again changes nothing; a newer one starts with fresh counters."""
    first = table(1, *routes(world, RouteMode.COMPILED))
    pod.adopt(first)
    for row in rows(50, scale=20.0):
        pod.infer(row[None])
    pod.adopt(first)
    assert pod.infer(rows(1)).served[0] is Served.TRIPPED
    pod.adopt(table(2, *routes(world, RouteMode.COMPILED)))
    assert pod.alerts() == ()
    assert pod.infer(rows(1)).path == "compiled"
    assert pod.counters()[0].requests == 1


def test_request_in_flight_finishes_on_its_state(world: World, pod: LocalPod) -> None:
    """An outcome of an older generation is counted there, and cannot trip the newer one."""
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED)))
    late = [pod.bridge.infer(rows(1, scale=20.0)) for _ in range(50)]
    pod.adopt(table(2, *routes(world, RouteMode.COMPILED)))
    for outcome in late:
        pod.bridge.settle(outcome)
    assert pod.alerts() == ()
    assert pod.counters()[0].fallbacks == 0
    assert pod.infer(rows(1)).path == "compiled"


def test_refused_table_leaves_the_one_in_force(world: World, pod: LocalPod) -> None:
    """Older, or with a module that must not be used."""
    pod.adopt(table(5, *routes(world, RouteMode.COMPILED)))
    with pytest.raises(DataError, match="older"):
        pod.adopt(table(4))
    with pytest.raises(ModelError):
        pod.adopt(table(6, world.route(RouteMode.COMPILED, bundle=world.bundle(alter=True, attempt=2))))
    assert pod.bridge.state.generation == 5
    assert pod.infer(rows(1)).path == "compiled"


def test_requests_of_a_group_are_counted_for_it(world: World) -> None:
    """Groups that the model names; others take no part."""
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()], fairness=Fairness(groups=["a", "b"]))
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED, compare=1.0)))
    for number, row in enumerate(rows(12)):
        pod.infer(row[None], group=("a", "b", "other")[number % 3])
    pod.finish_comparisons()
    assert [(g.group, g.comparisons) for g in pod.counters()[0].groups] == [("a", 4), ("b", 4)]
    pod.close()


def test_inputs_far_from_calibration_trip_though_the_module_is_right(tmp_path: Path) -> None:
    """The evidence of a module is about inputs like those of calibration."""
    world = make_world(tmp_path, reference=rows(400, seed=5))
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED, compare=1.0)))
    for row in rows(60, seed=6):
        pod.infer(row[None])
    pod.finish_comparisons()
    assert pod.alerts() == ()
    for row in rows(200, seed=7) * 0.2 + 3.0:
        pod.infer(row[None].astype(np.float32))
    pod.finish_comparisons()
    (alert,) = pod.alerts()
    assert alert.kind is AlertKind.INPUT_DRIFT
    assert pod.infer(rows(1)).served == (Served.TRIPPED,)
    pod.close()


def test_after_a_bad_comparison_each_request_is_compared(tmp_path: Path) -> None:
    """And no longer once a newer table is in force."""
    world = make_world(tmp_path)
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    pod.adopt(table(1, *routes(world, RouteMode.COMPILED, compare=0.05)))
    assert pod.bridge.state.segments[0].compare == 0.05
    pod.bridge.state.segments[0].watch._suspect = 5
    pod.bridge._attend(pod.bridge.state.segments[0].watch)
    assert pod.bridge.state.segments[0].compare == 1.0
    for row in rows(8):
        pod.infer(row[None])
        pod.finish_comparisons()
    assert pod.bridge.state.segments[0].compare == 0.05
    pod.close()
