"""What detectors have seen survives a restart, for the same generation and module only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ecompile_crds.routing import RouteMode, RoutingTable
from ecompile_workers.serving.breaker import SegmentWatch
from ecompile_workers.serving.bridge import Served
from ecompile_workers.serving.checkpoint import Checkpoint, snapshot
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.modules import LoadedModule

from .world import KEY, World, make_world, rows, table


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def start(world: World) -> Iterator[Callable[[RoutingTable], LocalPod]]:
    """A pod as a restarted container would be: with the checkpoint that is there."""
    pods = []

    def make(first: RoutingTable) -> LocalPod:
        pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
        pods.append(pod)
        checkpoint = Checkpoint(world.directory)

        def restore(watch: SegmentWatch, module: LoadedModule) -> None:
            checkpoint.restore(watch.generation, watch.segment, module.digest, watch)

        pod.adopt(table(max(1, first.generation - 1)))
        modules = {route.segment: pod.modules.load(route) for route in first.segments}
        pod.bridge.adopt(first, modules, restore=restore)
        return pod

    yield make
    for pod in pods:
        pod.close()


def save(pod: LocalPod, world: World) -> None:
    Checkpoint(world.directory).save(snapshot(pod.bridge.state))


def test_tripped_segment_stays_tripped_after_a_restart(world: World, start: Callable[[RoutingTable], LocalPod]) -> None:
    """With the same alert, counts and e-values; a newer generation brings the module back."""
    tripping = table(3, world.route(RouteMode.COMPILED, compare=0.5))
    first = start(tripping)
    for row in rows(60, scale=20.0):
        first.infer(row[None])
    first.finish_comparisons()
    save(first, world)
    second = start(tripping)
    assert second.alerts() == first.alerts() != ()
    assert second.counters() == first.counters()
    assert second.infer(rows(1)).served == (Served.TRIPPED,)
    third = start(table(4, world.route(RouteMode.COMPILED)))
    assert third.alerts() == ()
    assert third.infer(rows(1)).path == "compiled"


def test_evidence_is_not_forgotten(world: World, start: Callable[[RoutingTable], LocalPod]) -> None:
    """Half the refusals before the restart and half after it trip as if there had been none."""
    route = table(3, world.route(RouteMode.COMPILED))
    first = start(route)
    for row in rows(3, scale=20.0):
        first.infer(row[None])
    assert first.alerts() == ()
    save(first, world)
    second = start(route)
    for row in rows(3, scale=20.0):
        second.infer(row[None])
    fresh = start(table(5, world.route(RouteMode.COMPILED)))
    for row in rows(3, scale=20.0):
        fresh.infer(row[None])
    assert second.counters()[0].fallback_e_value > 100 * fresh.counters()[0].fallback_e_value
    assert second.counters()[0].fallbacks == 6


def test_another_module_starts_anew(world: World, start: Callable[[RoutingTable], LocalPod]) -> None:
    """The evidence was of other code."""
    first = start(table(3, world.route(RouteMode.COMPILED)))
    for row in rows(60, scale=20.0):
        first.infer(row[None])
    save(first, world)
    other = start(table(3, world.route(RouteMode.COMPILED, bundle=world.bundle(attempt=2))))
    assert other.alerts() == ()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"generation":3}', b'{"generation":3,"segments":{"0":{"digest":"%s","state":{"tally":1}}}}'],
)
def test_checkpoint_that_cannot_be_read_is_left_aside(
    world: World, start: Callable[[RoutingTable], LocalPod], content: bytes
) -> None:
    """The pod serves; detectors start anew."""
    route = world.route(RouteMode.COMPILED)
    (world.directory / "detectors.json").write_bytes(content.replace(b"%s", (route.bundle_digest or "").encode()))
    pod = start(table(3, route))
    assert pod.alerts() == ()
    assert pod.infer(rows(1)).path == "compiled"


def test_checkpoint_that_cannot_be_written_is_no_fault_of_the_pod(world: World, tmp_path: Path) -> None:
    """It is logged."""
    (tmp_path / "file").write_text("")
    Checkpoint(tmp_path / "file").save(b"{}")
