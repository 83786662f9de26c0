"""Simultaneous rollouts are counted over all models, and a free slot wakes who waits."""

from __future__ import annotations

from dataclasses import replace

from ecompile_operator.decide.decision import Decision
from ecompile_operator.decide.observed import Observed
from ecompile_operator.observe.cache import Cache
from ecompile_operator.slots import RolloutSlots

from .decide.world import World


def make(*rolling: str) -> RolloutSlots:
    cache = Cache(lambda key: None)
    for index, name in enumerate(rolling):
        meta = {"namespace": "a", "name": name, "uid": name, "resourceVersion": str(index)}
        cache.put_model("applied", {"metadata": meta})
        module = {"metadata": {**meta, "name": f"{name}-s0"}, "spec": {"modelRef": name}, "status": {"phase": "Shadow"}}
        cache.put_child("CompiledModule", "applied", module)
    return RolloutSlots(cache, limit=2, limit_per_namespace=0)


def named(world: World, name: str) -> tuple[Observed, Decision]:
    observed = replace(world.observed(), namespace="a", name=name)
    assert world.last is not None
    return observed, world.last


def test_rollouts_found_at_the_start_are_counted() -> None:
    slots = make("one", "two")
    assert slots.fleet(("a", "three")).rollouts == 2
    assert slots.fleet(("a", "one")).rollouts == 1
    assert slots.fleet(("b", "other")).rollouts_in_namespace == 0


def test_a_slot_is_taken_as_soon_as_it_is_decided() -> None:
    slots = make("one")
    assert slots.decided(*named(World().to_shadow(), "two")) == ()
    assert slots.fleet(("a", "three")).rollouts == 2


def test_who_waits_is_woken_when_a_slot_becomes_free() -> None:
    slots = make("one", "two")
    observed, decision = named(World().to_validating(), "three")
    assert slots.decided(observed, replace(decision, waits_for_slot=True)) == ()
    assert slots.decided(*named(World().to_promoted(), "one")) == (("a", "three"),)
    assert slots.forget(("a", "two")) == (("a", "three"),)
    assert slots.forget(("a", "three")) == ()


def test_without_limits_nothing_is_counted() -> None:
    slots = RolloutSlots(Cache(lambda key: None), limit=0, limit_per_namespace=0)
    assert slots.fleet(("a", "one")).limit == 0
