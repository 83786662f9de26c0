"""Profile: import the network, cut it, write its neural path, capture a trace, measure stability."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Literal

from ecompile_crds.hybridmodel import Equivalence
from ecompile_crds.jobs import JobResult, ProfileReport, SegmentReport
from ecompile_crds.plan import Plan, PlanFile, PlanSegment, PlanTensor

from ..codegen.support import obstacle
from ..data.store import digest_of
from ..distill.calibrate import cached, cost_model
from ..distill.measure import infer, session
from ..ir.graph import DType, Tensor
from ..ir.load import load_source, neural_segment
from ..ir.segments import split
from ..trace import capture, manifest, reference, stability
from .context import Context, fairness_groups, pack_graphs

DATATYPES: dict[DType, Literal["FP32", "INT64", "BOOL"]] = {
    DType.FLOAT32: "FP32",
    DType.INT64: "INT64",
    DType.BOOL: "BOOL",
}
TRACE_RATE = 0.1
TRACE_SEED = 0


def profile(context: Context) -> JobResult:
    """Run the Job.

    Raises an EcompileError naming the field or file at fault.
    """
    job = context.job
    context.progress("read source", 0.05)
    content = context.read(job.source_uri, digest=job.source_digest, what="spec.source")
    digest = digest_of(content)
    with tempfile.TemporaryDirectory(prefix="ecompile-") as directory:
        path = Path(directory) / Path(job.source_uri).name
        path.write_bytes(content)
        source = load_source(path, job.source_format)
    graph = source.graph
    context.progress("read calibration", 0.2)
    inputs = graph.inputs or (graph.input,)
    rows = context.calibration(inputs)
    judged, what = context.judged(inputs, unlike=rows)  # what is wrong with it is better said now
    fairness_groups(Equivalence.model_validate(job.equivalence), judged, what=what)
    segments = split(graph, obstacle)
    costs = cost_model() if len(segments) > 1 else cached()
    if costs is not None and len(segments) > 1:
        segments = split(graph, obstacle, costs)

    def put(name: str, value: bytes) -> PlanFile:
        return PlanFile(path=name, digest=context.write(context.place("profile", name), value))

    neural = put("model.onnx", source.neural.SerializeToString())
    current = rows
    made: list[PlanSegment] = []
    layers: list[stability.LayerStability] = []
    trace = io.BytesIO()
    traced: PlanFile | None = None
    for segment in segments:
        context.progress(segment.name, 0.3 + 0.5 * segment.index / len(segments))
        model = neural_segment(source, segment, len(segments)).SerializeToString()
        file = neural if len(segments) == 1 else put(f"{segment.name}.onnx", model)
        score, known = None, None
        if segment.compilable:
            found = stability.measure(segment.graph, current)
            layers += found
            score = manifest.mean_stability(found)
            if traced is None:
                capture.capture(segment.graph, current, trace, model_digest=digest, rate=TRACE_RATE, seed=TRACE_SEED)
                traced = put("trace.nfrtrace", trace.getvalue())
            fitted = reference.fit(current)
            known = put(f"{segment.name}.reference.npz", fitted.to_bytes()) if fitted is not None else None
        made.append(
            PlanSegment(
                index=segment.index,
                name=segment.name,
                compilable=segment.compilable,
                reason=segment.reason,
                input=_tensor(segment.graph.input),
                output=_tensor(segment.graph.output),
                neural=file,
                macs=segment.graph.macs,
                stability=score,
                reference=known,
                predicted_microseconds=(
                    round(costs.compiled_seconds(segment.graph) * 1e6, 3)
                    if costs is not None and segment.compilable
                    else None
                ),
            )
        )
        if segment.index + 1 < len(segments):
            current = infer(session(model), current)
    stable = put("stability.nfrsg", manifest.manifest(layers, model_digest=digest))
    plan = Plan(
        namespace=job.namespace,
        model=job.model,
        life=job.life,
        source_digest=digest,
        source_format=source.format,
        input=_tensor(graph.input),
        output=_tensor(graph.output),
        inputs=tuple(_tensor(each) for each in graph.inputs),
        outputs=tuple(_tensor(each) for each in graph.outputs),
        neural=neural,
        graph=put("graph.zip", pack_graphs([s.graph for s in segments])),
        segments=tuple(made),
        trace=traced,
        stability=stable,
    )
    plan_uri = context.place("profile", "plan.json")
    context.write(plan_uri, plan.model_dump_json(by_alias=True, indent=1).encode())
    context.progress("done", 1.0)
    return JobResult(
        profile=ProfileReport(
            source_digest=digest,
            plan_uri=plan_uri,
            segments=tuple(
                SegmentReport(
                    index=s.index,
                    name=s.name,
                    compilable=s.compilable,
                    reason=s.reason,
                    macs=s.macs,
                    stability=s.stability,
                )
                for s in made
            ),
            trace_digest=traced.digest if traced is not None else None,
            stability_digest=stable.digest,
        )
    )


def _tensor(tensor: Tensor) -> PlanTensor:
    return PlanTensor(name=tensor.name, shape=tensor.shape, datatype=DATATYPES[tensor.dtype])
