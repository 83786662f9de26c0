"""From source to modules: profile, distil, create one CompiledModule per segment that pays, and switch serving over."""

from __future__ import annotations

import json

from ecompile_crds.compiledmodule import BundleRef, CompiledModuleSpec, Stage
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import FailureStatus, HybridModelSpec, LifeStatus, SegmentStatus
from ecompile_crds.jobs import DistillReport, JobInput, JobKind, JobResult, ProfileReport
from ecompile_crds.names import short_hash

from .decision import ModelEvent, NewModule
from .draft import Draft
from .jobsteps import run_step
from .observed import Observed

SETTLED = frozenset({Stage.VALIDATED, Stage.REJECTED, Stage.HELD, Stage.RETIRED})
"""Stages in which a new life's module waits for nothing but serving."""


def life_key(spec: HybridModelSpec) -> str:
    """Names everything that profiling and distillation depend on; a change starts a new life."""
    return short_hash(
        spec.source.uri,
        spec.source.digest or "",
        spec.source.format.value,
        spec.calibration.uri,
        spec.calibration.digest or "",
        json.dumps(spec.distill.model_dump(mode="json", by_alias=True), sort_keys=True),
    )


def current_life(observed: Observed, spec: HybridModelSpec) -> LifeStatus:
    """What is known of the life that the spec asks for."""
    key = life_key(spec)
    for known in (observed.status.life, observed.status.serving):
        if known is not None and known.key == key:
            return known
    return LifeStatus(key=key, source_uri=spec.source.uri, source_digest=spec.source.digest)


def job_input(draft: Draft, *, kind: JobKind, job: str) -> JobInput:
    """What every Job of this life is told."""
    spec, life = draft.spec, draft.life
    return JobInput(
        kind=kind,
        namespace=draft.observed.namespace,
        model=draft.observed.name,
        job=job,
        life=life.key,
        source_uri=spec.source.uri,
        source_digest=spec.source.digest or life.source_digest,
        source_format=spec.source.format.value,
        calibration_uri=spec.calibration.uri,
        calibration_digest=spec.calibration.digest,
        held_out_uri=spec.held_out.uri if spec.held_out is not None else None,
        artifacts_uri=draft.observed.artifacts_uri,
        distill=spec.distill.model_dump(mode="json", by_alias=True),
        equivalence=spec.equivalence.model_dump(mode="json", by_alias=True, exclude_none=True),
        plan_uri=life.plan_uri,
    )


def advance_life(draft: Draft, failure: FailureStatus | None) -> FailureStatus | None:
    """Profile, then distil, then want the modules. Returns the failure record to keep."""
    if not draft.life.profiled:
        job, failure = run_step(
            draft,
            failure,
            step=f"profile/{draft.life.key}",
            kind=JobKind.PROFILE,
            parts=(draft.life.key,),
            make_input=lambda name: job_input(draft, kind=JobKind.PROFILE, job=name),
            completions=1,
        )
        report = job.results[0].profile if job is not None else None
        if report is None:
            return failure
        draft.life = _profiled(draft.life, report)
        draft.events.append(_profiled_event(report))
    if not draft.life.distilled:
        segments = segments_to_distill(draft.life, draft.spec.distill.max_segments)
        if not segments:
            draft.life = draft.life.model_copy(update={"distilled": True})
            return None
        key = draft.life.key
        job, failure = run_step(
            draft,
            failure,
            step=f"distill/{key}",
            kind=JobKind.DISTILL,
            parts=(key,),
            make_input=lambda name: job_input(draft, kind=JobKind.DISTILL, job=name).model_copy(
                update={"segments": segments}
            ),
            completions=len(segments),
        )
        if job is None:
            return failure
        reports = [
            result.distill or _not_distilled(segments[index], result) for index, result in sorted(job.results.items())
        ]
        draft.life = _distilled(draft.life, reports)
        paying = sum(1 for report in reports if report.pays)
        draft.events.append(
            ModelEvent(
                type="Normal",
                reason="Distilled",
                message=f"{paying} of {len(segments)} segments pay off as code.",
            )
        )
    _want_modules(draft)
    return None


