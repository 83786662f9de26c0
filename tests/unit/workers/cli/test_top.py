"""`ecompile top`: figures between two samples of a real pod's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from ecompile_crds.errors import DataError
from ecompile_crds.routing import RouteMode
from ecompile_workers.cli.top import figures, parse, quantile, render
from ecompile_workers.governance.energy import Energy, Method
from ecompile_workers.serving.feedback import Feedback
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.metrics import Account, ServingCollector, render_metrics
from prometheus_client import CollectorRegistry

from tests.unit.workers.serving.world import KEY, World, make_world, rows, table


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def pod(world: World) -> Iterator[LocalPod]:
    made = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    made.adopt(table(5, world.route(RouteMode.COMPILED, compare=1.0)))
    yield made
    made.close()


def exposed(pod: LocalPod) -> str:
    registry = CollectorRegistry()
    registry.register(ServingCollector(pod.bridge))
    return render_metrics(registry).decode()


def ask(pod: LocalPod, count: int, *, scale: float = 1.0) -> None:
    for row in rows(count, scale=scale):
        path = pod.infer(row[None]).path
        pod.bridge.totals.served(path, 0.0002)
    pod.finish_comparisons()


def test_figures_are_those_of_the_interval_only(pod: LocalPod) -> None:
    """What was before the first sample does not count."""
    ask(pod, 50)
    before = parse(exposed(pod), seconds=10.0)
    ask(pod, 38)
    ask(pod, 2, scale=20.0)
    pod.bridge.totals.failed(1009)
    found = figures(before, parse(exposed(pod), seconds=14.0))
    assert (found.generation, found.errors_per_second) == (5, 0.25)
    paths = {each.path: each for each in found.paths}
    assert (paths["compiled"].requests_per_second, paths["neural"].requests_per_second) == (9.5, 0.5)
    assert 0.0001 <= paths["compiled"].p50_seconds <= 0.00025
    (segment,) = found.segments
    assert (segment.coverage, segment.fallback, segment.tripped) == (38 / 40, 2 / 40, False)
    assert segment.delta is not None and segment.delta < 1e-5


def test_energy_is_told_per_request_with_its_method(pod: LocalPod) -> None:
    """And the share of labelled answers that were wrong."""
    feedback, joules = Feedback(10), iter([1.0, 5.0])
    meter = SimpleNamespace(read=lambda: Energy(joules=next(joules), method=Method.MODELLED, uncertainty=0.5))
    registry = CollectorRegistry()
    registry.register(ServingCollector(pod.bridge, Account(meters=[meter], region="SE", feedback=feedback)))
    before = parse(render_metrics(registry).decode(), seconds=0.0)
    ask(pod, 8)
    entries = [{"id": str(n), "path": "compiled", "correct": n > 0} for n in range(4)]
    assert feedback.take(orjson.dumps({"feedback": entries})) == (4, 0)
    text = render_metrics(registry).decode()
    found = figures(before, parse(text, seconds=2.0))
    (energy,) = found.energy
    assert (energy.method, energy.watts, energy.joules_per_request) == ("modelled", 2.0, 0.5)
    assert found.error_incidence == 0.25
    assert "500 mJ/request (modelled, +-50%)" in render({"a:1": found})
    assert 'ecompile_serving_carbon_grams_total{method="modelled",region="SE"}' in text


def test_tripped_segment_and_idle_pod_are_shown(pod: LocalPod) -> None:
    """Shares of nothing are a dash, not zero."""
    ask(pod, 30, scale=20.0)
    sample = parse(exposed(pod), seconds=1.0)
    told = render({"a:1": figures(sample, sample), "b:2": "cannot be reached: refused."})
    assert "TRIPPED" in told and "covered -, proven -, refused -, delta -" in told
    assert "b:2  cannot be reached" in told


def test_restarted_pod_counts_from_its_start(world: World, pod: LocalPod) -> None:
    """Its counters have gone back."""
    ask(pod, 60)
    before = parse(exposed(pod), seconds=0.0)
    fresh = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    fresh.adopt(table(5, world.route(RouteMode.COMPILED)))
    ask(fresh, 10)
    found = figures(before, parse(exposed(fresh), seconds=1.0))
    fresh.close()
    assert found.paths[0].requests_per_second == 10.0


@pytest.mark.parametrize("text", ["", "up 1\n", "<html>", 'a{b="c'])
def test_other_text_is_no_pod(text: str) -> None:
    """Told, not shown as zeros."""
    with pytest.raises(DataError):
        parse(text, seconds=0.0)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 1.0), (0.75, 1.5), (1.0, 2.0)])
def test_quantile_is_linear_within_a_bucket(share: float, expected: float) -> None:
    """As Prometheus computes it; beyond the last bound, that bound."""
    assert quantile([(1.0, 10.0), (2.0, 20.0), (float("inf"), 20.0)], share) == pytest.approx(expected)
    assert quantile([(1.0, 0.0), (float("inf"), 5.0)], share) == 1.0
    assert quantile([], share) == 0.0
