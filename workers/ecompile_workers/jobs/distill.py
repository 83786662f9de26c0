"""Distill: one segment becomes a signed bundle, if that pays."""

from __future__ import annotations

from typing import Any

from ecompile_crds.errors import Code, ResourceError
from ecompile_crds.evidence import Evidence
from ecompile_crds.hybridmodel import Distill, Equivalence
from ecompile_crds.jobs import DistillReport, JobResult
from ecompile_crds.plan import PlanSegment
from onnxruntime import InferenceSession

from ..codegen import toolchain
from ..codegen.bundle import write_bundle
from ..codegen.levels import cpu_levels
from ..codegen.loader import CompiledFunction
from ..distill.measure import infer, session
from ..distill.orchestrator import Declined, Distilled, distill
from ..equivalence import risk
from ..equivalence.metrics import row_delta
from ..equivalence.validate import answers
from ..trace import reference
from .context import Context, Rows, plan_file, read_plan, rows_at_segment, unpack_graph


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
    rows = context.calibration(plan.network_inputs)
    rows = rows_at_segment(context, plan, index, rows)
    graph = unpack_graph(plan_file(context, plan.graph), index)
    neural = plan_file(context, segment.neural)
    found = distill(graph, neural, rows, policy, equivalence=equivalence, progress=context.progress)
    if isinstance(found, Declined):
        report = DistillReport(segment=index, pays=False, reason=found.reason, candidates=found.candidates)
        return JobResult(distill=report)
    context.progress("write", 0.95)
    replacement, proof = found.replacement, found.replacement.proof
    content = write_bundle(
        graph=graph,
        code=replacement.graph,
        compiled=found.compiled,
        guard=found.guard,
        meta={
            "namespace": job.namespace,
            "model": job.model,
            "segment": index,
            "life": job.life,
            "sourceDigest": plan.source_digest,
            "strategy": found.strategy,
            "note": replacement.note,
            "evidence": _plain(found.evidence),
            "toolchain": toolchain.version(),
            **_risk(context, segment, found, rows, session(neural), limit=equivalence.max_relative_error),
            **({"proof": _plain(proof), "hitShare": proof.proven_coverage} if proof is not None else {}),
        },
        certificate=replacement.certificate,
        key=context.signing_key,
    )
    uri = context.place("distill", f"{segment.name}.eco")
    digest = context.write(uri, content)
    context.progress("done", 1.0)
    level = next(each for each in cpu_levels() if each in found.compiled.libraries)
    return JobResult(
        distill=DistillReport(
            segment=index,
            pays=True,
            reason="; ".join((f"measured {found.speedup:.2f}x ONNX Runtime at batch 1 on {level}", *found.declined)),
            bundle_uri=uri,
            bundle_digest=digest,
            strategy=found.strategy,
            evidence=found.evidence,
            proof=proof,
            speedup=found.speedup,
            neural_microseconds=found.neural_microseconds,
            candidates=found.candidates,
        )
    )


def _risk(
    context: Context, segment: PlanSegment, found: Distilled, rows: Rows, neural: InferenceSession, *, limit: float
) -> dict[str, object]:
    """What calibration says of the module, for the bundle's meta.json; nothing where the segment has no reference."""
    if segment.reference is None:
        return {}
    known = reference.read(plan_file(context, segment.reference), name=segment.reference.path)
    _, ranked = reference.halves(rows)
    level = next(each for each in cpu_levels() if each in found.compiled.libraries)
    outputs, answered = answers(CompiledFunction(found.compiled.libraries[level], macs=found.compiled.macs), ranked)
    if not answered.any():
        return {}
    errors = row_delta(infer(neural, ranked)[answered], outputs[answered])
    calibrated = risk.calibrate(known.score(ranked)[answered], errors, limit=limit, samples=len(ranked))
    return {risk.META: calibrated.to_meta()}


def _plain(evidence: Evidence) -> dict[str, Any]:
    return evidence.model_dump(mode="json", by_alias=True, exclude_none=True)
