"""Exhaustive walk of the abstract states of one model with one segment, in variants of its spec.

The world's moves (Jobs end, pods come and go, traffic is good, bad or absent, people command, time passes) are applied
in every state until no new state appears. Timestamps and counts that only grow are left out of a state's key.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from ecompile_crds.compiledmodule import SERVING_STAGES, Stage
from ecompile_crds.errors import Code
from ecompile_crds.hybridmodel import HybridModelSpec
from ecompile_operator.decide.clock import from_text
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
            world.spec = world.spec.model_copy(update={"suspend": flag})
            world.generation += 1
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


def _alertmanager(world: World) -> None:
    world.alertmanager()
    world.step(seconds=0.5)
    world.remote_alerts = ()


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
    "alertmanager": _alertmanager,
    "suspend": _suspend(True),
    "resume": _suspend(False),
    **{verb: _command(verb) for verb in ("promote", "abort", "rollback", "approve", "retry")},
}


def _source_changes(world: World) -> None:
    """To the other one of two sources, and back."""
    other = "file:///artifacts/digits/other.onnx"
    uri = other if world.spec.source.uri != other else "file:///artifacts/digits/model.onnx"
    source = world.spec.source.model_copy(update={"uri": uri})
    world.spec = world.spec.model_copy(update={"source": source})
    world.generation += 1
    world.step(seconds=0.5)


SHORTER = ("next decision", "job succeeds", "pods ready", "good traffic", "alert", "abort")
SOURCE_MOVES: dict[str, Move] = {**{name: MOVES[name] for name in SHORTER}, "source changes": _source_changes}
AGAIN = (
    "job succeeds",
    "job says no",
    "job crashes",
    "pods ready",
    "no heartbeat",
    "good traffic",
    "alert",
    "rollback",
)
AGAIN_MOVES: dict[str, Move] = {
    **{name: MOVES[name] for name in ("next decision", *AGAIN, "retry", "suspend", "resume")},
    "a day passes": lambda world: (world.step(seconds=86_400), None)[1],
}
STEPS = [
    {"mode": "shadow", "minComparisons": 10, "deadlineSeconds": 60},
    {"mode": "canary", "weight": 0.5, "minComparisons": 10, "deadlineSeconds": 60},
]


@dataclass(frozen=True)
class Variant:
    """A spec to walk, and the moves to walk it with."""

    spec: HybridModelSpec
    moves: dict[str, Move]


VARIANTS = {
    "automatic": Variant(make_spec(), MOVES),
    "careful": Variant(
        make_spec(rollout={"steps": STEPS, "approval": "Required", "analysis": {"onNoData": "hold"}}), MOVES
    ),
    "again": Variant(
        make_spec(rollout={"steps": STEPS[:1]}, revalidation={"backoffSeconds": 10, "maxAttempts": 2, "maxAgeDays": 1}),
        AGAIN_MOVES,
    ),
    "sources": Variant(make_spec(rollout={"steps": STEPS, "analysis": {"onNoData": "neural"}}), SOURCE_MOVES),
}

Key = tuple[object, ...]


def key(world: World) -> Key:
    """What matters of a state."""
    modules = []
    wanted = world.status.life.key if world.status.life is not None else ""
    served = world.status.serving.key if world.status.serving is not None else ""
    for spec, status in world.modules.values():
        rollout = status.rollout
        due = from_text(rollout.not_before)
        validation = status.validation
        modules.append(
            (
                (spec.life == wanted, spec.life == served),
                rollout.stage,
                rollout.step if rollout.stage in SERVING_STAGES else 0,
                min(rollout.failures, 2),
                rollout.approved,
                rollout.checking,
                due is not None and due > world.now,
                validation is not None and validation.passed,
            )
        )
    life = world.status.life
    fresh = any((world.now - r.received_at).total_seconds() <= 5 for r in world.reports.values())
    acknowledged = all(r.generation >= world.status.routing.generation for r in world.reports.values())
    alert = any(r.alerts for r in world.reports.values())
    return (
        tuple(sorted(modules, key=repr)),
        wanted == served,
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
    transitions: dict[tuple[Stage | None, Stage], set[str]]
    """Changes of stage of a module, and the moves that brought them about."""


@cache
def walk(variant: str = "automatic") -> Graph:
    chosen = VARIANTS[variant]
    start = World(spec=chosen.spec)
    start.step()
    worlds = {key(start): start}
    edges: dict[Key, dict[str, Key]] = {}
    transitions: dict[tuple[Stage | None, Stage], set[str]] = {}
    frontier = [key(start)]
    while frontier:
        here = frontier.pop()
        edges[here] = {}
        for name, move in chosen.moves.items():
            world = clone(worlds[here])
            move(world)
            for change in _stage_changes(worlds[here], world):
                transitions.setdefault(change, set()).add(name)
            there = key(world)
            edges[here][name] = there
            if there not in worlds:
                worlds[there] = world
                frontier.append(there)
        assert len(worlds) < 20_000, "the abstract state space is not finite"
    return Graph(worlds=worlds, edges=edges, transitions=transitions)


def _stage_changes(before: World, after: World) -> set[tuple[Stage | None, Stage]]:
    was = {name: status.rollout.stage for name, (_, status) in before.modules.items()}
    now = {name: status.rollout.stage for name, (_, status) in after.modules.items()}
    return {(was.get(name), stage) for name, stage in now.items() if was.get(name) is not stage}


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
