"""The end of a model with deletionPolicy Orphan, from every state that it can be in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from ecompile_crds.hybridmodel import DeletionPolicy
from ecompile_crds.routing import RouteMode
from ecompile_operator.decide.decide import decide
from ecompile_operator.decide.ending import ACKNOWLEDGE_SECONDS
from ecompile_operator.decide.forecast import applied
from ecompile_operator.decide.observed import Observed

from .walk import clone, walk
from .world import World, make_spec


def orphaned(world: World) -> Observed:
    """The world's model with deletionPolicy Orphan, being deleted."""
    observed = world.observed()
    assert observed.spec is not None
    spec = observed.spec.model_copy(update={"deletion_policy": DeletionPolicy.ORPHAN})
    return replace(observed, spec=spec, deleting=True, finalizer=True)


def test_only_models_to_be_orphaned_carry_the_finalizer() -> None:
    world = World(spec=make_spec(deletionPolicy="Orphan"))
    assert world.step().finalizer
    assert not World().step().finalizer
    world.spec = make_spec(deletionPolicy="Delete")
    assert not world.step().finalizer


def test_from_every_state_what_serves_goes_neural_and_loses_its_owner() -> None:
    for world in walk().worlds.values():
        observed = orphaned(world)
        first = decide(observed, world.now)
        assert first == decide(observed, world.now)
        assert not (first.jobs or first.new_modules or first.delete_jobs or first.serving or first.module_updates)
        table = first.routing
        assert table is None or all(route.mode is RouteMode.NEURAL for route in table.segments)
        before = world.table()
        if before is not None and any(r.mode is not RouteMode.NEURAL for r in before.segments):
            assert table is not None and table.generation == before.generation + 1
            assert first.audit and first.audit[-1].after == "neural"
        again = decide(applied(observed, first, world.now), world.now)
        assert again.status == first.status and not again.audit
        late = decide(applied(observed, first, world.now), world.now + timedelta(seconds=ACKNOWLEDGE_SECONDS))
        assert late.orphan and not late.finalizer
        assert first.orphan is not first.finalizer
        assert first.orphan or first.wake_at is not None


def test_it_waits_for_the_acknowledgement_of_every_ready_pod() -> None:
    world = World().to_promoted()
    first = decide(orphaned(world), world.now)
    assert first.finalizer and not first.orphan
    assert "2 pods have not acknowledged" in first.status.message
    after = clone(world)
    after.status = first.status
    after.report()
    done = decide(orphaned(after), after.now)
    assert done.orphan and not done.finalizer
    assert [e.reason for e in done.events] == ["Orphaned"] and done.events[0].type == "Normal"


def test_a_model_whose_spec_cannot_be_read_goes_all_the_same() -> None:
    world = World().to_promoted()
    observed = replace(orphaned(world), spec=None, spec_error="spec.revalidation.schedule: never")
    decision = decide(observed, world.now)
    assert decision.routing is not None
    assert all(route.mode is RouteMode.NEURAL for route in decision.routing.segments)


def test_a_model_that_is_to_be_deleted_after_all_is_let_go_at_once() -> None:
    world = World().to_promoted()
    observed = orphaned(world)
    assert observed.spec is not None
    spec = observed.spec.model_copy(update={"deletion_policy": DeletionPolicy.DELETE})
    decision = decide(replace(observed, spec=spec), world.now)
    assert not decision.finalizer and not decision.orphan and decision.routing is None
