"""Validate: a bundle, made by another process, against the original on inputs that distillation did not see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, EcompileError
from ecompile_crds.hybridmodel import Equivalence
from ecompile_crds.jobs import JobResult, ValidateReport

from ..codegen.abi import GuardBox
from ..codegen.bundle import read_bundle
from ..codegen.levels import cpu_levels
from ..distill.measure import infer, measure, session
from ..equivalence.page import to_html
from ..equivalence.report import Report, Subject
from ..equivalence.validate import validate
from .context import Context, fairness_groups, plan_file, read_plan, rows_at_segment

BUNDLE_FAULTS = frozenset(
    {Code.BUNDLE_ALTERED, Code.BUNDLE_UNTRUSTED, Code.BUNDLE_MALFORMED, Code.BUNDLE_INCOMPATIBLE, Code.DATA_MISSING}
)
"""Faults of the bundle are a verdict (it may not serve), not a fault of the Job."""


def validate_segment(context: Context) -> JobResult:
    """Run the Job.

    Raises an EcompileError where the verdict cannot be reached.
    """
    job = context.job
    assert job.segment is not None and job.bundle_uri is not None, "validate Jobs are told segment and bundle"
    plan = read_plan(context)
    segment = plan.segments[job.segment]
    context.progress("verify bundle", 0.05)
    try:
        content = context.read(job.bundle_uri, what="bundle")
        bundle = read_bundle(content, context.trusted_keys, digest=job.bundle_digest)
        module = bundle.load(cpu_levels())
    except EcompileError as error:
        if error.code not in BUNDLE_FAULTS:
            raise
        return JobResult(
            validation=ValidateReport(
                segment=job.segment, attempt=job.attempt, passed=False, reason=error.message, code=error.code
            )
        )
    uri = job.held_out_uri or job.calibration_uri
    data, what = context.judged(plan.network_inputs)
    policy = Equivalence.model_validate(job.equivalence)
    asked = fairness_groups(policy, data, what=what)
    rows = rows_at_segment(context, plan, job.segment, data.inputs)
    neural = session(plan_file(context, segment.neural))
    last = job.segment + 1 == len(plan.segments)
    outcome = validate(
        module,
        lambda x: infer(neural, x),
        rows,
        policy,
        guard=_guard(bundle.meta),
        integers=bundle.graph().integers,
        groups=asked[1] if asked is not None else None,
        labels=data.labels if last else None,
        progress=context.progress,
    )
    latency = measure(module, neural, rows[:1])
    subject = Subject(
        model=f"{job.namespace}/{job.model}",
        segment=segment.name,
        attempt=job.attempt,
        bundle_digest=bundle.digest,
        held_out=uri,
        module_seconds=latency.ours,
        neural_seconds=latency.neural,
    )
    speedup = round(subject.speedup, 2)
    report_uri = _write(context, Report(subject=subject, outcome=outcome))
    context.progress("done", 1.0)
    found = outcome.test
    return JobResult(
        validation=ValidateReport(
            segment=job.segment,
            attempt=job.attempt,
            passed=outcome.passed,
            reason=outcome.reason,
            code=None if outcome.passed else Code.NOT_EQUIVALENT,
            delta=_finite(found.delta) if found is not None else None,
            correlation=found.correlation if found is not None else None,
            max_deviation=_finite(found.max_deviation) if found is not None else None,
            test_inputs=outcome.test_inputs,
            ood_inputs=outcome.ood_inputs,
            guard_coverage=outcome.guard_coverage,
            speedup=speedup,
            report_uri=report_uri,
        )
    )


def _write(context: Context, report: Report) -> str:
    """The report three times, beside each other: .json, whose URI is returned, .txt and .html."""
    name = f"{report.subject.segment}-{report.subject.attempt}"
    context.write(context.place("validate", f"{name}.txt"), report.to_text().encode())
    context.write(context.place("validate", f"{name}.html"), to_html(report).encode())
    uri = context.place("validate", f"{name}.json")
    context.write(uri, report.to_json().encode())
    return uri


def _guard(meta: Mapping[str, Any]) -> GuardBox:
    """The box that the bundle says it answers in."""
    lower, upper = (np.asarray(meta["guard"][side], dtype=np.float32) for side in ("lower", "upper"))
    return GuardBox(lower=lower, upper=upper)


def _finite(value: float) -> float:
    """JSON has no infinity; the largest float stands for it."""
    return value if math.isfinite(value) else 1e308
