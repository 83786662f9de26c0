"""May a Job's result be believed? What does not fit the question is refused with a sentence, never acted on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ecompile_crds.jobs import DistillReport, JobInput, JobKind, JobResult, ProfileReport, ValidateReport

DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
MAX_SEGMENTS = 1025
"""CompiledModule.spec.segment ends at 1024."""


def refusal(told: JobInput, results: Mapping[int, JobResult]) -> str:
    """Why the results are refused; empty where all of them answer what was asked."""
    for index, result in sorted(results.items()):
        found = _refusal(told, index, result)
        if found:
            return f"result of index {index}: {found}" if told.kind is JobKind.DISTILL else found
    return ""


def _refusal(told: JobInput, index: int, result: JobResult) -> str:
    match told.kind:
        case JobKind.PROFILE:
            return _profile(told, result.profile)
        case JobKind.DISTILL:
            return _distill(told, index, result.distill)
        case JobKind.VALIDATE:
            return _validate(told, result.validation)


def _profile(told: JobInput, report: ProfileReport | None) -> str:
    if report is None:
        return "it is not a profile"
    if not DIGEST.match(report.source_digest):
        return f"its source digest {report.source_digest[:80]!r} is not one"
    if told.source_digest is not None and report.source_digest != told.source_digest:
        return f"it read a source with digest {report.source_digest}, not {told.source_digest}"
    if not _inside(told, report.plan_uri):
        return f"its plan lies outside the artifact store: {report.plan_uri[:200]}"
    indices = [segment.index for segment in report.segments]
    if len(indices) > MAX_SEGMENTS or sorted(indices) != list(range(len(indices))):
        return "its segments are not numbered from 0 without gaps"
    return ""


def _distill(told: JobInput, index: int, report: DistillReport | None) -> str:
    if report is None:
        return "it is not about distillation"
    if index >= len(told.segments) or report.segment != told.segments[index]:
        return f"it is about segment {report.segment}, which was not asked for"
    if not report.pays:
        return ""
    if report.bundle_uri is None or not _inside(told, report.bundle_uri):
        return f"its bundle lies outside the artifact store: {(report.bundle_uri or 'nowhere')[:200]}"
    if report.bundle_digest is None or not DIGEST.match(report.bundle_digest):
        return "its bundle has no digest"
    return ""


def _validate(told: JobInput, report: ValidateReport | None) -> str:
    if report is None:
        return "it is not about validation"
    if report.segment != told.segment:
        return f"it is about segment {report.segment}, not {told.segment}"
    if report.attempt != told.attempt:
        return f"it is about attempt {report.attempt}, not {told.attempt}"
    return ""


def _inside(told: JobInput, uri: str) -> bool:
    """Whether a file lies in the artifact store, without a way out of it."""
    return uri.startswith(f"{told.artifacts_uri.rstrip('/')}/") and "/../" not in uri
