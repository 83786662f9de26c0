"""What the walk of all abstract states proves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from ecompile_crds.compiledmodule import FINAL_STAGES, SERVING_STAGES, Stage
from ecompile_crds.conditions import ConditionType, is_true
from ecompile_crds.hybridmodel import ModelPhase
from ecompile_crds.routing import RouteMode, RoutingTable
from ecompile_operator.decide.decide import decide
from ecompile_operator.decide.forecast import applied, forecast
from ecompile_operator.decide.gate import HEARTBEAT_EXPIRY_SECONDS
from ecompile_operator.decide.observed import AlertKind, PodReport
from ecompile_operator.decide.transitions import TRANSITIONS, WAITS

from .walk import MOVES, VARIANTS, can_reach, clone, stage_of, walk
from .world import World

pytestmark = pytest.mark.timeout(300)
variants = pytest.mark.parametrize("variant", VARIANTS)


def test_walks_see_every_listed_transition_and_no_other() -> None:
    """The table that the documentation is made from is the machine as it is."""
    listed = {(t.source, t.target) for t in TRANSITIONS}
    seen = {pair: (variant, moves) for variant in VARIANTS for pair, moves in walk(variant).transitions.items()}
    assert {pair: how for pair, how in seen.items() if pair not in listed} == {}
    assert listed - set(seen) == set()


@variants
def test_same_input_gives_same_decision_in_whatever_order_it_was_read(variant: str) -> None:
    for world in walk(variant).worlds.values():
        observed = world.observed()
        turned = replace(
            observed,
            modules=observed.modules[::-1],
            jobs=observed.jobs[::-1],
            pods=observed.pods[::-1],
            reports=observed.reports[::-1],
        )
        first, again, other = (decide(o, world.now) for o in (observed, observed, turned))
        assert first == again
        assert first.status == other.status and first.routing == other.routing
        assert {u.name: u for u in first.module_updates} == {u.name: u for u in other.module_updates}


@variants
def test_a_decision_that_has_been_applied_settles(variant: str) -> None:
    """Deciding again at the same moment soon changes nothing: no event twice, no write without a change."""
    for world in walk(variant).worlds.values():
        observed = world.observed()
        for _ in range(8):
            decision = decide(observed, world.now)
            after = applied(observed, decision, world.now)
            if after == observed:
                break
            observed = after
        settled = decide(observed, world.now)
        assert settled.status == observed.status and not settled.module_updates
        assert not settled.events and not settled.audit, settled.events


@variants
def test_no_wait_without_an_end(variant: str) -> None:
    """Each stage that waits has a deadline, or a sentence and a command that ends it."""
    seen = set()
    for world in walk(variant).worlds.values():
        stages = tuple(sorted(status.rollout.stage for _, status in world.modules.values()))
        jobs = tuple(sorted(job.kind for job in world.running()))
        situation = (stages, jobs, world.spec.suspend, bool(world.pods), bool(world.reports), world.status.phase)
        if situation in seen or not any(stage in WAITS for stage in stages):
            continue
        seen.add(situation)
        found = forecast(world.observed(), world.now)
        ways = {o.cause for o in found.outlooks} | {c.verb.value for c in found.commands if c.changes}
        assert ways, (stages, world.status.message)
        for module in found.present.modules:
            assert module.status.message, module.status.rollout.stage
    assert seen


def test_waits_and_final_stages_cover_all_stages() -> None:
    at_once = {Stage.PENDING}
    assert set(WAITS) | FINAL_STAGES | at_once | {Stage.PROMOTED} == set(Stage)


@variants
def test_what_is_unknown_never_advances(variant: str) -> None:
    """Without fresh reports, with old ones, with reports of some pods only or of another generation, no module gets
    a larger share than it has."""
    for world in walk(variant).worlds.values():
        before = _shares(world.table())
        for reports in _unknown(world):
            twin = clone(world)
            twin.command = None
            twin.reports = {r.pod: r for r in reports}
            twin.step(seconds=0.01)
            after = _shares(twin.table())
            advanced = {m: (before.get(m), share) for m, share in after.items() if share > before.get(m, 0.0)}
            shadows = {m for m, (_, share) in advanced.items() if share <= SHADOW_SHARE}
            assert set(advanced) == shadows, (advanced, world.status.message)


SHADOW_SHARE = 0.001
"""Shadowing answers no request; counted as a little, so that leaving it counts as an advance."""


def _shares(table: RoutingTable | None) -> dict[str, float]:
    share = {RouteMode.NEURAL: 0.0, RouteMode.SHADOW: SHADOW_SHARE, RouteMode.COMPILED: 1.0}
    routes = table.segments if table is not None else ()
    return {str(r.module): share.get(r.mode, r.weight) for r in routes if r.module is not None}


def _unknown(world: World) -> list[list[PodReport]]:
    known = list(world.reports.values())
    expired = world.now - timedelta(seconds=HEARTBEAT_EXPIRY_SECONDS + 1)
    behind = world.status.routing.generation - 1
    return [
        [],
        [replace(r, received_at=expired) for r in known],
        known[:-1],
        [replace(r, generation=behind) for r in known],
        [replace(r, life="another") for r in known],
    ]


@variants
def test_abort_beats_suspend_beats_good_traffic(variant: str) -> None:
    for world in walk(variant).worlds.values():
        rolling = [n for n, (_, s) in world.modules.items() if s.rollout.stage in (Stage.SHADOW, Stage.CANARY)]
        if not rolling:
            continue
        twin = clone(world)
        twin.spec = twin.spec.model_copy(update={"suspend": True})
        twin.generation += 1
        twin.report()
        stages = {n: s.rollout.stage for n, (_, s) in twin.modules.items()}
        quiet = clone(twin)
        quiet.command = None
        quiet.step(seconds=0.01)
        assert {n: quiet.modules[n][1].rollout.stage for n in rolling} == {n: stages[n] for n in rolling}
        twin.command = "abort abort-now"
        twin.step(seconds=0.01)
        served = world.status.serving.key if world.status.serving is not None else ""
        wanted = {served, twin.status.life.key if twin.status.life is not None else ""}
        for name in rolling:
            if twin.modules[name][0].life in wanted:
                assert twin.modules[name][1].rollout.stage in (Stage.ROLLING_BACK, Stage.HELD)


@variants
def test_promote_does_not_override_suspend(variant: str) -> None:
    for world in walk(variant).worlds.values():
        twin = clone(world)
        twin.spec = twin.spec.model_copy(update={"suspend": True})
        twin.command = "promote promote-now"
        twin.step(seconds=0.01)
        after, before = _shares(twin.table()), _shares(world.table())
        assert all(share <= before.get(module, 0.0) for module, share in after.items())


@variants
def test_from_every_state_a_rollback_reaches_all_pods_neural(variant: str) -> None:
    """At once in the table; complete when the last live pod has acknowledged, or is gone. Suspended or not."""
    for world in walk(variant).worlds.values():
        served = world.status.serving.key if world.status.serving is not None else ""
        serving = [
            n for n, (spec, s) in world.modules.items() if s.rollout.stage in SERVING_STAGES and spec.life == served
        ]
        if not serving:
            continue
        twin = clone(world)
        twin.spec = twin.spec.model_copy(update={"suspend": True})
        twin.command = "rollback rollback-now"
        twin.step(seconds=0.01)
        table = twin.table()
        assert table is not None and all(r.mode is RouteMode.NEURAL for r in table.segments)
        gone = clone(twin)
        gone.pods, gone.reports = (), {}
        gone.step(seconds=0.01)
        twin.report(comparisons=0)
        twin.step(seconds=0.01)
        for ended in (twin, gone):
            assert all(ended.modules[n][1].rollout.stage in (Stage.HELD, Stage.ROLLED_BACK) for n in serving)
        ready = [p for p in twin.pods if p.ready and p.life == served]
        assert twin.status.routing.acknowledged_pods == twin.status.routing.live_pods == len(ready)


def test_a_rollback_is_not_complete_while_a_live_pod_is_silent() -> None:
    graph = walk()
    for world in graph.worlds.values():
        if stage_of(world) is not Stage.ROLLING_BACK or not any(p.ready for p in world.pods):
            continue
        twin = clone(world)
        twin.silence()
        twin.step(seconds=90)
        assert stage_of(twin) is Stage.ROLLING_BACK
        assert "delete that pod" in twin.module().message


@variants
def test_conditions_are_complete_and_consistent(variant: str) -> None:
    for world in walk(variant).worlds.values():
        found = {c.type: c for c in world.status.conditions}
        assert list(found) == sorted(t.value for t in ConditionType) and len(world.status.conditions) == len(found)
        ready, reconciling, stalled = (found[t].status == "True" for t in ("Ready", "Reconciling", "Stalled"))
        assert ready + reconciling + stalled <= 1
        assert ready or reconciling or stalled or world.spec.suspend or not world.status.ready_replicas
        assert ready is False or found["ServingAvailable"].status == "True"
        assert all(c.observed_generation == world.generation for c in found.values())
        assert world.status.observed_generation == world.generation
        assert (found["Stalled"].message != "") is stalled
        assert found["Ready"].message or ready or found["Ready"].reason not in ("Reconciling", "Suspended", "Stalled")
        twin = clone(world)
        twin.command = None
        twin.step(seconds=1.5)
        for condition in twin.status.conditions:
            before = found[condition.type]
            moved = condition.last_transition_time != before.last_transition_time
            assert moved == (condition.status != before.status), condition.type


def test_no_dead_end_while_nobody_intervenes() -> None:
    """Without a human, from every state that is not suspended, friendly events lead to a settled state."""
    graph = walk()
    settled = {k for k, w in graph.worlds.items() if w.status.phase in (ModelPhase.PROMOTED, ModelPhase.NEURAL)}
    held = {k for k, w in graph.worlds.items() if stage_of(w) in (Stage.HELD, Stage.REJECTED)}
    stalled = {k for k, w in graph.worlds.items() if is_true(w.status.conditions, "Stalled")}
    suspended = {k for k, w in graph.worlds.items() if w.spec.suspend}
    friendly = {"time passes", "next decision", "job succeeds", "pods ready", "good traffic"}
    reachable = can_reach(graph, settled | held | stalled, friendly)
    stuck = set(graph.worlds) - reachable - suspended
    assert not stuck, [graph.worlds[k].status.message for k in stuck][:5]


def test_held_and_stalled_states_name_the_way_out() -> None:
    graph = walk()
    for k, world in graph.worlds.items():
        if is_true(world.status.conditions, "Stalled"):
            assert world.status.message
        if stage_of(world) is Stage.HELD and not world.spec.suspend:
            assert "retry" in world.module().message
            assert stage_of(graph.worlds[graph.edges[k]["retry"]]) is Stage.REVALIDATING


def test_every_waiting_state_says_what_it_waits_for() -> None:
    for world in walk().worlds.values():
        assert world.last is not None
        if is_true(world.status.conditions, "Ready") or stage_of(world) in (Stage.HELD, Stage.REJECTED):
            continue
        waits = world.status.message or world.last.wake_at or world.last.jobs or world.last.new_modules
        settling = decide(world.observed(), world.now)
        changes = settling.module_updates or settling.jobs or settling.status != world.status
        assert waits or changes or world.deployment is None or world.deployment.ready == 0


def test_nothing_serves_that_was_not_validated() -> None:
    for world in walk().worlds.values():
        for spec, status in world.modules.values():
            if status.rollout.stage in SERVING_STAGES:
                assert status.validation is not None and status.validation.passed, spec
        table = world.table()
        for route in table.segments if table is not None else ():
            if route.mode is not RouteMode.NEURAL:
                _, status = world.modules[str(route.module)]
                assert status.rollout.stage in SERVING_STAGES


def test_unknown_never_promotes() -> None:
    """Without a fresh report from the pods, no move but a human's command advances a rollout."""
    order = [Stage.SHADOW, Stage.CANARY, Stage.PROMOTED]
    graph = walk()
    for k, out in graph.edges.items():
        before = stage_of(graph.worlds[k])
        for name in ("no heartbeat", "time passes", "pods gone", "no traffic", "next decision"):
            after = stage_of(graph.worlds[out[name]])
            if before in order and after in order and name in ("no heartbeat", "time passes", "pods gone"):
                assert order.index(after) <= order.index(before), (name, before, after)


