"""The loop around observe, decide and apply: late facts, stale facts, and faults of one model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ecompile_crds.hybridmodel import HybridModelStatus
from ecompile_crds.jobs import DistillReport, JobResult
from ecompile_operator.apply.apply import Applier
from ecompile_operator.apply.events import EventEmitter
from ecompile_operator.apply.trust import TrustKeeper
from ecompile_operator.control.hub import Hub
from ecompile_operator.decide.decision import Decision
from ecompile_operator.decide.observed import Observed
from ecompile_operator.kube.client import Manifest
from ecompile_operator.kube.errors import Conflict
from ecompile_operator.kube.kinds import HYBRIDMODEL, POD, Kind
from ecompile_operator.observe.cache import Cache, ModelKey
from ecompile_operator.queue import WorkQueue
from ecompile_operator.reconciler import Reconciler
from ecompile_operator.settings import Settings
from ecompile_operator.slots import RolloutSlots
from ecompile_operator.storms import Storms

from .children import NAMESPACE, ended, job, model, pod
from .fake_api import FakeClient
from .virtual_time import run

Clock = Callable[[], float]
KEY = (NAMESPACE, "net")
RESULT = JobResult(distill=DistillReport(segment=0, pays=False))


class Server(FakeClient):
    """Lists what it is given; may refuse status writes as stale."""

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[str, list[Manifest]] = {}
        self.stale_writes = 0

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[Manifest], str]:
        self._check(f"list {kind.kind}")
        return self.items.get(kind.kind, []), "1000"

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str | None = None) -> Manifest:
        self._check(f"apply {kind.kind} {manifest['metadata']['name']} at {manifest['metadata']['resourceVersion']}")
        if self.stale_writes:
            self.stale_writes -= 1
            raise Conflict("the object has been modified", status=409)
        return {**model(version=500, name=manifest["metadata"]["name"]), "status": manifest["status"]}


class Stage:
    """A reconciler over a fake server, with a decision of the test's choice."""

    def __init__(self, clock: Clock) -> None:
        self.server = Server()
        self.seen: list[Observed] = []
        self.answer: Callable[[Observed], Decision] = lambda observed: Decision(status=observed.status)
        self.queue: WorkQueue[ModelKey] = WorkQueue(clock, jitter=lambda: 1.0)
        self.cache = Cache(self.queue.add)

        def now() -> datetime:
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=clock())

        def decide(observed: Observed, _: datetime) -> Decision:
            self.seen.append(observed)
            return self.answer(observed)

        hub = Hub(self.queue.add, now)
        applier = Applier(
            client=self.server,
            cache=self.cache,
            hub=hub,
            settings=Settings(),
            trust=TrustKeeper(self.server, ca_certificate="", clock=clock),
            leading=lambda: True,
            events=EventEmitter(self.server, self.cache, instance="me", now=now),
        )
        self.reconciler = Reconciler(
            client=self.server,
            cache=self.cache,
            hub=hub,
            queue=self.queue,
            applier=applier,
            decide=decide,
            now=now,
            artifacts_uri="file:///artifacts",
            worker_image="worker:1",
            slots=RolloutSlots(self.cache, limit=0, limit_per_namespace=0),
            storms=Storms(self.cache, models=0, seconds=300),
        )

    async def work(self, seconds: float) -> None:
        task = asyncio.create_task(self.reconciler.run())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def message(observed: Observed, text: str) -> Decision:
    return Decision(status=observed.status.model_copy(update={"message": text}))


def test_the_end_of_a_job_known_before_the_end_of_its_pod_is_no_lost_result() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)
        stage.server.items[POD.kind] = [pod("p", result=RESULT)]
        stage.cache.put_model("applied", model())
        stage.cache.put_child("Job", "applied", job(status=ended("Complete")))
        await stage.work(1)
        assert all(observed.jobs[0].results == {0: RESULT} for observed in stage.seen)
        assert stage.seen

    run(main)


def test_a_job_that_ends_while_the_pods_of_another_are_read_has_not_lost_its_result() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)
        listed: list[str] = []

        async def late(kind: Kind, namespace: str | None, *, labels: str = "", fields: str = "") -> object:
            listed.append(labels)
            name = labels.rpartition("=")[2]
            if len(listed) == 1:
                stage.cache.put_child("Job", "applied", job("net-distill-2", status=ended("Complete")))
            return [pod(f"{name}-0", of=name, result=RESULT)], "1000"

        stage.server.list = late  # type: ignore[method-assign,assignment]  # the server of this test only
        stage.cache.put_model("applied", model())
        stage.cache.put_child("Job", "applied", job(status=ended("Complete")))
        await stage.work(1)
        assert stage.seen
        for observed in stage.seen:
            assert all(found.results == {0: RESULT} for found in observed.jobs)

    run(main)


def test_a_result_that_is_really_lost_is_looked_for_once() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)
        stage.cache.put_model("applied", model())
        stage.cache.put_child("Job", "applied", job(status=ended("Complete")))
        await stage.work(1)
        stage.queue.add(KEY)
        await stage.work(1)
        assert len(stage.seen) == 2
        assert stage.server.calls.count("list Pod") == 1

    run(main)


def test_a_decision_on_stale_facts_is_made_again_on_fresh_ones() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)
        stage.server.stale_writes = 1
        stage.server.items[HYBRIDMODEL.kind] = [model(version=400)]
        stage.answer = lambda observed: message(observed, "hello")
        stage.cache.put_model("applied", model(version=300))
        await stage.work(5)
        writes = [call for call in stage.server.calls if call.startswith("apply")]
        assert writes == ["apply HybridModel net at 300", "apply HybridModel net at 400"]

    run(main)


def test_a_model_that_vanished_unnoticed_is_forgotten() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)
        stage.server.stale_writes = 1
        stage.answer = lambda observed: message(observed, "hello")
        stage.cache.put_model("applied", model(version=300))
        await stage.work(5)
        assert stage.cache.models == {}
        assert len(stage.seen) == 1

    run(main)


def test_a_fault_in_one_model_is_told_and_does_not_stop_another() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)

        def answer(observed: Observed) -> Decision:
            if observed.name == "bad":
                raise ZeroDivisionError("oh")
            return message(observed, "hello")

        stage.answer = answer
        stage.cache.put_model("applied", model(name="bad"))
        stage.cache.put_model("applied", model(name="net"))
        await stage.work(30)
        assert any(call.startswith("apply HybridModel net") for call in stage.server.calls)
        events = [o for (kind, _, _), o in stage.server.objects.items() if kind == "Event"]
        assert [(e["reason"], e["involvedObject"]["name"]) for e in events] == [("InternalError", "bad")]
        tries = [o for o in stage.seen if o.name == "bad"]
        assert 5 <= len(tries) <= 12, "it is tried again, at growing distances"

    run(main)


def test_an_unchanged_status_is_not_written() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)
        stage.cache.put_model("applied", model())
        await stage.work(5)
        assert stage.seen and stage.seen[0].status == HybridModelStatus()
        assert stage.server.calls == []

    run(main)


def test_the_wake_up_time_is_kept() -> None:
    async def main(clock: Clock) -> None:
        stage = Stage(clock)
        start = datetime(2026, 1, 1, tzinfo=UTC)

        def answer(observed: Observed) -> Decision:
            wake_at = start + timedelta(seconds=30) if len(stage.seen) == 1 else None
            return Decision(status=observed.status, wake_at=wake_at)

        stage.answer = answer
        stage.cache.put_model("applied", model())
        await stage.work(29)
        assert len(stage.seen) == 1
        await stage.work(2)
        assert len(stage.seen) == 2

    run(main)
