"""From a table to its acknowledgement."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio
from ecompile_crds.errors import Code, ModelError, ResourceError
from ecompile_crds.hybridmodel import Analysis
from ecompile_crds.routing import RouteMode, SegmentRoute
from ecompile_workers.serving.adoption import Adopter
from ecompile_workers.serving.bridge import Bridge
from ecompile_workers.serving.comparison import ThreadComparer
from ecompile_workers.serving.modules import LoadedModule, ModuleStore
from ecompile_workers.serving.neural import load_network
from ecompile_workers.serving.routing import Identity

from .world import KEY, LIFE, MODEL, NAMESPACE, World, make_world, table


class GatedStore(ModuleStore):
    """Loads when told to, and fails as told to; a border of the adopter."""

    def __init__(self, world: World, bridge: Bridge) -> None:
        super().__init__(bridge.network.plan, lambda: (KEY.public_key(),))
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[Exception] = []

    def load(self, route: SegmentRoute) -> LoadedModule:
        self.gate.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        return super().load(route)


class Pod:
    """Adopter, bridge and store."""

    def __init__(self, world: World) -> None:
        self.world = world
        network = load_network(world.plan_uri)
        self.bridge = Bridge(network, analysis=Analysis(), random=Random(0), comparer=ThreadComparer())
        self.store = GatedStore(world, self.bridge)
        self.changes = 0
        identity = Identity(namespace=NAMESPACE, model=MODEL, life=LIFE)
        self.adopter = Adopter(self.bridge, self.store, identity, changed=self._changed, retry_seconds=0.01)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def generation(self) -> int:
        return self.bridge.state.generation


@pytest_asyncio.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(make_world(tmp_path))
    yield made
    made.store.gate.set()
    await made.adopter.close()


async def until(condition: object) -> None:
    """Poll a condition with a deadline."""
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_table_is_acknowledged_once_its_module_is_loaded(pod: Pod) -> None:
    """Not before."""
    pod.store.gate.clear()
    pod.adopter.offer(table(3, pod.world.route(RouteMode.COMPILED)))
    await asyncio.sleep(0.05)
    assert pod.generation == 0 and not pod.adopter.adopted.is_set()
    pod.store.gate.set()
    await until(lambda: pod.generation == 3)
    assert pod.changes == 1
    assert pod.bridge.modules() == ("digits-0-a1",)


@pytest.mark.asyncio
async def test_rollback_does_not_wait_for_a_module_that_is_loading(pod: Pod) -> None:
    """A neural table is in force at once, and the older one never comes back."""
    pod.store.gate.clear()
    pod.adopter.offer(table(3, pod.world.route(RouteMode.COMPILED)))
    pod.adopter.offer(table(4, SegmentRoute(segment=0)))
    assert pod.generation == 4
    pod.store.gate.set()
    await until(lambda: not pod.adopter.loading)
    assert pod.generation == 4
    assert pod.bridge.state.all_neural


@pytest.mark.asyncio
async def test_altered_bundle_is_refused_with_the_reason(pod: Pod) -> None:
    """The table before stays."""
    pod.adopter.offer(table(2))
    pod.adopter.offer(table(3, pod.world.route(RouteMode.COMPILED, bundle=pod.world.bundle(alter=True))))
    await until(lambda: pod.adopter.refusal is not None)
    assert pod.adopter.refusal is not None
    assert pod.adopter.refusal.generation == 3
    assert "altered" in pod.adopter.refusal.reason
    assert pod.generation == 2


@pytest.mark.asyncio
async def test_cause_that_may_pass_is_tried_again(pod: Pod) -> None:
    """The store was away; the refusal is told, and withdrawn when the table is in force."""
    pod.store.failures = [ResourceError(Code.STORAGE_UNAVAILABLE, "the store is away.") for _ in range(2)]
    pod.adopter.offer(table(3, pod.world.route(RouteMode.COMPILED)))
    await until(lambda: pod.generation == 3)
    assert pod.adopter.refusal is None
    assert pod.changes >= 2


@pytest.mark.asyncio
async def test_cause_that_stays_is_not_tried_again(pod: Pod) -> None:
    """A newer table clears the refusal."""
    pod.store.failures = [ModelError(Code.BUNDLE_UNTRUSTED, "not signed by a trusted key.")]
    pod.adopter.offer(table(3, pod.world.route(RouteMode.COMPILED)))
    await until(lambda: not pod.adopter.loading)
    assert pod.generation == 0
    pod.adopter.offer(table(4))
    assert pod.generation == 4 and pod.adopter.refusal is None


@pytest.mark.asyncio
async def test_unexpected_failure_while_loading_is_a_refusal(pod: Pod) -> None:
    """It is told with its class and does not end the pod."""
    pod.store.failures = [ZeroDivisionError("boom")]
    pod.adopter.offer(table(3, pod.world.route(RouteMode.COMPILED)))
    await until(lambda: pod.adopter.refusal is not None)
    assert "ZeroDivisionError" in pod.adopter.refusal.reason  # type: ignore[union-attr]  # waited for above


@pytest.mark.asyncio
async def test_older_table_is_refused_and_told(pod: Pod) -> None:
    """The operator learns why nothing changed."""
    pod.adopter.offer(table(5))
    pod.adopter.offer(table(4))
    assert pod.generation == 5
    assert pod.adopter.refusal is not None and "older" in pod.adopter.refusal.reason


@pytest.mark.asyncio
async def test_same_table_is_acknowledged_again(pod: Pod) -> None:
    """Without touching the state: counters go on."""
    pod.adopter.offer(table(5))
    state = pod.bridge.state
    pod.adopter.offer(table(5))
    assert pod.bridge.state is state
    assert pod.changes == 2


async def test_table_whose_modules_are_loaded_is_in_force_at_once(pod: Pod) -> None:
    """Another share of the requests needs no thread: in force, and acknowledged, before `offer` returns."""
    pod.adopter.offer(table(1, pod.world.route(RouteMode.CANARY, weight=0.1)))
    await until(lambda: pod.generation == 1 and not pod.adopter.loading)
    pod.store.gate.clear()
    changes = pod.changes
    pod.adopter.offer(table(2, pod.world.route(RouteMode.CANARY, weight=0.5)))
    assert (pod.generation, pod.changes, pod.adopter.loading) == (2, changes + 1, False)
    assert pod.bridge.state.segments[0].weight == 0.5
