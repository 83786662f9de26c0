"""Distill: one segment becomes a signed bundle, if that pays."""

from __future__ import annotations

from ecompile_crds.errors import Code, ResourceError
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import Distill, Equivalence
from ecompile_crds.jobs import DistillReport, JobResult
from ecompile_crds.plan import PlanSegment
from onnxruntime import InferenceSession

from ..codegen import toolchain
from ..codegen.bundle import write_bundle
from ..codegen.levels import cpu_levels
from ..codegen.loader import CompiledFunction
from ..distill.measure import session
from ..distill.orchestrator import Declined, distill
from ..equivalence import risk
from ..equivalence.metrics import clopper_pearson_upper, row_delta
from ..equivalence.validate import answers
from ..trace import reference
from .context import Context, Rows, infer, plan_file, read_plan, rows_at_segment, unpack_graph

MAX_SAMPLES = 2000


def distill_segment(context: Context, index: int) -> JobResult:
    """Run the Job for one segment.

    Raises an EcompileError.
    """
    job = context.job
    if context.signing_key is None:
        raise ResourceError(Code.STORAGE_UNAVAILABLE, "the signing key is not mounted; see Secret ecompile-signing.")
    plan = read_plan(context)
    segment = plan.segments[index]
    policy = Distill.model_validate(job.distill)
    equivalence = Equivalence.model_validate(job.equivalence)
    context.progress("read calibration", 0.1)
    rows = context.rows(
        job.calibration_uri, digest=job.calibration_digest, what="spec.calibration", shape=plan.input.shape
    )
    rows = rows_at_segment(context, plan, index, rows)
    graph = unpack_graph(plan_file(context, plan.graph), index)
    neural = plan_file(context, segment.neural)
    found = distill(graph, neural, rows, policy, progress=context.progress)
    if isinstance(found, Declined):
        return JobResult(distill=DistillReport(segment=index, pays=False, reason=found.reason))
    context.progress("sample", 0.9)
    level = next(each for each in cpu_levels() if each in found.compiled.libraries)
    module = CompiledFunction(found.compiled.libraries[level], macs=found.compiled.macs)
    sample = rows[:MAX_SAMPLES]
    outputs, answered = answers(module, sample)
    errors = row_delta(infer(session(neural), sample)[answered], outputs[answered])
    over, samples = int((errors > equivalence.max_relative_error).sum()), int(answered.sum())
    evidence = Evidence(
        kind=EvidenceKind.SAMPLED,
        samples=samples,
        bound=clopper_pearson_upper(over, samples, equivalence.confidence),
        confidence=equivalence.confidence,
    )
    proof = found.regions
    content = write_bundle(
        graph=graph,
        compiled=found.compiled,
        guard=found.guard,
        meta={
            "namespace": job.namespace,
            "model": job.model,
            "segment": index,
            "life": job.life,
            "sourceDigest": plan.source_digest,
            "strategy": found.strategy,
            "evidence": evidence.model_dump(mode="json", by_alias=True, exclude_none=True),
            "toolchain": toolchain.version(),
            **_risk(context, segment, module, rows, session(neural), limit=equivalence.max_relative_error),
            **(
                {
                    "proof": proof.evidence.model_dump(mode="json", by_alias=True, exclude_none=True),
                    "hitShare": proof.hit_share,
                }
                if proof is not None
                else {}
            ),
        },
        certificate=proof.certificate if proof is not None else None,
        key=context.signing_key,
    )
    uri = context.place("distill", f"{segment.name}.eco")
    digest = context.write(uri, content)
    context.progress("done", 1.0)
    return JobResult(
        distill=DistillReport(
            segment=index,
            pays=True,
            reason="; ".join((f"measured {found.speedup:.2f}x ONNX Runtime at batch 1 on {level}", *found.declined)),
            bundle_uri=uri,
            bundle_digest=digest,
            strategy=found.strategy,
            evidence=evidence,
            speedup=found.speedup,
        )
    )


def _risk(
    context: Context,
    segment: PlanSegment,
    module: CompiledFunction,
    rows: Rows,
    neural: InferenceSession,
    *,
    limit: float,
) -> dict[str, object]:
    """What calibration says of the module, for the bundle's meta.json; nothing where the segment has no reference."""
    if segment.reference is None:
        return {}
    known = reference.read(plan_file(context, segment.reference), name=segment.reference.path)
    _, ranked = reference.halves(rows)
    outputs, answered = answers(module, ranked)
    if not answered.any():
        return {}
    errors = row_delta(infer(neural, ranked)[answered], outputs[answered])
    found = risk.calibrate(known.score(ranked)[answered], errors, limit=limit, samples=len(ranked))
    return {risk.META: found.to_meta()}