def _not_distilled(segment: int, result: JobResult) -> DistillReport:
    """A segment whose distillation failed for good stays neural, with the reason."""
    failure = result.failure
    reason = f"[{int(failure.code)}] {failure.message}" if failure is not None else "no result"
    return DistillReport(segment=segment, pays=False, reason=reason)


def segments_to_distill(life: LifeStatus, limit: int) -> tuple[int, ...]:
    """Segments that can be compiled, the `limit` largest by multiply-adds, in order."""
    candidates = sorted((s for s in life.segments if s.compilable), key=lambda s: (-s.macs, s.index))[:limit]
    return tuple(sorted(s.index for s in candidates))


def switch_serving(draft: Draft) -> None:
    """Serve the wanted life as soon as that interrupts nothing: at once where nothing serves yet, otherwise when the
    new life's modules have been validated or refused."""
    life = draft.life
    if not life.profiled:
        return
    if draft.serving is not None and draft.serving.key != life.key:
        if draft.spec.suspend or not life.distilled or draft.new_modules:
            return
        if any(draft.stage(m) not in SETTLED for m in draft.of_life(life.key)):
            return
        draft.events.append(
            ModelEvent(
                type="Normal",
                reason="SourceSwitched",
                message=f"Serving moves from life {draft.serving.key} to {life.key}.",
            )
        )
    draft.serving = life


def _profiled(life: LifeStatus, report: ProfileReport) -> LifeStatus:
    segments = [
        SegmentStatus(index=s.index, name=s.name, compilable=s.compilable, reason=s.reason, macs=s.macs)
        for s in sorted(report.segments, key=lambda s: s.index)
    ]
    return life.model_copy(
        update={
            "profiled": True,
            "source_digest": report.source_digest,
            "plan_uri": report.plan_uri,
            "segments": segments,
        }
    )


def _profiled_event(report: ProfileReport) -> ModelEvent:
    compilable = sum(1 for s in report.segments if s.compilable)
    neural = "; ".join(f"{s.name} stays neural: {s.reason}" for s in report.segments if not s.compilable)
    message = f"{compilable} of {len(report.segments)} segments can be compiled. {neural}".strip()
    return ModelEvent(type="Normal", reason="Profiled", message=message)


def _distilled(life: LifeStatus, reports: list[DistillReport]) -> LifeStatus:
    by_segment = {report.segment: report for report in reports}
    segments = []
    for segment in life.segments:
        report = by_segment.get(segment.index)
        if report is not None:
            segment = segment.model_copy(
                update={
                    "pays": report.pays,
                    "reason": report.reason,
                    "strategy": report.strategy,
                    "evidence": report.evidence,
                    "speedup": report.speedup,
                    "bundle_uri": report.bundle_uri,
                    "bundle_digest": report.bundle_digest,
                }
            )
        segments.append(segment)
    return life.model_copy(update={"distilled": True, "segments": segments})


def module_name(model: str, segment: int, life: str, digest: str) -> str:
    """Deterministic name of the module of one segment."""
    return f"{model}-s{segment}-{short_hash(life, str(segment), digest)}"


def _want_modules(draft: Draft) -> None:
    if draft.spec.suspend:
        return
    existing = {m.name for m in draft.observed.modules}
    for segment in draft.life.segments:
        if not segment.pays or segment.bundle_uri is None or segment.bundle_digest is None:
            continue
        name = module_name(draft.observed.name, segment.index, draft.life.key, segment.bundle_digest)
        if name in existing or draft.life.source_digest is None:
            continue
        draft.new_modules.append(
            NewModule(
                name=name,
                spec=CompiledModuleSpec(
                    model_ref=draft.observed.name,
                    segment=segment.index,
                    life=draft.life.key,
                    bundle=BundleRef(uri=segment.bundle_uri, digest=segment.bundle_digest),
                    source_digest=draft.life.source_digest,
                    strategy=segment.strategy or "exact",
                    evidence=segment.evidence or Evidence(kind=EvidenceKind.SAMPLED, samples=0),
                    speedup=segment.speedup,
                ),
            )
        )
        draft.events.append(
            ModelEvent(type="Normal", reason="ModuleCreated", message=f"CompiledModule {name} for {segment.name}.")
        )
