"""Seeded runs: one whole life with what a seed makes go wrong, and a verdict.

`disturbed(seed)` draws a mix of faults; `killed(point)` kills the operator once, at that point of the undisturbed
life. Both come to the same end as `undisturbed()`, or say what is wrong.
"""

from __future__ import annotations

import asyncio
import random as global_random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any

from ecompile_crds.errors import Code
from ecompile_crds.jobs import Failure, JobKind
from ecompile_crds.names import ANNOTATION_COMMAND

from tests.unit.operator.virtual_time import run as in_virtual_time

from .cluster import bundle_digest
from .faults import Plan, SeededFaults
from .life import NAME, NAMESPACE, Stage, hybrid_model
from .operators import RESTART_SECONDS, Operator
from .oracle import Oracle

SEGMENTS = 2
FAULTS_SECONDS = 60.0
"""For this long things go wrong; then all is well and the life must come to its end."""
HUMAN_SECONDS = 20.0
SETTLE_SECONDS = 45.0
"""Quiet time at the end, in which late writes and stale leaders would show."""


@dataclass
class Verdict:
    """One run."""

    name: str
    violations: list[str]
    points: int = 0
    """Places at which the operator could be killed."""
    kills: int = 0
    hits: int = 0
    seconds: float = 0.0
    """Virtual."""
    final: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class World:
    """What a run is made of, besides requests and events."""

    plan: Plan = field(default_factory=Plan)
    standby: bool = False
    """A second operator waits for the lease."""
    same_name: bool = True
    """A killed operator comes back as the same container (and holds the lease still), or as another Pod."""
    skew_seconds: float = 0.0
    """Clocks of operators differ by up to this."""
    pod_kills: tuple[float, ...] = ()
    node_losses: tuple[float, ...] = ()
    stream_cuts: tuple[float, ...] = ()
    stream_delay: float = 0.0
    expiries: tuple[float, ...] = ()
    """Times at which all watches' versions become too old."""
    failures: dict[tuple[JobKind, int], int] = field(default_factory=dict)
    """How often Jobs fail for a full disk."""
    corrupt: tuple[int, float, float] | None = None
    """Segment whose bundle is damaged from a time to another."""
    human: bool = False
    """Somebody says `retry` where the operator asks for it."""


def draw(seed: int) -> World:
    """A mix of faults."""
    random = Random(seed)

    def times(most: int) -> tuple[float, ...]:
        return tuple(sorted(random.uniform(0.0, FAULTS_SECONDS) for _ in range(random.randint(0, most))))

    def rate(most: float) -> float:
        return random.choice((0.0, 0.0, random.uniform(0.0, most)))

    outages = tuple((start, start + random.uniform(1.0, 20.0)) for start in times(2))
    plan = Plan(
        kill_at=frozenset(random.sample(range(1, 1200), random.choice((0, 0, 1, 3, 8)))),
        refuse=rate(0.3),
        lose=rate(0.2),
        delay=rate(0.2),
        outages=outages,
        repeat=rate(0.5),
        cut=rate(0.1),
        freezes=times(1),
    )
    disks = random.random() < 0.2
    damaged = random.random() < 0.2
    start = random.uniform(0.0, 30.0)
    return World(
        plan=plan,
        standby=random.random() < 0.5,
        same_name=random.random() < 0.5,
        skew_seconds=random.choice((0.0, 0.0, 1.0, 90.0)),
        pod_kills=times(3),
        node_losses=times(1),
        stream_cuts=times(6),
        stream_delay=random.choice((0.005, 0.005, 0.5, 2.0)),
        expiries=times(4),
        failures={random.choice([(JobKind.PROFILE, -1), (JobKind.DISTILL, -1), (JobKind.VALIDATE, 0)]): 2}
        if disks
        else {},
        corrupt=(random.randrange(SEGMENTS), start, start + random.uniform(5.0, 60.0)) if damaged else None,
        human=disks or damaged,
    )


