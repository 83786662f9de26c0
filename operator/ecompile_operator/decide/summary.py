"""Status for people: conditions, phase, coverage, one sentence. Nothing decides on what is computed here."""

from __future__ import annotations

from ecompile_crds.compiledmodule import SERVING_STAGES, Stage
from ecompile_crds.conditions import Condition, ConditionStatus, ConditionType, merge
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import HybridModelStatus, LifeStatus, ModelPhase, SegmentStatus

from .clock import to_condition_time
from .draft import Draft
from .gate import total, unacknowledged
from .observed import Counters
from .stages import ready_pods, reports_of

MIN_REQUESTS_FOR_COVERAGE = 20
"""Below this a share of requests is noise and is not shown."""

IN_TRANSIT = frozenset(
    {
        Stage.PENDING,
        Stage.VALIDATING,
        Stage.VALIDATED,
        Stage.SHADOW,
        Stage.CANARY,
        Stage.ROLLING_BACK,
        Stage.ROLLED_BACK,
        Stage.REVALIDATING,
    }
)
OUT_OF_SERVICE = frozenset({Stage.ROLLING_BACK, Stage.ROLLED_BACK, Stage.REVALIDATING, Stage.HELD})
WEAKEST_FIRST = (EvidenceKind.SAMPLED, EvidenceKind.CERTIFIED, EvidenceKind.PROVEN)


def _condition(type_: ConditionType, status: ConditionStatus, reason: str, message: str, generation: int) -> Condition:
    return Condition(type=type_.value, status=status, reason=reason, message=message, observed_generation=generation)


def _yes(flag: bool) -> ConditionStatus:
    return "True" if flag else "False"


def stages(draft: Draft) -> list[Stage]:
    """Stages of the modules that matter now."""
    lives = {draft.life.key} | ({draft.serving.key} if draft.serving is not None else set())
    return [draft.stage(m) for m in draft.observed.modules if m.spec.life in lives]


def conditions(draft: Draft) -> tuple[Condition, ...]:
    """The seven conditions, transition times kept."""
    observed, generation = draft.observed, draft.observed.generation
    life = draft.life
    current = stages(draft)
    deployment = observed.deployment
    available = deployment is not None and deployment.ready >= 1
    switched = draft.serving is not None and draft.serving.key == life.key
    degraded = [s for s in current if s in OUT_OF_SERVICE]
    in_transit = (
        not life.profiled
        or not life.distilled
        or not switched
        or bool(draft.new_modules)
        or any(s in IN_TRANSIT for s in current)
        or deployment is None
        or deployment.ready < deployment.replicas
    )
    stalled = bool(draft.stalled)
    reconciling = in_transit and not stalled and not draft.spec.suspend
    ready = available and switched and not in_transit and not stalled
    note = draft.notes[0] if draft.notes else (_what_is_missing(draft) if in_transit or not available else "")
    waiting = "Suspended" if draft.spec.suspend else "Reconciling"
    return (
        _condition(
            ConditionType.PROFILED,
            _yes(life.profiled),
            "Profiled" if life.profiled else "NotProfiled",
            f"{len(life.segments)} segments" if life.profiled else note,
            generation,
        ),
        _condition(
            ConditionType.DISTILLED,
            _yes(life.distilled),
            "Distilled" if life.distilled else "NotDistilled",
            f"{sum(1 for s in life.segments if s.pays)} segments pay off as code" if life.distilled else "",
            generation,
        ),
        _condition(
            ConditionType.SERVING_AVAILABLE,
            _yes(available),
            "PodsReady" if available else "NoReadyPod",
            pods_note(draft) if deployment is not None else "not created yet",
            generation,
        ),
        _condition(
            ConditionType.DEGRADED,
            _yes(bool(degraded)),
            degraded[0].value if degraded else "AllWell",
            f"{len(degraded)} modules out of service; the neural path serves" if degraded else "",
            generation,
        ),
        _condition(
            ConditionType.STALLED,
            _yes(stalled),
            "Stalled" if stalled else "NotStalled",
            draft.stalled,
            generation,
        ),
        _condition(
            ConditionType.RECONCILING,
            _yes(reconciling),
            waiting if in_transit else "Settled",
            note if in_transit else "",
            generation,
        ),
        _condition(
            ConditionType.READY,
            _yes(ready),
            "Ready" if ready else ("Stalled" if stalled else waiting if in_transit else "NotAvailable"),
            draft.stalled or note,
            generation,
        ),
    )


def _what_is_missing(draft: Draft) -> str:
    """Why the model is not ready, where no step has left a note."""
    deployment = draft.observed.deployment
    if deployment is None:
        return "the serving pods are being created" if draft.serving is not None else "the model is being read"
    if deployment.ready < deployment.replicas:
        return pods_note(draft)
    if draft.new_modules:
        return f"CompiledModule {draft.new_modules[0].name} is being created"
    moving = [m for m in draft.observed.modules if draft.stage(m) in IN_TRANSIT]
    if moving:
        return f"{moving[0].name} is {draft.stage(moving[0]).value}"
    return f"serving moves to {draft.life.source_uri} next"


def pods_note(draft: Draft) -> str:
    """How many serving pods are ready, and why the others are not."""
    deployment = draft.observed.deployment
    assert deployment is not None
    waiting = [p for p in draft.observed.pods if not p.ready and p.waiting_reason]
    why = f": pod {waiting[0].name}: {waiting[0].waiting_reason}" if waiting else ""
    return f"{deployment.ready} of {deployment.replicas} serving pods are ready{why}"


