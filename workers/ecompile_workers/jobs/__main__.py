"""Entry point of Job containers: ECO_JOB_INPUT in, a termination message and an exit status out."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from ecompile_crds.errors import Code, DeadlineError, EcompileError, InternalError, ResourceError
from ecompile_crds.jobs import Failure, JobInput, JobKind, JobResult
from ecompile_crds.names import CA_KEY, SIGNING_KEY, SIGNING_PATH, SIGNING_PUBLIC_KEY, TOKEN_PATH, TRUST_PATH
from ecompile_crds.tracing import from_environment, trace_of
from pydantic import ValidationError

from ..codegen.signing import load_private, load_public
from .context import Context, Progress
from .cost import Meter
from .progress import Reporter, log
from .steps import Steps


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise DeadlineError(Code.INTERRUPTED, f"the Job was stopped by signal {number}; it can be run again.")


def make_context(job: JobInput, progress: Progress) -> Context:
    """Keys from the mounted Secret and ConfigMap."""
    signing = Path(os.environ.get("ECO_SIGNING_DIR", SIGNING_PATH)) / SIGNING_KEY
    trust = Path(os.environ.get("ECO_TRUST_DIR", TRUST_PATH)) / SIGNING_PUBLIC_KEY
    return Context(
        job=job,
        progress=progress,
        signing_key=load_private(signing.read_bytes()) if signing.exists() else None,
        trusted_keys=(load_public(trust.read_bytes()),) if trust.exists() else (),
    )


def run(context: Context, *, index: int) -> JobResult:
    """Dispatch. Imports are late: each Job loads only what it needs."""
    match context.job.kind:
        case JobKind.PROFILE:
            from .profile import profile

            return profile(context)
        case JobKind.DISTILL:
            from .distill import distill_segment

            return distill_segment(context, context.job.segments[index])
        case JobKind.VALIDATE:
            from .validate import validate_segment

            return validate_segment(context)


def main() -> int:
    """Run one Job; returns the exit status."""
    meter = Meter.start()
    signal.signal(signal.SIGTERM, _interrupted)
    target = Path(os.environ.get("ECO_TERMINATION_LOG", "/dev/termination-log"))
    try:
        result, status = _run_from_environment(), 0
    except EcompileError as error:
        result, status = _failed(error), error.exit_status
    except MemoryError:
        memory = ResourceError(Code.OUT_OF_MEMORY, "out of memory; raise spec.jobs.template.resources.limits.memory.")
        result, status = _failed(memory), memory.exit_status
    except Exception as error:
        # The border of the process: whatever it is, it is reported with its code instead of a bare traceback.
        log("internal fault", error=repr(error))
        internal = InternalError(Code.INTERNAL, f"internal fault: {type(error).__name__}: {error}")
        result, status = _failed(internal), internal.exit_status
    message = result.model_copy(update={"cost": meter.read()}).to_message()
    log("finished", status=status, result=message)
    try:
        target.write_text(message)
    except OSError as error:
        log("termination message not written", error=str(error))
    return status


def _run_from_environment() -> JobResult:
    try:
        job = JobInput.model_validate_json(os.environ.get("ECO_JOB_INPUT", ""))
    except ValidationError as error:
        raise InternalError(Code.INTERNAL, f"ECO_JOB_INPUT cannot be read: {error.errors()[0]['msg']}") from error
    index = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    trust = Path(os.environ.get("ECO_TRUST_DIR", TRUST_PATH))
    reporter = Reporter(
        job,
        address=os.environ.get("ECO_CONTROL_ADDRESS", ""),
        ca=trust / CA_KEY,
        token=Path(os.environ.get("ECO_TOKEN_FILE", TOKEN_PATH)),
        index=index,
    )
    traced = from_environment(os.environ, service="ecompile-job", **{"k8s.job.name": job.job})
    if traced is None:
        return run(make_context(job, reporter), index=index)
    tracer, exporter = traced
    try:
        with tracer.span(job.kind.value, trace_of(job.namespace, job.model, job.life), index=index) as span:
            steps = Steps(tracer, span.context, reporter)
            try:
                return run(make_context(job, steps), index=index)
            finally:
                steps.end()
    finally:
        exporter.close()


def _failed(error: EcompileError) -> JobResult:
    return JobResult(failure=Failure(code=error.code, message=error.message, retryable=error.retryable))


if __name__ == "__main__":
    sys.exit(main())