def test_alert_beats_suspend_and_advance() -> None:
    for world in walk().worlds.values():
        if stage_of(world) not in SERVING_STAGES or not world.pods:
            continue
        twin = clone(world)
        twin.report(alert=AlertKind.BREAKER)
        twin.step(seconds=0.01)
        assert stage_of(twin) is Stage.ROLLING_BACK
        table = twin.table()
        assert table is not None and all(s.mode is RouteMode.NEURAL for s in table.segments)


def test_what_alertmanager_says_beats_suspend_and_advance() -> None:
    """And needs no pod that reports: it is the path for when they cannot."""
    for world in walk().worlds.values():
        if stage_of(world) not in SERVING_STAGES:
            continue
        twin = clone(world)
        twin.report()
        twin.alertmanager()
        twin.step(seconds=0.01)
        assert stage_of(twin) in (Stage.ROLLING_BACK, Stage.ROLLED_BACK, Stage.HELD)
        table = twin.table()
        assert table is not None and all(s.mode is RouteMode.NEURAL for s in table.segments)


def test_abort_beats_suspend_beats_advance() -> None:
    graph = walk()
    for k, out in graph.edges.items():
        world = graph.worlds[k]
        if stage_of(world) in (Stage.SHADOW, Stage.CANARY):
            assert stage_of(graph.worlds[out["abort"]]) in (Stage.ROLLING_BACK, Stage.ROLLED_BACK, Stage.HELD)
        if world.spec.suspend and stage_of(world) is not Stage.ROLLING_BACK:
            for name in ("next decision", "job succeeds", "time passes", "pods ready"):
                after = graph.worlds[out[name]]
                assert stage_of(after) == stage_of(world), (name, stage_of(world), stage_of(after))


def test_every_serving_state_can_reach_all_pods_neural() -> None:
    for world in walk().worlds.values():
        if stage_of(world) not in SERVING_STAGES or not world.pods:
            continue
        twin = clone(world)
        twin.report(alert=AlertKind.DRIFT)
        twin.step(seconds=0.01)
        twin.report(comparisons=0)
        twin.step(seconds=0.01)
        assert stage_of(twin) in (Stage.ROLLED_BACK, Stage.HELD)
        assert twin.status.routing.acknowledged_pods == len(twin.pods)


def test_generations_only_grow_and_conditions_are_current() -> None:
    graph = walk()
    for k, out in graph.edges.items():
        world = graph.worlds[k]
        assert world.status.observed_generation == world.generation
        assert all(c.observed_generation == world.generation for c in world.status.conditions)
        ready, stalled = (is_true(world.status.conditions, t) for t in ("Ready", "Stalled"))
        assert not (ready and stalled)
        twin = clone(world)
        MOVES["good traffic"](twin)
        assert twin.status.routing.generation >= world.status.routing.generation
        assert out
