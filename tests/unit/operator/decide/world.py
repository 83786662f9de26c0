"""A perfect cluster in memory: applies decisions, and lets a test say what Jobs, pods and people do.

Not a mock of the thing under test: `decide` runs as it is; only its surroundings are simulated, time included.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from ecompile_crds.audit import AuditRecord
from ecompile_crds.compiledmodule import CompiledModuleSpec, CompiledModuleStatus, Stage
from ecompile_crds.errors import Code
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import HybridModelSpec, HybridModelStatus
from ecompile_crds.jobs import (
    DistillReport,
    Failure,
    JobInput,
    JobKind,
    JobResult,
    ProfileReport,
    SegmentReport,
    ValidateReport,
)
from ecompile_crds.routing import RoutingTable
from ecompile_operator.decide.decide import decide
from ecompile_operator.decide.decision import Decision, ModelEvent
from ecompile_operator.decide.observed import (
    AlertKind,
    AuditHead,
    Counters,
    GroupCounters,
    JobPhase,
    MergedEvidence,
    Observed,
    ObservedDeployment,
    ObservedJob,
    ObservedModule,
    ObservedPod,
    PodAlert,
    PodReport,
    RemoteAlert,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE_DIGEST = "sha256:" + "a" * 64


def make_spec(**changes: object) -> HybridModelSpec:
    """A valid spec plus the one change that matters; keys are top-level camelCase fields."""
    base: dict[str, object] = {
        "source": {"uri": "file:///artifacts/digits/model.onnx"},
        "calibration": {"uri": "file:///artifacts/digits/calibration.npz"},
        "serving": {"replicas": 2},
        "rollout": {
            "steps": [
                {"mode": "shadow", "minComparisons": 10, "deadlineSeconds": 60},
                {"mode": "canary", "weight": 0.5, "minComparisons": 10, "deadlineSeconds": 60},
            ]
        },
        "revalidation": {"backoffSeconds": 10, "maxAttempts": 2},
    }
    return HybridModelSpec.model_validate({**base, **changes})


@dataclass
class World:
    """One HybridModel and everything around it."""

    spec: HybridModelSpec = field(default_factory=make_spec)
    now: datetime = START
    generation: int = 1
    status: HybridModelStatus = field(default_factory=HybridModelStatus)
    command: str | None = None
    modules: dict[str, tuple[CompiledModuleSpec, CompiledModuleStatus]] = field(default_factory=dict)
    jobs: dict[str, ObservedJob] = field(default_factory=dict)
    inputs: dict[str, JobInput] = field(default_factory=dict)
    deployment: ObservedDeployment | None = None
    pods: tuple[ObservedPod, ...] = ()
    reports: dict[str, PodReport] = field(default_factory=dict)
    evidence: tuple[MergedEvidence, ...] = ()
    remote_alerts: tuple[RemoteAlert, ...] = ()
    audit: list[AuditRecord] = field(default_factory=list)
    events: list[ModelEvent] = field(default_factory=list)
    segments: int = 1
    worker_image: str = "worker:1"
    last: Decision | None = None

    def observed(self) -> Observed:
        """What `observe` would read now."""
        return Observed(
            namespace="default",
            name="digits",
            uid="uid-1",
            generation=self.generation,
            spec=self.spec,
            status=self.status,
            command=self.command,
            modules=tuple(
                ObservedModule(name=n, uid=n, generation=1, spec=s, status=t) for n, (s, t) in self.modules.items()
            ),
            jobs=tuple(self.jobs.values()),
            deployment=self.deployment,
            pods=self.pods,
            reports=tuple(self.reports.values()),
            evidence=self.evidence,
            remote_alerts=self.remote_alerts,
            worker_image=self.worker_image,
            audit=AuditHead.of(reversed(self.audit)) if self.audit else None,
        )

    def step(self, *, seconds: float = 1.0) -> Decision:
        """Let time pass, decide once, apply."""
        self.now += timedelta(seconds=seconds)
        decision = decide(self.observed(), self.now)
        self.apply(decision)
        return decision

    def apply(self, decision: Decision) -> None:
        self.last = decision
        self.status = decision.status
        self.events.extend(decision.events)
        self.audit.extend(decision.audit)
        for update in decision.module_updates:
            self.modules[update.name] = (self.modules[update.name][0], update.status)
        for new in decision.new_modules:
            self.modules.setdefault(new.name, (new.spec, CompiledModuleStatus()))
        for name in decision.delete_jobs:
            self.jobs.pop(name, None)
        for job in decision.jobs:
            self.inputs[job.name] = job.input
            self.jobs.setdefault(
                job.name,
                ObservedJob(
                    name=job.name,
                    kind=job.input.kind,
                    life=job.input.life,
                    phase=JobPhase.RUNNING,
                    image=self.worker_image,
                    completions=job.completions,
                    module=job.owner_module or "",
                    created_at=self.now,
                ),
            )
        if decision.serving is not None:
            life = decision.serving.life
            replicas = max(self.spec.serving.replicas, decision.serving.least_replicas)
            if self.deployment is None or self.deployment.life != life:
                self.deployment = ObservedDeployment(name="digits", life=life, replicas=replicas)
            elif self.deployment.replicas != replicas:
                self.deployment = replace(self.deployment, replicas=replicas)

    def settle(self, *, limit: int = 50) -> None:
        """Decide until nothing changes."""
        for _ in range(limit):
            before = (self.status, dict(self.modules), dict(self.jobs))
            self.step(seconds=0.01)
            if before == (self.status, dict(self.modules), dict(self.jobs)):
                return
        raise AssertionError("decisions do not settle")

    def change_spec(self, **changes: object) -> None:
        self.spec = make_spec(**changes)
        self.generation += 1

    def running(self) -> list[ObservedJob]:
        return [j for j in self.jobs.values() if j.phase is JobPhase.RUNNING]

    def finish_job(self, *, passed: bool = True, pays: bool = True) -> None:
        """The running Job ends with a full result."""
        for job in self.running():
            results = self._results(job, passed=passed, pays=pays)
            self.jobs[job.name] = replace(job, phase=JobPhase.SUCCEEDED, results=results)

    def fail_job(self, code: Code = Code.CRASHED, *, retryable: bool = True) -> None:
        for job in self.running():
            failure = Failure(code=code, message="it broke", retryable=retryable)
            self.jobs[job.name] = replace(job, phase=JobPhase.FAILED, results={0: JobResult(failure=failure)})

    def _results(self, job: ObservedJob, *, passed: bool, pays: bool) -> dict[int, JobResult]:
        told = self.inputs[job.name]
        match job.kind:
            case JobKind.PROFILE:
                segments = tuple(
                    SegmentReport(index=i, name=f"segment-{i}", compilable=True, macs=100) for i in range(self.segments)
                )
                report = ProfileReport(
                    source_digest=SOURCE_DIGEST, plan_uri=f"file:///artifacts/{job.life}/plan.json", segments=segments
                )
                return {0: JobResult(profile=report)}
            case JobKind.DISTILL:
                return {
                    index: JobResult(
                        distill=DistillReport(
                            segment=segment,
                            pays=pays,
                            bundle_uri=f"file:///artifacts/{job.life}/{segment}.eco",
                            bundle_digest=f"sha256:{segment:064x}",
                            strategy="exact",
                            evidence=Evidence(kind=EvidenceKind.SAMPLED, samples=1100, bound=2.7e-3),
                            speedup=5.0,
                        )
                    )
                    for index, segment in enumerate(told.segments)
                }
            case JobKind.VALIDATE:
                assert told.segment is not None
                validation = ValidateReport(
                    segment=told.segment, attempt=told.attempt, passed=passed, reason="measured"
                )
                return {0: JobResult(validation=validation)}

    def pods_ready(self) -> None:
        """The Deployment finishes its rolling update."""
        assert self.deployment is not None
        replicas = self.deployment.replicas
        life = self.deployment.life
        self.deployment = replace(self.deployment, replicas=replicas, ready=replicas, updated=replicas)
        self.pods = tuple(ObservedPod(name=f"{life}-{i}", life=life, ready=True) for i in range(replicas))
        self.reports = {n: r for n, r in self.reports.items() if n in {p.name for p in self.pods}}

    def table(self) -> RoutingTable | None:
        text = self.status.routing.table_json
        return RoutingTable.model_validate_json(text) if text else None

    def report(
        self,
        *,
        delta: float = 1e-6,
        comparisons: int = 100,
        fallbacks: int = 0,
        generation: int | None = None,
        alert: AlertKind | None = None,
        compiled_p50: float = 1e-5,
        groups: tuple[GroupCounters, ...] = (),
        requests_per_second: float = 0.0,
    ) -> None:
        """Every pod reports: acknowledged, with the given traffic since."""
        acknowledged = self.status.routing.generation if generation is None else generation
        for pod in self.pods:
            counters = tuple(
                Counters(
                    segment=i,
                    requests=comparisons + fallbacks,
                    compiled=comparisons,
                    fallbacks=fallbacks,
                    guard_checked=comparisons + fallbacks,
                    comparisons=comparisons,
                    delta_sum=delta * comparisons,
                    delta_max=delta,
                    compiled_p50_seconds=compiled_p50,
                    neural_p50_seconds=5e-5,
                    latency_samples=comparisons,
                    groups=groups,
                )
                for i in range(self.segments)
            )
            alerts: tuple[PodAlert, ...] = ()
            if alert is not None:
                alerts = (
                    PodAlert(
                        kind=alert,
                        segment=0,
                        value=1.0,
                        limit=0.05,
                        detail=f"{alert.value} seen",
                        generation=acknowledged,
                    ),
                )
            self.reports[pod.name] = PodReport(
                pod=pod.name,
                life=pod.life,
                received_at=self.now,
                generation=acknowledged,
                counters=counters,
                alerts=alerts,
                requests_per_second=requests_per_second,
            )

    def alertmanager(self, kind: AlertKind = AlertKind.DRIFT, *, since: int | None = None) -> None:
        """Alertmanager says that an alert fires; `since`: the generation at which it said so first."""
        now = self.status.routing.generation
        alert = PodAlert(kind=kind, segment=0, value=0.5, limit=2e-3, detail="EcompileDrift: fires", generation=now)
        self.remote_alerts = (RemoteAlert(alert=alert, first_generation=now if since is None else since),)

    def silence(self) -> None:
        """No pod has been heard of."""
        self.reports = {}

    def module(self, segment: int = 0, life: str | None = None) -> CompiledModuleStatus:
        wanted = life or (self.status.life.key if self.status.life is not None else "")
        return next(t for s, t in self.modules.values() if s.segment == segment and s.life == wanted)

    def stage(self, segment: int = 0) -> Stage:
        return self.module(segment).rollout.stage

    # Ways to a stage, each by the public path.

    def to_validating(self) -> World:
        self.settle()
        self.finish_job()
        self.settle()
        self.finish_job()
        self.settle()
        assert self.stage() is Stage.VALIDATING
        return self

    def to_shadow(self) -> World:
        self.to_validating()
        self.finish_job()
        self.settle()
        self.pods_ready()
        self.settle()
        assert self.stage() is Stage.SHADOW
        return self

    def to_canary(self) -> World:
        self.to_shadow()
        self.report()
        self.step()
        assert self.stage() is Stage.CANARY
        return self

    def to_promoted(self) -> World:
        self.to_canary()
        self.report()
        self.step()
        assert self.stage() is Stage.PROMOTED
        return self

    def to_rolled_back(self) -> World:
        self.to_promoted()
        self.report()
        self.report(alert=AlertKind.DRIFT)
        self.step()
        assert self.stage() is Stage.ROLLING_BACK
        self.report()
        self.step()
        assert self.stage() is Stage.ROLLED_BACK
        return self