class Run:
    """One life in a world."""

    def __init__(self, world: World, clock: Callable[[], float], random: Random) -> None:
        self.world = world
        self.clock = clock
        self.random = random
        self.stage = Stage(clock, segments=SEGMENTS)
        self.oracle = Oracle(self.stage)
        self.oracle.attach()
        self.faults = SeededFaults(world.plan, random, clock)
        cluster = self.stage.cluster
        cluster.stream_delay = lambda: random.uniform(0.001, world.stream_delay or 0.005)
        full = Failure(code=Code.STORAGE_FULL, message="no space left on device", retryable=True)
        cluster.job_failures = {place: [full] * count for place, count in world.failures.items()}
        self._tasks: list[asyncio.Task[Any]] = []

    async def live(self) -> None:
        """From the model's creation to its second promotion, and some quiet time after it."""
        self._start(self.stage.cluster.run())
        for number in range(2 if self.world.standby else 1):
            self._start(self._keep_operator(number))
        self._start(self._disturb())
        if self.world.human:
            self._start(self._help())
        stage = self.stage
        stage.api.create("hybridmodels", NAMESPACE, hybrid_model())
        try:
            await stage.until("promotion", stage.promoted)
            stage.cluster.drifting = 0
            first = stage.modules()[0]["metadata"]["name"]
            await stage.until("rollback", lambda: self._rolled_back(first))
            stage.cluster.drifting = None
            await stage.until("the end of all faults", lambda: self.faults.healed)
            await stage.until("promotion again", stage.promoted)
            await asyncio.sleep(SETTLE_SECONDS)
            await stage.until("rest", stage.promoted, seconds=300)
        except AssertionError as error:
            self.oracle.say(str(error))
        finally:
            for task in self._tasks:
                task.cancel()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError):
                    self.oracle.say(f"the stand-ins failed: {result!r}")

    def _rolled_back(self, name: str) -> bool:
        module = self.stage.api.get("compiledmodules", NAMESPACE, name) or {}
        neural = all(
            p.table is not None and p.table.segments[0].mode.value == "neural" for p in self.stage.cluster.pods.values()
        )
        return bool(module.get("status", {}).get("rollbacks")) and neural

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _keep_operator(self, number: int) -> None:
        """An operator process that is started again whenever it ends."""
        generation = 0
        while True:
            name = f"operator-{number}" if self.world.same_name else f"operator-{number}-{generation}"
            generation += 1
            skew = self.random.uniform(-1.0, 1.0) * self.world.skew_seconds
            operator = Operator(
                self.stage.api, name=name, clock=self.clock, faults=self.faults, skew=timedelta(seconds=skew)
            )
            self.stage.operators.append(operator)
            task = asyncio.get_running_loop().create_task(operator.run())
            try:
                await asyncio.wait({task})
            finally:
                operator.die()
                task.cancel()
                self.stage.operators.remove(operator)
            if not task.cancelled():
                task.exception()
            await asyncio.sleep(RESTART_SECONDS)

    async def _disturb(self) -> None:
        """What goes wrong at set times; then all is well."""
        world, cluster = self.world, self.stage.cluster
        acts: list[tuple[float, Callable[[], None]]] = []
        acts += [(at, self._kill_pod) for at in world.pod_kills]
        acts += [(at, cluster.lose_node) for at in world.node_losses]
        acts += [(at, self._cut_streams) for at in world.stream_cuts]
        acts += [(at, self.stage.api.compact) for at in world.expiries]
        acts += [(at, self._freeze) for at in world.plan.freezes]
        if world.corrupt is not None:
            segment, start, end = world.corrupt
            acts.append((start, lambda: cluster.corrupt.add(bundle_digest(segment))))
            acts.append((end, cluster.corrupt.clear))
        for at, act in sorted(acts, key=lambda pair: pair[0]):
            await asyncio.sleep(max(0.0, at - self.clock()))
            act()
        any_faults = acts or world.plan != Plan(kill_at=world.plan.kill_at)
        await asyncio.sleep(max(0.0, (FAULTS_SECONDS if any_faults else 0.0) - self.clock()))
        self.faults.healed = True

    def _kill_pod(self) -> None:
        if self.stage.cluster.pods:
            self.stage.cluster.kill_pod(self.random.choice(sorted(self.stage.cluster.pods)))

    def _cut_streams(self) -> None:
        for pod in self.stage.cluster.pods.values():
            if self.random.random() < 0.7:
                pod.cut()

    def _freeze(self) -> None:
        for operator in self.stage.operators:
            if operator.leads():
                self.faults.freeze(operator)

    async def _help(self) -> None:
        """A human who does what the status says: `retry`, once the cause is gone."""
        number = 0
        while True:
            await asyncio.sleep(HUMAN_SECONDS)
            if not self.stage.cluster.corrupt:
                for name in [n for n, p in self.stage.cluster.pods.items() if p.refuses()]:
                    self.stage.cluster.kill_pod(name)  # its status said which pod refused the table, and why
            stages = {m.get("status", {}).get("phase") for m in self.stage.modules()}
            if self.stage.phase() == "Stalled" or stages & {"Held", "Rejected"}:
                number += 1
                self.stage.api.update(
                    ("hybridmodels", NAMESPACE, NAME),
                    lambda m, n=number: (
                        m["metadata"]
                        .setdefault("annotations", {})
                        .update(  # type: ignore[misc]  # bound on purpose
                            {ANNOTATION_COMMAND: f"retry human-{n}"}
                        )
                    ),
                )


def run_world(name: str, world: World, *, seed: int = 0, expected: dict[str, Any] | None = None) -> Verdict:
    """One run, in virtual time."""
    global_random.seed(seed)

    async def main(clock: Callable[[], float]) -> Verdict:
        run = Run(world, clock, Random(seed))
        await run.live()
        final = run.oracle.finish(expected=expected)
        return Verdict(
            name=name,
            violations=run.oracle.violations,
            points=run.faults.points,
            kills=run.faults.kills,
            hits=run.faults.hits,
            seconds=clock(),
            final=final,
        )

    return in_virtual_time(main)


@cache
def undisturbed() -> Verdict:
    """The life without faults: the end that all others must come to."""
    return run_world("undisturbed", World())


def disturbed(seed: int) -> Verdict:
    """A run with a mix of faults."""
    return run_world(f"seed {seed}", draw(seed), seed=seed, expected=undisturbed().final)


def killed(point: int) -> Verdict:
    """A run in which the operator is killed once, at that point: it comes back by itself, as another Pod, or another
    one that waits for the lease takes over."""
    world = World(plan=Plan(kill_at=frozenset({point})), standby=point % 3 == 2, same_name=point % 3 == 0)
    return run_world(f"killed at point {point}", world, seed=point, expected=undisturbed().final)