def phase(draft: Draft) -> ModelPhase:
    """One word for the first column."""
    current = stages(draft)
    if draft.stalled:
        return ModelPhase.STALLED
    if draft.spec.suspend:
        return ModelPhase.SUSPENDED
    if not draft.life.profiled:
        return ModelPhase.PROFILING if draft.jobs else ModelPhase.PENDING
    if not draft.life.distilled:
        return ModelPhase.DISTILLING
    if any(s in (Stage.SHADOW, Stage.CANARY) for s in current):
        return ModelPhase.ROLLING_OUT
    if any(s in OUT_OF_SERVICE for s in current):
        return ModelPhase.DEGRADED
    if draft.new_modules or any(s in (Stage.PENDING, Stage.VALIDATING) for s in current):
        return ModelPhase.VALIDATING
    if Stage.VALIDATED in current:
        return ModelPhase.ROLLING_OUT
    return ModelPhase.PROMOTED if Stage.PROMOTED in current else ModelPhase.NEURAL


def segments(draft: Draft, life: LifeStatus) -> list[SegmentStatus]:
    """The life's segments with the module and mode now in force."""
    found = []
    for segment in life.segments:
        modules = [m for m in draft.of_life(life.key) if m.spec.segment == segment.index]
        served = [m for m in modules if draft.stage(m) in SERVING_STAGES]
        candidates = served or modules
        module = candidates[-1] if candidates else None
        mode = {Stage.SHADOW: "shadow", Stage.CANARY: "canary", Stage.PROMOTED: "compiled"}.get(
            draft.stage(module) if module is not None else Stage.PENDING, "neural"
        )
        found.append(segment.model_copy(update={"module": module.name if module is not None else None, "mode": mode}))
    return found


def coverage(draft: Draft) -> tuple[float | None, float | None]:
    """Deterministic and proven coverage: the least share, over promoted segments, of requests answered by code."""
    if draft.serving is None:
        return None, None
    reports = reports_of(draft, draft.serving.key)
    generation = draft.observed.status.routing.generation
    shares: list[float] = []
    proven: list[float] = []
    for module in draft.of_life(draft.serving.key):
        if draft.stage(module) is not Stage.PROMOTED:
            continue
        since = max(generation, draft.modules[module.name].rollout.generation)
        counters = total(reports, module.spec.segment, since)
        if counters.requests < MIN_REQUESTS_FOR_COVERAGE:
            return draft.observed.status.deterministic_coverage, draft.observed.status.proven_coverage
        share = round(counters.compiled / counters.requests, 2)
        shares.append(share)
        proven.append(round(share * _proven_share(module.spec.evidence, counters), 2))
    return (min(shares), min(proven)) if shares else (0.0, 0.0)


def _proven_share(evidence: Evidence, counters: Counters) -> float:
    """Of the requests that the module answered, those for which it is proven: all where its evidence says so, else the
    share of compared requests whose inputs lie in a proven region. Comparisons are drawn at random."""
    if evidence.kind is EvidenceKind.PROVEN:
        return 1.0
    return counters.proven_comparisons / counters.comparisons if counters.comparisons else 0.0


def weakest_evidence(draft: Draft) -> str:
    """Label of the weakest evidence in service; empty where nothing is promoted."""
    found: list[Evidence] = [m.spec.evidence for m in draft.observed.modules if draft.stage(m) is Stage.PROMOTED]
    weakest = min(found, key=lambda e: WEAKEST_FIRST.index(e.kind), default=None)
    return weakest.label() if weakest is not None else ""


def speedup(draft: Draft) -> float | None:
    """Least measured speed-up among promoted modules, against ONNX Runtime at batch 1."""
    found = [
        m.spec.speedup
        for m in draft.observed.modules
        if draft.stage(m) is Stage.PROMOTED and m.spec.speedup is not None
    ]
    return round(min(found), 2) if found else None


def summarise(draft: Draft, base: HybridModelStatus) -> HybridModelStatus:
    """`base` with everything that people read filled in."""
    observed = draft.observed
    deterministic, proven = coverage(draft)
    deployment = observed.deployment
    pods = ready_pods(draft, base.routing.life)
    missing = unacknowledged(pods, reports_of(draft, base.routing.life), base.routing.generation)
    serving = draft.serving
    if serving is not None:
        serving = serving.model_copy(update={"segments": segments(draft, serving)})
    life = draft.life.model_copy(update={"segments": segments(draft, draft.life)})
    current = conditions(draft)
    ready = next(c for c in current if c.type == ConditionType.READY.value)
    message = draft.stalled or ready.message
    return base.model_copy(
        update={
            "observed_generation": observed.generation,
            "phase": phase(draft),
            "message": message,
            "conditions": list(merge(observed.status.conditions, current, now=to_condition_time(draft.now))),
            "progress": observed.progress if draft.jobs else "",
            "life": life,
            "serving": serving,
            "routing": base.routing.model_copy(
                update={"live_pods": len(pods), "acknowledged_pods": len(pods) - len(missing)}
            ),
            "deterministic_coverage": deterministic,
            "proven_coverage": proven,
            "speedup": speedup(draft),
            "evidence": weakest_evidence(draft),
            "replicas": deployment.replicas if deployment is not None else 0,
            "ready_replicas": deployment.ready if deployment is not None else 0,
        }
    )
