"""Exhaustive walk of the abstract states of one model with one segment.

The world's moves (Jobs end, pods come and go, traffic is good, bad or absent, people command, time passes) are applied
in every state until no new state appears. Timestamps and counts that only grow are left out of a state's key.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from ecompile_crds.compiledmodule import SERVING_STAGES, Stage
from ecompile_crds.conditions import is_true
from ecompile_crds.errors import Code
from ecompile_crds.hybridmodel import ModelPhase
from ecompile_crds.routing import RouteMode
from ecompile_operator.decide.clock import from_text
from ecompile_operator.decide.decide import decide
from ecompile_operator.decide.observed import AlertKind

from .world import World, make_spec

Move = Callable[[World], None]


def clone(world: World) -> World:
    """A copy that shares the frozen values."""
    twin = copy.copy(world)
    twin.modules, twin.jobs, twin.inputs = dict(world.modules), dict(world.jobs), dict(world.inputs)
    twin.reports, twin.audit, twin.events = dict(world.reports), list(world.audit), []
    return twin


def _command(verb: str) -> Move:
    def move(world: World) -> None:
        world.command = f"{verb} {verb}-{world.status.audit_sequence}-{world.now.timestamp():.0f}"
        world.step()

    return move


def _suspend(flag: bool) -> Move:
    def move(world: World) -> None:
        if world.spec.suspend != flag:
            world.change_spec(suspend=flag)
        world.step()

    return move


def _traffic(**how: object) -> Move:
    def move(world: World) -> None:
        world.report(**how)  # type: ignore[arg-type]  # keyword arguments of World.report
        world.step(seconds=0.5)

    return move


def _finish(**how: bool) -> Move:
    def move(world: World) -> None:
        world.finish_job(**how)
        world.step(seconds=0.5)

    return move


def _fail(code: Code) -> Move:
    def move(world: World) -> None:
        world.fail_job(code)
        world.step(seconds=0.5)

    return move


def _pods_ready(world: World) -> None:
    if world.deployment is not None:
        world.pods_ready()
    world.step(seconds=0.5)


def _pods_gone(world: World) -> None:
    world.pods = ()
    world.reports = {}
    if world.deployment is not None:
        world.deployment = replace(world.deployment, ready=0)
    world.step(seconds=0.5)


def _silence(world: World) -> None:
    world.silence()
    world.step(seconds=0.5)


MOVES: dict[str, Move] = {
    "time passes": lambda world: (world.step(seconds=5000), None)[1],
    "next decision": lambda world: (world.step(seconds=0.1), None)[1],
    "job succeeds": _finish(),
    "job says no": _finish(passed=False, pays=False),
    "job crashes": _fail(Code.CRASHED),
    "source missing": _fail(Code.DATA_MISSING),
    "pods ready": _pods_ready,
    "pods gone": _pods_gone,
    "no heartbeat": _silence,
    "good traffic": _traffic(),
    "no traffic": _traffic(comparisons=0),
    "bad answers": _traffic(delta=1.0),
    "alert": _traffic(alert=AlertKind.BREAKER),
    "suspend": _suspend(True),
    "resume": _suspend(False),
    **{verb: _command(verb) for verb in ("promote", "abort", "rollback", "approve", "retry")},
}

Key = tuple[object, ...]


def key(world: World) -> Key:
    """What matters of a state."""
    modules = []
    for spec, status in world.modules.values():
        rollout = status.rollout
        due = from_text(rollout.not_before)
        validation = status.validation
        modules.append(
            (
                spec.life,
                rollout.stage,
                rollout.step if rollout.stage in SERVING_STAGES else 0,
                min(rollout.failures, 2),
                rollout.approved,
                due is not None and due > world.now,
                validation is not None and validation.passed,
            )
        )
    life = world.status.life
    fresh = any((world.now - r.received_at).total_seconds() <= 5 for r in world.reports.values())
    acknowledged = all(r.generation >= world.status.routing.generation for r in world.reports.values())
    alert = any(r.alerts for r in world.reports.values())
    return (
        tuple(modules),
        life is not None and (life.profiled, life.distilled, any(s.pays for s in life.segments)),
        world.status.serving is not None,
        world.spec.suspend,
        tuple(sorted({(j.kind.value, j.phase.value) for j in world.running()})),
        world.status.failure is not None and world.status.failure.code,
        bool(world.pods),
        fresh and (acknowledged, alert),
        world.deployment is not None and world.deployment.ready > 0,
    )


@dataclass(frozen=True)
class Graph:
    """Every state with a world that shows it, and where each move leads."""

    worlds: dict[Key, World]
    edges: dict[Key, dict[str, Key]]


@cache
def walk() -> Graph:
    start = World(spec=make_spec())
    start.step()
    worlds = {key(start): start}
    edges: dict[Key, dict[str, Key]] = {}
    frontier = [key(start)]
    while frontier:
        here = frontier.pop()
        edges[here] = {}
        for name, move in MOVES.items():
            world = clone(worlds[here])
            move(world)
            there = key(world)
            edges[here][name] = there
            if there not in worlds:
                worlds[there] = world
                frontier.append(there)
        assert len(worlds) < 20_000, "the abstract state space is not finite"
    return Graph(worlds=worlds, edges=edges)


def stage_of(world: World) -> Stage | None:
    return next((t.rollout.stage for _, t in world.modules.values()), None)


def can_reach(graph: Graph, goals: set[Key], moves: set[str]) -> set[Key]:
    """States from which some sequence of `moves` leads to a goal."""
    back: dict[Key, set[Key]] = {}
    for here, out in graph.edges.items():
        for name, there in out.items():
            if name in moves:
                back.setdefault(there, set()).add(here)
    reached, frontier = set(goals), list(goals)
    while frontier:
        for before in back.get(frontier.pop(), ()):
            if before not in reached:
                reached.add(before)
                frontier.append(before)
    return reached


def test_walk_sees_every_stage() -> None:
    seen = {stage_of(w) for w in walk().worlds.values()}
    assert seen >= set(Stage) - {Stage.RETIRED}


def test_same_input_gives_same_decision() -> None:
    for world in walk().worlds.values():
        observed = world.observed()
        assert decide(observed, world.now) == decide(observed, world.now)


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
